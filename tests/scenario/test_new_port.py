"""The SRC moves a stream to another port and sends from there as soon as it has our 200 OK (RFC 3264 section 8.3.1)."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from siprec.rtp import packets as rtp
from tests.support.replay import Server, recording_server

LABEL, HOST, OLD, NEW = "b_leg", "127.0.30.1", 12004, 12044


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(tmp_path) as running:
        yield running


async def test_the_first_packet_from_the_new_port_is_recorded(server: Server) -> None:
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak(LABEL)
    _, answered = src.line(LABEL)
    to = (str(answered.address), answered.port)
    receive = src.receive

    def at_once(data: bytes) -> None:
        receive(data)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((HOST, NEW))
            sender.sendto(rtp.build(0, 1, timestamp=160, ssrc=7, payload=bytes(160)), to)

    src.receive = at_once  # type: ignore[method-assign]
    body = str(src.offer).replace(str(OLD), str(NEW)).encode()
    assert (await src.exchange(src.build("UPDATE", body=body))).status == 200
    src.receive = receive  # type: ignore[method-assign]
    await src.speak("a_leg")
    recorded = await src.bye()
    assert recorded.manifest.channels[1].packets == 6
    assert recorded.manifest.refused == []
