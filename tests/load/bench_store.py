"""Session stores: operations a second, how long each takes, memory and disk for a session.

Each store is opened in a process of its own and goes through the life of many sessions: created, saved again with a
higher version (which is compared), loaded, found by an index, ended; so many operations at once. A stage ends when what
it did is as durable, and as visible to other nodes, as the store promises. Beside it, in the same run and process, the
barest thing that keeps as much: a dict, `sqlite3` with a transaction for each record, Redis with SET in pipelines.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import pickle
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
from redis import Redis

from siprec.errors import NotFound, StoreUnavailable
from siprec.store import codec
from siprec.store.base import SessionRecord, SessionStore, dialog_key
from siprec.store.opening import Kind, open_store
from tests.load import machine
from tests.support import redis_server, sessions

STORES = ",".join(get_args(Kind))
SESSIONS = 5000
AT_ONCE = 32
"""Operations under way at a time: a burst of calls."""

BARE_FRACTION = 5
"""One in so many sessions is enough to time the stand-in."""

GOAL_BYTES = 1536
"""Memory of a session without its session description and metadata."""

NODE, BOOT = "a", "a1"

Figure = dict[str, Any]
Operation = Callable[[SessionRecord], Awaitable[object]]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stores", default=STORES, help=f"which (default {STORES})")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help=f"in each (default {SESSIONS})")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help=f"operations at a time (default {AT_ONCE})")


def run(options: argparse.Namespace) -> Iterator[Figure]:
    """One figure for each store. Raises ValueError for an unknown one."""
    stores = str(options.stores).split(",")
    if unknown := [each for each in stores if each not in get_args(Kind)]:
        raise ValueError(f"--stores: {', '.join(unknown)} is none of {STORES}")
    for store in stores:
        if store == "redis" and not redis_server.installed():
            print(redis_server.MISSING, file=sys.stderr)
            continue
        with ExitStack() as stack:
            url = stack.enter_context(redis_server.running()).url if store == "redis" else ""
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="siprec-bench-"))
            arguments = (store, folder, url, options.sessions, options.at_once)
            command = [sys.executable, "-m", "tests.load.bench_store", *map(str, arguments)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=machine.ROOT, check=True)
        figure: Figure = json.loads(done.stdout)
        print(f"{store}: {figure['create']['per_second']} sessions created a second", file=sys.stderr)
        yield figure


# ---------------------------------------------------------------------- in a process of its own


async def measure(kind: Kind, folder: Path, url: str, number: int, at_once: int) -> Figure:
    """The figure of one store, opened in `folder`."""
    records = [sessions.record(each) for each in range(number)]
    store = await open_store(kind, folder / "ours", node=NODE, boot=BOOT, redis_url=url or None)
    try:
        first, second = records[: number // 2], records[number // 2 :]
        await _stage(store, store.create, first, at_once)  # what is made once is made by them
        before, before_there = resident_bytes(), _used_by_redis(url)
        found = {"create": await _stage(store, store.create, second, at_once)}
        ram = (resident_bytes() - before) / len(second)
        there = (_used_by_redis(url) - before_there) / len(second)
        disk = sum(each.stat().st_size for each in (folder / "ours").glob("*"))
        for each in records:
            each.call.version += 1
        found |= {
            "save": await _stage(store, store.save, records, at_once),
            "load": await _stage(store, lambda each: _load(store, each), records, at_once),
            "find": await _stage(store, lambda each: _find(store, each), records, at_once),
            "end": await _stage(store, lambda each: store.tombstone(each.call.session_id), records, at_once),
        }
    finally:
        await store.close()
    row = codec.encode(records[-1], BOOT)
    bodies = len(row.sdp) + len(row.xml) if kind != "noop" else 0
    figure: Figure = {
        "bench": "store",
        "store": kind,
        "sessions": number,
        "at_once": at_once,
        **found,
        "ram_bytes": round(ram),
        "ram_bytes_without_bodies": round(ram - bodies),
        "disk_bytes": round(disk / number),
        "redis_bytes": round(there),
        "required": {"ram_bytes_without_bodies": GOAL_BYTES},
        "met": ram - bodies <= GOAL_BYTES,
    }
    return figure | _compared(found, kind, folder, url, number // BARE_FRACTION)


async def _stage(store: SessionStore, operation: Operation, records: Sequence[SessionRecord], at_once: int) -> Figure:
    """`operation` for each record, `at_once` at a time; until all is durable and visible."""
    took: list[float] = []
    waiting = iter(records)

    async def work() -> None:
        for each in waiting:
            began = time.perf_counter()
            await operation(each)
            took.append(time.perf_counter() - began)

    began, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(at_once)))
    await store.flush()
    await _published(store)
    wall, cpu = time.perf_counter() - began, time.process_time() - used
    return {
        "per_second": round(len(records) / wall),
        "p50_ms": round(float(np.percentile(took, 50)) * 1000, 3),
        "p99_ms": round(float(np.percentile(took, 99)) * 1000, 3),
        "cpu_us": round(cpu / len(records) * 1e6, 1),
    }


async def _published(store: SessionStore) -> None:
    """A store gives up waiting after a while; it has not given up writing."""
    while True:
        with suppress(StoreUnavailable):
            await store.publish()
            return


async def _load(store: SessionStore, record: SessionRecord) -> None:
    with suppress(NotFound):  # noop keeps nothing
        await store.load(record.call.session_id)


async def _find(store: SessionStore, record: SessionRecord) -> None:
    named = record.dialogs[0].dialog
    await store.find("dialog", dialog_key(named.call_id, named.local_tag, named.remote_tag))


def resident_bytes() -> int:
    """Of this process, after what is free has gone back to the kernel."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def _used_by_redis(url: str) -> int:
    if not url:
        return 0
    with closing(Redis.from_url(url)) as client:
        return int(client.info("memory")["used_memory"])


