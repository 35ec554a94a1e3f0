"""Port pairs: even and odd, random, bounded, at rest after use."""

import random
import socket
from collections.abc import Iterator

import pytest

from siprec.errors import ListenError, PortsExhausted
from siprec.media import ports

LOW = 41_000


@pytest.fixture
def pool() -> Iterator[ports.PortPool]:
    opened = ports.PortPool("127.0.0.1", LOW, LOW + 7, rest_seconds=30, choose=random.Random(1))
    yield opened
    opened.close()


def test_a_pair_is_even_and_odd_and_ready(pool: ports.PortPool) -> None:
    pair = pool.acquire(0.0)
    assert pair.port % 2 == 0
    assert pair.rtp.getsockname() == ("127.0.0.1", pair.port)
    assert pair.rtcp_port == pair.port + 1
    assert not pair.rtp.getblocking()
    assert pair.rtp.getsockopt(socket.SOL_SOCKET, ports.SO_TIMESTAMPNS) == 1
    assert pair.receive_buffer == pair.rtp.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    pool.release(pair, 0.0)
    assert pair.rtp.fileno() == -1


def test_all_pairs_are_used_then_none_then_the_rested_ones(pool: ports.PortPool) -> None:
    pairs = [pool.acquire(0.0) for _ in range(4)]
    assert sorted(pair.port for pair in pairs) == [LOW, LOW + 2, LOW + 4, LOW + 6]
    with pytest.raises(PortsExhausted):
        pool.acquire(0.0)
    pool.release(pairs[0], 10.0)
    with pytest.raises(PortsExhausted):
        pool.acquire(39.999)
    again = pool.acquire(40.0)
    assert again.port == pairs[0].port
    for pair in [again, *pairs[1:]]:
        pool.release(pair, 40.0)
    assert (pool.free, pool.used) == (0, 0)


@pytest.mark.parametrize(("low", "high", "pairs"), [(10, 13, 2), (11, 13, 1), (10, 12, 1), (11, 12, 0), (10, 10, 0)])
def test_only_whole_pairs_inside_the_range_count(low: int, high: int, pairs: int) -> None:
    pool = ports.PortPool("127.0.0.1", low, high)
    assert pool.free == pairs
    pool.close()


def test_ports_come_in_no_order() -> None:
    pool = ports.PortPool("127.0.0.1", LOW + 100, LOW + 199, choose=random.Random(7))
    pairs = [pool.acquire(0.0) for _ in range(20)]
    taken = [pair.port for pair in pairs]
    assert taken != sorted(taken)
    for pair in pairs:
        pool.release(pair, 0.0)
    pool.close()


@pytest.mark.parametrize("taken", [0, 1])
def test_a_port_in_foreign_use_is_passed_over_and_rests(taken: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as foreign:
        foreign.bind(("127.0.0.1", LOW + 10 + taken))
        pool = ports.PortPool("127.0.0.1", LOW + 10, LOW + 13)
        pair = pool.acquire(0.0)
        assert pair.port == LOW + 12
        with pytest.raises(PortsExhausted):
            pool.acquire(0.0)
    pool.release(pair, 0.0)
    pool.close()


def test_an_address_that_is_not_ours_is_refused_at_once() -> None:
    with pytest.raises(ListenError, match="cannot receive media"):
        ports.PortPool("192.0.2.1", LOW, LOW + 7)
    with pytest.raises(ListenError, match=r"cannot receive media on 192\.0\.2\.1"):
        ports.PortPool("127.0.0.1", LOW, LOW + 7, also=["192.0.2.1"])


def test_of_several_addresses_a_pair_is_on_the_one_wanted_or_the_first() -> None:
    """They share the port numbers: a pair is known by its port."""
    pool = ports.PortPool("127.0.0.1", LOW, LOW + 7, also=["127.0.0.50"])
    pairs = [pool.acquire(0.0, host=host) for host in ("127.0.0.50", "127.0.0.51", "127.0.0.1", "")]
    assert [each.address for each in pairs] == ["127.0.0.50", "127.0.0.1", "127.0.0.1", "127.0.0.1"]
    assert [each.rtcp.getsockname()[0] for each in pairs] == [each.address for each in pairs]
    assert sorted(each.port for each in pairs) == [LOW, LOW + 2, LOW + 4, LOW + 6]
    for pair in pairs:
        pool.release(pair, 0.0)
    pool.close()


@pytest.mark.parametrize(
    ("host", "bound"), [("127.0.0.50", "127.0.0.50"), ("192.0.2.1", "127.0.0.1"), ("", "127.0.0.1")]
)
def test_a_pair_is_had_again_where_it_was_while_that_is_here(pool: ports.PortPool, host: str, bound: str) -> None:
    pair = pool.reopen(LOW + 2, host=host)
    assert (pair.address, pair.rtp.getsockname()) == (bound, (bound, LOW + 2))
    pool.release(pair, 0.0)


def test_sockets_of_an_earlier_life_are_adopted(pool: ports.PortPool) -> None:
    first = pool.acquire(0.0)
    later = ports.PortPool("127.0.0.1", LOW, LOW + 7)
    pair = later.adopt(first.rtp, first.rtcp)
    assert (pair.port, pair.address, later.used) == (first.port, "127.0.0.1", 1)
    assert later.free == 3
    later.release(pair, 0.0)
    later.close()


@pytest.mark.parametrize("port", [LOW - 2, LOW + 8])
def test_a_pair_outside_the_range_of_now_is_served_and_does_not_come_back(pool: ports.PortPool, port: int) -> None:
    pair = pool.reopen(port)
    pool.release(pair, 0.0)
    assert pair.rtp.fileno() == pair.rtcp.fileno() == -1
    assert (pool.free, pool.used) == (4, 0)
    taken = [pool.acquire(1000.0) for _ in range(4)]
    assert sorted(each.port for each in taken) == [LOW, LOW + 2, LOW + 4, LOW + 6]
    with pytest.raises(PortsExhausted):
        pool.acquire(1000.0)
    for each in taken:
        pool.release(each, 1000.0)


def test_a_double_release_is_a_defect_and_loud(pool: ports.PortPool) -> None:
    pair = pool.acquire(0.0)
    pool.release(pair, 0.0)
    with pytest.raises(KeyError):
        pool.release(pair, 0.0)


def test_the_kernel_default_bridges_five_seconds() -> None:
    assert 5.0 < ports.buffered_seconds(212_992) < 5.3


def test_ipv6_pairs_do_not_hear_ipv4() -> None:
    pool = ports.PortPool("::1", LOW + 200, LOW + 203)
    pair = pool.acquire(0.0)
    assert pair.rtp.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
    pool.release(pair, 0.0)
    pool.close()
