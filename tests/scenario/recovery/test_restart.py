"""The server goes without a word and comes back: its dialogs go on where they were."""

import asyncio
import contextlib
import errno
import shutil
import socket
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from siprec.errors import ArchiveError, StoreUnavailable
from siprec.media import writer
from siprec.media.capture import SessionCapture
from siprec.media.local import LocalCapture
from siprec.media.part import load
from siprec.recorder import service
from siprec.recorder.service import Recorder
from siprec.sip.message import Request
from tests.support import redis_server
from tests.support.disk import FileSize
from tests.support.failover import ALLOW, call_id, caller, come_again, named, recorded_call, reinvite, until
from tests.support.redis_server import RedisServer
from tests.support.replay import TICK_SECONDS, Server, Src, recording_server


def serving(root: Path, *, dies: bool = False, **environ: str) -> AbstractAsyncContextManager[Server]:
    return recording_server(root, dies=dies, SIP_ALLOW=ALLOW, **environ)


def sharing(
    root: Path, redis: RedisServer, *, dies: bool = False, **environ: str
) -> AbstractAsyncContextManager[Server]:
    return serving(root, dies=dies, REDUNDANCY_STORAGE_TYPE="redis", REDIS_URL=redis.url, **environ)


async def ended(server: Server, src: Src) -> None:
    src.server = server
    assert (await src.exchange(src.build("BYE"))).status == 200
    await server.ended(call_id(src))


async def speaks_anew(server: Server, src: Src) -> None:
    """The first SRC of a server would have the SSRC of the first SRC of the server before it."""
    src.ssrc("1")
    src.forget_voices()
    await src.speak("1")


async def test_the_dialog_goes_on(tmp_path: Path) -> None:
    """Same id, ports and dialog: RTP, OPTIONS, re-INVITE and BYE as if nothing had happened."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
        before = first.of(call_id(src)).manifest
    assert not [each for each in src.received if isinstance(each, Request)]
    async with serving(tmp_path) as second:
        src.server = second
        await until(second, lambda: second.of(call_id(src)).manifest.state == "interrupted")
        await src.speak("1")
        await until(second, lambda: second.of(call_id(src)).manifest.state == "recording")
        assert (await src.exchange(src.build("OPTIONS"))).status == 200
        old_answer = src.answer
        assert src.offer is not None
        response = await src.exchange(src.build("INVITE", body=str(src.offer).encode()))
        assert response.status == 200
        await src.ack()
        assert str(src.answer) == str(old_answer)  # the same offer: the same answer, the same version of it
        await src.speak("1")
        recorded = await src.bye()
    manifest = recorded.manifest
    assert (manifest.id, manifest.fence) == (before.id, before.fence + 1)
    assert [each.how for each in manifest.recoveries] == ["restart"]
    assert manifest.channels[0].packets == 15
    assert len(second.recordings()) == 1


async def test_an_unacknowledged_200_is_sent_again(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src, own = caller(first)
        response = await src.send("good", replace=own)
        await first.live(call_id(src), lambda found: found.manifest.state == "recording")
    src.received.clear()
    async with serving(tmp_path) as second:
        second.attach(src)
        second.advance(0.6)
        await until(second, lambda: src.received)
        assert bytes(src.received[0]) == bytes(response)
        await src.ack()
        src.received.clear()
        second.advance(40)
        assert not [each for each in src.received if not isinstance(each, Request)]
        assert second.of(call_id(src)).manifest.state in {"interrupted", "recording"}
        await ended(second, src)


async def test_an_acknowledged_one_is_not(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    src.received.clear()
    async with serving(tmp_path) as second:
        src.server = second
        await src.speak("1")
        second.attach(src)
        second.advance(40)
        await asyncio.sleep(2 * TICK_SECONDS)
        assert not src.received
        await ended(second, src)


async def test_a_repeated_invite_gets_the_same_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src, own = caller(first)
        invite = src.load("good", replace=own)
        response = await src.exchange(invite)
        await first.live(call_id(src), lambda found: found.manifest.state == "recording")
    src.received.clear()
    async with serving(tmp_path) as second:
        src.server = second
        src.post(invite)
        await until(second, lambda: src.received)
        assert bytes(src.received[0]) == bytes(response)
        await src.ack()
        assert len(second.recordings()) == 1
        await ended(second, src)


async def test_our_cseq_rises(tmp_path: Path) -> None:
    """Requests that the first life sent after its last save are not known."""
    async with serving(tmp_path, dies=True, RTP_TIMEOUT="1s", SESSION_CHECK_INTERVAL="1s") as first:
        src = await recorded_call(first)
        for _ in range(5):
            first.advance(1.5)
            await asyncio.sleep(2 * TICK_SECONDS)
        last = (await src.request("OPTIONS")).cseq.number + 4
    async with serving(tmp_path) as second:
        new, response = await come_again(second, named(src))
        assert response.status == 200
        src.received.clear()
        second.attach(src)
        assert (await src.request("BYE")).cseq.number > last
        await new.exchange(new.build("BYE"))
        await second.ended(call_id(src))


async def test_a_quiet_restored_src_is_asked_before_it_is_given_up(tmp_path: Path) -> None:
    """On hold, it sends nothing and knows nothing of our restart."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    async with serving(tmp_path) as second:
        second.attach(src)
        second.advance(1.5)
        await src.request("OPTIONS")
        await until(second, lambda: second.of(call_id(src)).manifest.state == "recording")
        for _ in range(8):
            second.advance(10)
            await asyncio.sleep(2 * TICK_SECONDS)
        assert second.of(call_id(src)).manifest.state == "recording"
        await ended(second, src)


