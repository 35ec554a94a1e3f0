"""Telephone events: one per key press, however often and in whatever order the packets tell of it."""

import struct
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from siprec.rtp.dtmf import Collector, duration


def block(code: int, lasts: int, *, end: bool = False, volume: int = 10) -> bytes:
    return struct.pack(">BBH", code, (0x80 if end else 0) | volume, lasts)


def press(collector: Collector, code: int, *, start: int, sequence: int) -> None:
    for number, lasts in enumerate((160, 320, 480)):
        collector.feed(start, block(code, lasts), sequence=sequence + number)
    for number in range(3):
        collector.feed(start, block(code, 640, end=True), sequence=sequence + 3 + number)


def test_a_press_told_six_times_is_one_event() -> None:
    collector = Collector()
    press(collector, 5, start=1000, sequence=7)
    press(collector, 5, start=3000, sequence=20)
    press(collector, 11, start=5000, sequence=40)
    assert [(each.key, each.start, each.duration, each.sequence) for each in collector.events] == [
        ("5", 1000, 640, 7),
        ("5", 3000, 640, 20),
        ("#", 5000, 640, 40),
    ]
    assert all(each.ended and each.volume == 10 for each in collector.events)
    assert [each.masked for each in collector.events] == ["X"] * 3


def test_any_order_gives_the_same() -> None:
    packets = [block(1, 160), block(1, 320), block(1, 480, end=True)]
    for order in permutations(packets):
        collector = Collector()
        for payload in order:
            collector.feed(0, payload, sequence=1)
        assert [(each.duration, each.ended) for each in collector.events] == [(480, True)]


def test_a_long_tone_in_segments_is_one_event() -> None:
    collector = Collector()
    collector.feed(0, block(16, 0xFFFF), sequence=1)
    collector.feed(0xFFFF, block(16, 800), sequence=2)
    collector.feed(0xFFFF, block(16, 1600, end=True), sequence=3)
    (event,) = collector.events
    assert (event.key, event.masked, event.duration) == ("flash", "flash", 0xFFFF + 1600)


def test_segments_may_come_backwards() -> None:
    collector = Collector()
    for key in (1, 2):
        collector.feed(0xFFFF, block(key, 1600, end=True), sequence=3)
        collector.feed(0, block(key, 0xFFFF), sequence=1)
    assert [(each.key, each.duration, each.ended, each.sequence) for each in collector.events] == [
        ("1", 0xFFFF + 1600, True, 1),
        ("2", 0xFFFF + 1600, True, 1),
    ]


def test_several_events_in_one_packet() -> None:
    collector = Collector()
    payload = block(1, 400, end=True) + block(2, 300)
    collector.feed(100, payload, sequence=1)
    assert [(each.key, each.start) for each in collector.events] == [("1", 100), ("2", 500)]
    assert duration(payload) == 700


def test_no_more_events_than_the_limit() -> None:
    collector = Collector([2])
    for number in range(3):
        collector.feed(number * 1000, block(1, 400), sequence=number)
        collector.feed(number * 1000, block(1, 480), sequence=number + 3)
    assert (len(collector.events), collector.omitted) == (2, 1)


def test_streams_share_the_limit() -> None:
    room = [2]
    collectors = [Collector(room) for _ in range(3)]
    for each in collectors:
        each.feed(0, block(1, 400), sequence=1)
    assert [(len(each.events), each.omitted) for each in collectors] == [(1, 0), (1, 0), (0, 1)]


@given(st.lists(st.tuples(st.integers(0, 2**32), st.binary(max_size=20))))
def test_whatever_the_bytes_nothing_is_raised(packets: list[tuple[int, bytes]]) -> None:
    collector = Collector([5])
    for number, (timestamp, payload) in enumerate(packets):
        collector.feed(timestamp, payload, sequence=number)
    assert len(collector.events) <= 5
