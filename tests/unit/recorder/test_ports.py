"""Port pairs over the death of the process that opened them."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator

import pytest

from siprec.errors import ListenError
from siprec.fdstore import FdStore, Inbox
from siprec.media.ports import PortPair, PortPool
from siprec.recorder.intake import Ports

LOW = 44_000


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close()


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Kept:
    """What somebody who hears `inbox` keeps."""

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox
        self.fds: dict[str, list[int]] = {}

    def hear(self) -> dict[str, list[int]]:
        for _, said, fds in self._inbox.messages():
            if said.get("FDSTORE"):
                self.fds[said["FDNAME"]] = fds
            elif said.get("FDSTOREREMOVE"):
                close_all(self.fds.pop(said["FDNAME"], []))
        return self.fds


@pytest.fixture
def kept(inbox: Inbox) -> Iterator[Kept]:
    keeping = Kept(inbox)
    yield keeping
    for fds in keeping.hear().values():
        close_all(fds)


def ports(store: FdStore, host: str = "127.0.0.1") -> Ports:
    version = 6 if ":" in host else 4
    return Ports({version: PortPool(host, LOW, LOW + 7, choose=random.Random(1))}, store)


def end(pair: PortPair, opened: Ports, store: FdStore) -> None:
    """What a kill does."""
    pair.close()
    opened.close()
    store.close()


@pytest.mark.parametrize(("host", "prefix"), [("127.0.0.1", ""), ("::1", "s")])
@pytest.mark.parametrize("several", [True, False])
def test_a_pair_outlives_its_process(inbox: Inbox, kept: Kept, host: str, prefix: str, several: bool) -> None:
    """Also where the keeper is of a version that keeps one socket under a name, and while it is replaced."""
    store = FdStore(inbox.address, several=several)
    first = ports(store, host)
    pair = first.acquire(host, 0.0)
    names = {f"{prefix}{pair.port}"} | (set() if several else {f"{prefix}{pair.port + 1}"})
    assert set(kept.hear()) == names
    end(pair, first, store)
    with socket.socket(socket.AF_INET6 if prefix else socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"meanwhile", (host, pair.port))
    later = FdStore(inbox.address, {name: [os.dup(fd) for fd in reversed(fds)] for name, fds in kept.fds.items()})
    second = ports(later, host)
    again, outlived = second.restore(host, pair.port)
    assert (outlived, again.port, again.rtcp_port) == (True, pair.port, pair.port + 1)
    assert again.rtp.recv(100) == b"meanwhile"
    assert later.taken == {}
    second.release(again, 0.0)
    assert kept.hear() == {}
    second.close()
    later.close()


def test_a_pair_that_nobody_kept_is_bound_again(inbox: Inbox, kept: Kept) -> None:
    store = FdStore(inbox.address)
    opened = ports(store)
    pair, outlived = opened.restore("127.0.0.1", LOW + 2)
    assert (outlived, pair.port) == (False, LOW + 2)
    assert set(kept.hear()) == {str(LOW + 2)}
    with pytest.raises(ListenError):
        opened.restore("127.0.0.1", LOW + 2)
    end(pair, opened, store)


@pytest.mark.parametrize(("host", "bound"), [("127.0.0.50", "127.0.0.1"), ("0.0.0.0", "0.0.0.0")])
def test_a_pair_that_nobody_kept_is_bound_where_its_peer_sends_to(host: str, bound: str) -> None:
    store = FdStore()
    opened = ports(store, host)
    pair, _ = opened.restore("127.0.0.1", LOW + 2)
    assert pair.rtp.getsockname() == (bound, LOW + 2)
    end(pair, opened, store)


def test_half_a_pair_is_closed_and_bound_again(inbox: Inbox, kept: Kept) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as half:
        half.bind(("127.0.0.1", LOW + 3))
        store = FdStore(inbox.address, {str(LOW + 2): [half.detach()]})
    opened = ports(store)
    pair, outlived = opened.restore("127.0.0.1", LOW + 2)
    assert (outlived, pair.port, pair.rtcp_port) == (False, LOW + 2, LOW + 3)
    end(pair, opened, store)


def test_what_cannot_be_kept_is_counted_and_used_nevertheless(inbox: Inbox) -> None:
    store = FdStore(inbox.address)
    inbox.close()
    opened = ports(store)
    pair = opened.acquire(None, 0.0)
    assert opened.unkept == 1
    end(pair, opened, store)


def test_without_a_keeper_nothing_is_missed() -> None:
    store = FdStore()
    opened = ports(store)
    pair = opened.acquire(None, 0.0)
    assert opened.unkept == 0
    end(pair, opened, store)
