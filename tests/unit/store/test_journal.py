"""The journal on disk: it outlives the process, and no damage keeps a server from starting."""

from __future__ import annotations

import asyncio
import random
import resource
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from siprec.errors import NotFound, StoreUnavailable
from siprec.store import codec, frames
from siprec.store.base import SessionStore
from siprec.store.codec import Row
from siprec.store.journal import DAMAGED_KEPT, PAGE_BYTES, Journal
from siprec.store.sqlite import JOURNAL, SqliteSessionStore
from siprec.store.table import Part
from tests.support.sessions import record, session_id
from tests.support.stores import settled

SESSIONS = 12
FLIPS = 150
MANY = 10_000
SHARED_BYTES = 32_768
"""The least that the file takes which processes share over a log."""

Files = dict[str, bytes]


def rows(count: int = SESSIONS) -> dict[str, Row]:
    return {session_id(number): codec.encode(record(number), "a1") for number in range(count)}


@contextmanager
def journal(path: Path, kept: dict[str, Row]) -> Iterator[tuple[Journal, list[Row]]]:
    opened = Journal(path, kept.get, lambda: list(kept), now=time.monotonic)
    found = opened.start()
    try:
        yield opened, found
    finally:
        opened.close()


def write(opened: Journal, *ids: str) -> None:
    for each in ids:
        opened.mark(each, Part.ALL)
    opened.barrier().result(10)


def found_in(path: Path) -> tuple[dict[str, Row], int]:
    """What a start finds, and how many files it put aside."""
    kept: dict[str, Row] = {}
    with journal(path, kept) as (opened, found):
        kept |= {each.session_id: each for each in found}
        health = opened.health()
        assert not health.error
    return kept, health.damaged


@pytest.fixture(scope="module")
def closed() -> Files:
    """A journal after a close in good order."""
    return _written(lambda folder: None)


@pytest.fixture(scope="module")
def killed() -> Files:
    """A journal after kill -9: part of it is in the write-ahead log."""
    taken: Files = {}
    _written(lambda folder: taken.update(_files(folder)))
    assert taken[JOURNAL + "-wal"]
    return taken


def _written(before_close: Callable[[Path], None]) -> Files:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path, kept = Path(folder) / JOURNAL, rows()
        with journal(path, kept) as (opened, _):
            for each in kept:
                write(opened, each)
            before_close(path.parent)
        return _files(path.parent)


def _files(folder: Path) -> Files:
    return {each.name: each.read_bytes() for each in folder.iterdir() if not each.name.endswith("-shm")}


def _lay(folder: Path, files: Files) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder / JOURNAL


# ---- in good order


def test_a_journal_is_read_again(tmp_path: Path, closed: Files, killed: Files) -> None:
    for files in (closed, killed):
        assert found_in(_lay(tmp_path / "state", files)) == (rows(), 0)


def test_one_that_nobody_can_open_to_write_is_read_all_the_same(tmp_path: Path, killed: Files) -> None:
    """As on a full disk, where the file that processes share over the log cannot be made."""
    usual, _ = found_in(_lay(tmp_path / "usual", killed))
    path = _lay(tmp_path / "full", killed)
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SHARED_BYTES - 1, hard))
    try:
        with journal(path, {}) as (opened, found):
            assert opened.health().error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {each.session_id: each for each in found} == usual
    assert usual


def test_what_is_dropped_is_gone(tmp_path: Path, closed: Files) -> None:
    path, kept = _lay(tmp_path / "state", closed), rows()
    with journal(path, kept) as (opened, _):
        del kept[session_id(3)]
        write(opened, session_id(3))
    assert found_in(path)[0] == kept
    assert session_id(3).encode() not in b"".join(_files(path.parent).values())


async def test_sessions_outlive_the_process(tmp_path: Path) -> None:
    store = await SqliteSessionStore.open(tmp_path, boot="a1")
    await store.create(record(1))
    await store.create(record(2))
    await store.tombstone(session_id(2), "lost")
    await store.close()
    later = await SqliteSessionStore.open(tmp_path, boot="a2")
    assert await later.load(session_id(1)) == record(1)
    assert (await later.load(session_id(2))).ended == "lost"
    assert await later.owned("a") == [session_id(1)]
    assert await later.find("cs_id", "cs-1") == [session_id(1)]
    assert (await later.adopt(session_id(1), "a", "a2", 1)).call.fence == 2
    await later.close()


async def test_many_changes_are_few_writes(tmp_path: Path) -> None:
    store = await SqliteSessionStore.open(tmp_path, boot="a1")
    mine = record(1)
    await store.create(mine)
    for _ in range(500):
        mine.call.version += 1
        await store.save(mine)
        assert store.health().dirty <= 2
    await store.close()
    later = await SqliteSessionStore.open(tmp_path, boot="a2")
    assert (await later.load(session_id(1))).call.version == mine.call.version
    await later.close()


