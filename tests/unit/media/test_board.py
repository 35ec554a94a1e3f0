"""What one process writes on a board, another reads."""

import os
from collections.abc import Iterator

import numpy as np
import pytest

from siprec.media.streams import ROW
from siprec.media.workers.board import MAX_STREAMS, Board


@pytest.fixture
def ends() -> Iterator[tuple[Board, Board]]:
    """Of the worker, and of who reads."""
    descriptor = Board.create()
    yield Board(descriptor), Board(descriptor)
    os.close(descriptor)


def rows(*accepted: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    made = np.zeros(len(accepted), ROW)
    made["stream"] = range(len(accepted))
    made["accepted"] = accepted
    return made


def test_rows_are_found_by_slot(ends: tuple[Board, Board]) -> None:
    ends[0].put(np.array([7, 0, MAX_STREAMS - 1]), rows(1, 2, 3))
    assert [int(ends[1][slot]["accepted"]) for slot in (7, 0, MAX_STREAMS - 1, 1)] == [1, 2, 3, 0]
    assert [ends[1].told(slot) for slot in (7, 0, MAX_STREAMS - 1, 1)] == [True, True, True, False]
    ends[1].clear(7)
    assert not ends[0].told(7)
    assert int(ends[0][7]["accepted"]) == 0


def test_there_are_no_more_slots_than_its_limit(ends: tuple[Board, Board]) -> None:
    with pytest.raises(IndexError):
        ends[0].clear(MAX_STREAMS)
