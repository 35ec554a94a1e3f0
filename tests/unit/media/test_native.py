"""The C extension by itself: what it finishes, what it leaves to Python, and what it never does."""

import errno
import os
import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.media import arena, pcap, receive, reception, streams, tiers, writer
from siprec.media.arena import HEADROOM, Arena
from siprec.media.exchange import Exchange, Identity
from siprec.media.file import CaptureFile
from siprec.media.ports import PortPool
from siprec.media.reception import Heard, follow
from siprec.media.rooms import Rooms
from siprec.media.source import Source, SourcePolicy
from siprec.media.streams import Stream, StreamTable, origin
from siprec.rtp import packets, sequence

if "native" not in tiers.available():
    pytest.skip("the C extension was not built", allow_module_level=True)

from siprec.media import _native
from siprec.media.native import NativeReceiver

SLOTS = 64
ROOM, ENDS = -6, -2
"""The bytes of output among the receiver's memory, and where the ends of records go."""

NOBODYS = np.zeros(0, np.uint32)


class Line:
    """One settled stream and its sender."""

    def __init__(self, host: str, stack: ExitStack, *, slots: int = SLOTS) -> None:
        pool = PortPool(host, 42_100, 42_199)
        stack.callback(pool.close)
        self.pair = pool.acquire(0.0)
        stack.callback(self.pair.close)
        self.sender = stack.enter_context(socket.socket(self.pair.rtp.family, socket.SOCK_DGRAM))
        self.sender.bind((host, 0))
        self.sender.connect((host, self.pair.port))
        self.source: tuple[str, int] = self.sender.getsockname()[:2]
        self.table = StreamTable()
        file = CaptureFile.__new__(CaptureFile)  # no disk here: only records are laid
        self.stream = Stream(0, self.pair, Source(SourcePolicy.ADDRESS), file, host, Exchange(Identity()))
        self.table.add(self.stream, writing=True)
        self.table.set_payload_types(self.stream, frozenset({0}))
        self.stream.source.remote = self.stream.source.locked = origin(self.source)
        self.stream.source.ssrc = 5
        self.table.follow(self.stream)
        self.rooms = Rooms(slots)
        self.receiver = NativeReceiver(Arena(slots), self.table, self.rooms)
        follow(self.table.reception[0], Heard(99, 99 * 160, 5, 0, 8000, 1))
        self.row = self.table.reception[0].copy()
        self.head = packets.build(0, 103, timestamp=103 * 160, ssrc=5, payload=bytes(160))[4:]

    def send(self, count: int, *, size: int = 160, first: int = 100, head: int = 0x80) -> list[bytes]:
        sent = []
        for number in range(first, first + count):
            packet = packets.build(0, number, timestamp=number * 160, ssrc=5, payload=bytes([number & 0xFF]) * size)
            sent.append(bytes([head]) + packet[1:])
            self.sender.send(sent[-1])
        return sent

    def send_rtcp_between(self) -> None:
        """RTCP that would pass for RTP of a negotiated payload type, were it not for RFC 5761."""
        self.table.payload_types.fill(True)
        self.sender.send(b"\x80\xc8\x00\x67" + self.head)
        self.send(1, first=104)

    def fill(self, *, kind: int = 0) -> receive.Fill:
        return self.receiver.fill(receive.Sockets([self.pair.rtp], [kind]), 0)


@pytest.fixture(params=["127.0.0.1", "::1"])
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(request.param, stack)


def laid(fill: receive.Fill) -> receive.Laid:
    assert fill.laid is not None
    return fill.laid