# ---------------------------------------------------------------------- stand-ins


def _compared(found: dict[str, Figure], kind: Kind, folder: Path, url: str, number: int) -> Figure:
    """How the stand-in does, and what part of its speed creating and loading have."""
    if kind == "noop":
        return {}
    names = [f"bare-{each}" for each in range(number)]
    body = pickle.dumps(sessions.record(number))
    with ExitStack() as stack:
        bare = _BARE[kind](folder, url, stack)
        put, get = _per_second(bare.put, names, body), _per_second(bare.get, names, body)
    return {
        "bare": {"name": bare.name, "put_per_second": put, "get_per_second": get},
        "ratio_create": round(found["create"]["per_second"] / put, 4),
        "ratio_load": round(found["load"]["per_second"] / get, 4),
    }


def _per_second(work: Callable[[Sequence[str], bytes], None], names: Sequence[str], body: bytes) -> int:
    began = time.perf_counter()
    work(names, body)
    return round(len(names) / (time.perf_counter() - began))


@dataclass(frozen=True, slots=True)
class Bare:
    """A stand-in: `put` keeps a body under each of many names, `get` reads them all."""

    name: str
    put: Callable[[Sequence[str], bytes], None]
    get: Callable[[Sequence[str], bytes], None]


def _dict(folder: Path, url: str, stack: ExitStack) -> Bare:
    kept: dict[str, bytes] = {}

    def put(names: Sequence[str], body: bytes) -> None:
        record = pickle.loads(body)
        for name in names:
            kept[name] = pickle.dumps(record)

    def get(names: Sequence[str], body: bytes) -> None:
        for name in names:
            pickle.loads(kept[name])

    return Bare("pickle in a dict", put, get)


def _sqlite(folder: Path, url: str, stack: ExitStack) -> Bare:
    base = stack.enter_context(closing(sqlite3.connect(folder / "bare.sqlite", isolation_level=None)))
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE session (name TEXT PRIMARY KEY, body BLOB)")

    def put(names: Sequence[str], body: bytes) -> None:
        for name in names:
            base.execute("INSERT INTO session VALUES (?, ?)", (name, body))

    def get(names: Sequence[str], body: bytes) -> None:
        for name in names:
            base.execute("SELECT body FROM session WHERE name = ?", (name,)).fetchone()

    return Bare("sqlite3, WAL, a transaction for each", put, get)


def _redis(folder: Path, url: str, stack: ExitStack) -> Bare:
    client = stack.enter_context(closing(Redis.from_url(url)))

    def put(names: Sequence[str], body: bytes) -> None:
        for begin in range(0, len(names), AT_ONCE):
            pipe = client.pipeline(transaction=False)
            for name in names[begin : begin + AT_ONCE]:
                pipe.set(name, body)
            pipe.execute()

    def get(names: Sequence[str], body: bytes) -> None:
        for name in names:
            client.get(name)

    return Bare(f"SET in pipelines of {AT_ONCE}, GET one by one", put, get)


_BARE: dict[Kind, Callable[[Path, str, ExitStack], Bare]] = {"memory": _dict, "sqlite": _sqlite, "redis": _redis}


if __name__ == "__main__":
    chosen = cast(Kind, sys.argv[1])
    figure = measure(chosen, Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    print(json.dumps(asyncio.run(figure)))
