"""Media is received at the address that SDP names, on whatever the ports are bound to, by whatever process."""

import socket
from pathlib import Path

import pytest

from tests.support.failover import ALLOW, call_id, caller, come_again, named, recorded_call, until
from tests.support.replay import Server, Src, recording_server

FIRST_DESTINATION = slice(24 + 16 + 16, 24 + 16 + 20)
"""Where the first packet of a capture was sent to: behind the headers of file and record, at the end of its IPv4's."""


def addresses(src: Src) -> set[str | None]:
    assert src.answer is not None
    return {src.answer.origin.address, *(each.address for each in src.answer.media)}


@pytest.mark.parametrize(
    ("environ", "shown"),
    [
        ({"RTP_BIND_IP": "127.0.0.50"}, "127.0.0.50"),
        ({"SIP_HOST": "127.0.0.50"}, "127.0.0.50"),
        ({"SIP_HOST": "127.0.0.50,127.0.0.1"}, "127.0.0.1"),
        ({"SIP_HOST": "0.0.0.0"}, "127.0.0.1"),
        ({"EXTERNAL_IP": "127.0.0.1", "RTP_BIND_IP": "0.0.0.0"}, "127.0.0.1"),
    ],
)
async def test_a_restart_and_a_take_over_keep_to_it(tmp_path: Path, environ: dict[str, str], shown: str) -> None:
    async with recording_server(tmp_path, dies=True, SIP_ALLOW=ALLOW, **environ) as first:
        src = await recorded_call(first)
        assert addresses(src) == {shown}
    async with recording_server(tmp_path, dies=False, SIP_ALLOW=ALLOW, **environ) as second:
        src.server = second
        second.next_ssrc()  # that was the first server's first
        await until(second, lambda: second.of(call_id(src)).manifest.state == "interrupted")
        src.forget_voices()
        await src.speak("1")
        before, offer = str(src.answer), str(src.offer)
        assert (await src.exchange(src.build("INVITE", body=offer.encode()))).status == 200
        await src.ack()
        assert str(src.answer) == before
        new, response = await come_again(second, named(src))
        assert response.status == 200
        assert addresses(new) == {shown}
        await new.speak("1")
        assert (await new.exchange(new.build("BYE"))).status == 200
        recorded = await second.ended(call_id(src))
    assert recorded.manifest.channels[0].packets == 15
    captures = [path.read_bytes() for path in recorded.folder.path.rglob("*.pcap")]
    assert {socket.inet_ntoa(each[FIRST_DESTINATION]) for each in captures} == {shown}


async def reanswered(server: Server, src: Src) -> set[str | None]:
    """Where media goes after a re-INVITE in the dialog that was restored; o= is the session's name and stays."""
    src.server = server
    await until(server, lambda: server.of(call_id(src)).manifest.state == "interrupted")
    assert (await src.exchange(src.build("INVITE", body=str(src.offer).encode()))).status == 200
    await src.ack()
    assert src.answer is not None
    return {each.address for each in src.answer.media}


async def test_an_open_stream_stays_where_its_src_sends_to(tmp_path: Path) -> None:
    """RTP_BIND_IP has changed over a restart that nobody kept the sockets over."""
    async with recording_server(tmp_path, dies=True, SIP_ALLOW=ALLOW, RTP_BIND_IP="127.0.0.50") as first:
        src = await recorded_call(first)
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, RTP_BIND_IP="127.0.0.51") as second:
        second.next_ssrc()
        assert await reanswered(second, src) == {"127.0.0.50"}
        src.forget_voices()
        await src.speak("1")
        assert (await src.bye()).manifest.channels[0].packets == 10


async def test_an_address_that_leads_to_no_socket_any_more_is_named_no_more(tmp_path: Path) -> None:
    away = {"EXTERNAL_IP": "198.51.100.5", "RTP_BIND_IP": "127.0.0.50"}
    async with recording_server(tmp_path, dies=True, SIP_ALLOW=ALLOW, **away) as first:
        src, own = caller(first)
        await src.exchange(src.load("good", replace=own))
        await src.ack()
        await first.live(call_id(src), lambda found: found.manifest.state == "recording")
        assert addresses(src) == {"198.51.100.5"}
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, RTP_BIND_IP="127.0.0.50") as second:
        second.next_ssrc()
        assert await reanswered(second, src) == {"127.0.0.50"}
        src.forget_voices()
        await src.speak("1")
        assert (await src.bye()).manifest.channels[0].packets == 5
