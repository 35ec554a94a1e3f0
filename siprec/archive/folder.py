"""The folder of one recording, and the parts in it.

    <root>/2026/11/20/<session id>/
        recording.json   audio.wav   metadata/0001.xml   events.jsonl
        parts/000001-<node>/   capture-0001.pcap  part.json  metadata/0001.xml  events.jsonl

Every name is made here from numbers, the node's name and our own session id: no text from the network is
ever part of a path. A part is written by the one process that made it; `recording.json` is replaced as a
whole under a lock, and a writer with a lower fence is refused.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from siprec.archive.manifest import Manifest
from siprec.errors import ArchiveError, NotOwner

FOLDER_MODE = 0o750
FILE_MODE = 0o640
SESSION_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
PART_NAME = re.compile(r"(\d{6})-([A-Za-z0-9][A-Za-z0-9-]{0,31})")
CAPTURE_NAME = re.compile(r"capture-.*\.pcap")
BODY_NAME = re.compile(r".*\.xml")


def new_session_id(wall_ns: int, entropy: bytes) -> str:
    """A time-ordered UUID (version 7, RFC 9562 section 5.7) from a wall clock and 10 random bytes."""
    milliseconds = (wall_ns // 1_000_000) & ((1 << 48) - 1)
    random_bits = int.from_bytes(entropy[:10], "big")
    value = milliseconds << 80 | 7 << 76 | (random_bits >> 62 & 0xFFF) << 64 | 2 << 62 | random_bits & ((1 << 62) - 1)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def day_of(session_id: str) -> str:
    """`2026/11/20`: the UTC day that the id itself carries. Raises ArchiveError when it is no id of ours."""
    if not SESSION_ID.fullmatch(session_id):
        raise ArchiveError("not a session id")
    return _day(int(session_id[:8] + session_id[9:13], 16) // (24 * 3600 * 1000))


@lru_cache(maxsize=16)
def _day(days: int) -> str:
    """So many days after 1970."""
    return f"{datetime.fromtimestamp(days * 24 * 3600, UTC):%Y/%m/%d}"


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` as `path`, which readers see either as it was or whole. Raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    _write(temporary, data, os.O_CREAT | os.O_TRUNC)
    os.replace(temporary, path)


Mark = tuple[int, int]
"""Tells one recording.json from the next: inode and time of change."""

NOBODYS: Mark = (0, 0)


def mark_of(path: Path) -> Mark:
    """The mark of a recording.json; `NOBODYS` when it is missing."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return NOBODYS
    return found.st_ino, found.st_mtime_ns