def times(data: bytes, size: int) -> list[int]:
    """Arrival times of records of `size` bytes."""
    heads = np.frombuffer(data, "<u4").reshape(-1, size // 4)
    return [int(seconds) * 1_000_000_000 + int(rest) for seconds, rest in heads[:, :2].tolist()]


def test_plain_packets_are_laid_and_counted_and_none_is_left(line: Line) -> None:
    sent = line.send(10)
    fill = line.fill()
    assert (fill.counts, fill.used, fill.unfinished, fill.most) == ([0], 0, False, 10)
    data = laid(fill).data.tobytes()
    stamps = times(data, len(data) // 10)
    destination = (line.pair.address, line.pair.port)
    expected = [
        pcap.record(stamp, each, source=line.source, destination=destination)
        for stamp, each in zip(stamps, sent, strict=True)
    ]
    assert data == b"".join(expected)
    assert (laid(fill).ends.tolist(), laid(fill).packets) == ([0, len(data)], 10)
    counters = line.table.counters(line.stream)
    assert (counters.accepted, counters.octets) == (10, 1720)
    assert (counters.first_packet_ns, counters.last_packet_ns) == (stamps[0], stamps[-1])


def test_the_reception_is_as_if_each_packet_had_been_followed(line: Line) -> None:
    line.send(4)
    line.send(3, first=102)  # some again
    line.send(10, first=110)
    data = laid(line.fill()).data.tobytes()
    numbers = [*range(100, 104), *range(102, 105), *range(110, 120)]
    for number, stamp in zip(numbers, times(data, len(data) // len(numbers)), strict=True):
        follow(line.row, Heard(number, number * 160, 5, 0, 8000, stamp))
    row = line.table.reception[0]
    assert row["jitter"] == pytest.approx(float(line.row["jitter"]), rel=1e-9)
    assert row["jitter"] > 0
    row["jitter"] = line.row["jitter"]
    assert row == line.row


def test_while_paused_packets_are_counted_and_not_laid(line: Line) -> None:
    line.table.writing[0] = False
    line.send(3)
    assert line.fill() == receive.Fill([0], 0, False, 3)
    assert (line.table.paused[0], line.table.accepted[0], line.table.first_ns[0]) == (3, 0, 0)
    assert line.table.reception[0]["received"] == line.row["received"] + 3


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line.sender.send(b""),
        lambda line: line.send(1, size=arena.SLOT),
        lambda line: line.send(1, head=0x90),
        lambda line: line.send(1, first=4000),
        lambda line: line.table.settled.fill(False),
        lambda line: line.table.secure.fill(True),
        lambda line: line.table.ssrc.fill(6),
        lambda line: line.table.port.fill(9),
        lambda line: line.table.high.fill(9),
        lambda line: line.table.low.fill(9),
        lambda line: line.table.payload_types.fill(False),
        lambda line: line.table.reception.fill(0),
        lambda line: line.send_rtcp_between(),
    ],
)
def test_what_takes_thought_is_left_and_nothing_is_counted(line: Line, spoil: object) -> None:
    line.send(3)
    spoil(line)  # type: ignore[operator]
    before = line.table.reception[0].copy()
    fill = line.fill()
    assert fill.laid is None
    assert fill.used == fill.counts[0] >= 3
    assert line.table.counters(line.stream).accepted == 0
    assert line.table.reception[0] == before


@pytest.mark.parametrize("kind", [1, 2 * 64, 1 << 40, -2])
def test_rtcp_and_streams_that_the_table_has_not_are_left(line: Line, kind: int) -> None:
    line.send(3)
    assert line.fill(kind=kind) == receive.Fill([3], 3, False, 3)


def test_a_slot_of_the_longest_datagram_is_filled_to_its_end_and_not_beyond(line: Line) -> None:
    (sent,) = line.send(1, size=arena.SLOT - packets.FIXED_HEADER)
    assert laid(line.fill()).data.tobytes().endswith(sent)
    assert line.receiver.arena.rows[1:].max() == 0
    assert line.receiver.arena.rows[0, HEADROOM:].tobytes() == sent


def test_an_arena_of_one_slot_takes_one_datagram_at_a_time() -> None:
    with ExitStack() as stack:
        line = Line("127.0.0.1", stack, slots=1)
        line.send(3)
        fills = [line.fill() for _ in range(4)]
    assert [laid(each).packets if each.laid else 0 for each in fills] == [1, 1, 1, 0]
    assert [each.unfinished for each in fills] == [True, True, True, False]


def test_the_sender_is_not_asked_for_once_a_connected_socket_was_empty(line: Line) -> None:
    table, stream = line.table, 0
    line.send(2)
    asked = laid(line.fill()).data.tobytes()
    assert table.only[stream] == 0
    table.only[stream] = 1
    line.send(2, first=102)
    line.fill()
    assert table.only[stream] == 2
    line.receiver.arena.names[:] = 0
    line.send(2, first=104)
    known = laid(line.fill()).data.tobytes()
    source = slice(20, 36) if asked[16] >> 4 == 6 else slice(28, 32)  # of the first record's IP header
    assert known[source] == asked[source]
    assert any(known[source])


def test_records_stay_as_they_are_while_anyone_holds_a_part_of_them(line: Line) -> None:
    line.send(2)
    first = laid(line.fill()).data
    kept, copy = first[100:200], first[100:200].tobytes()
    del first
    for number in range(102, 110):
        line.send(1, first=number)
        assert laid(line.fill()).packets == 1
    assert kept.tobytes() == copy


@pytest.mark.parametrize("where", ["arena", "table"])
def test_arrays_of_another_length_are_refused(line: Line, where: str) -> None:
    if where == "arena":
        line.receiver.arena.names = np.zeros((SLOTS, arena.NAME + 1), np.uint8)
    else:
        line.table.port = np.zeros(line.table.port.shape, np.uint32)
    with pytest.raises(ValueError, match="where the C extension takes"):
        NativeReceiver(line.receiver.arena, line.table, Rooms(SLOTS))


def test_a_table_that_has_grown_is_taken_up(line: Line) -> None:
    for _ in range(2 * streams.FIRST_CAPACITY):
        line.table._free_row()
    line.send(3)
    line.fill()
    assert line.table.accepted[0] == 3


def test_what_finds_no_room_is_left(line: Line) -> None:
    line.send(3)
    room = line.rooms.take(NOBODYS)
    room.octets[:600] = 0
    line.receiver._memory[ROOM] = 500
    fill = line.fill()
    assert (fill.counts, fill.used, fill.laid) == ([3], 3, None)
    assert not room.octets[:600].any()


def test_arguments_are_checked(line: Line) -> None:
    memory = line.receiver._memory
    for wrong in (memory[:-1], memory + memory):
        with pytest.raises(ValueError, match="other memory"):
            _native.drain(wrong, 0, 0.0)
    with pytest.raises(ValueError, match="other memory"):
        _native.drain(memory, -1, 0.0)
    memory[ENDS] = line.rooms.take(NOBODYS).ends_address
    assert _native.drain(memory, 0, 0.0)[0] == 0  # as yet it has no sockets


@pytest.fixture(params=[writer.append, _native.append], ids=["python", "native"])
def append(request: pytest.FixtureRequest) -> writer.Appender:
    appender: writer.Appender = request.param
    return appender


@pytest.fixture
def files(tmp_path: Path) -> Iterator[NDArray[np.int32]]:
    """Descriptors of three files, of which the second cannot be written to."""
    flags = (os.O_WRONLY | os.O_APPEND, os.O_RDONLY, os.O_WRONLY | os.O_APPEND)
    found = [os.open(tmp_path / str(number), flag | os.O_CREAT) for number, flag in enumerate(flags)]
    yield np.array(found, np.int32)
    for each in found:
        os.close(each)


def test_pieces_are_appended_until_one_fails(append: writer.Appender, files: NDArray[np.int32], tmp_path: Path) -> None:
    cuts = np.array([1, 4, 6, 9], np.int64)
    assert append(files, b"_abcdeuvw_", cuts, 0, 3) == (1, 0, errno.EBADF)
    assert append(files, memoryview(b"_abcdeuvw_"), cuts, 2, 3) == (3, 0, 0)
    assert append(files, b"xyz", np.array([0, 3, 3, 3], np.int64), 0, 3) == (3, 0, 0)
    assert [(tmp_path / each).read_bytes() for each in "012"] == [b"abcxyz", b"", b"uvw"]


def test_how_much_of_a_piece_was_written_is_told(append: writer.Appender, files: NDArray[np.int32]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        told = append(files[[0, 2]], bytes(300), np.array([0, 90, 300], np.int64), 0, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert told == (1, 100, errno.EFBIG)


@pytest.mark.parametrize(
    ("cuts", "first", "last"),
    [
        ([0, 2, 1, 3], 0, 3),
        ([-1, 0, 1, 2], 0, 3),
        ([0, 1, 2, 4], 0, 3),
        ([0, 1, 2], 0, 3),
        ([0] * 5, 0, 4),
        ([0], -1, 0),
    ],
)
def test_pieces_that_do_not_lie_in_the_data_are_refused(
    files: NDArray[np.int32], tmp_path: Path, cuts: list[int], first: int, last: int
) -> None:
    with pytest.raises(ValueError, match="not there"):
        _native.append(files, b"abc", np.array(cuts, np.int64), first, last)
    assert (tmp_path / "0").stat().st_size == 0


def test_it_lives_by_the_same_numbers_as_the_rest() -> None:
    """They are written twice; which array is how long is checked at every call."""
    source = Path(arena.__file__).with_name("_native.c").read_text()
    theirs = {name: int(value) for name, value in re.findall(r"(\b[A-Z][A-Z0-9_]+) = (\d+)", source)}
    for place in (arena, receive, reception, sequence, pcap):
        for name in theirs.keys() & vars(place).keys():
            assert theirs.pop(name) == getattr(place, name), name
    private = {
        "PAYLOAD_TYPES",
        "AT_ONCE",
        "BLOCK",
        "CONTROL",
        "RTP_HEADER",
        "NS",
    } | {"CONNECTED"}
    assert theirs.keys() == private
