"""Frames and descriptors between two processes, over a real pair of sockets."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.media.workers import link
from siprec.media.workers.link import Link

Frame = tuple[bytes, list[int]]


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    made = [Link(each) for each in socket.socketpair()]
    yield made[0], made[1]
    for each in made:
        each.close()


def all_of(sender: Link, receiver: Link) -> list[Frame]:
    """Everything under way."""
    found: list[Frame] = []
    while True:
        sender.flush()
        more = list(receiver.receive())
        found += more
        if not more and not sender.waiting:
            return found


def test_frames_come_in_order_however_long(ends: tuple[Link, Link]) -> None:
    bodies = [b"", b"x", bytes(1_000_000), b"{}"]
    for body in bodies:
        ends[0].send(body)
    assert ends[0].waiting
    assert ends[0].blocked
    assert all_of(*ends) == [(body, []) for body in bodies]
    assert not ends[0].blocked


def test_descriptors_stay_with_their_frame(ends: tuple[Link, Link], tmp_path: Path) -> None:
    for number in range(20):
        given = os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT)
        ends[0].send(bytes(50_000), descriptors=[given, given], give=True)
        ends[0].send(b"none")
    found = all_of(*ends)
    for number, (_, descriptors) in enumerate(found[::2]):
        assert [Path(os.readlink(f"/proc/self/fd/{each}")).name for each in descriptors] == [str(number)] * 2
        for each in descriptors:
            os.close(each)
    assert all(descriptors == [] for _, descriptors in found[1::2])


def test_what_was_given_and_not_sent_is_closed(ends: tuple[Link, Link]) -> None:
    ours, theirs = os.pipe()
    ends[0].send(bytes(1_000_000))
    ends[0].send(b"", descriptors=[theirs], give=True)
    ends[0].close()
    assert os.read(ours, 1) == b""
    os.close(ours)


def test_the_end_and_damage_are_told(ends: tuple[Link, Link]) -> None:
    ends[0].close()
    with pytest.raises(EOFError):
        list(ends[1].receive())
    with pytest.raises(OSError, match="Broken pipe"):
        ends[1].send(b"anybody?")


@pytest.mark.parametrize("beyond", [0, 1])
def test_no_frame_is_longer_than_its_limit(
    ends: tuple[Link, Link], beyond: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "MAX_FRAME", 1000)
    ends[0].send(bytes(1000 + beyond))
    if beyond:
        with pytest.raises(EOFError, match="damaged"):
            list(ends[1].receive())
    else:
        assert len(list(ends[1].receive())) == 1
