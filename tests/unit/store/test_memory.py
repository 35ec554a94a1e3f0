"""Sessions in memory: how long an ended one is remembered, and what one costs."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import pytest

from siprec.errors import NotFound
from siprec.store import codec, table
from siprec.store.base import TOMBSTONE_SECONDS
from siprec.store.memory import InMemorySessionStore
from tests.support.sessions import record, session_id

SESSIONS = 500


class Now:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def test_an_ended_session_is_forgotten_in_time() -> None:
    now = Now()
    store = InMemorySessionStore(now=now)
    await store.create(record(1))
    await store.tombstone(session_id(1), "bye")
    now.seconds = TOMBSTONE_SECONDS - 0.1
    assert (await store.load(session_id(1))).ended == "bye"
    now.seconds = TOMBSTONE_SECONDS
    with pytest.raises(NotFound):
        await store.load(session_id(1))
    assert await store.find("call_id", "call-1@192.0.2.10") == []
    await store.create(record(1))


async def test_tombstones_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "TOMBSTONE_LIMIT", 3)
    store = InMemorySessionStore(now=Now())
    for number in range(4):
        await store.create(record(number))
        await store.tombstone(session_id(number), "bye")
    with pytest.raises(NotFound):
        await store.load(session_id(0))
    assert (await store.load(session_id(1))).ended == "bye"


async def test_a_session_costs_about_one_and_a_half_kilobytes(record_property: Any) -> None:
    store = InMemorySessionStore()
    records = [record(number) for number in range(SESSIONS)]
    for each in records:
        each.call.local_sdp = ""
    apart = sys.getsizeof(codec.encode(records[0], "").xml)
    tracemalloc.start()
    try:
        for each in records:
            await store.create(each)
        each_bytes = tracemalloc.get_traced_memory()[0] / SESSIONS - apart
    finally:
        tracemalloc.stop()
    record_property("bytes_per_session", each_bytes)
    print(f"{each_bytes:.0f} bytes a session without SDP and metadata")
    assert each_bytes < 2000
