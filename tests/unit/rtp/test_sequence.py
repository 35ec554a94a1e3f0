"""Unwrapping, loss and jitter against the algorithms as RFC 3550 prints them."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.rtp import sequence


@given(start=st.integers(0, 0xFFFF), steps=st.lists(st.integers(-32767, 32767), max_size=50))
def test_steps_below_half_the_circle_survive_wrapping(start: int, steps: list[int]) -> None:
    true = np.cumsum([start, *steps])
    assert sequence.unwrap16((true & 0xFFFF).astype(np.uint16)).tolist() == true.tolist()


@given(start=st.integers(0, 0xFFFFFFFF), steps=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), max_size=20))
def test_timestamps_unwrap_alike(start: int, steps: list[int]) -> None:
    true = np.cumsum([start, *steps])
    assert sequence.unwrap32((true & 0xFFFFFFFF).astype(np.uint32)).tolist() == true.tolist()


@pytest.mark.parametrize(
    ("last", "first", "extended"),
    [(65535, 0, 65536), (65536, 65535, 65535), (5 * 65536 + 10, 9, 5 * 65536 + 9), (0, 65535, -1), (None, 7, 7)],
)
def test_a_later_batch_goes_on_where_the_last_ended(last: int | None, first: int, extended: int) -> None:
    assert sequence.unwrap16([first], last=last).tolist() == [extended]


def test_an_empty_batch_unwraps_to_nothing() -> None:
    assert sequence.unwrap16([]).size == 0
    assert sequence.unwrap32([], last=5).size == 0


@pytest.mark.parametrize(
    ("previous", "following", "expected"),
    [
        (0, 1, True),
        (65535, 0, True),
        (10, 10, False),
        (10, 9, False),
        (0, sequence.MAX_DROPOUT - 1, True),
        (0, sequence.MAX_DROPOUT, False),
    ],
)
def test_order_wraps_and_ends_at_the_dropout(previous: int, following: int, expected: bool) -> None:
    assert sequence.in_order(previous, following) is expected


def test_loss_tells_duplicates_and_reordering_apart() -> None:
    account = sequence.loss(np.array([10, 11, 14, 13, 13, 15, 18], np.int64))
    assert (account.expected, account.distinct, account.lost) == (9, 6, 3)
    assert (account.duplicate, account.reordered) == (1, 1)
    assert sequence.loss(np.zeros(0, np.int64)).lost == 0


@given(
    arrival=st.lists(st.integers(0, 10**7), min_size=0, max_size=700),
    initial=st.floats(0, 1e5),
)
def test_jitter_equals_the_algorithm_of_appendix_a8(arrival: list[int], initial: float) -> None:
    timestamp = np.arange(len(arrival)) * 160
    level, expected = initial, []
    transit = [a - t for a, t in zip(arrival, timestamp.tolist(), strict=True)]
    for before, after in itertools.pairwise(transit):
        level += (abs(after - before) - level) / 16
        expected.append(level)
    np.testing.assert_allclose(sequence.jitter(arrival, timestamp, initial=initial), expected, rtol=1e-7, atol=1e-6)
