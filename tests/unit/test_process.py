"""How a process is told to end."""

from __future__ import annotations

import os

import pytest

from siprec import process
from siprec.fdstore import AGAIN_SECONDS


class Ended(Exception):
    """Instead of the end of this process."""


@pytest.fixture(autouse=True)
def _no_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        assert code == process.EXIT_NOW
        raise Ended

    monkeypatch.setattr(os, "_exit", end)


def test_a_second_stop_ends_at_once_unless_it_came_with_the_first() -> None:
    times = iter([100.0, 100.0, 100.0 + AGAIN_SECONDS - 0.01, 100.0 + AGAIN_SECONDS])
    ending = process.Ending(lambda: next(times))
    for _ in range(3):
        ending.stop()
    with pytest.raises(Ended):
        ending.stop()


def test_a_stop_after_a_hand_over_is_the_first() -> None:
    ending = process.Ending(lambda: 100.0)
    ending.replace()
    ending.stop()
    assert not ending.hand_over
    assert ending.exit_code == 0
