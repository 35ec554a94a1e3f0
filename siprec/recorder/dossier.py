"""The paper side of one call: its folder, this process's part, the events and bodies written into them.

All methods run in the files thread, never on the event loop: a slow disk delays one call's answer, not the
others' signalling.
"""

from __future__ import annotations

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
    def create(cls, root: Path, session_id: str, *, fence: int, node: str) -> Dossier:
        """Make the folders of a new session. Raises OSError, ArchiveError."""
        folder = RecordingFolder.create(root, session_id)
        return cls(folder, folder.create_part(fence, node))

    def write(self, manifest: Manifest, part: Part) -> None:
        """Bring recording.json and part.json up to date. Raises OSError, NotOwner."""
        self.part.write_control(media_part.dump(part))
        self.folder.write(manifest)

    def keep_body(self, body: bytes) -> str:
        """Keep an rs-metadata body as received; returns its name. Raises OSError."""
        self._bodies += 1
        self.part.add_metadata(self._bodies, body)
        return f"metadata/{self._bodies:04d}.xml"

    def discard(self) -> None:
        """Remove the folder of a session that was never answered: there is nothing to hear in it."""
        for path in sorted(self.folder.path.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        self.folder.path.rmdir()
