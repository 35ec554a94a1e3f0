"""Capture from sockets to files, threads and processes and all, over loopback.

What a test asks of `rig` holds for both ways to read sockets, and for capture in processes of its own.
"""

import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest

from siprec import clock
from siprec.media import capture, drain, plan, receive, streams
from siprec.media.capture import Capture, Fault, SessionCapture, SourcePolicy, StreamCapture
from siprec.media.local import LocalCapture
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPair, PortPool
from siprec.media.tiers import Choice, available
from siprec.media.workers.remote import RemoteCapture
from siprec.media.writer import pieces_of
from siprec.rtp import packets, rtcp

HOST = "127.0.0.1"
PCMU = frozenset({0})


def wait_until(reached: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.002)


class Line:
    """A peer that sends numbered RTP from one socket to one pair."""

    def __init__(self, pair: PortPair, *, ssrc: int = 1, host: str = HOST) -> None:
        self.sock = socket.socket(pair.rtp.family, socket.SOCK_DGRAM)
        self.sock.bind((host, 0))
        self.address: tuple[str, int] = self.sock.getsockname()[:2]
        self.to = (pair.address, pair.port)
        self.ssrc = ssrc
        self.sequence = 0

    def send(self, count: int = 1, *, payload_type: int = 0, size: int = 160) -> None:
        for _ in range(count):
            payload = self.sequence.to_bytes(4, "big") + bytes(size - 4)
            stamp = 160 * self.sequence
            self.raw(packets.build(payload_type, self.sequence, timestamp=stamp, ssrc=self.ssrc, payload=payload))
            self.sequence += 1

    def raw(self, datagram: bytes, *, port_offset: int = 0) -> None:
        self.sock.sendto(datagram, (self.to[0], self.to[1] + port_offset))


class Rig:
    """A running capture with everything to feed it."""

    def __init__(self, engine: Capture, folder: Path, faults: list[Fault]) -> None:
        self.engine = engine
        self.folder = folder
        self.faults = faults
        self.pool = PortPool(HOST, 43_000, 43_199)
        self.lines: list[Line] = []
        self.pairs: list[PortPair] = []
        self.sessions: list[SessionCapture] = []

    def pair(self) -> PortPair:
        self.pairs.append(self.pool.acquire(0.0))
        return self.pairs[-1]

    def line(self, pair: PortPair, *, ssrc: int = 1, host: str = HOST) -> Line:
        self.lines.append(Line(pair, ssrc=ssrc, host=host))
        return self.lines[-1]

    def session(self, name: str = "a", *, segment_seconds: float = 0.0) -> SessionCapture:
        directory = self.folder / name
        directory.mkdir()
        self.sessions.append(self.engine.open(directory, segment_seconds=segment_seconds))
        return self.sessions[-1]

    def stop(self) -> None:
        self.engine.stop()
        self.give_back()

    def give_back(self) -> None:
        for pair in self.pairs:
            self.pool.release(pair, 0.0)
        for line in self.lines:
            line.sock.close()
        self.pool.close()


def build(folder: Path, tier: Choice = "auto", **options: object) -> Rig:
    faults: list[Fault] = []
    engine = LocalCapture(tick=0.02, on_fault=faults.append, receive=tier, **options)  # type: ignore[arg-type]
    engine.start()
    return Rig(engine, folder, faults)


WORKERS = "workers"


@pytest.fixture(params=[*available(), WORKERS])
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    if request.param is WORKERS:
        engine, faults = request.getfixturevalue("workers")
        made = Rig(engine, tmp_path, faults)
        yield made
        for session in made.sessions:
            session.close().result(5)
        made.give_back()
    else:
        made = build(tmp_path, request.param)
        yield made
        made.stop()
    assert [fault for fault in made.faults if fault.cause in {"internal", "worker"}] == []


