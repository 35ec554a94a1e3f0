"""Packets and messages from where none are expected: nothing of them is recorded, answered or acted upon."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from siprec.client.call import LiveCall
from siprec.client.options import CallOptions
from siprec.client.src import RecordingClient
from tests.load.spray import DTLS, STUN, request, rtp
from tests.support import foreign
from tests.support.counting import assert_whole, folder_of
from tests.support.server import Server, serving

ROOT = Path(__file__).parents[2]
SECONDS = 1.5
"""Of spraying; scripts/soak does it for 10."""


async def told(*command: str) -> Any:
    """What a tool prints as JSON."""
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(output)


def rtp_ports(call: LiveCall) -> list[int]:
    """Where the server receives each stream."""
    return [stream.remote.port for stream in call.streams if stream.remote is not None]


async def start(client: RecordingClient, server: Server, **wanted: Any) -> LiveCall:
    call = await client.start(CallOptions(target=server.uri, counter=True, duration=30.0, **wanted))
    assert call.result.status == 200
    return call


async def end(server: Server, *calls: LiveCall) -> None:
    for call in calls:
        assert not call.ended.is_set()
        await call.bye()
    for _ in calls:
        server.wait_for("recording ready")


def refused(server: Server, call: LiveCall, channel: int) -> Counter[tuple[str, str]]:
    manifest = folder_of(server.recordings(), call).read()
    return Counter({(each.reason, each.source): each.packets for each in manifest.refused if each.channel == channel})


async def test_a_foreign_host_is_neither_recorded_nor_answered(tmp_path: Path) -> None:
    reason = foreign.missing()
    if reason is not None:
        pytest.skip(reason)
    settings = {"SIP_HOST": "0.0.0.0", "SIP_ALLOW": "127.0.0.0/8", "CAPTURE_KEEP": "always"}
    with foreign.foreign_host() as host, serving(tmp_path, **settings) as server:
        python = host.command(sys.executable, "-m", "tests.load.spray")
        async with RecordingClient() as client:
            calls = [await start(client, server, one_way=number % 2 == 1) for number in range(4)]
            ports = [port for call in calls for first in rtp_ports(call) for port in (first, first + 1)]
            sent = await told(*python, "rtp", host.ours, str(SECONDS), *map(str, ports))
            knocked = await told(*python, "sip", host.ours, str(server.port), "200")
            await end(server, *calls)
        for call in calls:
            assert_whole(folder_of(server.recordings(), call), call)
        never_learned = refused(server, calls[1], 1)
        lines = [line for line in server.log if line["event"] == "source is not listed"]
    assert knocked.get("udp_in", 0) == knocked.get("tcp_in", 0) == 0
    assert knocked["tcp_closed"] == 10
    assert [line["source"] for line in lines] == [host.theirs]
    assert {source for _, source in never_learned} == {host.theirs}
    assert never_learned["address", host.theirs] >= sent["rtp"] // len(ports)
    for kind, named in (("stun", "stun"), ("dtls", "dtls"), ("garbage", "not_rtp")):
        assert never_learned[named, host.theirs] >= sent[kind] // len(ports) - 1


async def test_the_same_host_from_another_port_is_not_recorded(tmp_path: Path) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        async with RecordingClient() as client:
            call = await start(client, server, one_way=True)
            await call.run(0.6)  # three ticks of the drain: the source is locked
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                for number in range(500):
                    for port in rtp_ports(call)[:1]:
                        other.sendto(rtp(number, ssrc=call.streams[0].ssrc), ("127.0.0.1", port))
                        other.sendto(rtp(number), ("127.0.0.1", port))
            await call.run(0.6)
            await end(server, call)
        assert_whole(folder_of(server.recordings(), call), call)


async def test_what_is_no_rtp_never_settles_a_source(tmp_path: Path) -> None:
    """From the right address, before the SRC speaks: each is refused for its own reason, and nothing is learned."""
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        async with RecordingClient() as client:
            call = await start(client, server, one_way=True)
            silent = rtp_ports(call)[1]
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
                for data in (STUN, DTLS, b"\x47" * 60, b"", b"\x80", rtp(7, payload_type=77), rtp(8), bytes(1_900)):
                    other.sendto(data, ("127.0.0.1", silent))
            await call.run(0.3)
            await end(server, call)
        assert_whole(folder_of(server.recordings(), call), call)
        reasons = {reason for reason, _ in refused(server, call, 1)}
    assert {"stun", "dtls", "not_rtp", "payload_type", "unlearned"} <= reasons


async def test_an_unlisted_source_gets_silence_and_one_line(tmp_path: Path) -> None:
    """Amplification is nothing at all: not one octet comes back, whatever the method (SECURITY A2)."""
    with serving(tmp_path, SIP_ALLOW="127.0.0.2/32") as server:
        knocked = await told(sys.executable, "-m", "tests.load.spray", "sip", "127.0.0.1", str(server.port), "500")
        server.wait_for("source is not listed")
        assert server.stop() == 0
        lines = [line for line in server.log if line["event"] == "source is not listed"]
    assert (knocked.get("udp_in", 0), knocked.get("tcp_in", 0), knocked["tcp_closed"]) == (0, 0, 10)
    assert [(line["source"], line["setting"]) for line in lines] == [("127.0.0.1", "SIP_ALLOW")]


def test_answers_go_to_the_source_whatever_the_message_says(tmp_path: Path) -> None:
    """Via, maddr and received name a victim: it hears nothing, and the source less than twice what it sent."""
    with serving(tmp_path) as server, ExitStack() as stack:
        victim, sender = (stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2))
        victim.bind(("127.0.0.3", 0))
        sender.bind(("127.0.0.1", 0))
        sender.settimeout(5.0)
        name = f"127.0.0.3:{victim.getsockname()[1]}"
        for number, via in enumerate(
            (f"{name};rport", f"{name};maddr=127.0.0.3;rport", f"{name};received=127.0.0.3", name)
        ):
            asked = request("OPTIONS", number).replace(b"192.0.2.1;rport", via.encode())
            sender.sendto(asked, ("127.0.0.1", server.port))
            if "rport" in via:
                assert len(sender.recv(65_535)) < 2 * len(asked)
        victim.setblocking(False)
        with pytest.raises(BlockingIOError):
            victim.recv(65_535)
