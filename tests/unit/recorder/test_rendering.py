"""What waits to be rendered is held as little as can be, and one that fails keeps no other from its turn."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from siprec.archive.folder import RecordingFolder
from siprec.errors import RenderError
from siprec.recorder.facilities import Facilities, Policy
from siprec.recorder.finish import Finished
from siprec.recorder.pool import RenderPool
from siprec.recorder.rendering import Renderings
from siprec.recorder.service import observers
from siprec.session.transitions import Event, State
from siprec.store.base import SessionRecord
from siprec.store.memory import InMemorySessionStore
from tests.support.sessions import record, session_id


class Renderers(RenderPool):
    """`most` jobs at once; each ends when it is let through, as `outcome` tells for its session."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.gate = asyncio.Semaphore(0)
        self.running: list[str] = []
        self.outcome: dict[str, Exception] = {}

    async def run(self, job: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        name = args[0].name
        self.running.append(name)
        await self.gate.acquire()
        self.running.remove(name)
        if name in self.outcome:
            raise self.outcome[name]
        return Finished(name, "ok", "", 1.0, args[0] / "audio.wav", "Alice and Bob")

    def let(self, count: int) -> None:
        for _ in range(count):
            self.gate.release()


class Bench:
    """`renderings` over a pool that does as told. `ended`: what observers heard, in order."""

    def __init__(self, root: Path, *, alone: bool = True) -> None:
        self.pool, self.store, self.files = Renderers(2), InMemorySessionStore(), ThreadPoolExecutor(1)
        self.policy = Policy(root, "a")
        self.ended: asyncio.Queue[SessionRecord] = asyncio.Queue()
        watchers = observers()
        watchers.on("session", self.ended.put_nowait)
        self.renderings = Renderings(
            cast(
                Facilities,
                SimpleNamespace(
                    pool=self.pool,
                    store=self.store,
                    files=self.files,
                    policy=self.policy,
                    observers=watchers,
                    cluster=SimpleNamespace(alone=alone),
                ),
            )
        )

    def close_call(self, number: int) -> SessionRecord:
        """A session that has just been closed."""
        made = record(number)
        made.call.fire(Event.HANGUP, at_ns=1, monotonic=1.0)
        made.call.ended_by_src = True
        self.renderings.add(made)
        return made


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path)
    yield made
    await made.renderings.stop()
    made.files.shutdown()


async def test_as_many_at_once_as_there_are_renderers_in_the_order_of_their_end(bench: Bench) -> None:
    for number in range(5):
        bench.close_call(number)
    await asyncio.sleep(0)
    assert bench.pool.running == [session_id(0), session_id(1)]
    bench.pool.let(5)
    ended = [await bench.ended.get() for _ in range(5)]
    assert [each.call.session_id for each in ended] == [session_id(number) for number in range(5)]
    assert {each.call.state for each in ended} == {State.ENDED}
    await bench.renderings.finish(5.0)
    assert bench.renderings.left() == []


async def test_of_one_that_waits_is_held_whose_it_is_and_no_more(bench: Bench) -> None:
    made = bench.close_call(1)
    (held,) = bench.renderings.left()
    assert held is made.call
    assert (held.session_id, held.call_id, held.state) == (
        session_id(1), "call-1@192.0.2.10", State.ENDING,
    )  # fmt: skip
    assert (held.local_sdp, held.channels, held.external_ids, held.history) == ("", [], {}, [])


async def test_where_nodes_share_a_store_it_is_told_of_the_end_with_all_that_finds_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, alone=False)
    made = record(1)
    await bench.store.create(made)
    bench.renderings.add(made)
    made.call.fire(Event.STOPPED, at_ns=1, monotonic=1.0)
    bench.pool.let(1)
    assert (await bench.ended.get()).call.state is State.ENDED
    assert (await bench.store.load(session_id(1))).ended == "lost"
    assert made.dialogs
    bench.files.shutdown()


async def test_a_failure_is_told_in_the_folder_and_the_next_has_its_turn(bench: Bench) -> None:
    folder = RecordingFolder(bench.policy.folder(session_id(1)))
    folder.make()
    folder.create_part(1, "a")
    bench.pool.outcome = {session_id(1): RenderError("no capture"), session_id(2): ZeroDivisionError("a defect")}
    for number in (1, 2, 3):
        bench.close_call(number)
    bench.pool.let(3)
    ended = {(await bench.ended.get()).call.session_id for _ in range(2)}
    assert ended == {session_id(1), session_id(3)}
    assert (folder.read().state, folder.read().verdict_reason) == ("failed", "no capture")
    assert bench.renderings.left() == []


async def test_a_failure_that_the_disk_does_not_take_ends_its_session_all_the_same(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("siprec.recorder.rendering.mark_failed", refuse)
    bench.pool.outcome = {session_id(1): RenderError("no capture")}
    bench.close_call(1)
    bench.pool.let(1)
    assert (await asyncio.wait_for(bench.ended.get(), 5.0)).call.state is State.FAILED
    await bench.renderings.finish(5.0)
    assert bench.renderings.left() == []


async def test_a_stop_waits_so_long_and_leaves_the_rest(bench: Bench) -> None:
    for number in range(3):
        bench.close_call(number)
    bench.pool.let(1)
    await bench.ended.get()
    await bench.renderings.finish(0.01)
    assert {each.session_id for each in bench.renderings.left()} == {session_id(1), session_id(2)}
    bench.close_call(3)
    await asyncio.sleep(0)
    assert session_id(3) in bench.renderings.calls
    assert session_id(3) not in bench.pool.running