@pytest.fixture(scope="module")
def workers() -> Iterator[tuple[RemoteCapture, list[Fault]]]:
    """Processes take a while to start: two serve all tests."""
    faults: list[Fault] = []
    engine = RemoteCapture(2, tick=0.02, on_fault=faults.append)
    engine.start()
    yield engine, faults
    engine.stop()


here = pytest.mark.parametrize("rig", available(), indirect=True)
"""For what reaches into the process that captures."""


def numbers(session: SessionCapture, port: int | None = None) -> list[int]:
    """The packet counters in all files of a closed session, in order."""
    found: list[int] = []
    for path in session.close().result(5).files:
        for batch in PcapReader(path).batches():
            for index in range(len(batch.offset)):
                if port in (None, int(batch.port[index])):
                    start = int(batch.offset[index]) + 12
                    found.append(int.from_bytes(batch.data[start : start + 4].tobytes(), "big"))
    return found


def one_stream(rig: Rig, **options: object) -> tuple[SessionCapture, StreamCapture, Line]:
    session, pair = rig.session(), rig.pair()
    line = rig.line(pair)
    settings: dict[str, object] = {"channel": 0, "payload_types": PCMU, "remote": line.address} | options
    return session, session.add(pair, **settings), line  # type: ignore[arg-type]


