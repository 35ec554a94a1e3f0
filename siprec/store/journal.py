"""The journal: one SQLite file in WAL mode, written by a thread of its own, which survives kill -9 and power cuts.

All that changed while one commit was on its way to the disk is the next commit (`synchronous=FULL`), so 1 000 calls
a second cost as many syncs as the disk can do, not 1 000.

Damage is taken for granted. At the start the structure is checked, and each frame by its own checksum (`frames`).
SQLite drops what follows a damaged place in its write-ahead log without a word: how much of the log it took is
compared with what lies there. A damaged file is renamed aside, what is whole in it is written to a new one, and at
most the damaged session is missing.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from siprec.errors import StoreUnavailable
from siprec.store import frames
from siprec.store.codec import Row
from siprec.store.dirty import DirtyMap, Mark
from siprec.store.frames import Assembly
from siprec.store.table import Part

RETRY_SECONDS = 0.5
"""After a failed commit: often enough to be back at once when there is room again, rare enough not to load a disk."""

LINGER_SECONDS = 0.02
"""How long a change that nobody waits for may wait for others to share its commit, or for a commit that is waited for:
an answered call changes three times in a few milliseconds."""

BUSY_SECONDS = 2.0
"""How long a reader from outside may hold the file up."""

DAMAGED_KEPT = 3
"""Damaged journals kept for whoever wants to look: more would fill a disk that damages each of them."""

PAGE_BYTES = 4096

CACHE_KIB = 256
"""Of pages that SQLite keeps, never to give them back. They are written far more often than read: what a large commit
needs beyond it goes to the log early."""


@dataclass(frozen=True, slots=True)
class _Table:
    """One kind of frame, and what is said to SQLite about it."""

    kind: frames.Kind
    part: Part
    create: str
    read: str
    write: str
    delete: str


_TABLES = {
    "session": _Table(
        b"s",
        Part.CORE,
        "CREATE TABLE session (number INTEGER PRIMARY KEY, frame BLOB NOT NULL)",
        "SELECT number, frame FROM session",
        "INSERT OR REPLACE INTO session VALUES (?, ?)",
        "DELETE FROM session WHERE number = ?",
    ),
    "sdp": _Table(
        b"d",
        Part.SDP,
        "CREATE TABLE sdp (number INTEGER PRIMARY KEY, frame BLOB NOT NULL)",
        "SELECT number, frame FROM sdp",
        "INSERT OR REPLACE INTO sdp VALUES (?, ?)",
        "DELETE FROM sdp WHERE number = ?",
    ),
    "metadata": _Table(
        b"x",
        Part.XML,
        "CREATE TABLE metadata (number INTEGER PRIMARY KEY, frame BLOB NOT NULL)",
        "SELECT number, frame FROM metadata",
        "INSERT OR REPLACE INTO metadata VALUES (?, ?)",
        "DELETE FROM metadata WHERE number = ?",
    ),
}
_SCHEMA = {name: table.create for name, table in _TABLES.items()}

_NOT_THE_FILE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)
"""Results of SQLite that blame the machine, not the content of the file."""


class Damaged(Exception):
    """The file is not what was written."""


@dataclass(frozen=True, slots=True)
class JournalHealth:
    """`error`: why the last commit failed, empty when it did not. `damaged`: a damaged file was put aside."""

    error: str
    dirty: int
    oldest_dirty_seconds: float
    damaged: int


class Journal:
    """Writes rows to `path`. `row` gives the present row of a session (None: it is gone), `ids` all ids: any thread."""

    def __init__(
        self, path: Path, row: Callable[[str], Row | None], ids: Callable[[], list[str]], *, now: Callable[[], float]
    ) -> None:
        self._path = path
        self._row = row
        self._ids = ids
        self._now = now
        self._dirty = DirtyMap()
        self._waiters: list[Future[None]] = []
        self._changed = threading.Condition()
        self._closing = False
        self._retry_at = 0.0
        self._error = ""
        self._damaged = 0
        self._db: sqlite3.Connection | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    # ---- called by the store

    def start(self) -> list[Row]:
        """Read what is there, and begin to write. Never fails: what is damaged is put aside."""
        rows: list[Row] = []
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            rows, self._db, self._damaged = _open(self._path)
        except (sqlite3.Error, OSError) as error:
            self._error = str(error)
            rows = _all_that_can_be_read(self._path)
        self._thread.start()
        return rows

    def mark(self, session_id: str, parts: Part) -> None:
        """Have parts of a session written."""
        with self._changed:
            first = not self._dirty
            self._dirty.mark(session_id, parts, now=self._now())
            if first:
                self._changed.notify()

    def barrier(self) -> Future[None]:
        """Done when all marked so far is durable; fails with StoreUnavailable when that cannot be now."""
        future: Future[None] = Future()
        with self._changed:
            self._waiters.append(future)
            self._changed.notify()
        return future

    def health(self) -> JournalHealth:
        """How it does; takes no lock that a commit holds."""
        with self._changed:
            return JournalHealth(self._error, len(self._dirty), self._dirty.age(self._now()), self._damaged)

    def close(self) -> None:
        """Write what is left, once, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    # ---- the thread

    def _run(self) -> None:
        while self._wait():
            with self._changed:
                batch = dict(self._dirty.take())
                waiters, self._waiters = self._waiters, []
            try:
                self._commit(batch)
            except (sqlite3.Error, OSError) as error:
                self._fail(error, waiters)
            else:
                with self._changed:
                    self._dirty.done()
                    self._error = ""
                _resolve(waiters, None)
        if self._db is not None:
            self._db.close()

    def _wait(self) -> bool:
        """Wait for work; False when there is none and none will come."""
        with self._changed:
            while not self._closing:
                pause = self._retry_at - self._now()
                if pause > 0 and self._waiters:
                    waiters, self._waiters = self._waiters, []
                    _resolve(waiters, self._error)
                elif pause <= 0 and self._waiters:
                    return True
                elif pause <= 0 and self._dirty:
                    pause = LINGER_SECONDS - self._dirty.age(self._now())
                    if pause <= 0:
                        return True
                self._changed.wait(pause if pause > 0 else None)
            return bool(self._dirty or self._waiters)

    def _commit(self, batch: Mapping[str, Mark]) -> None:
        if self._db is None:
            _, self._db, damaged = _open(self._path)
            self._damaged += damaged
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for session_id, mark in batch.items():
                _write(self._db, session_id, self._row(session_id), parts=mark.parts)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _fail(self, error: Exception, waiters: list[Future[None]]) -> None:
        """Keep the marks for the next try; a file found damaged is replaced by a new one with everything."""
        damaged = not isinstance(error, OSError) and not _blames_the_machine(error)
        if self._db is not None and damaged:
            self._db.close()
            self._db = None
            _put_aside(self._path, _log_of(self._path))
            self._damaged += 1
        with self._changed:
            self._dirty.failed()
            self._error = f"journal: {error}"
            if damaged:
                for each in self._ids():
                    self._dirty.mark(each, Part.ALL, now=self._now())
            else:
                self._retry_at = self._now() + RETRY_SECONDS
            if self._closing:
                self._dirty = DirtyMap()
        _resolve(waiters, self._error)


