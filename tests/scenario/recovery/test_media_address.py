"""Media is received at the address that SDP names, on whatever the ports are bound to, by whatever process."""

import socket
from pathlib import Path

import pytest

from tests.support.failover import ALLOW, call_id, come_again, named, recorded_call, until
from tests.support.replay import Src, recording_server

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
