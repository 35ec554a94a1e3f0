"""Capture in processes of their own: what their deaths, and ours, cost. What else they do is in test_capture."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from siprec.media import pcap
from siprec.media.capture import TICK_SECONDS, Fault, SessionCapture, SrtpTerms, StreamCapture
from siprec.media.file import CaptureFile
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPool
from siprec.media.rooms import Rooms
from siprec.media.workers import crew, process
from siprec.media.workers.remote import RemoteCapture
from siprec.rtp import rtcp
from siprec.sdp.crypto import SUITES
from tests.unit.media.test_capture import HOST, PCMU, Line, Rig, numbers, one_stream, wait_until
from tests.unit.media.test_secure import SecureLine

SENDING_SECONDS = 0.02


def has_ended(pid: int) -> bool:
    """Also a process that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextmanager
def working(folder: Path, workers: int = 1, *, tick: float = 0.02) -> Iterator[Rig]:
    """A capture whose workers listen. All of them are gone when the block ends, and nothing was a defect."""
    faults: list[Fault] = []
    engine = RemoteCapture(workers, tick=tick, on_fault=faults.append)
    engine.start()
    rig = Rig(engine, folder, faults)
    try:
        wait_until(lambda: len(engine.pids) == workers)
        yield rig
    finally:
        pids = engine.pids
        rig.stop()
    assert all(has_ended(pid) for pid in pids)
    assert [fault for fault in faults if fault.cause == "internal"] == []


def workers(rig: Rig) -> list[int]:
    assert isinstance(rig.engine, RemoteCapture)
    return rig.engine.pids


def arrived(session: SessionCapture, stream: StreamCapture, packets: int) -> None:
    """Wait until so many are in the file: what was only read dies with its worker."""
    wait_until(lambda: stream.counters().accepted == packets)
    session.sync().result(5)


def replaced(rig: Rig, times: int = 1) -> bool:
    """Whether so many workers died and have successors that were given everything."""
    return sum(not fault.active for fault in rig.faults if fault.cause == "worker") == times


@contextmanager
def speaking(lines: list[Line]) -> Iterator[None]:
    """Within: each line sends a packet every 20 ms."""
    enough = threading.Event()

    def send() -> None:
        while not enough.wait(SENDING_SECONDS):
            for line in lines:
                line.send()

    speaker = threading.Thread(target=send)
    speaker.start()
    try:
        yield
    finally:
        enough.set()
        speaker.join()


def test_a_kill_costs_what_was_read_and_not_yet_written_and_is_told(tmp_path: Path) -> None:
    """That is a tick, where the machine has time: neither what was written before nor what came afterwards."""
    with working(tmp_path, 2, tick=TICK_SECONDS) as rig:
        sessions, lines = [], []
        for index in range(4):
            session, pairs = rig.session(f"s{index}"), [rig.pair(), rig.pair()]
            mine = [rig.line(pair, ssrc=index) for pair in pairs]
            streams = [
                session.add(pair, channel=place, payload_types=PCMU, remote=line.address)
                for place, (pair, line) in enumerate(zip(pairs, mine, strict=True))
            ]
            sessions.append((session, streams, pairs))
            lines += mine
        with speaking(lines):
            wait_until(lambda: all(each.counters().accepted > 10 for _, streams, _ in sessions for each in streams))
            written = [stream.counters().accepted for _, streams, _ in sessions for stream in streams]
            for session, _, _ in sessions:
                session.sync().result(5)
            os.kill(victim := workers(rig)[0], signal.SIGKILL)
            wait_until(lambda: has_ended(victim))
            sent = [line.sequence for line in lines]
            wait_until(lambda: replaced(rig))
        hit = 0
        for index, (session, _, pairs) in enumerate(sessions):
            result = session.close().result(5)
            dead = [each for each in result.outages if each.cause == "interrupted"]
            hit += len(dead)
            assert len(result.files) in ({2, 3} if dead else {1})  # the third: what had been read and not written
            for place, pair in enumerate(pairs, 2 * index):
                missing = set(range(lines[place].sequence)) - set(numbers(session, pair.port))
                assert missing <= (set(range(written[place], sent[place] + 1)) if dead else set())
            for _, counters in result.counters:
                assert counters.accepted <= lines[2 * index].sequence
        assert hit == 2  # half of the sessions
        assert [(fault.cause, fault.active) for fault in rig.faults] == [("worker", True), ("worker", False)]


