"""Both ways of reading sockets, against each other and at the edges of the arena."""

import socket
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest

from siprec import clock
from siprec.media import pcap, receive, records, tiers
from siprec.media.arena import HEADROOM, SLOT, Arena
from siprec.media.exchange import Exchange, Identity
from siprec.media.file import CaptureFile
from siprec.media.ports import SO_TIMESTAMPNS, PortPair, PortPool
from siprec.media.rooms import Rooms
from siprec.media.source import Source, SourcePolicy
from siprec.media.streams import Stream, StreamTable

Tier = Callable[[Arena], receive.Receiver]
TIERS: list[Tier] = [partial(tiers.receiver, tier, table=StreamTable(), rooms=Rooms()) for tier in tiers.available()]


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[PortPair]:
    pool = PortPool(request.param, 42_000, 42_099)
    opened = pool.acquire(0.0)
    yield opened
    pool.release(opened, 0.0)
    pool.close()


@pytest.fixture
def sender(pair: PortPair) -> Iterator[socket.socket]:
    with socket.socket(pair.rtp.family, socket.SOCK_DGRAM) as opened:
        opened.bind((pair.address, 0))
        opened.connect((pair.address, pair.port))
        yield opened


def read(receiver: receive.Receiver, *socks: socket.socket) -> receive.Fill:
    return receiver.fill(receive.Sockets(socks, [0] * len(socks)), 0)


def datagrams(receiver: receive.Receiver, count: int) -> list[bytes]:
    arena = receiver.arena
    return [arena.rows[slot, HEADROOM : HEADROOM + arena.length[slot]].tobytes() for slot in range(count)]


@pytest.mark.parametrize("tier", TIERS)
def test_datagrams_come_in_order_with_sender_and_kernel_time(tier: Tier, pair: PortPair, sender: socket.socket) -> None:
    receiver = tier(Arena(64))
    before = clock.wall_ns()
    for index in range(20):
        sender.send(bytes([index]) * index)
    between = clock.wall_ns()
    fill = read(receiver, pair.rtcp, pair.rtp)
    assert fill == receive.Fill([0, 20], 20, False, 20)
    assert datagrams(receiver, 20) == [bytes([index]) * index for index in range(20)]
    assert (receiver.arena.sources(20)[2] == sender.getsockname()[1]).all()
    assert np.all(np.diff(receiver.arena.time_ns[:20]) >= 0)
    assert before <= receiver.arena.time_ns[0] <= receiver.arena.time_ns[19] <= between


@pytest.mark.parametrize("tier", TIERS)
def test_a_full_arena_is_never_written_past_and_the_socket_is_gone_on_with(
    tier: Tier, pair: PortPair, sender: socket.socket
) -> None:
    receiver = tier(Arena(8))
    for index in range(20):
        sender.send(bytes([index]))
    seen: list[bytes] = []
    for used in (8, 8, 4):
        fill = read(receiver, pair.rtp)
        assert fill == receive.Fill([used], used, used == 8, used)
        seen += datagrams(receiver, used)
    assert seen == [bytes([index]) for index in range(20)]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize(("size", "truncated"), [(SLOT, False), (SLOT + 1, True)])
def test_what_does_not_fit_a_slot_is_marked(
    tier: Tier, pair: PortPair, sender: socket.socket, size: int, truncated: bool
) -> None:
    receiver = tier(Arena(8))
    sender.send(bytes(size))
    sender.send(b"next")
    assert read(receiver, pair.rtp).used == 2
    assert receiver.arena.truncated[:2].tolist() == [truncated, False]
    assert receiver.arena.length[:2].tolist() == [SLOT, 4]


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("option", [None, socket.SO_TIMESTAMP if hasattr(socket, "SO_TIMESTAMP") else 29])
def test_a_time_of_another_kind_is_not_believed(tier: Tier, option: int | None) -> None:
    receiver = tier(Arena(8))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        if option is not None:
            sock.setsockopt(socket.SOL_SOCKET, option, 1)
        sock.sendto(b"x", sock.getsockname())
        before = clock.wall_ns()
        assert read(receiver, sock).used == 1
        assert before <= receiver.arena.time_ns[0] <= clock.wall_ns()


@pytest.mark.parametrize("tier", TIERS)
def test_an_error_queued_on_the_socket_hides_no_datagram(tier: Tier) -> None:
    receiver = tier(Arena(8))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            address = peer.getsockname()
        sock.connect(address)
        sock.send(b"nobody hears this")  # comes back as ECONNREFUSED
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(address)
            peer.sendto(b"x", sock.getsockname())
            assert read(receiver, sock) == receive.Fill([1], 1, False, 1)
    assert receiver.failures == 0


@pytest.mark.parametrize("tier", TIERS)
def test_a_dead_socket_is_counted_and_passed_over(tier: Tier, pair: PortPair, sender: socket.socket) -> None:
    receiver = tier(Arena(8))
    dead = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dead.close()
    sender.send(b"x")
    assert read(receiver, dead, pair.rtp) == receive.Fill([0, 1], 1, False, 1)
    assert receiver.failures == 1


def test_a_disconnected_socket_hears_everyone_again_on_its_old_port(pair: PortPair, sender: socket.socket) -> None:
    with socket.socket(pair.rtp.family, socket.SOCK_DGRAM) as other:
        other.bind((pair.address, 0))
        pair.rtp.connect(other.getsockname()[:2])
        receive.disconnect(pair.rtp)
    assert pair.rtp.getsockname()[1] == pair.port
    sender.send(b"x")
    assert read(receive.SingleReceiver(Arena(8)), pair.rtp).used == 1


SIZES = [0, 1, 2, 12, 13, 172, 172, 172, 172, 172, 172, 172, 172, 171, 1400, SLOT] + [172] * 40


@pytest.mark.parametrize("sizes", [SIZES, [172] * 30, [20 + 7 * index for index in range(30)]])
@pytest.mark.parametrize("keep_all", [True, False])
def test_records_are_the_same_by_every_way(
    pair: PortPair, sender: socket.socket, sizes: list[int], keep_all: bool
) -> None:
    """Both tiers, copied in runs or row by row, against the record written one at a time."""
    table = StreamTable()
    file = CaptureFile.__new__(CaptureFile)  # no disk here: only headers are laid
    stream = Stream(0, pair, Source(SourcePolicy.ADDRESS), file, pair.address, Exchange(Identity()))
    table.add(stream, writing=True)
    sent = [bytes((index + place) & 0xFF for place in range(size)) for index, size in enumerate(sizes)]
    source = sender.getsockname()[:2]
    keep = np.array([keep_all or index % 5 != 0 for index in range(len(sent))])
    expected = [
        pcap.record(1_700_000_000_999_999_000 + index, each, source=source, destination=(pair.address, pair.port))
        for index, each in enumerate(sent)
    ]
    for tier in TIERS:
        receiver = tier(Arena(64))
        for each in sent:
            sender.send(each)
        assert read(receiver, pair.rtp).used == len(sent)
        receiver.arena.time_ns[: len(sent)] = 1_700_000_000_999_999_000 + np.arange(len(sent))
        six = records.lay(receiver.arena, table, np.zeros(len(sent), np.int64))
        data, ends = records.compact(receiver.arena, six, keep)
        assert data.tobytes() == b"".join(each for each, kept in zip(expected, keep, strict=True) if kept)
        assert ends[-1] == len(data)