def _resolve(waiters: list[Future[None]], error: str | None) -> None:
    for each in waiters:
        if each.set_running_or_notify_cancel():
            if error is None:
                each.set_result(None)
            else:
                each.set_exception(StoreUnavailable(error))


def _write(db: sqlite3.Connection, session_id: str, row: Row | None, *, parts: Part) -> None:
    number = frames.number_of(session_id)
    for table in _TABLES.values():
        if table.part & parts:
            frame = frames.pack(table.kind, row) if row is not None else b""
            if frame:
                db.execute(table.write, (number, frame))
            else:
                db.execute(table.delete, (number,))


# ---------------------------------------------------------------------------------------------------------
# Opening, checking, rescuing
# ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> tuple[list[Row], sqlite3.Connection, int]:
    """The rows of a journal and a connection to go on with; 1 when the file was damaged and is replaced.

    Raises sqlite3.Error, OSError when the machine does not let us.
    """
    log = _log_of(path)
    whole = Assembly()
    try:
        db = _connect(path)
        try:
            _read(db, whole)
            _compare_log(db, log)
        except BaseException:
            db.close()
            raise
    except Damaged:
        pass
    except sqlite3.Error as error:
        if _blames_the_machine(error) and not _write_protected_by_damage(error, path):
            raise
    else:
        return whole.rows(), db, 0
    return *_rescue(path, log, whole), 1


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # What is deleted is overwritten: a search through a damaged file must not raise the dead.
        db.execute("PRAGMA secure_delete = ON")
        tables = dict(db.execute("SELECT name, sql FROM sqlite_master"))
        db.execute("BEGIN IMMEDIATE")
        if not tables:
            for statement in _SCHEMA.values():
                db.execute(statement)
        elif tables != _SCHEMA:
            raise Damaged("the tables are not ours")
        db.execute("COMMIT")
    except BaseException:
        db.close()
        raise
    return db