def test_every_packet_is_on_disk_when_close_is_done(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(100)
    wait_until(lambda: stream.counters().accepted == 100)
    line.send(400)
    result = session.close().result(5)
    assert numbers(session) == list(range(500))
    counters = result.counters[0][1]
    assert (counters.accepted, counters.octets, counters.ssrcs) == (500, 500 * 172, (1,))
    assert counters.first_packet_ns <= counters.last_packet_ns
    assert (counters.refused, counters.kernel_drops, result.outages) == ({}, 0, ())
    assert stream.counters() == counters
    assert session.close() is session.close()


def test_streams_of_many_sessions_stay_apart(rig: Rig) -> None:
    sessions = []
    for index in range(10):
        session = rig.session(f"s{index}")
        pairs = [rig.pair() for _ in range(3)]
        lines = [rig.line(pair, ssrc=10 * index + place) for place, pair in enumerate(pairs)]
        for place, (pair, line) in enumerate(zip(pairs, lines, strict=True)):
            session.add(pair, channel=place, payload_types=PCMU, remote=line.address)
        sessions.append((session, pairs, lines))
    for round_ in range(20):
        for _, _, lines in sessions:
            for place, line in enumerate(lines):
                line.send(1 + (round_ + place) % 3, size=160 if place else 60 + round_)
    for session, pairs, lines in sessions:
        for pair, line in zip(pairs, lines, strict=True):
            assert numbers(session, pair.port) == list(range(line.sequence))


def test_streams_come_and_go_while_others_run(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    other, second = rig.pair(), None
    line.send(10)
    for turn in range(3):
        extra = rig.line(other, ssrc=50 + turn)
        second = session.add(other, channel=1, payload_types=PCMU, remote=extra.address)
        extra.send(5)
        line.send(5)
        counters = second.remove().result(5)
        assert counters.accepted == 5
        assert second.counters() == counters
        assert second.liveness() is None
        receive.disconnect(other.rtp)
    wait_until(lambda: stream.counters().accepted == 25)
    result = session.close().result(5)
    assert [channel for channel, _ in result.counters] == [1, 1, 1, 0]
    assert sorted(numbers(session)) == sorted([*range(25), *range(5), *range(5), *range(5)])


def test_the_port_is_learned_then_locked_even_in_the_kernel(rig: Rig) -> None:
    session, stream, line = one_stream(rig, remote=(HOST, 9))
    line.send(30)
    wait_until(lambda: stream.counters().accepted == 30)
    intruder = rig.line(rig.pairs[0], ssrc=1)
    intruder.send(30)
    line.send(10)
    wait_until(lambda: stream.counters().accepted == 40)
    assert numbers(session) == list(range(40))
    assert stream.counters().kernel_drops == 0


def test_a_stream_that_goes_on_from_another_port_is_followed_once_its_source_is_silent(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(30)
    wait_until(lambda: stream.counters().accepted == 30)
    spray, moved = rig.line(rig.pairs[0], host="127.0.0.66"), rig.line(rig.pairs[0])
    spray.sequence = moved.sequence = 30

    def followed() -> bool:
        spray.send()
        moved.send()
        return stream.counters().accepted >= 31

    wait_until(followed)
    moved.send(20)
    result = session.close().result(5).counters[0][1]
    found = numbers(session)
    assert found == [*range(30), *range(found[30], moved.sequence)]
    assert result.lost == found[30] - 30
    assert result.refused["address", "127.0.0.66"] > 0


def test_what_comes_to_a_silent_stream_is_refused_and_counted_until_its_source_speaks(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(30)
    wait_until(lambda: stream.counters().accepted == 30)
    intruder = rig.line(rig.pairs[0], ssrc=2)

    def counted() -> bool:
        intruder.send()
        return ("port", HOST) in stream.counters().refused

    wait_until(counted)
    line.send()
    wait_until(lambda: stream.counters().accepted == 31)
    intruder.ssrc, intruder.sequence = line.ssrc, line.sequence
    intruder.send(30)
    line.send(9)
    wait_until(lambda: stream.counters().accepted == 40)
    assert numbers(session) == list(range(40))


def test_a_third_host_before_and_after_the_lock_writes_nothing(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    spray = rig.line(rig.pairs[0], host="127.0.0.66")
    spray.send(200)
    line.send(20)
    spray.send(50)
    wait_until(lambda: stream.counters().accepted == 20)
    result = session.close().result(5)
    assert numbers(session) == list(range(20))
    assert set(result.counters[0][1].refused) == {("address", "127.0.0.66")}
    assert result.counters[0][1].refused["address", "127.0.0.66"] >= 200


@pytest.mark.parametrize(
    ("policy", "networks", "accepted", "reason"),
    [
        (SourcePolicy.STRICT, (), 0, "port"),
        (SourcePolicy.ADDRESS, (), 20, None),
        (SourcePolicy.LATCH, ("127.0.0.0/8",), 20, None),
        (SourcePolicy.LATCH, ("192.0.2.0/24",), 0, "address"),
    ],
)
def test_policies_differ_when_the_port_does(
    rig: Rig, policy: SourcePolicy, networks: tuple[str, ...], accepted: int, reason: str | None
) -> None:
    listed = [ip_network(each) for each in networks]
    session, _, line = one_stream(rig, remote=(HOST, 9), policy=policy, networks=listed)
    line.send(20)
    counters = session.close().result(5).counters[0][1]
    assert counters.accepted == accepted
    assert counters.refused == ({(reason, HOST): 20} if reason else {})


def test_latch_follows_the_first_listed_source_not_the_sdp(rig: Rig) -> None:
    session, stream, _ = one_stream(
        rig, remote=("192.0.2.1", 9), policy=SourcePolicy.LATCH, networks=[ip_network("127.0.0.0/8")]
    )
    behind_nat = rig.line(rig.pairs[0], host="127.0.0.5")
    behind_nat.send(20)
    wait_until(lambda: stream.counters().accepted == 20)
    behind_nat.raw(bytes(rtcp.ReceiverReport(1)), port_offset=1)
    wait_until(lambda: stream.counters().rtcp == 1)
    assert len(session.close().result(5).counters[0][1].refused) == 0


def test_media_before_the_answer_waits_for_it(rig: Rig) -> None:
    session, stream, line = one_stream(rig, remote=None, payload_types=frozenset())
    line.send(30)
    wait_until(lambda: stream.liveness() is not None)
    stream.update(remote=line.address, payload_types=PCMU)
    wait_until(lambda: stream.counters().accepted == 30)
    assert numbers(session) == list(range(30))


def test_a_new_sdp_loses_nothing_of_the_old_source_that_is_on_its_way(rig: Rig) -> None:
    session, stream, line = one_stream(rig, policy=SourcePolicy.STRICT)
    line.send(20)
    wait_until(lambda: stream.counters().accepted == 20)
    other = rig.line(rig.pairs[0], ssrc=2, host="127.0.0.2")
    stream.update(remote=other.address)
    session.applied().result(5)
    line.send(10)
    wait_until(lambda: stream.counters().accepted == 30)
    other.sequence = 100
    other.send(10)
    wait_until(lambda: stream.counters().accepted == 40)
    assert numbers(session) == [*range(30), *range(100, 110)]


def test_a_new_sdp_moves_the_stream_to_another_source(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(20)
    wait_until(lambda: stream.counters().accepted == 20)
    other = rig.line(rig.pairs[0], ssrc=2, host="127.0.0.2")
    stream.update(remote=other.address)
    wait_until(lambda: _heard(stream, other))
    line.sequence = 5000
    line.send(10)
    other.send(10)
    written = numbers(session)
    assert written[-10:] == list(range(other.sequence - 10, other.sequence))
    assert max(written) < 5000
    assert session.close().result(5).counters[0][1].ssrcs == (1, 2)


def _heard(stream: StreamCapture, line: Line) -> bool:
    """Until the update has been applied the kernel refuses this sender; then one packet suffices."""
    line.send()
    return stream.counters().ssrcs == (1, 2)


def test_pausing_counts_and_writes_nothing_to_the_packet(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(20)
    stream.update(writing=False)
    session.applied().result(5)
    line.send(30)
    stream.update(writing=True)
    session.applied().result(5)
    line.send(10)
    counters = session.close().result(5).counters[0][1]
    assert numbers(session) == [*range(20), *range(50, 60)]
    assert (counters.accepted, counters.refused) == (30, {("paused", HOST): 30})


def test_a_stream_that_begins_paused_notes_its_first_written_packet(rig: Rig) -> None:
    _, stream, line = one_stream(rig, writing=False)
    line.send(5)
    wait_until(lambda: stream.counters().refused == {("paused", HOST): 5})
    assert stream.counters().first_packet_ns == 0
    liveness = stream.liveness()
    assert liveness is not None
    assert liveness.packets == 5
    stream.update(writing=True)
    wait_until(lambda: _first_written(stream, line))
    assert 0 < stream.counters().first_packet_ns <= stream.counters().last_packet_ns


def _first_written(stream: StreamCapture, line: Line) -> bool:
    line.send()
    return stream.counters().accepted > 0


@here
def test_old_payload_types_pass_for_a_while_after_a_new_sdp(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.media.drain.OLD_TYPES_SECONDS", 0.05)
    session, stream, line = one_stream(rig)
    line.send(3)
    stream.update(payload_types=frozenset({8}))
    line.send(3)
    line.send(3, payload_type=8)
    wait_until(lambda: stream.counters().accepted >= 9)
    wait_until(lambda: _old_type_refused(stream, line))
    session.close().result(5)


def _old_type_refused(stream: StreamCapture, line: Line) -> bool:
    line.send()
    return ("payload_type", HOST) in stream.counters().refused


GARBAGE = [
    (b"", "not_rtp"),
    (b"\x00\x01\x00\x00\x21\x12\xa4\x42" + bytes(12), "stun"),
    (b"\x16\xfe\xfd" + bytes(20), "dtls"),
    (b"GET / HTTP/1.1\r\n\r\n", "not_rtp"),
    (b"\x80\x00short", "not_rtp"),
    (b"\x8f\x00" + bytes(20), "not_rtp"),
    (bytes(rtcp.ReceiverReport(1)), "rtcp_on_rtp_port"),
    (packets.build(96, 1, timestamp=0, ssrc=1, payload=b"x"), "payload_type"),
    (packets.build(0, 1, timestamp=0, ssrc=1, payload=bytes(3000)), "truncated"),
]


@pytest.mark.parametrize("settled", [False, True])
def test_what_is_no_media_is_counted_by_reason_and_never_written(rig: Rig, settled: bool) -> None:
    session, stream, line = one_stream(rig)
    if settled:
        line.send()
        wait_until(lambda: stream.counters().accepted == 1)
    for datagram, _ in GARBAGE:
        line.raw(datagram)
    counters = session.close().result(5).counters[0][1]
    expected: dict[tuple[str, str], int] = {}
    for _, reason in GARBAGE:
        expected[reason, HOST] = expected.get((reason, HOST), 0) + 1
    assert counters.refused == expected
    assert counters.accepted == settled


def test_rtcp_is_taken_from_the_peer_only(rig: Rig) -> None:
    session, _, line = one_stream(rig)
    report = bytes(rtcp.SenderReport(1, 2, 3, 4, 5))
    line.raw(report, port_offset=1)
    line.raw(b"\x80\xc8\x00\x00", port_offset=1)
    line.raw(b"hello, world", port_offset=1)
    rig.line(rig.pairs[0], host="127.0.0.66").raw(report, port_offset=1)
    result = session.close().result(5)
    counters = result.counters[0][1]
    assert counters.rtcp == 1
    assert counters.refused == {("not_rtcp", HOST): 2, ("address", "127.0.0.66"): 1}
    (batch,) = PcapReader(result.files[0]).batches()
    assert (int(batch.port[0]), int(batch.length[0])) == (rig.pairs[0].rtcp_port, len(report))


def test_a_second_ssrc_costs_no_packet_and_a_stray_one_is_not_written(rig: Rig) -> None:
    session, stream, line = one_stream(rig)
    line.send(10)
    line.ssrc = 2
    line.send(10)
    line.ssrc = 99
    line.send(1)
    line.ssrc = 1
    line.send(10)
    counters = session.close().result(5).counters[0][1]
    written = numbers(session)
    assert sorted(written) == [*range(20), *range(21, 31)]
    assert [each for each in written if each < 10 or each > 20] == [*range(10), *range(21, 31)]
    assert [each for each in written if 10 <= each < 20] == list(range(10, 20))
    assert counters.ssrcs == (1, 2)
    assert counters.refused == {("ssrc", HOST): 1}
    assert stream.channel == 0


def test_ipv6_streams_are_captured_beside_ipv4(rig: Rig) -> None:
    session, _, line = one_stream(rig)
    pool = PortPool("::1", 43_200, 43_299)
    pair = pool.acquire(0.0)
    other = rig.line(pair, host="::1")
    session.add(pair, channel=1, payload_types=PCMU, remote=other.address)
    for _ in range(20):
        line.send()
        other.send()
    assert sorted(numbers(session)) == sorted([*range(20), *range(20)])
    result = session.close().result(5)
    sources = {b.address(i) for b in PcapReader(result.files[0]).batches() for i in range(len(b.offset))}
    assert sources == {"127.0.0.1", "::1"}
    pool.release(pair, 0.0)
    pool.close()
    if shutil.which("tshark"):
        assert _frames_at_fault(result.files[0]) == []


def _frames_at_fault(path: Path) -> list[str]:
    checks = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    bad = "_ws.malformed or ip.checksum.status == 0 or udp.checksum.status == 0"
    shown = subprocess.run(["tshark", "-r", str(path), *checks, "-Y", bad], capture_output=True, text=True, check=True)
    return shown.stdout.splitlines()


def test_what_the_kernel_dropped_is_counted_and_is_an_outage(tmp_path: Path) -> None:
    rig = build(tmp_path)
    session, stream, line = one_stream(rig)
    rig.pairs[0].rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.send()
    wait_until(lambda: stream.counters().accepted == 1)
    line.send(3000)
    result = session.close().result(5)
    counters = result.counters[0][1]
    rig.stop()
    assert counters.kernel_drops > 0
    assert counters.accepted + counters.kernel_drops == 3001
    assert sum(outage.packets for outage in result.outages) == counters.kernel_drops
    assert {(outage.cause, outage.channel) for outage in result.outages} == {("kernel_drop", 0)}
    assert all(outage.start_ns <= outage.end_ns for outage in result.outages)


@pytest.mark.parametrize("tier", available())
@pytest.mark.parametrize("settled", [True, False])
def test_drops_are_looked_for_at_once_where_much_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tier: Choice, settled: bool
) -> None:
    monkeypatch.setattr(drain, "QUIET_SECONDS", 1000.0)
    rig = build(tmp_path, tier)
    session, stream, line = one_stream(rig)
    line.send()
    wait_until(lambda: stream.counters().accepted == 1)
    rig.pairs[0].rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * drain.CROWDED * 832)
    before = clock.wall_ns()
    line.send(2000, payload_type=0 if settled else 99)
    wait_until(lambda: stream.counters().kernel_drops > 0)
    (outage, *_) = session.outages()
    assert outage.start_ns > before - 1_000_000_000
    rig.stop()


def test_drops_that_nothing_tells_of_are_found_when_their_turn_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drain, "ROUND_SECONDS", 0.02)
    monkeypatch.setattr(drain, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(drain, "CROWDED", 1 << 20)
    rig = build(tmp_path)
    _, stream, line = one_stream(rig)
    line.send()
    wait_until(lambda: stream.counters().accepted == 1)  # what its socket dropped before is not the stream's
    rig.pairs[0].rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    line.send(3000)
    wait_until(lambda: stream.counters().kernel_drops > 0)
    rig.stop()


def test_a_defect_in_one_round_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = LocalCapture()
    reading, pieces = engine._drain, pieces_of([])
    rounds, written = iter([[pieces]]), []
    both = plan.Plan([])
    both.sockets.numbers += [1, 2]
    fill = receive.Fill([1], 1, False, 1)
    monkeypatch.setattr(reading._receiver, "fill", lambda *_: fill, raising=False)
    monkeypatch.setattr(reading, "_take", lambda *_: next(rounds))
    monkeypatch.setattr(reading._writer, "write", lambda pieces, now: written.append(pieces))
    with pytest.raises(StopIteration):
        reading._read(both)
    assert written == [pieces]


def test_a_tick_reads_no_more_than_may_wait_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time in which nothing was read each socket holds much; whose turn did not come is the first then."""
    faults: list[Fault] = []
    engine = LocalCapture(backlog_bytes=2, on_fault=faults.append)
    reading, read = engine._drain, []

    def fill(_: object, at: int) -> receive.Fill:
        read.append(at)
        engine._writer._queued += 1
        return receive.Fill([1], 0, False, 0)

    monkeypatch.setattr(reading._receiver, "fill", fill, raising=False)
    reading._plan = plan.Plan([])
    reading._plan.sockets.numbers += [7, 8, 9, 10, 11]
    reading.tick()
    reading.tick()
    assert read == [0, 1]
    assert [each.active for each in faults] == [True]
    engine._writer._done = 2
    reading.tick()
    engine._writer._done = 4
    reading.tick()
    assert read == [0, 1, 2, 3, 4, 0]
    engine._writer._done = 6
    reading._backlog_bytes = 100
    reading.tick()
    assert read[6:] == [1, 2, 3, 4, 0, 1, 2, 3, 4]
    assert [each.active for each in faults] == [True, False, True, False, True, False]


def test_no_more_groups_of_sockets_are_remembered_than_the_limit() -> None:
    nothing = plan.Plan([])
    for count in range(plan.MAX_SHARES + 1):
        assert nothing.share(0, count).files == []
        assert len(nothing._shares) == min(count + 1, plan.MAX_SHARES)


@pytest.fixture
def full_disk() -> Iterator[Callable[[int | None], None]]:
    """Limits every file to so many bytes; None lifts the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (soft if size is None else size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_loses_nothing_and_audio_resumes_within_a_second(
    tmp_path: Path, full_disk: Callable[[int | None], None]
) -> None:
    rig = build(tmp_path)
    session, stream, line = one_stream(rig)
    full_disk(5_000)
    line.send(100)
    wait_until(lambda: any(fault.cause == "disk" and fault.active for fault in rig.faults))
    wait_until(lambda: stream.counters().accepted == 100)
    assert session.files()[0].stat().st_size <= 5_000
    full_disk(None)
    wait_until(lambda: rig.engine.totals().backlog == 0, 1.0)
    line.send(10)
    assert numbers(session) == list(range(110))
    assert session.outages() == ()
    rig.stop()


def test_beyond_the_backlog_the_sockets_wait_and_drops_have_their_cause(
    tmp_path: Path, full_disk: Callable[[int | None], None]
) -> None:
    rig = build(tmp_path, backlog_bytes=2_000)
    session, stream, line = one_stream(rig)
    rig.pairs[0].rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    full_disk(100)
    line.send(2)
    wait_until(lambda: any(fault.cause == "disk" and fault.active for fault in rig.faults))
    wait_until(lambda: _holding(rig, line))
    accepted = stream.counters().accepted
    line.send(500)
    wait_until(lambda: stream.counters().kernel_drops > 0)
    assert stream.counters().accepted == accepted
    full_disk(None)
    wait_until(lambda: any(fault.cause == "backlog" and not fault.active for fault in rig.faults))
    counters = session.close().result(5).counters[0][1]
    rig.stop()
    assert counters.accepted + counters.kernel_drops == line.sequence
    assert {outage.cause for outage in session.outages()} == {"disk"}
    assert len(numbers(session)) == counters.accepted


def _holding(rig: Rig, line: Line) -> bool:
    line.send()
    return any(fault.cause == "backlog" and fault.active for fault in rig.faults)


def test_sync_tells_when_a_new_file_would_survive_a_power_cut(rig: Rig) -> None:
    session = rig.session()
    session.sync().result(5)
    assert session.files()[0].stat().st_size == 24


def test_stopping_closes_what_is_open(tmp_path: Path) -> None:
    rig = build(tmp_path)
    session, stream, line = one_stream(rig)
    line.send(50)
    rig.stop()
    assert len(numbers(session)) == 50
    assert stream.remove().result(0).accepted == 50
    assert rig.engine.totals().streams == 0


def test_the_clock_is_noted_once_while_nobody_sets_it(rig: Rig) -> None:
    wait_until(lambda: len(rig.engine.clock_steps()) == 1)
    monotonic_ns, offset_ns = rig.engine.clock_steps()[0]
    assert abs(monotonic_ns + offset_ns - time.time_ns()) < 60_000_000_000


def test_rows_of_many_streams_are_found_again(tmp_path: Path) -> None:
    """More streams than the table has rows at first, on few sockets' worth of ports."""
    rig = build(tmp_path)
    session = rig.session()
    count = streams.FIRST_CAPACITY + 2
    pairs = [rig.pair() for _ in range(count)]
    lines = [rig.line(pair, ssrc=index) for index, pair in enumerate(pairs)]
    for index, (pair, line) in enumerate(zip(pairs, lines, strict=True)):
        session.add(pair, channel=index, payload_types=PCMU, remote=line.address)
    for line in lines:
        line.send(3)
    counters = dict(session.close().result(5).counters)
    rig.stop()
    assert [counters[index].ssrcs for index in range(count)] == [(index,) for index in range(count)]


def test_what_waits_in_the_sockets_is_no_more_than_a_dead_node_may_lose() -> None:
    assert capture.TICK_SECONDS < 0.25
