"""Session timers of RFC 4028 in a recording session: who refreshes, and what a refused refresh does."""

import asyncio

import pytest

from siprec.sip.message import Request
from tests.support.replay import TICK_SECONDS, Server, Src

KNOWS_NO_TIMERS = {"Supported: timer\n": "Supported: replaces\nAllow: INVITE, ACK, BYE, UPDATE\n", ";refresher=uac": ""}


async def refreshed_by_us(server: Server) -> Src:
    """A call in which the refreshes are ours: the SRC knows no timers, a proxy asked for them (section 9, table 2)."""
    src = server.src("telnyx")
    response = await src.send("invite", replace=KNOWS_NO_TIMERS)
    assert response.status == 200
    assert response.headers.get("Session-Expires") == "1800;refresher=uas"
    await src.ack()
    await src.speak("1")
    return src


async def test_we_refresh_for_a_peer_that_knows_no_timers(server: Server) -> None:
    src = await refreshed_by_us(server)
    server.advance(901)
    refresh = await src.request("UPDATE")
    assert refresh.body == b""
    assert refresh.headers.get("Session-Expires") == "1800;refresher=uac"
    assert "+sip.srs" in (refresh.headers.get("Contact") or "")
    assert (await src.bye()).manifest.state == "ended"


async def test_after_a_refresh_that_is_481_the_call_is_ended_in_time(server: Server) -> None:
    """Not at once: an SRC that has failed over may still come back for its recording (SESSION_TIMEOUT)."""
    src = await refreshed_by_us(server)
    src.on_request = lambda request: (200 if request.method == "BYE" else 481, [], b"")
    server.advance(901)
    await src.request("UPDATE")
    await server.live("telnyx-call@127.0.0.20", lambda found: found.manifest.state == "interrupted")
    while server.of("telnyx-call@127.0.0.20").manifest.state == "interrupted":
        server.advance(11)  # SESSION_TIMEOUT is looked at every SESSION_CHECK_INTERVAL
        await asyncio.sleep(TICK_SECONDS)
    assert (await server.ended("telnyx-call@127.0.0.20")).manifest.state == "ended"


async def refused_once(server: Server, status: int, headers: list[tuple[str, str]]) -> tuple[Src, Request]:
    """Refuse our first refresh; the next one."""
    src = await refreshed_by_us(server)
    refused: list[Request] = []

    def answer(request: Request) -> tuple[int, list[tuple[str, str]], bytes]:
        if request.method == "OPTIONS" or refused:
            return 200, [("Session-Expires", "1800;refresher=uac")], str(src.offer).encode()
        refused.append(request)
        return status, headers, b""

    src.on_request = answer
    server.advance(901)
    first = await src.request("UPDATE")
    async with asyncio.timeout(10):
        while not (again := [each for each in src.received if isinstance(each, Request) and each.cseq != first.cseq]):
            server.advance(1.0)
            await asyncio.sleep(TICK_SECONDS)
    return src, again[0]


@pytest.mark.parametrize(
    ("status", "headers"), [(491, []), (500, [("Retry-After", "3")]), (503, [("Retry-After", "7 (busy);duration=9")])]
)
async def test_a_refresh_that_is_refused_for_now_is_tried_again(
    server: Server, status: int, headers: list[tuple[str, str]]
) -> None:
    src, again = await refused_once(server, status, headers)
    assert again.method == "UPDATE"
    assert (await src.bye()).manifest.state == "ended"


async def test_a_longer_interval_is_asked_for_when_the_peer_wants_that(server: Server) -> None:
    src, again = await refused_once(server, 422, [("Min-SE", "3600")])
    assert again.headers.get("Session-Expires") == "3600;refresher=uac"
    assert (await src.bye()).manifest.state == "ended"


async def test_who_does_not_take_an_update_gets_a_reinvite(server: Server) -> None:
    src, again = await refused_once(server, 405, [])
    assert again.method == "INVITE"
    assert (await src.bye()).manifest.state == "ended"


async def test_a_retry_that_would_come_too_late_lets_the_session_expire(server: Server) -> None:
    src = await refreshed_by_us(server)
    src.on_request = lambda request: (200 if request.method == "BYE" else 503, [("Retry-After", "3600")], b"")
    server.advance(901)
    await src.request("UPDATE")
    await asyncio.sleep(TICK_SECONDS)
    server.advance(900)
    assert (await server.ended("telnyx-call@127.0.0.20")).manifest.state == "ended"
