"""Benchmarks of siprec: what a call costs, as ratios against a stand-in measured in the same run.

Absolute figures depend on the machine, ratios hardly. A benchmark never fails a build: each figure says what is
required ("required", "met") and you judge. What was lost or left out is in the line too. Progress goes to stderr, one
JSON line per figure to stdout.

    scripts/bench capture                           CPU of capturing RTP to disk, 200 to 8000 streams (4 minutes)
    scripts/bench capture --streams 2000 --rounds 5 one number of streams, a steadier median
    scripts/bench render                            CPU of rendering a 5-minute call, memory for one of 24 hours
    scripts/bench store                             operations a second, memory, disk of each session store (1 minute)
    scripts/bench whole                             SIP, RTP and rendering together, 100 to 2000 calls (5 minutes)
    scripts/bench whole --limit                     and on until they are too many
    scripts/bench signalling                        calls a second, CPU of each, by store; overload (2 minutes)
    scripts/bench all > figures.jsonl               everything, for keeping (15 minutes)
    scripts/bench report figures.jsonl              docs/performance.md and its plots from what was kept
    scripts/bench all | scripts/bench report        both at once
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.load import bench_capture, bench_render, bench_signalling, bench_store, bench_whole, machine, report

Figure = report.Figure


@dataclass(frozen=True, slots=True)
class Bench:
    """`run` yields figures as they are found; `configure` declares its options, each with a default."""

    summary: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], Iterator[Figure]]


BENCHES = {
    "capture": Bench("CPU of capturing RTP to disk, by number of streams", bench_capture.configure, bench_capture.run),
    "render": Bench("CPU and memory of rendering a call to audio", bench_render.configure, bench_render.run),
    "store": Bench("what a session in a store costs, by kind of store", bench_store.configure, bench_store.run),
    "whole": Bench("SIP, RTP and rendering together, by number of calls", bench_whole.configure, bench_whole.run),
    "signalling": Bench(
        "calls a second on one core, CPU of each call, by store; what twice as many do",
        bench_signalling.configure,
        bench_signalling.run,
    ),
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = made.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, bench in BENCHES.items():
        bench.configure(names.add_parser(name, help=bench.summary, description=bench.summary))
    names.add_parser("all", help="all of these, each with its defaults")
    told = names.add_parser("report", help="write docs/performance.md and its plots from figures")
    told.add_argument(
        "file", nargs="?", help="of figures; standard input when it is no terminal, else all are measured"
    )
    return made


def measured(names: Sequence[str], options: argparse.Namespace | None = None) -> Iterator[Figure]:
    """The figures of the benches `names`, each with its defaults unless there are `options`; the machine's first."""
    warning = machine.disturbed()
    if warning:
        print(warning, file=sys.stderr)
    yield {"bench": "machine", **machine.describe()}
    for name in names:
        yield from BENCHES[name].run(options or parser().parse_args([name]))


def figures_of(file: str | None) -> Iterable[Figure]:
    """Of a file, of standard input, or measured now."""
    if file is not None:
        return report.read(Path(file).read_text(encoding="utf-8").splitlines())
    if not sys.stdin.isatty():
        return report.read(sys.stdin)
    return measured(list(BENCHES))


def main() -> int:
    options = parser().parse_args()
    try:
        if options.name == "report":
            for sentence in report.publish(list(figures_of(options.file))):
                print(sentence)
            return 0
        for figure in measured(list(BENCHES)) if options.name == "all" else measured([options.name], options):
            print(json.dumps(figure), flush=True)
    except (OSError, ValueError, RuntimeError, subprocess.CalledProcessError) as problem:
        print(f"scripts/bench: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
