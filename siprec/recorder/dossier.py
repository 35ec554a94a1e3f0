"""The paper side of one call: its folder, this process's part, the events and bodies written into them.

All methods run in the files thread, never on the event loop: a slow disk delays one call's answer, not the
others' signalling.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from siprec.archive.folder import NOBODYS, PartFolder, RecordingFolder, mark_of
from siprec.archive.manifest import Manifest
from siprec.media import part as media_part
from siprec.media.capture import SessionCapture
from siprec.media.part import Part

ANSWER_REFUSED = "answer-refused"
"""The event that tells why we could not take the answer to an offer of ours."""


def timestamp(at_ns: int) -> str:
    """CLOCK_REALTIME nanoseconds as RFC 3339 in UTC, to the millisecond."""
    seconds, rest_ns = divmod(at_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest_ns // 1_000_000:03d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """A call tells of some twenty times, nearly all of them within a second or two."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").removesuffix("+00:00")


@dataclass(slots=True)
class Papers:
    """What waits to be written: lines for events.jsonl, and rs-metadata bodies as received, with their numbers."""

    notes: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[tuple[int, bytes]] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.notes or self.bodies)


class Dossier:
    """The files of one live recording: one part of it, which is not there before `make` or `begin`."""

    __slots__ = ("_mark", "_new", "_part", "_written", "folder")

    def __init__(self, folder: RecordingFolder) -> None:
        self.folder = folder
        self._part: PartFolder | None = None
        self._new = False
        self._mark = NOBODYS
        self._written: dict[str, int] = {}  # hashes of what was written last

    @property
    def part(self) -> PartFolder:
        assert self._part is not None, "asked for only once it is made"
        return self._part

    def make(self, fence: int, node: str) -> None:
        """Make a further part in the folder of a session. Raises OSError."""
        try:
            self._part = self.folder.create_part(fence, node)
        except FileNotFoundError:  # another node's session may be new to this disk
            (self.folder.path / "parts").mkdir(parents=True, exist_ok=True)
            self._part = self.folder.create_part(fence, node)

    def begin(
        self, papers: Papers, part: Part, manifest: Manifest, *, new: bool, capture: Callable[[Path], SessionCapture]
    ) -> SessionCapture:
        """Make the part, if `new` in a folder of its own, and all that is to be in it at first: one job, since each
        waits for a thread. `capture` begins the capture in the part's folder. Raises OSError, ArchiveError, NotOwner.
        """
        if new:
            self.folder.make(told := manifest.dump())
            self._new = True
            self._mark, self._written["manifest"] = mark_of(self.folder.manifest_path), hash(told)
        self.make(part.fence, part.node)
        begun = capture(self.part.path)
        try:
            self.write(papers, part, None if new else manifest)
        except BaseException:
            begun.close()
            raise
        return begun

    def write(self, papers: Papers, part: Part, manifest: Manifest | None = None) -> None:
        """Write what is new: bodies, events, part.json, and recording.json if `manifest` is given; the last two only
        if they changed. Raises OSError, NotOwner.
        """
        while papers.bodies:
            self.part.add_metadata(*papers.bodies[0])
            del papers.bodies[0]  # should the next not fit on the disk, this one is not written again
        if self._is_new("part", control := media_part.dump(part)):
            self.part.write_control(control, new="part" not in self._written)
            self._written["part"] = hash(control)
        if manifest is not None and self._is_new("manifest", told := manifest.dump()):
            self._mark = self.folder.write_after(manifest, self._mark, told)
            self._written["manifest"] = hash(told)
        if papers.notes:
            self.part.append_events(papers.notes)

    def _is_new(self, name: str, data: bytes) -> bool:
        return self._written.get(name) != hash(data)

    def undo(self) -> None:
        """Remove this part alone, to be made again. Raises OSError."""
        if self._part is not None:
            shutil.rmtree(self._part.path)
            self._part = None

    def discard(self) -> None:
        """Remove this part, and the folder when it was the only one. Raises OSError."""
        if self._new or (self._part is not None and len(self.folder.parts()) == 1):
            shutil.rmtree(self.folder.path)
        elif self._part is not None:
            shutil.rmtree(self._part.path)
