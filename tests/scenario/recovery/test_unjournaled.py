"""The journal is slower than an answer may be: the call is recorded all the same, and its papers say so."""

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.support.failover import ALLOW, call_id, recorded_call, until
from tests.support.replay import Recorded, recording_server


def told(recorded: Recorded) -> list[str]:
    """The events of a live recording, in their order."""
    return [str(event["event"]) for part in recorded.folder.parts() for event in part.events()]


async def test_a_session_is_marked_until_the_journal_has_it(tmp_path: Path) -> None:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, SESSION_CHECK_INTERVAL="100ms") as server:
        with closing(sqlite3.connect(tmp_path / ".state" / "journal.sqlite", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            src = await recorded_call(server)
            await until(server, lambda: server.of(call_id(src)).manifest.unjournaled)
            other.execute("ROLLBACK")
        await until(server, lambda: not server.of(call_id(src)).manifest.unjournaled)
        await until(server, lambda: "journaled" in told(server.of(call_id(src))))
        found = told(server.of(call_id(src)))
        assert found.index("unjournaled") < found.index("journaled")
        assert not (await src.bye()).manifest.unjournaled


async def test_a_session_in_the_journal_is_not_marked(tmp_path: Path) -> None:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, SESSION_CHECK_INTERVAL="100ms") as server:
        src = await recorded_call(server)
        assert not server.of(call_id(src)).manifest.unjournaled
        recorded = await src.bye()
    assert "journaled" not in (recorded.folder.path / "events.jsonl").read_text()
