"""Rows of sessions that are over: found, forgotten in order, and small."""

from __future__ import annotations

from dataclasses import replace

import pytest

from siprec.store import codec
from siprec.store.codec import Row
from siprec.store.graves import BLOCK_BYTES, Graves
from tests.support.sessions import record, session_id

MANY = 2_000
FOREVER = 10**9


def row(number: int) -> Row:
    return codec.bury(codec.encode(record(number), "boot-1"), "bye")


def full(count: int) -> Graves:
    graves = Graves()
    for number in range(count):
        graves.add(row(number), [1, 1000 + number], float(number))
    return graves


def test_a_row_is_found_by_its_id_and_its_keys() -> None:
    graves = full(3)
    assert graves.get(session_id(1)) == row(1)
    assert list(graves.find(1)) == [row(0), row(1), row(2)] == graves.rows()
    assert list(graves.find(1001)) == [row(1)]
    assert list(graves.find(-5)) == []
    assert graves.get("nobody") is None


def test_rows_go_when_they_have_had_their_time() -> None:
    graves = full(3)
    assert graves.expire(0.9, FOREVER) == [session_id(0)]
    assert graves.expire(2.0, FOREVER) == [session_id(1), session_id(2)]
    assert (len(graves), list(graves.find(1)), graves.rows()) == (0, [], [])


def test_at_the_limit_all_are_kept_and_one_past_it_the_oldest_goes() -> None:
    graves = full(3)
    assert graves.expire(-1.0, 3) == []
    graves.add(row(3), [1], 3.0)
    assert graves.expire(-1.0, 3) == [session_id(0)]
    assert graves.rows() == [row(1), row(2), row(3)]


def test_a_row_that_is_dropped_does_not_expire() -> None:
    graves = full(3)
    graves.drop(session_id(1))
    graves.drop("nobody")
    assert graves.rows() == [row(0), row(2)]
    assert graves.expire(FOREVER, FOREVER) == [session_id(0), session_id(2)]


def test_a_newer_row_replaces_an_older_one_of_its_session() -> None:
    graves = full(2)
    newer = replace(row(0), version=9)
    graves.add(newer, [1], 2.0)
    assert graves.rows() == [row(1), newer]
    assert list(graves.find(1000)) == []
    assert graves.expire(FOREVER, FOREVER) == [session_id(1), session_id(0)]


def test_a_few_hundred_bytes_each_and_blocks_that_go() -> None:
    graves = full(MANY)
    held = sum(len(block.data) for block in graves._blocks)
    assert held < 600 * MANY + BLOCK_BYTES
    assert graves.get(session_id(MANY - 1)) == row(MANY - 1)
    assert len(graves.expire(FOREVER, FOREVER)) == MANY
    assert not graves._blocks
    graves.add(row(1), [1], 0.0)
    assert graves.rows() == [row(1)]


@pytest.mark.parametrize("size", [BLOCK_BYTES // 2, BLOCK_BYTES, 3 * BLOCK_BYTES])
def test_a_row_of_any_size_finds_room(size: int) -> None:
    graves = full(2)
    large = replace(row(2), core=b"\0" * size)
    graves.add(large, [1], 2.0)
    graves.add(row(3), [1], 3.0)
    assert graves.rows() == [row(0), row(1), large, row(3)]
    assert graves.expire(2.0, FOREVER) == [session_id(0), session_id(1), session_id(2)]
    assert graves.rows() == [row(3)]
