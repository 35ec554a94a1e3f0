"""How streams are received: vectors count as RFC 3550 appendix A does, packet by packet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.media.reception import (
    MAX_MISORDER,
    RECEPTION,
    Heard,
    Round,
    Rows,
    follow,
    heard_since_report,
    jitter_ms,
    lost,
    note,
    report,
)
from siprec.rtp.sequence import MAX_DROPOUT

RATE = 8000
START_NS = 1_700_000_000_000_000_000


@dataclass
class Rfc:
    """Appendix A of RFC 3550 as its C code has it, without probation."""

    max_seq: int
    base_seq: int
    bad_seq: int = 0x10001
    cycles: int = 0
    received: int = 0
    transit: float | None = None
    jitter: float = 0.0

    def update(self, packet: Heard) -> None:
        delta = (packet.sequence - self.max_seq) & 0xFFFF
        if delta < MAX_DROPOUT:
            if packet.sequence < self.max_seq:
                self.cycles += 0x10000
            self.max_seq = packet.sequence
        elif delta <= 0x10000 - MAX_MISORDER - 1:
            if packet.sequence != self.bad_seq:
                self.bad_seq = (packet.sequence + 1) & 0xFFFF
                return
            self.__init__(packet.sequence, packet.sequence)  # type: ignore[misc]
        self.received += 1
        transit = packet.time_ns / 1e9 * RATE - packet.timestamp
        if self.transit is not None:
            self.jitter += (abs(transit - self.transit) - self.jitter) / 16
        self.transit = transit

    @property
    def expected(self) -> int:
        return self.cycles + self.max_seq - self.base_seq + 1


def row() -> np.void:
    rows: Rows = np.zeros(1, RECEPTION)
    return rows[0]  # type: ignore[no-any-return]


def packet(number: int, *, late_ns: int = 0, ssrc: int = 7, kind: int = 0, rate: int = RATE) -> Heard:
    """The packet with this extended number, sent every 20 ms."""
    time_ns = START_NS + number * 20_000_000 + late_ns
    return Heard(number & 0xFFFF, number * rate // 50 & 0xFFFFFFFF, ssrc, kind, rate, time_ns)


def heard(packets: list[Heard]) -> np.void:
    counted = row()
    for each in packets:
        follow(counted, each)
    return counted


steps = st.lists(st.sampled_from([1, 1, 1, 1, 1, 2, 3, 0, -1, 40, 5000]), max_size=60)
lateness = st.integers(0, 60_000_000)


@given(st.integers(0, 0xFFFF), steps, st.data())
def test_each_packet_counts_as_in_the_rfc(first: int, walk: list[int], data: st.DataObject) -> None:
    number, oracle, counted = first, Rfc(first, first), row()
    for step in [0, *walk]:
        number = max(0, number + step)
        each = packet(number, late_ns=data.draw(lateness))
        oracle.update(each)
        follow(counted, each)
        assert int(counted["received"]) == oracle.received
        assert int(counted["highest"]) - int(counted["base"]) + 1 == oracle.expected


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), steps), min_size=1, max_size=4), st.data())
def test_vectors_count_as_single_packets_do(streams: list[tuple[int, list[int]]], data: st.DataObject) -> None:
    vectors, singly = np.zeros(9, RECEPTION), np.zeros(9, RECEPTION)
    places = data.draw(st.permutations(range(9)))[: len(streams)]
    numbers = [first for first, _ in streams]
    for cut in (0, 20, 40):
        packets: list[tuple[int, Heard]] = []
        for index, (_, walk) in enumerate(streams):
            for step in walk[cut : cut + 20]:
                numbers[index] = max(0, numbers[index] + step)
                each = packet(numbers[index], late_ns=data.draw(lateness), kind=data.draw(st.sampled_from([0, 0, 101])))
                packets.append((places[index], each))
        _both(vectors, singly, packets)
    for name in RECEPTION.names or ():
        if name == "jitter":
            assert vectors[name] == pytest.approx(singly[name], rel=1e-6, abs=1e-6)
        elif name != "payload_type":  # within one clock rate it does not matter
            assert (vectors[name] == singly[name]).all(), name


def _both(vectors: Rows, singly: Rows, packets: list[tuple[int, Heard]]) -> None:
    for place, each in packets:
        follow(singly[place], each)
    if not packets:
        return
    who = np.array([place for place, _ in packets])
    starts = np.append(0, np.flatnonzero(np.diff(who)) + 1)
    columns = list(zip(*(each for _, each in packets), strict=True))
    arrived = Round(
        starts,
        who[starts],
        np.array(columns[0], np.uint16),
        np.array(columns[1], np.uint32),
        np.array(columns[2], np.uint32),
        np.array(columns[3], np.uint8),
        np.array(columns[5], np.int64),
    )
    ends = np.append(starts[1:], len(who))
    for index in note(vectors, arrived).tolist():
        for place, each in packets[starts[index] : ends[index]]:
            follow(vectors[place], each)


def test_a_report_tells_fraction_and_sum_of_what_is_missing() -> None:
    counted = heard([packet(number) for number in range(65_500, 65_600) if number % 4])
    block = report(counted, last_sr=0x12345678, delay=65536)
    assert (block.fraction_lost, block.cumulative_lost) == (24 * 256 // 99, 24)  # 65500 itself was never heard
    assert block.highest_sequence == 65_599 == 0x1_003F
    assert (block.ssrc, block.last_sr, block.delay_since_last_sr) == (7, 0x12345678, 65536)
    assert not heard_since_report(counted)
    follow(counted, packet(65_600))
    assert heard_since_report(counted)
    assert report(counted, last_sr=0, delay=0).fraction_lost == 0


def test_duplicates_make_the_sum_negative_and_the_fraction_zero() -> None:
    counted = heard([packet(1), packet(1), packet(1), packet(2)])
    block = report(counted, last_sr=0, delay=0)
    assert (block.fraction_lost, block.cumulative_lost) == (0, -2)
    assert lost(counted) == 0


def test_a_fraction_of_all_does_not_overflow() -> None:
    counted = heard([packet(0)])
    report(counted, last_sr=0, delay=0)
    follow(counted, packet(2_999))
    assert report(counted, last_sr=0, delay=0).fraction_lost == 2_998 * 256 // 2_999
    counted["received"] -= 2
    follow(counted, packet(5_000))
    assert report(counted, last_sr=0, delay=0).fraction_lost == 255


@pytest.mark.parametrize(("step", "begins_anew"), [(MAX_DROPOUT - 1, False), (MAX_DROPOUT, True)])
def test_a_jump_is_loss_up_to_a_limit_and_a_new_start_beyond(step: int, begins_anew: bool) -> None:
    counted = heard([packet(10), packet(10 + step), packet(11 + step)])
    assert int(counted["base"]) == (11 + step if begins_anew else 10)
    assert lost(counted) == (0 if begins_anew else step - 1)


@pytest.mark.parametrize(("back", "received"), [(MAX_MISORDER, 2), (MAX_MISORDER + 1, 1)])
def test_a_late_packet_counts_up_to_a_limit(back: int, received: int) -> None:
    assert int(heard([packet(1000), packet(1000 - back)])["received"]) == received


def test_loss_adds_up_over_ssrcs() -> None:
    counted = heard([packet(1), packet(4), packet(10, ssrc=8), packet(12, ssrc=8)])
    assert lost(counted) == 3
    assert report(counted, last_sr=0, delay=0).cumulative_lost == 1


def test_jitter_knows_the_clock_of_the_payload_type() -> None:
    even = [packet(number, rate=48_000, late_ns=number % 2 * 4_000_000) for number in range(200)]
    assert jitter_ms(heard(even)) == pytest.approx(4.0, abs=0.01)
    counted = heard([*even, packet(200, kind=9)])
    assert jitter_ms(counted) == 0  # another unit
    assert lost(row()) == 0
    assert jitter_ms(row()) == 0
