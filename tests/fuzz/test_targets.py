"""Each target over its seeds and a few thousand damaged ones; scripts/fuzz goes on where this ends."""

from __future__ import annotations

import pytest

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS
from tests.support.mutation import Mutator

RUNS = {"endpoint": 600, "pcap": 1_000, "stream": 1_500}
"""The others are as fast as these are slow: all together take 10 s."""
USUAL_RUNS = 5_000


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_for_its_seeds_and_their_damage(target: str) -> None:
    starts = seeds(target)
    check, damage = TARGETS[target], Mutator(7, others=starts)
    for data in starts:
        check(data)
    for run in range(RUNS.get(target, USUAL_RUNS)):
        check(damage(starts[run % len(starts)]))
