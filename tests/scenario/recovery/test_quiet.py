"""An SRC that falls silent is asked, waited for, and given up only after that; nothing is ended for its age."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from siprec.sip.message import Request
from tests.support.failover import ALLOW, call_id, come_again, named, recorded_call, until
from tests.support.replay import TICK_SECONDS, Server, Src, recording_server

RTP_TIMEOUT = 20.0
SESSION_TIMEOUT = 30.0
CHECK = 10.0
TRANSACTION = 32.5  # 64*T1


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(
        tmp_path, SIP_ALLOW=ALLOW, RTP_TIMEOUT="20s", SESSION_TIMEOUT="30s", SESSION_CHECK_INTERVAL="10s"
    ) as running:
        yield running


async def passes(server: Server, seconds: float) -> None:
    """That much time, in steps in which the checks run."""
    while seconds > 0:
        step = min(CHECK / 2, seconds)
        server.advance(step)
        seconds -= step
        await asyncio.sleep(2 * TICK_SECONDS)


def asked(src: Src) -> int:
    return len([each for each in src.received if isinstance(each, Request) and each.method == "OPTIONS"])


def state(server: Server, src: Src) -> str:
    return server.of(call_id(src)).manifest.state


async def interrupted(server: Server, src: Src) -> None:
    await until(server, lambda: state(server, src) == "interrupted")


async def test_a_quiet_src_that_answers_is_recorded_on(server: Server) -> None:
    """A hold told by metadata alone looks like this: it is asked each RTP_TIMEOUT, no more often, for ever."""
    src = await recorded_call(server)
    await passes(server, RTP_TIMEOUT - CHECK)
    assert asked(src) == 0
    await passes(server, 20 * RTP_TIMEOUT)
    assert state(server, src) == "recording"
    assert 10 <= asked(src) <= 20
    await src.speak("1")
    assert (await src.bye()).manifest.channels[0].packets == 10


@pytest.mark.parametrize("status", [405, 500, 501])
async def test_any_answer_is_a_sign_of_life(server: Server, status: int) -> None:
    src = await recorded_call(server)
    src.on_request = lambda request: (status, [], b"")
    await passes(server, 2 * RTP_TIMEOUT)
    assert asked(src)
    assert state(server, src) == "recording"
    await src.bye()


async def test_an_src_that_sends_is_not_asked(server: Server) -> None:
    src = await recorded_call(server)
    for _ in range(8):
        await passes(server, RTP_TIMEOUT / 4)
        await src.speak("1")
    assert asked(src) == 0
    await src.bye()


@pytest.mark.parametrize("status", [408, 481])
async def test_one_that_knows_the_dialog_no_more_has_lost_contact(server: Server, status: int) -> None:
    src = await recorded_call(server)
    src.on_request = lambda request: (status, [], b"")
    await passes(server, 2 * RTP_TIMEOUT)
    await interrupted(server, src)
    await src.bye()


async def silent(server: Server) -> Src:
    """A call whose SRC neither speaks nor answers."""
    src = await recorded_call(server)
    src.on_request = lambda request: (100, [], b"")
    await passes(server, RTP_TIMEOUT + CHECK + TRANSACTION)
    await interrupted(server, src)
    return src


async def test_rtp_brings_it_back(server: Server) -> None:
    src = await silent(server)
    await src.speak("1")
    await until(server, lambda: state(server, src) == "recording")
    await passes(server, RTP_TIMEOUT / 2)
    assert state(server, src) == "recording"
    assert (await src.bye()).manifest.channels[0].packets == 10


@pytest.mark.parametrize("method", ["OPTIONS", "INFO", "UPDATE"])
async def test_a_request_brings_it_back(server: Server, method: str) -> None:
    src = await silent(server)
    assert (await src.exchange(src.build(method))).status == 200
    await until(server, lambda: state(server, src) == "recording")
    await src.bye()


async def test_after_session_timeout_it_is_ended_by_our_bye_and_rendered(server: Server) -> None:
    src = await silent(server)
    await passes(server, SESSION_TIMEOUT - CHECK)
    assert state(server, src) == "interrupted"
    await passes(server, 2 * CHECK)
    await src.request("BYE")
    recorded = await server.ended(call_id(src))
    assert (recorded.manifest.state, recorded.manifest.channels[0].packets) == ("ended", 5)
    assert "contact-lost" in [each["event"] for each in recorded.events]


async def test_a_paused_session_is_asked_too(server: Server) -> None:
    """Else an SRC that died on hold would leave its session behind for ever."""
    src = await recorded_call(server)
    assert src.offer is not None
    body = str(src.offer).replace("a=sendonly", "a=inactive").encode()
    assert (await src.exchange(src.build("INVITE", body=body))).status == 200
    await src.ack()
    await passes(server, 2 * RTP_TIMEOUT)
    assert asked(src)
    assert state(server, src) == "paused"
    src.on_request = lambda request: (481, [], b"")
    await passes(server, RTP_TIMEOUT - CHECK / 2)
    await interrupted(server, src)
    await src.bye()


async def test_one_quiet_stream_is_an_alarm_once(server: Server) -> None:
    src = await recorded_call(server)
    for _ in range(20):
        await passes(server, RTP_TIMEOUT / 4)
        await src.speak("1")
    told = [each for each in server.log if each.get("alarm") == "one-way"]
    assert [each["channel"] for each in told] == [1]
    assert (asked(src), state(server, src)) == (0, "recording")
    recorded = await src.bye()
    (event,) = [each for each in recorded.events if each["event"] == "one-way"]
    assert (event["channel"], event["label"]) == (1, "2")


async def test_a_stream_that_an_offer_leaves_out_is_not_missed(server: Server) -> None:
    src = await recorded_call(server)
    body = "m=".join(str(src.offer).split("m=")[:2]).encode()
    assert (await src.exchange(src.build("INVITE", body=body))).status == 200
    await src.ack()
    for _ in range(10):
        await passes(server, RTP_TIMEOUT / 4)
        await src.speak("1")
    assert not [each for each in server.log if each.get("alarm") == "one-way"]
    await src.bye()


async def test_a_long_call_is_never_ended_for_its_age(server: Server) -> None:
    src = await recorded_call(server)
    for _ in range(5):
        server.advance(100_000)
        await asyncio.sleep(2 * TICK_SECONDS)
        await src.speak("1")
    await passes(server, CHECK)
    assert state(server, src) == "recording"
    await src.bye()


async def test_an_answer_in_the_dialog_that_was_replaced_says_nothing(server: Server) -> None:
    """The probe of the dead SRC times out after the living one has taken the session over."""
    old = await recorded_call(server)
    old.on_request = lambda request: (100, [], b"")
    await passes(server, RTP_TIMEOUT + CHECK)
    assert asked(old) >= 1
    new, response = await come_again(server, named(old))
    assert response.status == 200
    await new.speak("1")
    for _ in range(10):
        server.advance(TRANSACTION / 8)
        await new.speak("1", packets=1)
    assert state(server, old) == "recording"
    await new.exchange(new.build("BYE"))
    await server.ended(call_id(old))
