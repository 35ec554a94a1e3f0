"""Receiver reports as an SRC sees them: our own client into a real server, over a path that loses packets."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from pathlib import Path

import numpy as np
import pytest

from siprec import clock
from siprec.client import media
from siprec.client.media import RtpStream
from siprec.media.local import LocalCapture
from siprec.media.pcap import IPV4_HEADERS, PcapReader
from siprec.rtp import packets, rtcp
from tests.support.calls import live
from tests.support.replay import recording_server
from tests.support.server import serving

SSRC = 0x1234

PATIENCE = 12.0
"""Twice the time until the latest first report, and some for a busy machine."""


async def reported(stream: RtpStream, *, beyond: int = 0) -> rtcp.ReportBlock:
    """A report on `stream` of more than so many packets."""
    async with asyncio.timeout(PATIENCE):
        while stream.reception is None or _reach(stream, stream.reception) <= beyond:  # noqa: ASYNC110 no event there
            await asyncio.sleep(0.05)
    return stream.reception


def _reach(stream: RtpStream, block: rtcp.ReportBlock) -> int:
    """Packets that the stream had numbered when the report was made."""
    return (block.highest_sequence - stream.sequence & 0xFFFF) - 0x10000 + len(stream.frames) + 1


def lost_until(stream: RtpStream, block: rtcp.ReportBlock) -> int:
    """Packets suppressed between the first that was sent and the highest that the report knows."""
    frames = np.frombuffer(bytes(stream.frames), np.uint8)[: _reach(stream, block)]
    return int(np.count_nonzero(frames[np.argmax(frames == 1) :] == 2))


async def test_the_src_learns_what_was_lost_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "REPORT_INTERVAL", 0.25)
    settings = {"RTP_BIND_IP": "0.0.0.0", "CAPTURE_KEEP": "always"}
    with serving(tmp_path, **settings) as server:
        async with live(server, duration=60.0, loss=10.0, seed=5) as call:
            await call.answer()
            blocks = [await reported(stream) for stream in call.streams]
            for stream, block in zip(call.streams, blocks, strict=True):
                assert block.ssrc == stream.ssrc
                assert block.cumulative_lost == lost_until(stream, block) > 0
                share = block.cumulative_lost / _reach(stream, block)
                assert block.fraction_lost / 256 == pytest.approx(share, abs=0.05)  # it is the first report
                assert block.last_sr > 0
                assert block.delay_since_last_sr < PATIENCE * 65536
                assert block.jitter < PATIENCE * 8000  # in units of the RTP clock
            await call.bye()
            numbered = [each.counts.sent + each.counts.suppressed for each in call.streams]
        server.wait_for("recording ready")
        (folder,) = server.recordings()
    assert [each.sent for each in folder.read().channels] == numbered
    assert [each.packets for each in folder.read().channels] == [each.counts.sent for each in call.streams]
    assert destinations(folder.path) == {"127.0.0.1"}


def destinations(folder: Path) -> set[str]:
    """Whom the packets of a capture went to."""
    (path,) = folder.glob("parts/*/capture-*.pcap")
    return {
        str(ip_address(batch.data[at - IPV4_HEADERS + 16 : at - IPV4_HEADERS + 20].tobytes()))
        for batch in PcapReader(path).batches()
        for at in batch.offset.tolist()
    }


async def test_rtcp_shares_the_port_of_rtp_where_that_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Eager(LocalCapture):
        def __init__(self, **kwargs: object) -> None:
            super().__init__(report_seconds=0.1, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("tests.support.replay.LocalCapture", Eager)
    async with recording_server(tmp_path) as server:
        oracle = server.src("oracle")
        await oracle.send(replace={"a=sendonly\n": "a=sendonly\na=rtcp-mux\n"})
        await oracle.ack()
        offered, answered = oracle.line(None)
        assert answered.rtcp_mux
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind((offered.address, offered.port))
            peer.connect((answered.address, answered.port))
            for number in (1, 2, 4):
                packet = packets.build(0, number, timestamp=160 * number, ssrc=SSRC, payload=bytes(160))
                peer.send(packet)
            peer.send(rtcp.compound(rtcp.SenderReport(SSRC, rtcp.ntp_from_ns(clock.wall_ns()), 640, 4, 640)))
            told = await asyncio.to_thread(_report, peer)
        recorded = await oracle.bye()
    assert (told.ssrc, told.cumulative_lost, told.highest_sequence) == (SSRC, 1, 4)
    (channel,) = recorded.manifest.channels
    assert (channel.packets, channel.sent, channel.lost) == (3, 4, 1)
    assert recorded.manifest.refused == []


def _report(peer: socket.socket) -> rtcp.ReportBlock:
    """The first report block that comes to a connected socket."""
    peer.settimeout(PATIENCE)
    while True:
        first = rtcp.parse(peer.recv(2048))[0]
        assert isinstance(first, rtcp.ReceiverReport)
        if first.reports:
            return first.reports[0]
