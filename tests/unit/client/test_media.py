"""RTP as the client sends it: paced, numbered, impaired from a seed, and its own record of it exact."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import numpy as np
import pytest
import pytest_asyncio

from siprec.client.media import (
    MAX_CATCH_UP,
    RTP_HEADER,
    Counts,
    Fates,
    Impairments,
    PortPair,
    Remote,
    RtpStream,
    Sender,
)
from siprec.client.tracks import CODECS, FRAME_SECONDS, tracks
from siprec.errors import ListenError
from siprec.rtp import rtcp

HOST = "127.0.0.1"


@pytest.fixture
def sink() -> Iterator[PortPair]:
    """Where the packets go: a bound port pair that nobody reads until the end."""
    ports = PortPair(HOST)
    ports.rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    yield ports
    ports.close()


@pytest_asyncio.fixture
async def sender() -> AsyncIterator[Sender]:
    running = Sender()
    running.start()
    yield running
    await running.stop()


def make(impairments: Impairments | None = None, *, codec: str = "PCMU", **extra: bool | int) -> RtpStream:
    track = tracks(2.0, codec=codec, seed=1)[0]
    return RtpStream(track, PortPair(HOST), seed=1, label="1", impairments=impairments, **extra)  # type: ignore[arg-type]


def packets(sink: PortPair) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sink.rtp.recv(4096))
        except BlockingIOError:
            return found


def drive(stream: RtpStream, frames: int, *, start: float = 100.0) -> list[tuple[float, bytes]]:
    """The packets of so many frames, without sockets or clock, in the order they leave."""
    stream.remote, stream.active = Remote(HOST, 9, 9), True
    due = [start + at * FRAME_SECONDS for at in range(frames)]
    return sorted((each for at in due for each in stream.frame(at, at)), key=lambda each: each[0])


def header(packet: bytes) -> tuple[int, int, int, int, int]:
    first, second, sequence, timestamp, ssrc = RTP_HEADER.unpack_from(packet)
    return first, second, sequence, timestamp, ssrc


async def until(condition: Callable[[], bool], *, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - counters of the sender, which tells nobody
            await asyncio.sleep(0.005)


# -- packets


@pytest.mark.parametrize("codec", list(CODECS))
def test_headers_count_on(codec: str) -> None:
    stream = make(codec=codec, first_sequence=65534)
    sent = [header(packet) for _, packet in drive(stream, 4)]
    step = stream.codec.clock_rate // 50
    assert [each[2] for each in sent] == [65534, 65535, 0, 1]
    assert [(each[3] - sent[0][3]) & 0xFFFFFFFF for each in sent] == [0, step, 2 * step, 3 * step]
    assert [each[1] >> 7 for each in sent] == [1, 0, 0, 0]
    assert {each[1] & 0x7F for each in sent} == {stream.codec.payload_type}
    assert {each[4] for each in sent} == {stream.ssrc}
    stream.close()


def test_a_pause_moves_the_timestamp_and_not_the_sequence() -> None:
    stream = make()
    before = header(drive(stream, 1)[0][1])
    stream.active = False
    assert stream.frame(1.0, 1.0) == []
    after = header(drive(stream, 1)[0][1])
    assert after[2] == (before[2] + 1) & 0xFFFF
    assert after[3] == (before[3] + 320) & 0xFFFFFFFF
    assert after[1] & 0x80
    stream.close()


def test_equal_seeds_give_equal_streams() -> None:
    one, other = make(Impairments(loss=20, jitter_ms=5)), make(Impairments(loss=20, jitter_ms=5))
    assert drive(one, 50) == drive(other, 50)
    one.close()
    other.close()


def test_counter_payloads_number_the_packets() -> None:
    stream = make(counter=True)
    numbers = [int.from_bytes(packet[12:16], "big") for _, packet in drive(stream, 150)]
    assert numbers == list(range(150))
    stream.close()


def test_a_new_source_has_a_new_ssrc_and_marks_its_start() -> None:
    stream = make()
    before = header(drive(stream, 3)[-1][1])
    stream.change_source()
    after = header(drive(stream, 1)[0][1])
    assert after[4] != before[4]
    assert after[1] & 0x80
    stream.close()


# -- impairments


def test_loss_is_counted_and_leaves_gaps_in_the_sequence() -> None:
    stream = make(Impairments(loss=10.0))
    sent = drive(stream, 1000)
    assert stream.counts.suppressed == 1000 - len(sent)
    assert 60 < stream.counts.suppressed < 140
    missing = [at for at, flag in enumerate(stream.frames) if flag == 2]
    assert len(missing) == stream.counts.suppressed
    present = {(header(packet)[2] - header(sent[0][1])[2]) & 0xFFFF for _, packet in sent}
    assert len(present) == len(sent)
    stream.close()


def test_no_and_total_loss() -> None:
    counts = Counts()
    assert all(Fates(Impairments(loss=0.0, jitter_ms=1), 1).next(0.0, counts) for _ in range(100))
    assert not any(Fates(Impairments(loss=100.0), 1).next(0.0, counts) for _ in range(100))
    assert counts.suppressed == 100


def test_duplicates_are_equal_packets() -> None:
    stream = make(Impairments(duplicate=20.0))
    sent = [packet for _, packet in drive(stream, 500)]
    assert len(sent) - len(set(sent)) == stream.counts.duplicated > 50
    stream.close()


def test_reordered_packets_are_overtaken_by_so_many() -> None:
    stream = make(Impairments(reorder=3))
    order = [(header(packet)[2] - stream.sequence) & 0xFFFF for _, packet in drive(stream, 400)]
    late = [at for at, sequence in enumerate(order) if any(each > sequence for each in order[:at])]
    assert stream.counts.reordered > 20
    assert len(late) >= stream.counts.reordered - 1
    assert max(sum(each > order[at] for each in order[:at]) for at in late) == 3
    stream.close()


def test_jitter_delays_and_keeps_the_order() -> None:
    stream = make(Impairments(jitter_ms=50))
    sent = drive(stream, 300)
    numbers = [(header(packet)[2] - header(sent[0][1])[2]) & 0xFFFF for _, packet in sent]
    assert numbers == list(range(300))
    delays = [at - (100.0 + number * FRAME_SECONDS) for number, (at, _) in enumerate(sent)]
    assert min(delays) >= -1e-9
    assert 0.03 < max(delays) <= 0.05 + 1e-9
    stream.close()


# -- what the stream says it sent


def test_sent_audio_is_the_source_where_packets_went_out() -> None:
    stream = make(Impairments(loss=30.0))
    drive(stream, 120)  # longer than the track of 100 frames: it is heard again
    source = np.concatenate([stream.track.frames, stream.track.frames[:20]])
    flags = np.frombuffer(bytes(stream.frames), np.uint8)
    heard = stream.sent_audio().reshape(120, 160)
    assert np.array_equal(heard[flags == 1], source[flags == 1])
    assert not heard[flags == 2].any()
    assert np.array_equal(stream.sent_audio(lost=True), source.reshape(-1))
    stream.close()


def test_a_stream_has_no_more_frames_than_its_limit() -> None:
    stream = make()
    stream.limit = 5
    assert len(drive(stream, 5)) == 5
    assert stream.frame(100.1, 100.1) == []
    assert len(stream.frames) == 5
    stream.close()


def test_frames_after_a_long_stall_are_skipped() -> None:
    stream = make()
    stream.remote, stream.active = Remote(HOST, 9, 9), True
    assert stream.frame(0.0, MAX_CATCH_UP)
    assert not stream.frame(0.0, MAX_CATCH_UP + 0.001)
    assert stream.counts.skipped == 1
    stream.close()


# -- sockets


def test_ports_are_an_even_and_odd_pair() -> None:
    ports = PortPair(HOST)
    assert ports.port % 2 == 0
    assert ports.rtp.getsockname() == (HOST, ports.port)
    assert ports.rtcp.getsockname() == (HOST, ports.port + 1)
    ports.close()


def test_a_foreign_address_is_a_listen_error() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1"):
        PortPair("192.0.2.1")


async def test_the_sender_keeps_pace_and_every_packet_arrives(sender: Sender, sink: PortPair) -> None:
    streams = [make(counter=True) for _ in range(20)]
    loop = asyncio.get_running_loop()
    began = loop.time()
    for stream in streams:
        stream.connect(Remote(HOST, sink.port, sink.port + 1))
        stream.active = True
        sender.add(stream)
    await until(lambda: streams[-1].counts.sent >= 50)
    assert 0.95 < loop.time() - began < 2.0
    for stream in streams:
        sender.remove(stream)
    arrived = packets(sink)
    assert len(arrived) == sum(stream.counts.sent for stream in streams)
    for stream in streams:
        own = [packet for packet in arrived if header(packet)[4] == stream.ssrc]
        assert sorted({packet[12:16] for packet in own}) == [n.to_bytes(4, "big") for n in range(len(stream.frames))]
        stream.close()


async def test_packets_held_back_leave_before_the_stream_does(sender: Sender, sink: PortPair) -> None:
    stream = make(Impairments(reorder=50))
    stream.connect(Remote(HOST, sink.port, sink.port + 1))
    stream.active = True
    sender.add(stream)
    await until(lambda: stream.counts.reordered >= 2)
    sender.remove(stream)
    assert stream.counts.sent == len(stream.frames) == len(packets(sink))
    stream.close()


async def test_nothing_is_sent_after_removal(sender: Sender, sink: PortPair) -> None:
    first, second = make(), make()
    for stream in (first, second):
        stream.connect(Remote(HOST, sink.port, sink.port + 1))
        stream.active = True
        sender.add(stream)
    await until(lambda: first.counts.sent >= 2)
    sender.remove(first)
    stopped, going = first.counts.sent, second.counts.sent
    await until(lambda: second.counts.sent >= going + 3)
    assert first.counts.sent == stopped
    first.close()
    second.close()


async def test_a_refusing_host_is_counted_and_survived(sender: Sender) -> None:
    gone = PortPair(HOST)
    gone.close()
    stream = make()
    stream.connect(Remote(HOST, gone.port, gone.port + 1))
    stream.active = True
    sender.add(stream)
    await until(lambda: stream.counts.refused >= 2)
    assert stream.counts.failed == 0
    sender.remove(stream)
    stream.close()


@pytest.mark.parametrize("remote", [Remote("::1", 9, 9), Remote("255.255.255.255", 9, 9)])
def test_an_address_without_a_way_silences_the_stream(remote: Remote) -> None:
    stream = make()
    stream.connect(remote)
    stream.active = True
    assert stream.frame(0.0, 0.0) == []
    assert stream.counts.failed == 1
    stream.close()


# -- RTCP


async def test_sender_reports_name_the_source_and_its_clock(sender: Sender, sink: PortPair) -> None:
    stream = make()
    stream.connect(Remote(HOST, sink.port, sink.port + 1))
    stream.active = True
    sender.add(stream)
    await until(lambda: stream.counts.sent >= 5)
    sender.remove(stream)
    first, last = rtcp.parse(sink.rtcp.recv(2048)), rtcp.parse(sink.rtcp.recv(2048))
    report, goodbye = first[0], last[0]
    assert isinstance(report, rtcp.SenderReport)
    assert isinstance(goodbye, rtcp.SenderReport)
    assert report.ssrc == stream.ssrc
    assert goodbye.packet_count == stream.counts.sent
    assert goodbye.octet_count == 160 * stream.counts.sent
    passed = (rtcp.ns_from_ntp(goodbye.ntp) - rtcp.ns_from_ntp(report.ntp)) / 1e9
    assert ((goodbye.rtp_timestamp - report.rtp_timestamp) & 0xFFFFFFFF) / 8000 == pytest.approx(passed, abs=0.005)
    assert any(isinstance(each, rtcp.Bye) for each in last)
    stream.close()


async def test_what_the_recorder_reports_is_kept(sink: PortPair) -> None:
    stream = make()
    stream.connect(Remote(HOST, sink.port, sink.port + 1))
    stream.active = True
    stream.frame(0.0, 0.0)
    block = rtcp.ReportBlock(stream.ssrc, 25, 7, 1000, 3, 0, 0)
    other = rtcp.ReportBlock(stream.ssrc ^ 1, 0, 0, 0, 0, 0, 0)
    sink.rtcp.sendto(rtcp.compound(rtcp.ReceiverReport(1, (other, block))), (HOST, stream.ports.port + 1))
    stream.report(10.0)
    assert stream.reception == block
    stream.close()
