"""Memory is given back when a crowd has gone, again while its traces go, and not for the coming and going of a few."""

from __future__ import annotations

import asyncio
import gc
import weakref

from siprec.recorder.ebb import AFTER_SECONDS, CROWD, Ebb, give_memory_back, keep_low_iterators


class Knot:
    """Holds itself."""

    itself: Knot


def times(ebb: Ebb, counts: dict[float, int], until: float) -> list[float]:
    """When it is due, asked twice a second; `counts`: how many calls there are from when on."""
    found, count = [], 0
    for tick in range(int(until * 2)):
        count = counts.get(tick / 2, count)
        if ebb.is_due(count, tick / 2):
            found.append(tick / 2)
    return found


def test_a_crowd_that_has_gone_is_followed_to_its_last_trace() -> None:
    assert times(Ebb(), {0: 1000, 10: 20}, 100) == [10.5 + each for each in AFTER_SECONDS]


def test_while_it_is_going_nothing_is_done() -> None:
    going = {10 + each / 2: 1000 - 100 * each for each in range(10)}
    assert times(Ebb(), {0: 1000, **going}, 30)[0] == 15.0


def test_fewer_than_a_crowd_or_than_are_left_are_none() -> None:
    assert times(Ebb(), {0: CROWD - 1, 10: 0}, 100) == []
    assert times(Ebb(), {0: 1000, 10: 201}, 100) == []
    assert times(Ebb(), {0: CROWD, 10: 0}, 100) != []
    assert times(Ebb(), {0: 1000, 10: 200}, 100) != []


def test_only_a_thorough_one_searches_for_garbage() -> None:
    gc.disable()
    try:
        knot = Knot()
        knot.itself, gone = knot, weakref.ref(knot)
        del knot
        give_memory_back(thoroughly=False)
        assert gone() is not None
        give_memory_back(thoroughly=True)
        assert gone() is None
    finally:
        gc.enable()


async def test_iterators_kept_for_use_again_lie_low() -> None:
    future = asyncio.get_running_loop().create_future()
    made = sorted((iter(future) for _ in range(2000)), key=id)
    highest = {id(made.pop()) for _ in range(255)}  # those that go first are kept
    made.clear()
    keep_low_iterators()
    assert not highest & {id(each) for each in [iter(future) for _ in range(255)]}
