"""Each failure of the table, provoked for real with fewer calls and faults; `scripts/failover` is the long form."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from siprec.archive.folder import walk
from tests.failover.__main__ import FAILURES
from tests.support import redis_server
from tests.support.server import COMMAND


@pytest.mark.parametrize("name", FAILURES)
async def test_a_failure_costs_no_more_than_its_bar(name: str, tmp_path: Path) -> None:
    for row in await FAILURES[name](tmp_path, True):
        if "skipped" in row.details:
            pytest.skip(str(row.details["skipped"]))
        assert row.ok, row.line()
        assert row.streams == 2 * row.sessions


def demo(root: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "demo", "--failover", "--duration", "5"],
        env={**os.environ, "RECORDING_DIR": str(root), "SIP_PORT": "0", "HTTP_PORT": "0", "COLUMNS": "200", **environ},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=40,
        check=False,
    )


@pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)
def test_the_demonstration_ends_with_one_recording_of_two_nodes(tmp_path: Path) -> None:
    shown = demo(tmp_path)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (folder,) = walk(tmp_path)
    assert [part.node for part in folder.parts()] == ["demo-a", "demo-b"]
    manifest = folder.read()
    assert [(each.how, each.from_node, each.to_node) for each in manifest.recoveries] == [
        ("replaces", "demo-a", "demo-b")
    ]
    for text in ("kill -9", "the SRC has noticed", "answered in", "one recording", folder.session_id):
        assert text in shown.stdout


def test_the_demonstration_says_how_to_get_redis(tmp_path: Path) -> None:
    shown = demo(tmp_path, PATH=str(tmp_path))
    assert shown.returncode == 1
    assert "apt install redis-server" in shown.stderr
    assert "Traceback" not in shown.stderr
