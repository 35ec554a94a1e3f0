"""The paper side of one call: its folder, this process's part, the events and bodies written into them.

All methods run in the files thread, never on the event loop: a slow disk delays one call's answer, not the
others' signalling.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from siprec.archive.folder import PartFolder, RecordingFolder
from siprec.archive.manifest import Manifest
from siprec.media import part as media_part
from siprec.media.part import Part


def timestamp(at_ns: int) -> str:
    """CLOCK_REALTIME nanoseconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(at_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Dossier:
    """The files of one live recording."""

    def __init__(self, folder: RecordingFolder, part: PartFolder) -> None:
        self.folder = folder
        self.part = part
        self._bodies = 0

    @classmethod
    def create(cls, root: Path, manifest: Manifest, *, fence: int, node: str) -> Dossier:
        """Make the folders of a new session. Raises OSError, ArchiveError."""
        folder = RecordingFolder.create(root, manifest.id, manifest)
        return cls(folder, folder.create_part(fence, node))

    @classmethod
    def carry_on(cls, folder: RecordingFolder, *, fence: int, node: str) -> Dossier:
        """Make a further part in the folder of a session. Raises OSError."""
        folder.path.mkdir(parents=True, exist_ok=True)  # another node's session may be new to this disk
        (folder.path / "parts").mkdir(exist_ok=True)
        return cls(folder, folder.create_part(fence, node))

    def write_part(self, part: Part) -> None:
        """Bring part.json up to date. Raises OSError."""
        self.part.write_control(media_part.dump(part))

    def write(self, manifest: Manifest, part: Part) -> None:
        """Bring recording.json and part.json up to date. Raises OSError, NotOwner."""
        self.write_part(part)
        self.folder.write(manifest)

    def keep_body(self, body: bytes) -> str:
        """Keep an rs-metadata body as received; returns its name. Raises OSError."""
        self._bodies += 1
        self.part.add_metadata(self._bodies, body)
        return f"metadata/{self._bodies:04d}.xml"

    def discard(self) -> None:
        """Remove this part, and the folder when it was the only one. Raises OSError."""
        only = len(self.folder.parts()) == 1
        shutil.rmtree(self.folder.path if only else self.part.path)