def _read(db: sqlite3.Connection, into: Assembly) -> None:
    """All rows. Raises Damaged (after those before the damage), sqlite3.Error."""
    bad = 0
    for table in _TABLES.values():
        for number, data in db.execute(table.read):
            found = frames.unpack(data) if isinstance(data, bytes) else None
            if found is None or found[0] != table.kind or frames.number_of(found[1].session_id) != number:
                bad += 1
            else:
                into.add(*found)
    verdict = db.execute("PRAGMA quick_check(1)").fetchone()
    if bad or verdict != ("ok",):
        raise Damaged(f"{bad} frames, {verdict}")


def _all_that_can_be_read(path: Path) -> list[Row]:
    """The rows of a journal that cannot be opened to write: on a full disk there is no room for the file in which
    processes share the index of the log. A connection that excludes all others needs none.
    """
    whole = Assembly()
    with contextlib.suppress(sqlite3.Error, OSError, Damaged):
        if path.exists():
            with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as db:
                db.execute("PRAGMA locking_mode = EXCLUSIVE")
                _read(db, whole)
    return whole.rows()


def _rescue(path: Path, log: bytes, whole: Assembly) -> tuple[list[Row], sqlite3.Connection]:
    """Put a damaged journal aside, and make a new one of what is whole in it."""
    aside = _put_aside(path, log)
    found = Assembly()
    for data in (aside.read_bytes() if aside.exists() else b"", log):
        for each in frames.search(data):
            found.add(*each)
    whole.fill(found)
    rows = whole.rows()
    db = _connect(path)
    db.execute("BEGIN IMMEDIATE")
    for row in rows:
        _write(db, row.session_id, row, parts=Part.ALL)
    db.execute("COMMIT")
    return rows, db


def _put_aside(path: Path, log: bytes) -> Path:
    """Rename a damaged file, with its write-ahead log as it was found; returns its new name."""
    earlier = sorted(path.parent.glob(f"{path.stem}.damaged-*{path.suffix}"))
    number = int(earlier[-1].stem.rpartition("-")[2]) + 1 if earlier else 1
    for each in earlier[: max(0, len(earlier) + 1 - DAMAGED_KEPT)]:
        each.unlink(missing_ok=True)
        _sibling(each, "-wal").unlink(missing_ok=True)
    aside = path.with_name(f"{path.stem}.damaged-{number:06d}{path.suffix}")
    if path.exists():
        path.rename(aside)
    for suffix in ("-wal", "-shm"):
        _sibling(path, suffix).unlink(missing_ok=True)
    if log:
        _sibling(aside, "-wal").write_bytes(log)
    return aside


def _blames_the_machine(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code != sqlite3.SQLITE_IOERR_SHORT_READ and code & 0xFF in _NOT_THE_FILE


def _write_protected_by_damage(error: sqlite3.Error, path: Path) -> bool:
    """A damaged version byte in the header makes SQLite call a file read-only that is not."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)


# ---- the write-ahead log (https://www.sqlite.org/fileformat2.html#walformat)

_LOG_HEADER = struct.Struct(">IIIIIIII")
_LOG_FRAME = struct.Struct(">IIIIII")


def _sibling(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _log_of(path: Path) -> bytes:
    log = _sibling(path, "-wal")
    return log.read_bytes() if log.exists() else b""


def _compare_log(db: sqlite3.Connection, log: bytes) -> None:
    """Raises Damaged when SQLite took less of the log than was committed to it."""
    with closing(db.execute("PRAGMA wal_checkpoint(PASSIVE)")) as cursor:
        _, taken, _ = cursor.fetchone()
    if taken < _committed_frames(log):
        raise Damaged(f"{taken} frames of the log are readable")


def _committed_frames(log: bytes) -> int:
    """How many frames of a log belong to commits of its present generation, going by their salts alone."""
    size = _LOG_FRAME.size + PAGE_BYTES
    if len(log) < _LOG_HEADER.size + size:
        return 0
    _, _, _, _, generation, salt, _, _ = _LOG_HEADER.unpack_from(log)
    starts = range(_LOG_HEADER.size, len(log) - size + 1, size)
    found = [_LOG_FRAME.unpack_from(log, start)[1:4] for start in starts]
    # A log begun anew whose first commit never came: its frames are the old ones, long in the database.
    if generation == (found[0][1] + 1) & 0xFFFFFFFF:
        return 0
    salts = (generation, salt) if any(each[1:] == (generation, salt) for each in found) else found[0][1:]
    commits = [index for index, (pages, *rest) in enumerate(found, 1) if pages and tuple(rest) == salts]
    return commits[-1] if commits else 0
