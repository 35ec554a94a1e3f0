"""Overload: what is late for long enough closes the gate to new calls, and to nothing else."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec import clock, log
from siprec.recorder.gate import (
    BEAT_SECONDS,
    LATE_SECONDS,
    PATIENCE_SECONDS,
    RETRY_AFTER,
    SETUPS_LIMIT,
    Gate,
    Lateness,
    Limits,
)
from siprec.session.admission import RecordingSource
from siprec.sip.flow import Flow
from siprec.sip.message import Headers, Request

FLOW = Flow("udp", ("127.0.0.1", 5060), ("127.0.0.2", 5060))
SOURCES = (RecordingSource("loopback", (ipaddress.ip_network("127.0.0.0/8"),)),)
LIMITS = Limits(SOURCES, max_sessions=5000, rate=2000, disk_reserve=0, plain_calls=False)


def late_beats(lateness: Lateness, begin: float, seconds: float) -> Iterator[float]:
    """The times of beats that are each just too late, for so long."""
    now = begin
    while now < begin + seconds:
        now = lateness.expect(now) + LATE_SECONDS * 1.01
        assert lateness.beat(now)
        yield now


def test_a_loop_in_time_is_never_too_late() -> None:
    lateness = Lateness()
    now = 100.0
    assert not lateness.too_long(now)
    for _ in range(1000):
        now = lateness.expect(now) + LATE_SECONDS * 0.99
        assert not lateness.beat(now)
        assert not lateness.too_long(now)


def test_late_for_long_enough_is_overload_until_it_is_in_time_again() -> None:
    lateness = Lateness()
    found = [(now, lateness.too_long(now)) for now in late_beats(lateness, 100.0, 2 * PATIENCE_SECONDS)]
    first = found[0][0]
    assert [too_long for _, too_long in found] == [now - first >= PATIENCE_SECONDS for now, _ in found]
    now = lateness.expect(found[-1][0])
    assert lateness.too_long(now)
    lateness.beat(now)
    assert not lateness.too_long(now)


def test_a_machine_that_stood_still_once_is_no_overload() -> None:
    lateness = Lateness()
    due = lateness.expect(0.0)
    assert not lateness.too_long(due + 10)
    lateness.beat(due + 10)
    assert not lateness.too_long(due + 10)


def invite(*headers: tuple[str, str], method: str = "INVITE") -> Request:
    return Request(method, "sip:srs@example.com", Headers(headers))


def gate(root: Path, *, setting_up: int = 0) -> Gate:
    return Gate(LIMITS, root, live=lambda: 0, setting_up=lambda: setting_up, subject_of=lambda _: None, log=log.get())


@pytest.mark.parametrize(("waiting", "answer"), [(SETUPS_LIMIT - 1, None), (SETUPS_LIMIT, RETRY_AFTER)])
async def test_no_more_are_set_up_at_once_than_the_limit(tmp_path: Path, waiting: int, answer: int | None) -> None:
    assert gate(tmp_path, setting_up=waiting).admit(invite(), FLOW, 0.0) == answer


async def test_what_carries_a_session_on_and_what_asks_how_we_are_is_let_in(tmp_path: Path) -> None:
    full = gate(tmp_path, setting_up=SETUPS_LIMIT)
    assert full.admit(invite(("Replaces", "1@example.com;to-tag=2;from-tag=3")), FLOW, 0.0) is None
    assert full.admit(invite(method="OPTIONS"), FLOW, 0.0) is None
    assert full.refused.total() == 0


async def keep_busy(guarded: Gate, until: float) -> list[int | None]:
    """What each of many INVITEs gets while the loop is late, time and again."""
    answers = []
    while (now := clock.monotonic()) < until:
        answers.append(guarded.admit(invite(), FLOW, now))
        while clock.monotonic() < now + BEAT_SECONDS + LATE_SECONDS:
            pass  # nobody else gets his turn
        await asyncio.sleep(0)
    return answers


async def test_the_gate_is_closed_while_the_loop_is_late_time_and_again(tmp_path: Path) -> None:
    guarded = gate(tmp_path)
    answers = await keep_busy(guarded, clock.monotonic() + 2 * (PATIENCE_SECONDS + LATE_SECONDS))
    assert (answers[0], answers[-1]) == (None, RETRY_AFTER)
    assert set(guarded.refused) == {"too many calls for this machine"}
    await asyncio.sleep(10 * BEAT_SECONDS)  # in time again, and seen to be although no INVITE comes
    assert guarded.admit(invite(), FLOW, clock.monotonic()) is None


async def test_a_loop_in_time_is_looked_at_once_for_an_invite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[float] = []

    def in_time(_: Lateness, now: float) -> bool:
        beats.append(now)
        return False

    monkeypatch.setattr(Lateness, "beat", in_time)
    guarded = gate(tmp_path)
    for _ in range(3):
        assert guarded.admit(invite(), FLOW, clock.monotonic()) is None
    await asyncio.sleep(5 * BEAT_SECONDS)
    assert len(beats) == 1
    assert guarded.admit(invite(), FLOW, clock.monotonic()) is None
    await asyncio.sleep(5 * BEAT_SECONDS)
    assert len(beats) == 2