def _create_file(path: Path, data: bytes) -> None:
    try:
        _write(path, data, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        raise
    except OSError:
        path.unlink(missing_ok=True)  # half of it is nothing, and would be in the way of the next attempt
        raise


def _write(path: Path, data: bytes, flags: int) -> None:
    """One write for small files; `open` would ask twice what kind of file it is, for each."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flags, FILE_MODE)
    try:
        done = os.write(descriptor, data)
        while done < len(data):
            done += os.write(descriptor, memoryview(data)[done:])
    finally:
        os.close(descriptor)


def _lines(events: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{_encode(event)}\n" for event in events).encode("utf-8", "replace")


_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _named(folder: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What lies in a folder by such a name, in order; nothing in one that is not there. `glob` takes thrice as long."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [folder / each for each in sorted(names) if pattern.fullmatch(each)]


def _linked(path: Path, name: Path) -> bool:
    """Give a file a further name; False where there is no file, its name is taken, or the disk has no such thing."""
    try:
        os.link(path, name)
    except OSError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class PartFolder:
    """What one process wrote of a recording."""

    path: Path

    @property
    def fence(self) -> int:
        return int(self.path.name[:6])

    @property
    def node(self) -> str:
        return self.path.name[7:]

    @property
    def control(self) -> Path:
        """`part.json`: how the captures are to be read (siprec.media.part)."""
        return self.path / "part.json"

    def captures(self) -> list[Path]:
        return _named(self.path, CAPTURE_NAME)

    def metadata(self) -> list[Path]:
        return _named(self.path / "metadata", BODY_NAME)

    def write_control(self, data: bytes, *, new: bool = False) -> None:
        """Keep `part.json`; `new`: in a part that has none yet, so that there is nothing to be replaced."""
        (_create_file if new else replace_file)(self.control, data)

    def add_metadata(self, number: int, body: bytes) -> None:
        """Keep an rs-metadata body exactly as received. Raises OSError."""
        folder = self.path / "metadata"
        if number == 1:
            with suppress(FileExistsError):
                folder.mkdir(mode=FOLDER_MODE)
        _create_file(folder / f"{number:04d}.xml", body)

    def append_events(self, events: Iterable[dict[str, Any]]) -> None:
        """Append a line for each event to the part's events.jsonl. Raises OSError."""
        _write(self.path / "events.jsonl", _lines(events), os.O_CREAT | os.O_APPEND)

    def events(self) -> list[dict[str, Any]]:
        """The part's events; a line cut by a crash is passed over."""
        path = self.path / "events.jsonl"
        found = []
        for line in path.read_bytes().splitlines() if path.is_file() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def held_elsewhere(self) -> bool:
        """Whether a living process still writes this part (it holds a lock on its newest capture)."""
        captures = self.captures()
        if not captures:
            return False
        with captures[-1].open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False


@dataclass(frozen=True, slots=True)
class RecordingFolder:
    """A recording at rest, or being made."""

    path: Path

    @classmethod
    def create(cls, root: Path, session_id: str, manifest: bytes | None = None) -> RecordingFolder:
        """Make the folder of a new session below `root`; it appears with its recording.json in it.

        Raises OSError, or ArchiveError for a foreign id.
        """
        folder = cls(root / day_of(session_id) / session_id)
        folder.make(manifest)
        return folder

    def make(self, manifest: bytes | None = None) -> None:
        """Make this folder; it appears with its recording.json in it. Raises OSError, and then nothing is left."""
        unborn = self.path.with_name(f".{self.session_id}")
        try:
            unborn.mkdir(mode=FOLDER_MODE)
        except FileNotFoundError:  # the first session of a day
            unborn.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            unborn.mkdir(mode=FOLDER_MODE)
        try:
            (unborn / "parts").mkdir(mode=FOLDER_MODE)
            if manifest is not None:
                _create_file(unborn / "recording.json", manifest)
            unborn.rename(self.path)
        except OSError:
            shutil.rmtree(unborn, ignore_errors=True)
            raise

    @property
    def session_id(self) -> str:
        return self.path.name

    @property
    def manifest_path(self) -> Path:
        return self.path / "recording.json"

    def create_part(self, fence: int, node: str) -> PartFolder:
        """Make the folder of this process's part. Raises OSError."""
        path = self.path / "parts" / f"{fence:06d}-{node}"
        path.mkdir(mode=FOLDER_MODE)
        return PartFolder(path)

    def parts(self) -> list[PartFolder]:
        """The parts, lowest fence first."""
        return [PartFolder(each) for each in _named(self.path / "parts", PART_NAME)]

    def read(self) -> Manifest:
        """recording.json. Raises ArchiveError when it is missing or not ours."""
        try:
            return Manifest.load(self.manifest_path.read_bytes())
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArchiveError(f"{self.manifest_path} cannot be read: {error}") from error

    def write(self, manifest: Manifest) -> None:
        """Replace recording.json. Raises NotOwner when it holds a higher fence, OSError."""
        self.write_after(manifest, NOBODYS)

    def write_after(self, manifest: Manifest, mine: Mark, data: bytes | None = None) -> Mark:
        """As `write`; `mine` marks the recording.json that the caller wrote last: if it is still there, its fence is
        known. `data`: the dump of `manifest`, where it is known. Returns the mark of the new one.

        A recording.json that cannot be read is nobody's: it holds no fence, and is replaced.
        """
        with self._locked():
            if mark_of(self.manifest_path) not in (mine, NOBODYS) and self._fence() > manifest.fence:
                raise NotOwner(f"{self.session_id} is carried on under a higher fence")
            replace_file(self.manifest_path, data or manifest.dump())
            return mark_of(self.manifest_path)

    def gather(
        self, parts: Sequence[PartFolder], rendered: Sequence[dict[str, Any]] = (), *, link: bool = False
    ) -> list[Path]:
        """Bring together what the parts hold singly: metadata bodies in order, and one events.jsonl by time, with the
        events that were `rendered`. Returns the files. `link`: the only part is whole and about to be removed, so that
        its files need not be copied.
        """
        bodies = [body for part in parts for body in part.metadata()]
        folder, events = self.path / "metadata", self.path / "events.jsonl"
        with suppress(FileExistsError):
            folder.mkdir(mode=FOLDER_MODE)
        gathered = [folder / f"{number:04d}.xml" for number in range(1, len(bodies) + 1)]
        for body, name in zip(bodies, gathered, strict=True):
            if not (link and _linked(body, name)):
                replace_file(name, body.read_bytes())
        if rendered or not (link and _linked(parts[0].path / "events.jsonl", events)):
            found = [*(event for part in parts for event in part.events()), *rendered]
            replace_file(events, _lines(sorted(found, key=lambda event: str(event.get("at", "")))))
        return [events, *gathered]

    def _fence(self) -> int:
        """The fence recording.json holds, 0 when it tells none."""
        try:
            fence: object = self.read().fence
        except ArchiveError:
            return 0
        return fence if isinstance(fence, int) else 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def walk(root: Path) -> Iterator[RecordingFolder]:
    """All recordings below `root`, oldest first."""
    for day in sorted(root.glob("[0-9][0-9][0-9][0-9]/[0-9][0-9]/[0-9][0-9]")):
        for path in sorted(day.iterdir()):
            if SESSION_ID.fullmatch(path.name) and path.is_dir():
                yield RecordingFolder(path)


def find(root: Path, wanted: str) -> RecordingFolder:
    """The one recording whose id begins or ends with `wanted`.

    Raises ArchiveError when there is none, or more than one.
    """
    matching = [each for each in walk(root) if each.session_id.startswith(wanted) or each.session_id.endswith(wanted)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise ArchiveError(f"no recording's id begins or ends with {wanted!r} in {root}")
    raise ArchiveError(f"{len(matching)} recordings match {wanted!r}: give more of the id")
