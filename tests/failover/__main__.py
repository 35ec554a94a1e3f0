"""Failures, one by one, on real servers with real calls: what each costs, in packets and milliseconds.

One JSON line per failure; after several, the table. Exit code 1 when one is above its bar.

    scripts/failover                    all failures (some minutes)
    scripts/failover worker node        two of them
    scripts/failover --quick            all, with fewer calls and faults
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from siprec.errors import SiprecError
from tests.failover import disk, media, network, node, redis, restart, worker
from tests.failover.figures import Row, table
from tests.load.machine import disturbed, raise_descriptor_limit

Driver = Callable[[Path, bool], Awaitable[list[Row]]]

FAILURES: dict[str, Driver] = {
    "worker": worker.killed,
    "upgrade": worker.upgraded,
    "media": media.killed,
    "restart": restart.restarted,
    "network": network.cut_off,
    "node": node.lost,
    "redis": redis.lost,
    "disk": disk.filled,
}

MAX_PROBLEM = 1000
"""What of a problem fits in a line: a log can be long."""


def run(names: Sequence[str], *, quick: bool) -> list[Row]:
    """Provoke the failures `names`, and print a line for each."""
    rows: list[Row] = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix=f"siprec-{name}-", ignore_cleanup_errors=True) as root:
            for row in asyncio.run(_one(name, Path(root), quick)):
                print(json.dumps(row.line()), flush=True)
                rows.append(row)
    return rows


async def _one(name: str, root: Path, quick: bool) -> list[Row]:
    try:
        return await FAILURES[name](root, quick)
    except (AssertionError, OSError, subprocess.SubprocessError, SiprecError) as problem:
        return [Row(name, "runs to its end", problems=[f"{type(problem).__name__}: {problem}"[:MAX_PROBLEM]])]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/failover", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAILURES)}; all when none is given")
    parser.add_argument("--quick", action="store_true", help="fewer calls and faults")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in FAILURES]
    if unknown:
        parser.error(f"no failure {', '.join(unknown)}: there are {', '.join(FAILURES)}")
    raise_descriptor_limit()
    if busy := disturbed():
        print(busy, file=sys.stderr)
    rows = run(options.names or list(FAILURES), quick=options.quick)
    if len(rows) > 1:
        print(f"\n{table(rows)}")
    return 0 if all(row.ok for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
