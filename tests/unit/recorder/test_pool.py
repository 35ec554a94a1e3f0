"""Renderers: processes that do one job after another, and are replaced when they die."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn

import pytest

from siprec.errors import RenderError
from siprec.recorder import pool as pools
from siprec.recorder.pool import ATTEMPTS, NICENESS, RenderPool


class Unsendable(Exception):
    """An exception that no process can send to another."""

    def __reduce__(self) -> NoReturn:
        raise TypeError("not me")


def which(pause: float = 0.0) -> int:
    time.sleep(pause)
    return os.getpid()


def fill(mebibytes: int) -> int:
    """How much memory this process had, in MiB, before it took so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert len([b"\1" * (1 << 20) for _ in range(mebibytes)]) == mebibytes
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def refuse(text: str) -> NoReturn:
    raise RenderError(text)


def refuse_strangely() -> NoReturn:
    raise Unsendable("a secret")


def niceness() -> int:
    return os.nice(0)


def die(tombs: Path, times: int) -> str:
    """Kill this process, as long as fewer than `times` have died."""
    died = len(list(tombs.iterdir()))
    if died < times:
        (tombs / str(died)).touch()
        os._exit(1)
    return "survived"


@pytest.fixture
def pool() -> Iterator[RenderPool]:
    made = RenderPool(2)
    yield made
    made.close()


async def test_jobs_run_in_other_processes_at_most_so_many_at_once(pool: RenderPool) -> None:
    found = await asyncio.gather(*(pool.run(which, 0.01) for _ in range(10)))
    assert 1 <= len(set(found)) <= 2
    assert os.getpid() not in found
    assert await pool.run(which) in found
    assert await pool.run(niceness) >= min(19, os.nice(0) + NICENESS)


async def test_memory_is_kept_from_one_job_to_the_next_and_given_back_by_an_idle_renderer() -> None:
    pool = RenderPool(1)
    try:
        kept = [await pool.run(fill, 16) for _ in range(3)]
        assert kept[1] - kept[0] > 12
        assert abs(kept[2] - kept[1]) < 4
        await asyncio.sleep(pools.IDLE_SECONDS + 1)
        assert kept[2] - await pool.run(fill, 0) > 12
    finally:
        pool.close()


async def test_what_a_job_raises_is_raised_here(pool: RenderPool) -> None:
    with pytest.raises(RenderError, match="a reason"):
        await pool.run(refuse, "a reason")
    with pytest.raises(RenderError, match="a secret"):
        await pool.run(refuse_strangely)
    assert await pool.run(which)


async def test_a_job_whose_renderer_dies_is_tried_once_more(pool: RenderPool, tmp_path: Path) -> None:
    assert await pool.run(die, tmp_path, ATTEMPTS - 1) == "survived"


async def test_a_job_that_kills_each_renderer_is_given_up(pool: RenderPool, tmp_path: Path) -> None:
    with pytest.raises(RenderError):
        await pool.run(die, tmp_path, 100)
    assert len(list(tmp_path.iterdir())) == ATTEMPTS
    assert await pool.run(which)


async def test_a_renderer_that_dies_idle_is_replaced(pool: RenderPool) -> None:
    pid = await pool.run(which)
    os.kill(pid, 9)
    assert await pool.run(which) != pid


async def test_who_does_not_wait_any_more_costs_no_renderer(pool: RenderPool) -> None:
    jobs = [asyncio.ensure_future(pool.run(which, 0.1)) for _ in range(6)]
    await asyncio.sleep(0)
    for each in jobs[2:]:
        each.cancel()
    found = await asyncio.gather(*jobs, return_exceptions=True)
    assert [type(each) for each in found] == [int, int, *[asyncio.CancelledError] * 4]
    assert await pool.run(which) in found


async def test_a_job_waits_while_the_machine_has_no_process_to_give(
    pool: RenderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool.run(which)  # what multiprocessing opens once is open
    pool.close()
    before, refused, start = open_descriptors(), [errno.EAGAIN, errno.ENOMEM], SpawnProcess.start

    def start_or_not(process: SpawnProcess) -> None:
        if refused:
            raise OSError(number := refused.pop(), os.strerror(number))
        start(process)

    monkeypatch.setattr(pools, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(SpawnProcess, "start", start_or_not)
    first, second = (asyncio.ensure_future(pool.run(which)) for _ in range(2))
    await asyncio.sleep(0)
    assert open_descriptors() == before  # nothing is left of the attempt
    assert {await first, await second}
    assert refused == []


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
