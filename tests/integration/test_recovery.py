"""Failures of a real server and a real SRC, and what they cost in packets that carry their own number."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from siprec.archive.folder import RecordingFolder
from siprec.client.call import LiveCall
from siprec.client.src import RecordingClient
from tests.support.calls import live, options
from tests.support.counting import captured
from tests.support.server import COMMAND, Server, serving

ABSENT_SECONDS = 1.2


async def heard(server: Server, event: str) -> None:
    """Wait for a log line while the SRCs go on."""
    await asyncio.to_thread(server.wait_for, event)


def silence(call: LiveCall, *, active: bool) -> None:
    for stream in call.streams:
        stream.active = active


def lost_packets(folder: RecordingFolder, call: LiveCall) -> int:
    """The most packets that any stream of a call has lost; none may be there twice."""
    found = captured(folder)
    assert all(times == 1 for each in found.values() for times in each.values())
    return max(stream.counts.sent - len(found.get(stream.ssrc, {})) for stream in call.streams)


@pytest.mark.parametrize(("replaces", "how"), [(True, "replaces"), (False, "fresh-invite")])
async def test_an_src_that_was_cut_off_comes_back(tmp_path: Path, replaces: bool, how: str) -> None:
    """One recording, the same id, a gap as long as the absence; all packets that were sent are there."""
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        async with RecordingClient.towards(server.uri) as client:
            chosen = options(server, duration=8.0, counter=True)
            old = await client.start(chosen)
            await old.run(1.0)
            (folder,) = server.recordings()
            silence(old, active=False)
            await asyncio.sleep(ABSENT_SECONDS)
            new = client.take_over(old, chosen, replaces=replaces)
            await new.answer()
            await new.run(1.0)
            assert old.requests == ["BYE"]
            assert (await new.bye()).bye_status == 200
            await heard(server, "recording ready")
        (after,) = server.recordings()
        assert lost_packets(after, new) == 0
    manifest = after.read()
    assert (after.session_id, manifest.fence, manifest.verdict) == (folder.session_id, 2, "gaps")
    (recovery,) = manifest.recoveries
    assert (recovery.how, recovery.from_node) == (how, recovery.to_node)
    assert recovery.gap_ms is not None
    assert recovery.gap_ms > ABSENT_SECONDS * 1000
    lengths = [gap.length * 1000 for gap in manifest.gaps]
    assert min(abs(each - recovery.gap_ms) for each in lengths) < 1


async def test_the_metadata_of_a_returned_src_is_asked_for(tmp_path: Path) -> None:
    """RFC 7866 section 9.2: the INVITE brought none, so the SRC is asked, and what it then sends is learned."""
    with serving(tmp_path) as server:
        async with RecordingClient.towards(server.uri) as client:
            old = await client.start(options(server, duration=6.0))
            await old.run(0.5)
            bare = options(server, duration=6.0, metadata=False)
            new = client.take_over(old, bare, replaces=True)
            await new.answer()
            old.abandon()
            await new.run(0.5)
            assert new.snapshots_requested == 1
            assert (await new.bye()).bye_status == 200
            await heard(server, "recording ready")
        (folder,) = server.recordings()
    assert [each.participant for each in folder.read().channels] == ["Alice", "Bob"]
    assert len(list((folder.path / "metadata").glob("*.xml"))) == 2


async def test_a_killed_server_goes_on_with_its_dialogs(tmp_path: Path) -> None:
    """Same ports, same id, one recording; lost is what came while it was down, or what it had not captured yet;
    OPTIONS, re-INVITE and BYE are answered 200."""
    with ExitStack() as stack:
        first = stack.enter_context(serving(tmp_path, CAPTURE_KEEP="always"))
        async with live(first, duration=8.0, counter=True) as call:
            await call.run(1.0)
            (folder,) = first.recordings()
            await asyncio.to_thread(first.kill_all)
            before = captured(folder)
            again = serving(tmp_path, CAPTURE_KEEP="always", SIP_PORT=str(first.port))
            second = await asyncio.to_thread(stack.enter_context, again)
            away = {each.ssrc: each.counts.sent for each in call.streams}
            answer = call.result.answer
            await call.run(1.0)
            assert (await call.options_ping()).status == 200
            assert (await call.reinvite()).status == 200
            assert call.result.answer == answer
            assert (await call.bye()).bye_status == 200
            await heard(second, "recording ready")
            (folder,) = second.recordings()
    manifest = folder.read()
    assert [each.how for each in manifest.recoveries] == ["restart"]
    after = captured(folder)
    for stream in call.streams:
        assert (
            before[stream.ssrc].keys() | set(range(away[stream.ssrc], stream.counts.sent)) <= after[stream.ssrc].keys()
        )
    assert lost_packets(folder, call) > 0
    assert manifest.state == "ended"


async def killed_in_a_call(root: Path) -> RecordingFolder:
    with serving(root) as first:
        async with live(first, duration=4.0) as call:
            await call.run(1.0)
            await asyncio.to_thread(first.kill_all)
        (folder,) = first.recordings()
    return folder


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(200):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def cut(data: bytearray, _: random.Random) -> None:
    del data[len(data) // 2 :]


def overwrite(data: bytearray, draw: random.Random) -> None:
    data[:] = draw.randbytes(len(data))


def empty(data: bytearray, _: random.Random) -> None:
    data.clear()


@pytest.mark.parametrize("damage", [flip, cut, overwrite, empty])
async def test_a_damaged_journal_costs_no_audio(
    tmp_path: Path, damage: Callable[[bytearray, random.Random], None]
) -> None:
    """The start never fails; a session that cannot be read is salvaged, rendered and called truncated."""
    folder = await killed_in_a_call(tmp_path)
    draw = random.Random(7)
    for path in sorted((tmp_path / ".state").glob("journal.sqlite*")):
        data = bytearray(path.read_bytes())
        if data:
            damage(data, draw)
        path.write_bytes(data)
    with serving(tmp_path, SESSION_TIMEOUT="1s", SESSION_CHECK_INTERVAL="1s") as second:
        line = second.wait_for("recording salvaged", "recording ready")
    manifest = folder.read()
    assert line["session"] == folder.session_id
    assert manifest.state == "ended"
    assert all(each.packets > 40 for each in manifest.channels)
    if line["event"] == "recording salvaged":
        assert manifest.verdict == "truncated"


async def test_inspect_tells_how_the_server_stands(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with live(server) as call:
            await call.run(0.3)
            (folder,) = server.recordings()
            shown = await asyncio.to_thread(inspected, tmp_path, folder.session_id[-8:])
            for text in (folder.session_id, "recording for 0:", "contact-lost", "fence 1", "offered -> recording"):
                assert text in shown
            assert call.dialog is not None
            assert call.dialog.call_id in shown
            await call.bye()
            await heard(server, "recording ready")
        assert "over (bye)" in await asyncio.to_thread(inspected, tmp_path, folder.session_id)
    assert "over (bye)" in inspected(tmp_path, folder.session_id)
    for path in (tmp_path / ".state").glob("journal.sqlite*"):
        path.unlink()
    assert "ended" in inspected(tmp_path, folder.session_id)


def inspected(root: Path, recording: str) -> str:
    done = subprocess.run(
        [*COMMAND, "inspect", recording],
        env={**os.environ, "RECORDING_DIR": str(root), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