async def test_ten_thousand_sessions_are_there_at_a_start(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    one = codec.encode(record(1), "a1")
    kept = {session_id(number): replace(one, session_id=session_id(number)) for number in range(MANY)}
    with journal(tmp_path / JOURNAL, kept) as (opened, _):
        write(opened, *kept)
    begun = time.monotonic()
    store = await SqliteSessionStore.open(tmp_path, boot="a2")
    loaded = [await store.load(each) for each in await store.owned("a")]
    seconds = time.monotonic() - begun
    await store.close()
    record_property("seconds", seconds)
    print(f"{MANY} sessions read and decoded in {seconds:.2f} s")
    assert len(loaded) == MANY


# ---- damage


def _check(path: Path, *, missing: int) -> int:
    """Open a damaged journal: what is found is right, and at most `missing` sessions are not found."""
    expected = rows()
    found, damaged = found_in(path)
    for each, row in found.items():
        # A body of its own that was hit is gone; the session is there without it.
        whole = expected[each]
        assert replace(row, sdp=row.sdp or whole.sdp, xml=row.xml or whole.xml) == whole
    assert len(found) >= len(expected) - missing
    assert found_in(path) == (found, 0)
    return damaged


def test_a_file_cut_anywhere_in_its_last_page_is_no_obstacle(tmp_path: Path, closed: Files) -> None:
    data = closed[JOURNAL]
    in_last_page = data[-PAGE_BYTES:].count(b"srsJ")
    for cut in range(1, PAGE_BYTES + 1, 1 if cut_all() else 61):
        _check(_lay(tmp_path / "state", {JOURNAL: data[:-cut]}), missing=in_last_page)


def cut_all() -> bool:
    """Every byte takes a minute: `SIPREC_EVERY_BYTE=1` asks for it."""
    import os

    return os.environ.get("SIPREC_EVERY_BYTE") == "1"


def test_a_log_cut_anywhere_in_its_last_frame_loses_what_was_not_committed(tmp_path: Path, killed: Files) -> None:
    log = killed[JOURNAL + "-wal"]
    for cut in range(1, PAGE_BYTES, 131):
        _check(_lay(tmp_path / "state", {**killed, JOURNAL + "-wal": log[:-cut]}), missing=1)


@pytest.mark.parametrize("seed", range(3))
def test_a_flipped_bit_costs_one_session_at_most(tmp_path: Path, closed: Files, killed: Files, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(FLIPS // 3):
        files = dict(chance.choice((closed, killed)))
        name = chance.choice([each for each in files if files[each]])
        data = bytearray(files[name])
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        files[name] = bytes(data)
        _check(_lay(tmp_path / "state", files), missing=1)


def test_a_journal_of_noise_is_put_aside(tmp_path: Path, closed: Files) -> None:
    noise = random.Random(1).randbytes(3 * PAGE_BYTES)
    path = _lay(tmp_path / "state", {JOURNAL: noise})
    assert found_in(path) == ({}, 1)
    assert [each.read_bytes() for each in path.parent.glob("*.damaged-*")] == [noise]


def test_damaged_journals_do_not_pile_up(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    for number in range(DAMAGED_KEPT + 2):
        path.write_bytes(bytes([number]) * 100)
        assert found_in(path)[1] == 1
    kept = sorted(tmp_path.glob("*.damaged-*"))
    assert [each.read_bytes()[0] for each in kept] == [2, 3, 4]


def test_a_journal_with_other_tables_is_put_aside(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / JOURNAL) as db:
        db.execute("CREATE TABLE sessions (x)")
    db.close()
    assert found_in(tmp_path / JOURNAL) == ({}, 1)


def test_a_frame_says_when_it_is_damaged() -> None:
    row = codec.encode(record(1), "a1")
    frame = frames.pack(b"s", row)
    assert frames.unpack(frame) == (b"s", replace(row, sdp=b"", xml=b""))
    for at in range(len(frame)):
        assert frames.unpack(frame[:at]) is None
        assert frames.unpack(frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]) is None


async def test_a_record_of_a_later_version_waits_for_it(tmp_path: Path) -> None:
    later = replace(codec.encode(record(1), "a1"), schema=codec.SCHEMA + 1)
    kept = {session_id(1): later, session_id(2): codec.encode(record(2), "a1")}
    with journal(tmp_path / JOURNAL, kept) as (opened, _):
        write(opened, *kept)
    store = await SqliteSessionStore.open(tmp_path, boot="a2")
    assert await store.owned("a") == [session_id(2)]
    assert store.health().set_aside == 1
    with pytest.raises(NotFound):
        await store.load(session_id(1))
    await store.close()
    assert found_in(tmp_path / JOURNAL)[0] == kept


# ---- a disk that does not want


async def test_without_a_disk_sessions_are_kept_in_memory_until_there_is_one(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).mkdir()
    store: SessionStore = await SqliteSessionStore.open(tmp_path, boot="a1")
    with pytest.raises(StoreUnavailable):
        await store.create(record(1))
    assert await store.load(session_id(1)) == record(1)
    health = store.health()
    assert health.ok
    assert health.degraded
    assert health.detail.startswith("journal: ")
    assert health.dirty == 1
    (tmp_path / JOURNAL).rmdir()
    await settled(store)
    await store.close()
    assert list(found_in(tmp_path / JOURNAL)[0]) == [session_id(1)]


async def test_who_stops_waiting_for_the_disk_loses_nothing(tmp_path: Path) -> None:
    store = await SqliteSessionStore.open(tmp_path, boot="a1")
    blocker = sqlite3.connect(tmp_path / JOURNAL, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(store.create(record(1)), 0.05)
    assert await store.load(session_id(1)) == record(1)
    blocker.execute("ROLLBACK")
    blocker.close()
    await store.flush()
    await store.close()
    assert list(found_in(tmp_path / JOURNAL)[0]) == [session_id(1)]


async def test_a_journal_that_breaks_while_in_use_is_replaced(tmp_path: Path) -> None:
    store = await SqliteSessionStore.open(tmp_path, boot="a1")
    for number in range(SESSIONS):
        await store.create(record(number))
    with (tmp_path / JOURNAL).open("r+b") as file:
        file.write(b"\0" * (tmp_path / JOURNAL).stat().st_size)
    (tmp_path / (JOURNAL + "-wal")).write_bytes(b"")
    mine = record(SESSIONS)
    try:
        await store.create(mine)
    except StoreUnavailable:
        await settled(store)
    await store.close()
    assert set(found_in(tmp_path / JOURNAL)[0]) == {session_id(each) for each in range(SESSIONS + 1)}
