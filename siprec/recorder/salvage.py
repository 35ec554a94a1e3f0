"""At start: find what an earlier process of this node left unfinished.

Only folders whose newest part is this node's, be it under an earlier name, that no living process still writes, and
that are not finished. Other nodes' folders are left alone.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator
from pathlib import Path

from siprec.archive.folder import RecordingFolder, walk
from siprec.errors import ArchiveError

_FINISHED = frozenset({"ended", "failed"})


def leftovers(root: Path, nodes: Collection[str], *, live: Container[str] = ()) -> Iterator[RecordingFolder]:
    """Unfinished recordings of `nodes` below `root`, oldest first; `live` are ids that this process carries."""
    for folder in walk(root):
        parts = folder.parts()
        if not parts or parts[-1].node not in nodes or folder.session_id in live:
            continue
        if _state(folder) not in _FINISHED and not any(part.held_elsewhere() for part in parts):
            yield folder


def _state(folder: RecordingFolder) -> str:
    """The state recording.json tells; a missing or broken one is the most unfinished of all."""
    try:
        return folder.read().state
    except ArchiveError:
        return "lost"
