"""Times as peers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.metadata.times import CLOCK_SET_NS, format_time, parse_time, stated_or

BASE = 1_767_323_045_000_000_000  # 2026-01-02T03:04:05Z


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", BASE),
        ("2026-01-02t03:04:05z", BASE),
        ("2026-01-02 03:04:05", BASE),
        ("2026-01-02T03:04:05", BASE),
        ("2026-01-02T03:04:05+0000", BASE),
        ("2026-01-02T04:34:05+01:30", BASE),
        ("2026-01-01T23:04:05-04:00", BASE),
        ("2026-01-01T23:04:05-04", BASE),
        (" 2026-01-02T03:04:05.040Z\n", BASE + 40_000_000),
        ("2026-01-02T03:04:05,123456789123Z", BASE + 123_456_789),
        ("2026-01-02T03:04Z", BASE - 5_000_000_000),
        ("2016-12-31T23:59:60Z", 1_483_228_799_000_000_000),
        ("1970-01-01T00:00:00Z", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    assert parse_time(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-13-02T03:04:05Z",
        "2026-02-30T03:04:05Z",
        "2026-01-02",
        "2026-01-02T25:00:00Z",
        "0001-01-01T00:00:00+23:59",
        "٢٠٢٦-01-02T03:04:05Z",
    ],
)
def test_what_is_no_time_is_none(text: str) -> None:
    assert parse_time(text) is None


def test_a_clock_that_was_never_set_says_nothing() -> None:
    assert stated_or("1970-05-13T03:29:05Z", BASE) == BASE
    assert stated_or("2000-01-01T00:00:00Z", BASE) == CLOCK_SET_NS
    assert stated_or("1999-12-31T23:59:59Z", BASE) == BASE
    assert stated_or("", BASE) == stated_or("yesterday", BASE) == BASE


@given(st.integers(0, 253_402_300_799_000))
def test_parse_is_the_inverse_of_format(at_ms: int) -> None:
    assert parse_time(format_time(at_ms * 1_000_000)) == at_ms * 1_000_000


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_none(text: str) -> None:
    assert parse_time(text) is None or text
