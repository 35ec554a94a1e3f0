"""Two nodes that share Redis: requests of a dialog that come to the node that does not carry it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from siprec.sip.dialog import Dialog
from tests.failover.calls import calling
from tests.failover.node import node
from tests.support import redis_server
from tests.support.server import Server

pytestmark = pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)


OFFER = "v=0\r\no=- 1 99 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n" + "".join(
    f"m=audio {port} RTP/AVP 0\r\na=label:{label}\r\na=sendonly\r\n" for port, label in ((9, 1), (11, 2))
)


def ask(server: Server, method: str, dialog: Dialog, *, cseq: int, offer: str = "") -> int:
    """Send a request of an SRC's dialog to a server by UDP; its final status."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(10.0)
        own = sock.getsockname()[1]
        sock.sendto(
            (
                f"{method} sip:srs@127.0.0.1:{server.port} SIP/2.0\r\n"
                f"Via: SIP/2.0/UDP 127.0.0.1:{own};rport;branch=z9hG4bK{method}{own}\r\n"
                f"From: <sip:alice@example.com>;tag={dialog.local_tag}\r\n"
                f"To: <sip:srs@127.0.0.1>;tag={dialog.remote_tag}\r\n"
                f"Call-ID: {dialog.call_id}\r\nCSeq: {cseq} {method}\r\nMax-Forwards: 70\r\n"
                f"Contact: <sip:alice@127.0.0.1:{own}>\r\nContent-Type: application/sdp\r\n"
                f"Content-Length: {len(offer)}\r\n\r\n{offer}"
            ).encode(),
            ("127.0.0.1", server.port),
        )
        while (status := int(sock.recv(65_535)[8:11])) < 200:
            pass
        return status


async def test_the_owner_is_told_of_a_bye_that_came_elsewhere(tmp_path: Path) -> None:
    """OPTIONS is answered there and changes nothing; BYE ends the session where it is captured, and there alone."""
    with redis_server.running() as redis, ExitStack() as stack:
        a, b = (stack.enter_context(node(tmp_path, name, redis.url)) for name in ("a", "b"))
        async with calling(a.uri, 1) as calls:
            dialog = calls.live[0].dialog
            assert dialog is not None
            assert await asyncio.to_thread(ask, b, "OPTIONS", dialog, cseq=1000) == 200
            assert [each.read().state for each in a.recordings()] == ["recording"]
            assert await asyncio.to_thread(ask, b, "BYE", dialog, cseq=1001) == 200
            await asyncio.to_thread(a.wait_for, "recording ready")
        (recording,) = a.recordings()
        assert [part.node for part in recording.parts()] == ["a"]
        assert recording.read().verdict == "ok"
        assert not [each for each in b.log if each["event"] in {"call ended", "recording ready"}]


async def test_a_bye_for_a_dead_node_s_session_ends_it_here(tmp_path: Path) -> None:
    with redis_server.running() as redis, ExitStack() as stack:
        a, b = (stack.enter_context(node(tmp_path, name, redis.url)) for name in ("a", "b"))
        async with calling(a.uri, 1) as calls:
            dialog = calls.live[0].dialog
            assert dialog is not None
            await asyncio.to_thread(a.kill_all)
            assert await asyncio.to_thread(ask, b, "BYE", dialog, cseq=1001) == 200
            await asyncio.to_thread(b.wait_for, "recording ready")


async def test_a_refresh_that_came_elsewhere_takes_nothing_from_the_owner(tmp_path: Path) -> None:
    with redis_server.running() as redis, ExitStack() as stack:
        a, b = (stack.enter_context(node(tmp_path, name, redis.url)) for name in ("a", "b"))
        async with calling(a.uri, 1) as calls:
            dialog = calls.live[0].dialog
            assert dialog is not None
            assert await asyncio.to_thread(ask, b, "UPDATE", dialog, cseq=1000) == 500
            await calls.live[0].bye()
            await asyncio.to_thread(a.wait_for, "recording ready")
        assert a.recordings()[0].read().verdict == "ok"
        assert not [each for each in b.log if each["event"] in {"call failed", "call carried on", "call ended"}]


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
async def test_an_offer_to_another_node_brings_a_dead_node_s_session_there(tmp_path: Path, method: str) -> None:
    """As an SRC sends it that knows nothing of Replaces: in its dialog, to the next address of our name."""
    with redis_server.running() as redis, ExitStack() as stack:
        a, b = (stack.enter_context(node(tmp_path, name, redis.url)) for name in ("a", "b"))
        async with calling(a.uri, 1) as calls:
            dialog = calls.live[0].dialog
            assert dialog is not None
            await asyncio.to_thread(a.kill_all)
            assert await asyncio.to_thread(ask, b, "OPTIONS", dialog, cseq=1000) == 200
            assert await asyncio.to_thread(ask, b, method, dialog, cseq=1001, offer=OFFER) == 200
            await asyncio.to_thread(b.wait_for, "call carried on")
            assert await asyncio.to_thread(ask, b, "BYE", dialog, cseq=1002) == 200
            await asyncio.to_thread(b.wait_for, "recording ready")
        (recording,) = b.recordings()
        assert [part.node for part in recording.parts()] == ["a", "b"]
        assert [(each.how, each.from_node) for each in recording.read().recoveries] == [("reinvite", "a")]