async def test_the_src_comes_back_with_replaces(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    async with serving(tmp_path) as second:
        new, response = await come_again(second, named(src))
        assert response.status == 200
        await speaks_anew(second, new)
        await new.exchange(new.build("BYE"))
        recorded = await second.ended(call_id(src))
    assert [each.how for each in recorded.manifest.recoveries] == ["restart", "replaces"]
    assert recorded.manifest.channels[0].packets == 10
    assert recorded.manifest.fence == 3


async def test_the_src_comes_back_with_a_fresh_invite(tmp_path: Path) -> None:
    """The restored dialog is no young one."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first, session="the-same")
    async with serving(tmp_path) as second:
        new, _ = await come_again(second, "", session="the-same")
        await speaks_anew(second, new)
        await new.exchange(new.build("BYE"))
        recorded = await second.ended(call_id(src))
    assert [each.how for each in recorded.manifest.recoveries] == ["restart", "fresh-invite"]


async def test_a_restored_dialog_names_another_in_a_reinvite(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        one, other = await recorded_call(first), await recorded_call(first)
    async with serving(tmp_path) as second:
        one.server = other.server = second
        assert (await reinvite(other, named(one))).status == 200
        assert (await second.ended(call_id(other))).manifest.merged_into == second.of(call_id(one)).manifest.id
        await other.speak("1")
        await other.exchange(other.build("BYE"))
        assert (await second.ended(call_id(one))).manifest.channels[0].packets == 10


async def test_what_was_ended_by_bye_is_known_after_a_restart(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
        await src.bye()
    async with serving(tmp_path) as second:
        assert (await come_again(second, named(src)))[1].status == 603


async def test_a_session_timer_of_the_src_starts_again(tmp_path: Path) -> None:
    timer = {"Max-Forwards: 70\n": "Max-Forwards: 70\nSupported: timer\nSession-Expires: 1800;refresher=uac\n"}
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first, replace=timer)
    async with serving(tmp_path) as second:
        src.server = second
        await src.speak("1")
        await until(second, lambda: second.of(call_id(src)).manifest.state == "recording")
        second.advance(1750)
        await asyncio.sleep(2 * TICK_SECONDS)
        assert second.of(call_id(src)).manifest.state == "recording"
        second.advance(30)
        assert (await second.ended(call_id(src))).manifest.state == "ended"


async def test_a_session_timer_of_ours_is_refreshed_soon(tmp_path: Path) -> None:
    timer = {
        "Max-Forwards: 70\n": "Max-Forwards: 70\nAllow: INVITE, ACK, BYE, UPDATE\nSession-Expires: 1800\n",
    }
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first, replace=timer)
    async with serving(tmp_path) as second:
        src.server = second
        await src.speak("1")
        second.attach(src)
        second.advance(1.5)
        assert (await src.request("UPDATE")).headers.get("Session-Expires") == "1800;refresher=uac"
        await ended(second, src)


async def test_one_that_cannot_be_restored_is_salvaged(tmp_path: Path) -> None:
    """Its identity is listed no more: rendered, truncated, and the start goes on."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    async with recording_server(tmp_path, SIP_ALLOW="c=127.0.0.20|127.0.30.0/24") as second:
        await until(second, lambda: second.of(call_id(src)).manifest.state == "ended")
        manifest = second.of(call_id(src)).manifest
        assert (manifest.verdict, manifest.channels[0].packets) == ("truncated", 5)
    assert [each for each in second.log if each["event"] == "session cannot be restored"]


async def test_one_whose_port_is_taken_is_salvaged(tmp_path: Path) -> None:
    """And an SRC that comes back for it gets a new recording, which names the old one."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    _, answered = src.line("2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((answered.address or "", answered.port))
        async with serving(tmp_path) as second:
            await until(second, lambda: second.of(call_id(src)).manifest.state == "ended")
            manifest = second.of(call_id(src)).manifest
            assert (manifest.verdict, manifest.channels[0].packets) == ("truncated", 5)
            new, response = await come_again(second, named(src))
            assert response.status == 200
            await new.speak("1")
            assert (await new.bye()).manifest.continues == manifest.id


async def test_a_part_of_which_the_journal_knows_nothing_is_no_obstacle(tmp_path: Path) -> None:
    """A process may die after it began a part and before its journal had that part's fence."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
        folder = first.of(call_id(src)).folder
    untold = folder.path / "parts" / folder.parts()[-1].path.name.replace("000001", "000002")
    untold.mkdir()
    (untold / "part.json").write_bytes(folder.parts()[0].control.read_bytes())
    async with serving(tmp_path) as second:
        src.server = second
        await speaks_anew(second, src)
        recorded = await src.bye()
    assert recorded.manifest.fence == 3


async def test_a_full_disk_at_the_start_costs_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent meanwhile waits: packets in the sockets, requests for their answers."""
    full, tries, opened = [True], [0], LocalCapture.open

    def open_if_there_is_room(capture: LocalCapture, directory: Path, **options: float) -> SessionCapture:
        tries[0] += 1
        if full[0]:
            raise ArchiveError("cannot create a capture") from OSError(errno.ENOSPC, "No space left on device")
        return opened(capture, directory, **options)

    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    monkeypatch.setattr(LocalCapture, "open", open_if_there_is_room)
    async with serving(tmp_path) as second:
        src.server = second
        src.ssrc("1")
        src.forget_voices()
        await src.speak("1", taken=False)
        asked = asyncio.ensure_future(src.exchange(src.build("OPTIONS")))
        await until(second, lambda: tries[0] > 2)
        assert not asked.done()
        assert [each["event"] for each in second.log if each["level"] == "error"] == ["captures wait for the disk"]
        full[0] = False
        assert (await asked).status == 200
        recorded = await src.bye()
    assert recorded.manifest.channels[0].packets == 10
    assert [part.fence for part in recorded.folder.parts()] == [1, 2]


def inactive(src: Src) -> bytes:
    """The SRC's offer with all streams paused."""
    return str(src.offer).replace("a=sendonly", "a=inactive").encode()


async def test_a_pause_lasts_over_a_restart(tmp_path: Path) -> None:
    """Nothing was to be recorded while the server was gone, so nothing is missing."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
        await src.speak("2")
        offer = str(src.offer).encode()
        assert (await src.exchange(src.build("INVITE", body=inactive(src)))).status == 200
        await src.ack()
        await first.live(call_id(src), lambda found: found.manifest.state == "paused")
    async with serving(tmp_path) as second:
        src.server = second
        assert (await src.exchange(src.build("INVITE", body=offer))).status == 200
        await src.ack()
        await second.live(call_id(src), lambda found: found.manifest.state == "recording")
        await src.speak("1")
        await src.speak("2")
        recorded = await src.bye()
    manifest = recorded.manifest
    assert {(each.channel, each.cause) for each in manifest.gaps} == {(0, "paused"), (1, "paused")}
    assert manifest.verdict == "ok", manifest.verdict_reason


@pytest.fixture
def limit() -> Iterator[FileSize]:
    made = FileSize()
    yield made
    made.lift()


FULL_AT = 400_000
"""Bytes of a capture; the journal of one call stays below it."""


async def filled(server: Server, src: Src) -> None:
    """Speak until the capture takes no more."""
    while not server.capture.totals().troubled:
        await src.speak("1", packets=300)


async def test_what_the_disk_never_took_is_told_by_a_hand_over(
    tmp_path: Path, limit: FileSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits, gives up, and says so; what comes then waits in the sockets of the successor."""
    monkeypatch.setattr(service, "CLOSE_PATIENCE", 0.3)
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
        limit.set(FULL_AT)
        await filled(first, src)
    limit.lift()
    (part,) = first.of(call_id(src)).folder.parts()
    lost = sum(each.packets for each in load(part.control.read_bytes()).outages)
    said = [each["detail"] for each in first.log if each["event"] == "capture in trouble"]
    assert said[1:] == [f"{lost} packets of 1 calls waited in vain, and are lost"]
    async with serving(tmp_path) as second:
        src.server = second
        await src.speak("1")
        manifest = (await src.bye()).manifest
    assert manifest.channels[0].lost == lost > 0
    assert {each.cause for each in manifest.gaps} == {"disk", "interrupted"}  # the latter is the time down


async def test_what_the_disk_never_took_is_told_by_a_stop(
    tmp_path: Path, limit: FileSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_PATIENCE", 0.3)
    async with serving(tmp_path) as server:
        src = await recorded_call(server)
        limit.set(FULL_AT)
        await filled(server, src)
        monkeypatch.setattr(service, "CLOSE_SECONDS", 0.1)
    limit.lift()
    manifest = server.of(call_id(src)).manifest
    (part,) = server.of(call_id(src)).folder.parts()
    outages = load(part.control.read_bytes()).outages
    assert {(each.cause, each.packets > 0) for each in outages} == {("disk", True)}
    assert {each.cause for each in manifest.gaps} == {"disk"}
    assert "stop waits for the disk" in {each["event"] for each in server.log}


def renamed(server: Server) -> list[tuple[str, str]]:
    return [(each["hint"], each["effect"]) for each in server.log if each["event"] == "node renamed"]


async def test_a_session_outlives_another_name_of_its_node(tmp_path: Path) -> None:
    """STATE_DIR is ours, whatever we are called now: nobody else could carry it on."""
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    async with serving(tmp_path, NODE_ID="other") as second:
        src.server = second
        await speaks_anew(second, src)
        recorded = await src.bye()
    hint = "STATE_DIR holds 1 sessions of node test; NODE_ID is now other"
    assert renamed(second) == [(hint, "they are carried on")]
    assert (recorded.manifest.node, recorded.manifest.fence) == ("other", 2)
    assert recorded.manifest.channels[0].packets == 10
    assert [part.node for part in recorded.folder.parts()] == ["test", "other"]


async def test_what_was_left_under_another_name_is_rendered(tmp_path: Path) -> None:
    async with serving(tmp_path, dies=True) as first:
        src = await recorded_call(first)
    (tmp_path / ".state" / "journal.sqlite").unlink()
    async with serving(tmp_path, NODE_ID="other") as second:
        await until(second, lambda: second.of(call_id(src)).manifest.state == "ended")
        assert second.of(call_id(src)).manifest.verdict == "truncated"
    assert renamed(second) == []


@pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)
async def test_where_nodes_share_a_store_a_renamed_one_takes_nothing(tmp_path: Path) -> None:
    """Another one may bear the name now. Under the old name all goes on."""
    with redis_server.running() as redis:
        async with sharing(tmp_path, redis, dies=True) as first:
            src = await recorded_call(first)
        async with sharing(tmp_path, redis, dies=True, NODE_ID="other") as second:
            assert second.of(call_id(src)).manifest.state == "recording"
        hint = "STATE_DIR holds 1 sessions of node test; NODE_ID is now other"
        assert renamed(second) == [(hint, "they are not carried on, unless NODE_ID is test again")]
        async with sharing(tmp_path, redis) as third:
            src.server = third
            await speaks_anew(third, src)
            assert (await src.bye()).manifest.channels[0].packets == 10


async def shown(server: Server) -> None:
    """Until Redis has what the server knows, which on a busy machine may take it more than one attempt."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(StoreUnavailable):
                return await server.store.publish()
            await asyncio.sleep(0.05)


@pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)
async def test_a_lost_state_folder_is_made_good_by_redis(tmp_path: Path) -> None:
    with redis_server.running() as redis:
        async with sharing(tmp_path, redis, dies=True) as first:
            src = await recorded_call(first)
            await shown(first)
        shutil.rmtree(tmp_path / ".state")
        async with sharing(tmp_path, redis) as second:
            src.server = second
            await speaks_anew(second, src)
            recorded = await src.bye()
    assert recorded.manifest.channels[0].packets == 10
    assert [each.how for each in recorded.manifest.recoveries] == ["restart"]
    said = [each for each in second.log if each["level"] in {"warning", "error"}]
    assert [each["event"] for each in said] == ["sessions of this node are in Redis alone"]
    (left,) = (each["tasks_left"] for each in second.log if each["event"] == "stopped")
    assert left <= 1  # a question to Redis may be under way


@pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)
async def test_a_lost_state_folder_while_redis_is_away_costs_no_start(tmp_path: Path) -> None:
    """Redis is lost between the two looks: nobody can tell whose the sessions are."""
    with redis_server.running() as redis:
        async with sharing(tmp_path, redis, dies=True) as first:
            src = await recorded_call(first)
            await shown(first)
        shutil.rmtree(tmp_path / ".state")
        restored = Recorder.restore

        async def then_lose_redis(recorder: Recorder) -> None:
            await restored(recorder)
            redis.kill()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Recorder, "restore", then_lose_redis)
            async with sharing(tmp_path, redis) as second:
                await until(second, lambda: second.of(call_id(src)).manifest.state == "ended")
    found = [each["effect"] for each in second.log if each["event"] == "sessions of this node are in Redis alone"]
    assert found == ["each waits until its SRC comes"]
