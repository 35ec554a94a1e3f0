"""What was laid and not written outlives its process, and nothing else does."""

import mmap
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.media import arena, pcap, rooms
from siprec.media.file import CaptureFile
from siprec.media.plan import Plan
from siprec.media.receive import GROUP_SOCKETS, Laid
from siprec.media.rooms import Room, Rooms, create_memory, redo
from siprec.media.tiers import Tier, available
from siprec.media.writer import about
from siprec.rtp import packets
from tests.unit.media.test_capture import wait_until

SLOTS = 4
NOBODYS = np.zeros(0, np.uint32)


def record(number: int) -> bytes:
    return pcap.record(number, bytes([number]) * 50, source=("192.0.2.1", 5000), destination=("192.0.2.9", 6000))


@pytest.fixture
def memory() -> Iterator[int]:
    made = create_memory(SLOTS)
    yield made
    os.close(made)


class Life:
    """A process that lays records in `memory`, and dies."""

    def __init__(self, memory: int, *folders: Path) -> None:
        self.rooms = Rooms(SLOTS, memory)
        for folder in folders:
            folder.mkdir(exist_ok=True)
        self.files = [CaptureFile(folder) for folder in folders]
        self.entries = np.array([self.rooms.enter(folder) for folder in folders], np.uint32)

    def lay(self, *records: bytes) -> tuple[Room, memoryview]:
        """Those of one socket for each of the files."""
        room = self.rooms.take(self.entries)
        ends = np.cumsum([0, *map(len, records)])
        room.octets[: ends[-1]] = np.frombuffer(b"".join(records), np.uint8)
        room.ends[: len(ends)] = ends
        return room, room.lend(int(ends[-1]))

    def write(self, place: int, data: bytes) -> None:
        os.write(self.files[place].descriptor, data)


def captured(folder: Path) -> list[bytes]:
    found = [path.read_bytes() for path in sorted(folder.glob("capture-*.pcap"))]
    assert all(each.startswith(pcap.write_header()) for each in found)
    return [each[pcap.FILE_HEADER :] for each in found]


