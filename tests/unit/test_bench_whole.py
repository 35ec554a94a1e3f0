"""What the bench of whole calls makes of what it saw."""

from collections import Counter
from dataclasses import replace

import pytest

from tests.load.bench_whole import FULL, WARM_UP_SECONDS, Moment, Run
from tests.load.caller import Outcome

EMPTY = Moment(0.0, 1, {"keeper": 0.0, "worker": 0.0, "renderers": 0.0}, {"worker": 50_000.0}, 20, ended=0, ready=0)

OUTCOME = Outcome(calls=[(0.0, 1.0, 12.0), (0.0, 11.0, 30.0), (0.0, 1.0, 9.0)], sent=1000)
"""Answered at 1, 11 and 1 s, ended at 12, 30 and 9 s: from 10 to 20 s, 2 and 9 seconds of calls and none."""


def moment(at: float, *, renderers: float, worker: float, ended: int) -> Moment:
    cpu = {"keeper": 0.0, "worker": worker, "renderers": renderers}
    return replace(EMPTY, at=at, cpu=cpu, ended=ended, ready=ended, resident_kib={"worker": 50_000.0 + 40 * at})


def run() -> Run:
    return Run(
        calls=2,
        seconds_each=100.0,
        warm=EMPTY,
        before=moment(0.0, renderers=0.010, worker=0.0, ended=1),
        begin=moment(10.0, renderers=0.010, worker=1.0, ended=1),
        end=moment(20.0, renderers=0.030, worker=2.1, ended=2),
        outcome=OUTCOME,
        lags=[],
        rendered_seconds=11.0,
        verdicts=Counter(ok=3),
        recorded=1000,
        complaints={},
        most=100,
    )


def test_only_what_falls_into_the_measurement_counts() -> None:
    assert run().call_seconds == pytest.approx(2 + 9)
    assert run().cpu_ms["worker"] == pytest.approx(1100 / 11)
    assert run().core_busy == pytest.approx((1.1 + 0.02) / 10)
    assert run().kib_per_call == pytest.approx(400 / 2)


def test_rendering_is_told_for_the_length_of_a_call() -> None:
    per_second = (20.0 - 10.0) / (11.0 - WARM_UP_SECONDS)
    assert run().render_ms == pytest.approx(20.0 + per_second * (100.0 - 11.0))
    assert run().cpu_ms["renderers"] == pytest.approx(run().render_ms / 100.0)


def test_faults_are_named() -> None:
    assert run().faults == []
    assert replace(run(), recorded=999).faults == ["packets lost"]
    assert replace(run(), verdicts=Counter(ok=2, gaps=1)).faults == ["verdicts"]
    assert replace(run(), complaints={"overload": 1}).faults == ["complaints"]
    assert replace(run(), outcome=replace(OUTCOME, problems={"no answer to INVITE": 1})).faults == ["calls failed"]
    assert replace(run(), end=replace(run().end, ended=100)).faults == ["rendering falls behind"]


def test_the_limit_is_named_or_unknown() -> None:
    assert run().limit is None
    assert replace(run(), recorded=999).limit == "unknown"
    assert replace(run(), outcome=replace(OUTCOME, busy=FULL)).limit == "core of the generator"
    assert replace(run(), outcome=replace(OUTCOME, busy=0.1, late_ms=2000.0)).disturbed
    assert not replace(run(), outcome=replace(OUTCOME, busy=FULL, late_ms=2000.0)).disturbed
    busy = replace(run().end, cpu={"keeper": 0.0, "worker": 11.0, "renderers": 0.0})
    assert replace(run(), end=busy, most=2).limit == "core of the server, ports or open files"