def test_what_was_asked_of_a_worker_that_dies_is_done_by_the_next(tmp_path: Path) -> None:
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        other = rig.pair()
        leaving = rig.line(other)
        second = session.add(other, channel=1, payload_types=PCMU, remote=leaving.address)
        closing = rig.session("b")
        line.send(10)
        leaving.send(5)
        arrived(session, stream, 10)
        arrived(session, second, 5)
        os.kill(victim := workers(rig)[0], signal.SIGSTOP)
        line.send(10)
        leaving.send(5)
        removed, synced, applied, closed = second.remove(), session.sync(), session.applied(), closing.close()
        late, pair = rig.session("c"), rig.pair()
        newcomer = rig.line(pair)
        late.add(pair, channel=0, payload_types=PCMU, remote=newcomer.address)
        newcomer.send(7)
        os.kill(victim, signal.SIGKILL)
        assert removed.result(5).accepted == 10
        assert second.counters() == removed.result()
        assert (synced.result(5), applied.result(5)) == (None, None)
        assert [each.name for each in closed.result(5).files] == ["capture-0001.pcap", "capture-0002.pcap"]
        wait_until(lambda: stream.counters().accepted == 20)
        assert numbers(late) == list(range(7))
        assert sorted(numbers(session)) == sorted([*range(20), *range(10)])
        assert [channel for channel, _ in session.close().result().counters] == [1, 0]


def test_what_was_agreed_stands_after_a_death(tmp_path: Path) -> None:
    """SRTP keys, RTCP, codecs, a pause."""
    suite = "AES_CM_128_HMAC_SHA1_80"
    agreed = SrtpTerms(suite, os.urandom(SUITES[suite]), os.urandom(SUITES[suite]))
    with working(tmp_path) as rig:
        session, pair = rig.session(), rig.pair()
        line = SecureLine(pair, agreed)
        rig.lines.append(line)
        stream = session.add(pair, channel=0, payload_types=frozenset({8}), remote=None, srtp=agreed)
        stream.update(payload_types=PCMU, remote=line.address)
        line.send(5)
        line.raw(bytes(rtcp.SenderReport(1, 2, 3, 4, 5)), port_offset=1)
        wait_until(lambda: (stream.counters().accepted, stream.counters().sent) == (5, 4))
        session.sync().result(5)
        os.kill(workers(rig)[0], signal.SIGKILL)
        line.send(5)
        wait_until(lambda: replaced(rig))
        arrived(session, stream, 10)
        stream.update(writing=False)
        wait_until(lambda: _is_paused(stream, line))
        session.sync().result(5)
        written = stream.counters().accepted
        os.kill(workers(rig)[0], signal.SIGKILL)
        wait_until(lambda: replaced(rig, 2))
        before = stream.liveness()
        assert before is not None
        line.send(5)
        wait_until(lambda: (now := stream.liveness()) is not None and now.packets >= before.packets + 5)
        counters = session.close().result(5).counters[0][1]
        assert (counters.accepted, counters.sent, counters.rtcp) == (written, 4, 1)
        assert counters.refused["paused", HOST] >= 5
        assert numbers(session, pair.port) == list(range(written))


def _is_paused(stream: StreamCapture, line: Line) -> bool:
    line.send()
    return ("paused", HOST) in stream.counters().refused


def test_what_the_kernel_drops_while_nobody_reads_is_counted(tmp_path: Path) -> None:
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        rig.pairs[0].rtp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.send()
        arrived(session, stream, 1)
        os.kill(victim := workers(rig)[0], signal.SIGSTOP)
        line.send(100)
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: replaced(rig))
        result = session.close().result(5)
        counters = result.counters[0][1]
        assert counters.kernel_drops > 0
        assert counters.accepted + counters.kernel_drops == 101
        assert sum(each.packets for each in result.outages) == counters.kernel_drops
        assert {each.cause for each in result.outages} == {"interrupted", "kernel_drop"}


def test_a_stuck_worker_keeps_nobody_waiting_and_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENT_SECONDS", 1.0)
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        line.send(5)
        arrived(session, stream, 5)
        os.kill(workers(rig)[0], signal.SIGSTOP)
        line.send(5)
        wait_until(lambda: replaced(rig))
        wait_until(lambda: stream.counters().accepted == 10)
        assert numbers(session) == list(range(10))
        assert "stuck" in rig.faults[0].detail