def test_what_was_laid_and_not_written_is_written_by_a_successor(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a", tmp_path / "b")
    held = life.lay(record(1) + record(2), record(3))
    assert redo(memory) == 3
    assert captured(tmp_path / "a") == [b"", record(1) + record(2)]
    assert captured(tmp_path / "b") == [b"", record(3)]
    del held


def test_what_was_written_before_the_end_is_not_written_again(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a", tmp_path / "b")
    held = life.lay(record(1) + record(2), record(3))
    life.write(0, record(1) + record(2)[:40])  # the kill came in the middle
    life.write(1, record(3))
    assert redo(memory) == 1
    assert captured(tmp_path / "a") == [record(1) + record(2)[:40], record(2)]
    assert captured(tmp_path / "b") == [record(3)]
    assert redo(memory) == 0
    del held


def test_what_is_written_is_nobody_s_any_more(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a")
    room, data = life.lay(record(1))
    part = data[:10]
    del data
    assert not room.free
    del part
    assert room.free
    assert redo(memory) == 0
    assert captured(tmp_path / "a") == [b""]


def test_what_was_copied_to_be_written_stays_due_until_it_is(memory: int, tmp_path: Path) -> None:
    """The records of two rooms, of which some sockets' were left to Python, become one piece."""
    life = Life(memory, tmp_path / "a")
    plan = Plan([])
    plan.files, plan._starts = [life.files[0]], np.array([0, 2], np.int64)
    plan._descriptors, plan._segments = about(plan.files)
    one = life.rooms.take(life.entries)
    one.octets[: len(record(1))] = np.frombuffer(record(1), np.uint8)
    ready = [Laid(one.lend(len(record(1))), np.array([0, len(record(1)), len(record(1))]), 1)]
    two = life.rooms.take(life.entries)
    two.octets[: len(record(2))] = np.frombuffer(record(2), np.uint8)
    ready.append(Laid(two.lend(len(record(2))), np.array([0, 0, len(record(2))]), 1))
    pieces = plan.pieces(0, ready)
    del ready
    assert bytes(pieces.data) == record(1) + record(2)
    assert not one.free
    assert not two.free
    del pieces
    assert one.free
    assert two.free


def test_a_kill_while_records_are_laid_keeps_those_that_are_whole(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a", tmp_path / "b", tmp_path / "c")
    room = life.rooms.take(life.entries)
    room.octets[: len(record(1))] = np.frombuffer(record(1), np.uint8)
    room.ends[1:3] = len(record(1))  # the second socket had nothing, the third was not reached
    assert redo(memory) == 1
    assert [captured(tmp_path / each) for each in "abc"] == [[b"", record(1)], [b""], [b""]]


def test_a_room_taken_again_says_nothing_of_what_lay_in_it_before(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a")
    assert life.lay(record(1))[0].free  # written, and let go of
    assert life.rooms.take(life.entries).octets[: len(record(1))].tobytes() == record(1)
    assert redo(memory) == 0


def test_records_of_several_rounds_go_into_one_file_the_oldest_first(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a")
    held = [life.lay(record(number)) for number in (3, 1, 2)]
    assert redo(memory) == 3
    assert captured(tmp_path / "a") == [b"", record(1) + record(2) + record(3)]
    held.clear()


def test_a_capture_whose_folder_is_gone_keeps_no_other_from_being_redone(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a", tmp_path / "b")
    held = life.lay(record(1), record(2))
    (tmp_path / "a" / "capture-0001.pcap").unlink()
    (tmp_path / "a").rmdir()
    assert redo(memory) == 1
    assert captured(tmp_path / "b") == [b"", record(2)]
    assert not (tmp_path / "a").exists()
    del held


def test_a_file_of_another_name_keeps_no_server_from_starting(memory: int, tmp_path: Path) -> None:
    life = Life(memory, tmp_path / "a", tmp_path / "b")
    held = life.lay(record(1), record(2))
    (tmp_path / "a" / "capture-copy.pcap").touch()
    assert redo(memory) == 1
    assert captured(tmp_path / "b") == [b"", record(2)]
    del held


def test_memory_of_another_layout_is_left_alone(tmp_path: Path) -> None:
    other = os.memfd_create("other")
    assert redo(other) == 0
    os.write(other, bytes(1 << 20))
    assert redo(other) == 0
    os.close(other)


def test_a_folder_is_known_up_to_the_limit_and_no_further(memory: int, tmp_path: Path) -> None:
    life = Rooms(SLOTS, memory)
    longest = "/" + "x" * (rooms.FOLDER_BYTES - 1)
    assert life.enter(Path(longest)) == 1
    assert life.enter(Path(longest + "x")) == 0
    assert Rooms(SLOTS).enter(tmp_path) == 0  # nobody outlives it


def test_no_more_captures_are_known_than_the_limit(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "MAX_FILES", 4)
    life = Rooms(SLOTS, memory)
    assert [life.enter(Path("/x")) for _ in range(4)] == [1, 2, 3, 0]
    life.leave(0)
    life.leave(2)
    assert [life.enter(Path("/y")) for _ in range(2)] == [2, 0]


@pytest.mark.parametrize("kept", [True, False])
def test_rooms_are_used_again_and_no_more_than_some_are_kept(
    memory: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "MAX_ROOMS", 2)
    life = Rooms(SLOTS, memory if kept else None)
    held = []
    for number in range(4):
        room = life.take(NOBODYS)
        room.octets[:10] = number
        held.append(room.lend(10))
    assert [each[0] for each in held] == [0, 1, 2, 3]
    assert len(life._rooms) == 2
    held.clear()
    assert life.take(NOBODYS) is life._rooms[0]


@pytest.mark.parametrize("kept", [True, False])
def test_rooms_that_are_not_needed_any_more_are_given_back(
    memory: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "REVIEW_TAKES", 4)
    life = Rooms(SLOTS, memory if kept else None)

    held = [life.take(NOBODYS).lend(1) for _ in range(3)]
    last = held.pop()
    assert len(life._rooms) == 3
    held.clear()
    for _ in range(9):
        life.take(NOBODYS)
    assert len(life._rooms) == 3  # a part of the last is still held
    del last
    before = os.fstat(memory).st_blocks
    for _ in range(4):
        life.take(NOBODYS)
    assert len(life._rooms) == 1
    assert not kept or os.fstat(memory).st_blocks < before


def test_looking_at_memory_makes_none_of_it_real(memory: int) -> None:
    before = os.fstat(memory).st_blocks
    assert redo(memory) == 0
    assert os.fstat(memory).st_blocks == before <= mmap.PAGESIZE // 512


CAPTURE = """
import signal, sys
from pathlib import Path
from siprec.media.local import LocalCapture
from siprec.media.ports import PortPool
from siprec.media.writer import Writer

memory, tier, folder, source = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
writing = Writer._write_all

def write(self, pieces, now):
    if (folder / "stuck").exists():
        print("stuck", flush=True)
        signal.pause()
    writing(self, pieces, now)

Writer._write_all = write
capture = LocalCapture(receive=tier, memory=memory, tick=0.01)
pair = PortPool("127.0.0.1", 43_100, 43_199).acquire(0.0)
session = capture.open(folder)
session.add(pair, channel=0, payload_types=frozenset({0}), remote=("127.0.0.1", source))
capture.start()
print(pair.port, flush=True)
signal.pause()
"""


@pytest.mark.parametrize("tier", available())
def test_packets_read_by_a_process_that_is_killed_before_it_writes_them_are_saved(tier: Tier, tmp_path: Path) -> None:
    memory = create_memory()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("127.0.0.1", 0))
        command = [sys.executable, "-c", CAPTURE, str(memory), tier, str(tmp_path), str(sender.getsockname()[1])]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[memory])
        assert child.stdout is not None
        sender.connect(("127.0.0.1", int(child.stdout.readline())))
        sent = [packets.build(0, number, timestamp=number * 160, ssrc=5, payload=bytes(160)) for number in range(100)]
        for packet in sent[:50]:
            sender.send(packet)
        wait_until(lambda: len(captured_datagrams(tmp_path)) == 50)
        (tmp_path / "stuck").touch()
        for packet in sent[50:]:
            sender.send(packet)
        assert child.stdout.readline() == "stuck\n"
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert len(captured_datagrams(tmp_path)) == 50
    saved = redo(memory)
    os.close(memory)
    assert saved > 0
    assert captured_datagrams(tmp_path) == sent[: 50 + saved]


def captured_datagrams(folder: Path) -> list[bytes]:
    records = [each for data in captured(folder) for each in pcap.split(data)]
    return [each[pcap.RECORD_HEADER + pcap.IPV4_HEADERS :] for each in records]


def test_a_group_of_sockets_fits_the_head(memory: int) -> None:
    entries: NDArray[np.uint32] = np.arange(1, GROUP_SOCKETS + 1, dtype=np.uint32)
    room = Rooms(SLOTS, memory).take(entries)
    assert len(room.ends) == GROUP_SOCKETS + 1
    assert len(room.octets) >= SLOTS * arena.STRIDE
