"""Receiver reports over loopback: what they say, where they go, and above all where they do not."""

from __future__ import annotations

import base64
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from siprec import clock
from siprec.media import drain, reports
from siprec.media.capture import CaptureResult, Fault, RtcpTerms, SessionCapture, SourcePolicy, StreamCapture
from siprec.media.exchange import Exchange, Identity
from siprec.media.file import CaptureFile
from siprec.media.local import LocalCapture
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPair, PortPool
from siprec.media.reception import RECEPTION, Heard, follow
from siprec.media.reports import Reporter
from siprec.media.source import MAX_SSRCS, Source
from siprec.media.streams import Stream, StreamTable
from siprec.rtp import packets, rtcp

HOST, OTHER = "127.0.0.1", "127.0.0.77"
SSRC = 0xABCD
REPORT_SECONDS = 0.04
PATIENCE = 5.0


def opened(host: str = HOST) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((host, 0))
    made.settimeout(PATIENCE)
    return made


class Peer:
    """An SRC's sockets: RTP from one, RTCP from and to another, unless they are the same."""

    def __init__(self, pair: PortPair, *, mux: bool = False) -> None:
        self.pair = pair
        self.rtp = opened()
        self.rtcp = self.rtp if mux else opened()
        self.sequence = 0

    @property
    def address(self) -> tuple[str, int]:
        return self.rtp.getsockname()  # type: ignore[no-any-return]

    @property
    def rtcp_address(self) -> tuple[str, int]:
        return self.rtcp.getsockname()  # type: ignore[no-any-return]

    def send(self, count: int, *, lose: int = 0) -> None:
        for _ in range(count):
            packet = packets.build(0, self.sequence, timestamp=160 * self.sequence, ssrc=SSRC, payload=bytes(160))
            self.rtp.sendto(packet, (self.pair.address, self.pair.port))
            self.sequence += 1 + lose

    def say(self, *told: rtcp.Packet, port_offset: int = 1, by: socket.socket | None = None) -> None:
        (by or self.rtcp).sendto(rtcp.compound(*told), (self.pair.address, self.pair.port + port_offset))

    def hear(self) -> tuple[tuple[rtcp.Packet, ...], tuple[str, int]]:
        """The next report, and the address that it came from."""
        datagram, source = self.rtcp.recvfrom(2048)
        return rtcp.parse(datagram), source

    def block(self) -> rtcp.ReportBlock:
        """The next report block."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            first = self.hear()[0][0]
            assert isinstance(first, rtcp.ReceiverReport)
            if first.reports:
                return first.reports[0]
        raise AssertionError("no report block came")

    def silent(self, sock: socket.socket | None = None) -> bool:
        """Whether nothing was sent here so far."""
        quiet = sock or self.rtcp
        quiet.setblocking(False)
        try:
            quiet.recv(2048)
        except BlockingIOError:
            return True
        finally:
            quiet.settimeout(PATIENCE)
        return False

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


@dataclass
class Rig:
    capture: LocalCapture
    session: SessionCapture
    pair: PortPair
    peer: Peer

    def stream(self, **options: object) -> StreamCapture:
        settings: dict[str, object] = {
            "channel": 0,
            "payload_types": frozenset({0}),
            "remote": self.peer.address,
            "rtcp": RtcpTerms(self.peer.rtcp_address),
        }
        return self.session.add(self.pair, **settings | options)  # type: ignore[arg-type]

    def close(self) -> CaptureResult:
        return self.session.close().result(PATIENCE)


@pytest.fixture(params=[False, True], ids=["apart", "mux"])
def mux(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    monkeypatch.setattr(drain, "ROUND_SECONDS", 0.02)  # how often RTCP is looked for
    faults: list[Fault] = []
    made: list[Rig] = []
    pool = PortPool(HOST, 44_000, 44_199)

    def make(*, mux: bool = False) -> Rig:
        capture = LocalCapture(tick=0.01, on_fault=faults.append, report_seconds=REPORT_SECONDS)
        pair = pool.acquire(0.0)
        made.append(Rig(capture, capture.open(tmp_path), pair, Peer(pair, mux=mux)))
        capture.start()
        return made[-1]

    yield make
    for rig in made:
        rig.capture.stop()
        pool.release(rig.pair, 0.0)
        rig.peer.close()
    pool.close()
    assert faults == []


@pytest.fixture
def rig(build: Callable[..., Rig]) -> Rig:
    return build()


def wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.002)


# ---- what they say


def test_the_src_learns_how_it_is_received_and_at_last_that_we_go(build: Callable[..., Rig], mux: bool) -> None:
    rig = build(mux=mux)
    stream = rig.stream(rtcp=RtcpTerms(rig.peer.rtcp_address, mux))
    rig.peer.send(10, lose=1)
    block = rig.peer.block()
    assert (block.ssrc, block.last_sr, block.delay_since_last_sr) == (SSRC, 0, 0)
    wait_until(lambda: stream.counters().accepted == 10)
    assert stream.counters().lost == 9
    told, source = rig.peer.hear()
    assert source == (HOST, rig.pair.port + (0 if mux else 1))
    assert [type(each) for each in told] == [rtcp.ReceiverReport, rtcp.SourceDescription]
    rig.close()
    last = told
    while not isinstance(last[-1], rtcp.Bye):
        last = rig.peer.hear()[0]
    ours = told[0]
    assert isinstance(ours, rtcp.ReceiverReport)
    assert last[-1] == rtcp.Bye((ours.ssrc,))
    assert rig.peer.silent()


def test_a_sender_report_is_answered_by_its_time_and_ours(build: Callable[..., Rig], mux: bool) -> None:
    rig = build(mux=mux)
    stream = rig.stream(rtcp=RtcpTerms(rig.peer.rtcp_address, mux))
    at = clock.monotonic()
    rig.peer.send(5)
    ntp = rtcp.ntp_from_ns(clock.wall_ns())
    rig.peer.say(rtcp.SenderReport(SSRC, ntp, 800, 6, 960), port_offset=0 if mux else 1)
    wait_until(lambda: stream.counters().sent == 6)
    rig.peer.send(1)
    while (block := rig.peer.block()).last_sr == 0:
        rig.peer.send(1)
    assert block.last_sr == ntp >> 16 & 0xFFFFFFFF
    assert 0 < block.delay_since_last_sr <= (clock.monotonic() - at) * 65536
    counters = rig.close().counters[0][1]
    assert (counters.sent, counters.sent_octets, counters.rtcp, counters.left_ns) == (6, 960, 1, 0)


def test_muxed_rtcp_is_captured_as_it_came(build: Callable[..., Rig]) -> None:
    rig = build(mux=True)
    rig.stream(rtcp=RtcpTerms(rig.peer.rtcp_address, True))
    rig.peer.send(3)
    rig.peer.say(rtcp.SenderReport(SSRC, 2, 3, 4, 5), port_offset=0)
    rig.peer.say(rtcp.SenderReport(SSRC, 2, 3, 4, 6), port_offset=1)  # not agreed, harmless
    result = rig.close()
    (batch,) = PcapReader(result.files[0]).batches()
    assert sorted(batch.port.tolist()) == [rig.pair.port] * 4 + [rig.pair.port + 1]
    counters = result.counters[0][1]
    assert (counters.accepted, counters.rtcp, counters.refused) == (3, 2, {})


def test_a_stream_on_hold_still_gets_reports_without_a_block(rig: Rig) -> None:
    rig.stream()
    rig.peer.send(2)
    rig.peer.block()
    for _ in range(3):
        told = rig.peer.hear()[0]
    assert isinstance(told[0], rtcp.ReceiverReport)
    assert told[0].reports == ()


def test_a_bye_is_noted_if_it_is_the_streams_own(rig: Rig) -> None:
    stream = rig.stream()
    rig.peer.send(2)
    wait_until(lambda: stream.counters().accepted == 2)
    rig.peer.say(rtcp.ReceiverReport(SSRC), rtcp.Bye((SSRC + 1,)))
    wait_until(lambda: stream.counters().rtcp == 1)
    liveness = stream.liveness()
    assert liveness is not None
    assert liveness.left_ns == 0
    rig.peer.say(rtcp.Bye((SSRC,)))  # alone, as RFC 5506 allows
    wait_until(lambda: stream.counters().left_ns > 0)
    liveness = stream.liveness()
    assert liveness is not None
    assert liveness.left_ns >= liveness.last_packet_ns > 0


# ---- where they go


def test_reports_follow_the_port_that_the_srcs_rtcp_comes_from(rig: Rig) -> None:
    behind_nat = opened()
    rig.stream(rtcp=RtcpTerms((HOST, 9)))
    rig.peer.send(2)
    rig.peer.say(rtcp.SenderReport(SSRC, 1, 2, 2, 320), by=behind_nat)
    assert rtcp.parse(behind_nat.recv(2048))
    behind_nat.close()


def test_the_port_of_the_sdp_wins_over_another_that_was_heard_first(rig: Rig) -> None:
    stream = rig.stream()
    other = opened()
    rig.peer.say(rtcp.SenderReport(SSRC, 1, 2, 2, 320), by=other)
    assert rtcp.parse(other.recv(2048))
    rig.peer.say(rtcp.SenderReport(SSRC, 1, 2, 2, 320))
    assert rig.peer.hear()
    wait_until(lambda: stream.counters().rtcp == 2)
    other.close()


def test_nothing_is_sent_where_nobody_was_heard(rig: Rig) -> None:
    """The SDP of an attacker names a victim: RTP comes from elsewhere, so the victim hears nothing."""
    victim = opened(OTHER)
    stream = rig.stream(rtcp=RtcpTerms(victim.getsockname()))
    rig.peer.send(5)
    due = time.monotonic() + 4 * REPORT_SECONDS
    wait_until(lambda: time.monotonic() > due and stream.counters().accepted == 5)
    rig.close()
    assert rig.peer.silent(victim)
    assert rig.peer.silent()
    victim.close()


@pytest.mark.parametrize("policy", [SourcePolicy.ADDRESS, SourcePolicy.STRICT, SourcePolicy.LATCH])
def test_before_the_first_packet_nothing_is_sent(policy: SourcePolicy) -> None:
    exchange, source = _exchange(policy)
    assert exchange.target(source) is None
    source.locked = (*source.remote[:2], 1) if source.remote else None
    assert exchange.target(source) == exchange.negotiated
    exchange.renew(None)
    assert exchange.target(source) is None


def test_strict_answers_to_the_sdp_only() -> None:
    exchange, source = _exchange(SourcePolicy.STRICT)
    report = bytes(rtcp.ReceiverReport(SSRC))
    exchange.hear(report, (0, 0xFFFF << 32 | 0x7F000001, 7), 1, source=source)
    assert exchange.target(source) is None
    assert exchange.negotiated is not None
    exchange.hear(report, exchange.negotiated, 1, source=source)
    assert exchange.target(source) == exchange.negotiated


def test_another_address_for_rtcp_must_be_heard_first() -> None:
    exchange, source = _exchange(SourcePolicy.ADDRESS)
    exchange.renew(RtcpTerms((OTHER, 9)))
    source.locked = source.remote
    assert exchange.target(source) is None
    assert exchange.negotiated is not None
    exchange.hear(bytes(rtcp.ReceiverReport(SSRC)), exchange.negotiated, 1, source=source)
    assert exchange.target(source) == exchange.negotiated
    exchange.renew(RtcpTerms((OTHER, 10)))
    assert exchange.target(source) is None


def _exchange(policy: SourcePolicy) -> tuple[Exchange, Source]:
    source = Source(policy)
    source.remote = (0, 0xFFFF << 32 | 0x7F000001, 5)
    return Exchange(Identity(), RtcpTerms((HOST, 6))), source


def test_rtcp_from_the_address_of_the_sdps_rtcp_is_taken(rig: Rig) -> None:
    elsewhere = opened(OTHER)
    rig.stream(rtcp=RtcpTerms((OTHER, elsewhere.getsockname()[1])))
    rig.peer.say(rtcp.SenderReport(SSRC, 1, 2, 2, 320), by=elsewhere)
    assert rtcp.parse(elsewhere.recv(2048))
    counters = rig.close().counters[0][1]
    assert (counters.rtcp, counters.refused) == (1, {})
    elsewhere.close()


def test_without_terms_no_report_is_ever_sent(rig: Rig) -> None:
    stream = rig.stream(rtcp=None)
    rig.peer.send(5)
    rig.peer.say(rtcp.SenderReport(SSRC, 1, 2, 2, 320))
    time_to_report = time.monotonic() + 4 * REPORT_SECONDS
    wait_until(lambda: time.monotonic() > time_to_report and stream.counters().rtcp == 1)
    stream.update(rtcp=None)
    rig.close()
    assert rig.peer.silent()


# ---- how often, and who we are


class Clockwork:
    """A reporter of streams that need no socket but a loopback one, without threads."""

    def __init__(self, folder: Path, pair: PortPair, count: int, *, chance: float) -> None:
        self.table = StreamTable()
        self.reporter = Reporter(self.table, chance=lambda: chance)
        self.streams: list[Stream] = []
        file = CaptureFile(folder)
        os.close(file.descriptor)  # nothing is written
        for _ in range(count):
            source = Source(SourcePolicy.ADDRESS)
            stream = Stream(0, pair, source, file, HOST, Exchange(Identity(), RtcpTerms((HOST, 9))))
            self.table.add(stream, writing=True)
            source.locked = (0, 0xFFFF << 32 | 0x7F000001, 8)
            self.reporter.begin(stream, 100.0)
            self.streams.append(stream)

    def sent(self) -> int:
        return sum(each.exchange.reports for each in self.streams)


def _new(folder: Path) -> Path:
    (folder / "clockwork").mkdir()
    return folder / "clockwork"


@pytest.mark.parametrize(("chance", "first", "then"), [(0.0, 1.25, 2.5), (0.5, 2.5, 5.0), (1.0, 3.75, 7.5)])
def test_intervals_are_random_around_five_seconds(
    tmp_path: Path, rig: Rig, chance: float, first: float, then: float
) -> None:
    made = Clockwork(_new(tmp_path), rig.pair, 1, chance=chance)
    for at, sent in ((first - 0.01, 0), (first, 1), (first + then - 0.01, 1), (first + then, 2)):
        made.reporter.send_due(100.0 + at)
        assert made.sent() == sent


def test_a_tick_sends_no_more_than_its_limit(tmp_path: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_PER_TICK", 3)
    made = Clockwork(_new(tmp_path), rig.pair, 4, chance=0.5)
    made.reporter.send_due(102.5)
    assert made.sent() == 3
    made.reporter.send_due(102.5)
    assert made.sent() == 4
    for each in made.streams:
        made.table.remove(each)
    made.reporter.send_due(1e9)
    assert made.sent() == 4


def test_streams_of_a_session_share_a_random_name_that_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = iter((b"twelve bytes", b"twelve other"))
    monkeypatch.setattr(secrets, "token_bytes", lambda count: next(chance)[:count])
    ours, theirs = Identity(), Identity()
    (chunk,) = ours.description.chunks
    assert chunk.ssrc == ours.ssrc != theirs.ssrc
    ((kind, name),) = chunk.items
    assert (kind, base64.b64decode(name)) == (rtcp.CNAME, b"twelve bytes")
    assert ours.description != theirs.description


def test_an_ssrc_that_the_peer_has_too_is_given_up() -> None:
    identity = Identity()
    before = identity.ssrc
    row = np.zeros(1, RECEPTION)[0]
    follow(row, Heard(1, 160, before, 0, 8000, 1))
    told = rtcp.parse(Exchange(identity).compose(row, 2))
    assert isinstance(told[0], rtcp.ReceiverReport)
    assert told[0].ssrc == identity.ssrc != before


def test_sender_reports_of_many_ssrcs_are_remembered_to_a_limit() -> None:
    exchange, source = _exchange(SourcePolicy.ADDRESS)
    for ssrc in range(MAX_SSRCS + 1):
        source.ssrcs[ssrc] = None
        exchange.hear(bytes(rtcp.SenderReport(ssrc, 0, 0, 10, 100)), (0, 0, 0), 1, source=source)
    assert exchange.told(source.ssrcs) == (10 * MAX_SSRCS, 100 * MAX_SSRCS)
    assert exchange.told({99: None}) is None