@pytest.mark.parametrize("beyond", [False, True])
def test_a_worker_lets_so_much_wait_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, beyond: bool) -> None:
    with working(tmp_path) as rig:
        assert isinstance(rig.engine, RemoteCapture)
        session, stream, line = one_stream(rig)
        line.send(5)
        arrived(session, stream, 5)
        os.kill(workers(rig)[0], signal.SIGSTOP)
        team, sent = rig.engine._crew, threading.Event()
        link = team._workers[0].link
        assert link is not None
        for _ in range(3000):
            stream.update(payload_types=frozenset(range(128)))
        team.submit(sent.set)
        assert sent.wait(5)
        assert link.waiting > 0
        monkeypatch.setattr(crew, "MAX_WAITING", link.waiting - beyond)
        if beyond:
            wait_until(lambda: replaced(rig))
            assert "stuck" in rig.faults[0].detail
        else:
            looked = threading.Event()
            team.submit(looked.set)
            assert looked.wait(5)
            os.kill(workers(rig)[0], signal.SIGCONT)
        line.send(5)
        wait_until(lambda: stream.counters().accepted == 10)
        assert beyond or rig.faults == []
        assert numbers(session) == list(range(10))


def test_without_room_for_the_next_file_packets_wait(tmp_path: Path) -> None:
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        line.send(5)
        arrived(session, stream, 5)
        away = tmp_path / "away"
        (tmp_path / "a").rename(away)
        os.kill(workers(rig)[0], signal.SIGKILL)
        wait_until(lambda: any(each.cause == "disk" and each.active for each in rig.faults))
        line.send(5)
        away.rename(tmp_path / "a")
        wait_until(lambda: stream.counters().accepted == 10)
        assert any(each.cause == "disk" and not each.active for each in rig.faults)
        assert numbers(session) == list(range(10))


def test_stopping_right_after_a_kill_leaves_nothing_undone(tmp_path: Path) -> None:
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        line.send(5)
        arrived(session, stream, 5)
        os.kill(workers(rig)[0], signal.SIGKILL)
        line.send(5)
        rig.engine.stop()
        assert session.close().result(0).counters[0][1].accepted == 10
        assert stream.remove().result(0).accepted == 10
        assert session.sync().result(0) is None
        assert rig.engine.totals().streams == 0


def test_what_was_never_started_can_be_stopped(tmp_path: Path) -> None:
    engine = RemoteCapture(1)
    (tmp_path / "a").mkdir()
    session = engine.open(tmp_path / "a")
    engine.stop()
    assert session.close().result(0).octets == 0


def test_signals_for_all_of_a_service_are_the_parent_s_to_act_on(tmp_path: Path) -> None:
    with working(tmp_path) as rig:
        session, stream, line = one_stream(rig)
        before = workers(rig)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(before[0], number)
        line.send(5)
        arrived(session, stream, 5)
        assert workers(rig) == before


PARENT = """
import sys, time
from pathlib import Path
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPool
from siprec.media.workers.remote import RemoteCapture
port, remote, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
pool = PortPool("127.0.0.1", port, port + 1)
engine = RemoteCapture(1)
session = engine.open(folder)
stream = session.add(pool.acquire(0.0), channel=0, payload_types=frozenset({0}), remote=("127.0.0.1", remote))
engine.start()
while stream.liveness() is None:
    time.sleep(0.01)
print(*engine.pids, flush=True)
time.sleep(60)
"""


def test_our_own_death_ends_the_workers_which_write_what_has_come(tmp_path: Path) -> None:
    pool = PortPool(HOST, 43_300, 43_399)
    pair = pool.acquire(0.0)
    line = Line(pair)
    pool.release(pair, 0.0)
    pool.close()
    command = [sys.executable, "-c", PARENT, str(pair.port), str(line.address[1]), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        line.send(100)
        parent.kill()
    wait_until(lambda: has_ended(worker))
    line.sock.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HOST, pair.port))
    (file,) = tmp_path.iterdir()
    assert sum(len(batch.offset) for batch in PcapReader(file).batches()) == 100


def test_what_a_worker_had_read_and_not_written_is_written_after_its_death(tmp_path: Path) -> None:
    with working(tmp_path, 1) as rig:
        assert isinstance(rig.engine, RemoteCapture)
        [place] = rig.engine._crew._workers
        assert place._rooms is not None
        rooms = Rooms(memory=os.dup(place._rooms))
        (folder := tmp_path / "part").mkdir()
        CaptureFile(folder)
        record = pcap.record(1, b"heard", source=(HOST, 5000), destination=(HOST, 6000))
        room = rooms.take(np.array([rooms.enter(folder)], np.uint32))
        room.octets[: len(record)] = np.frombuffer(record, np.uint8)
        room.ends[1] = len(record)
        os.kill(place.pid, signal.SIGKILL)
        wait_until((folder / "capture-0002.pcap").exists)
        wait_until(lambda: (folder / "capture-0002.pcap").read_bytes() == pcap.write_header() + record)
