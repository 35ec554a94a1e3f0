"""recording.json: everything one would ask about a recording, in one file (schema siprec.recording/1)."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

SCHEMA = "siprec.recording/1"

HeardEntry = TypedDict("HeardEntry", {"participant_id": str, "name": str | None, "from": str, "until": str | None})
"""A time in which somebody was heard in a channel, as the metadata tells; `until` is null where it tells no end."""


@dataclass(slots=True)
class ChannelEntry:
    """One channel of the audio file. `participant`: who is heard in it, or was last. `participants`: all who ever were,
    by time, each as often as they began to be. `remote`: address and port the SRC announced for the stream. `sent`:
    packets that the SRC says it has sent (RTCP sender reports); null when it said nothing. `keys`: telephone events
    (DTMF), each of which is a line of events.jsonl."""

    index: int
    label: str | None = None
    stream_id: str | None = None
    participant: str | None = None
    participants: list[HeardEntry] = field(default_factory=list)
    codec: str | None = None
    remote: str | None = None
    ssrcs: list[int] = field(default_factory=list)
    keys: int = 0
    packets: int = 0
    sent: int | None = None
    lost: int = 0
    duplicate: int = 0
    reordered: int = 0
    jitter_ms: float = 0.0
    drift_ppm: float = 0.0


@dataclass(slots=True)
class ParticipantEntry:
    """Someone in the call; `joined` and `left` hold an entry for each interval."""

    participant_id: str
    aor: str | None = None
    name: str | None = None
    joined: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


@dataclass(slots=True)
class SessionEntry:
    """A communication session that was recorded (RFC 7865 section 6.3)."""

    session_id: str
    sip_session_ids: list[str] = field(default_factory=list)
    group_id: str | None = None


@dataclass(slots=True)
class GapEntry:
    """Silence in one channel that the call did not make itself; seconds from the start of the file."""

    channel: int
    start: float
    length: float
    cause: str


@dataclass(slots=True)
class RecoveryEntry:
    """How the session went on after a failure."""

    time: str
    how: str
    from_node: str | None = None
    to_node: str | None = None
    gap_ms: int | None = None


@dataclass(slots=True)
class RefusedEntry:
    """Packets that were not written, and where they came from."""

    channel: int
    reason: str
    source: str
    packets: int


@dataclass(slots=True)
class FileEntry:
    """A file of the recording as it was when rendering ended."""

    name: str
    bytes: int
    sha256: str


@dataclass(slots=True)
class Manifest:
    """The content of recording.json. Times are RFC 3339 in UTC, durations seconds."""

    id: str
    state: str
    node: str
    fence: int
    source: str
    call_id: str
    verdict: str | None = None
    verdict_reason: str | None = None
    started_at: str | None = None
    ended_at: str | None = None
    duration: float | None = None
    dialogs: list[dict[str, Any]] = field(default_factory=list)
    sessions: list[SessionEntry] = field(default_factory=list)
    participants: list[ParticipantEntry] = field(default_factory=list)
    channels: list[ChannelEntry] = field(default_factory=list)
    gaps: list[GapEntry] = field(default_factory=list)
    recoveries: list[RecoveryEntry] = field(default_factory=list)
    external_ids: dict[str, str] = field(default_factory=dict)
    extensions: list[str] = field(default_factory=list)
    metadata_errors: list[str] = field(default_factory=list)
    refused: list[RefusedEntry] = field(default_factory=list)
    continues: str | None = None
    replica_of: str | None = None
    merged_into: str | None = None
    unjournaled: bool = False
    files: list[FileEntry] = field(default_factory=list)
    schema: str = SCHEMA

    def dump(self) -> bytes:
        """One line for each key: what a person can still read and what costs little while calls are live."""
        lines = (f'"{each}": {_text(getattr(self, each))}' for each in _NAMES)
        return ("{\n " + ",\n ".join(lines) + "\n}\n").encode("utf-8", "replace")

    @classmethod
    def load(cls, data: bytes) -> Manifest:
        """The inverse of `dump`. Raises ValueError, KeyError or TypeError when `data` is no recording.json of ours."""
        try:
            return cls._of(json.loads(data))
        except (AttributeError, RecursionError) as error:
            raise ValueError("recording.json is not of the right shape") from error

    @classmethod
    def _of(cls, raw: Any) -> Manifest:
        if raw["schema"] != SCHEMA:
            raise ValueError(f"schema is not {SCHEMA}")
        for name, entry in _ENTRIES.items():
            raw[name] = [entry(**_known(entry, each)) for each in raw[name]]
        return cls(**_known(cls, raw))

    @property
    def title(self) -> str:
        """`Alice -> Bob`, or where the call came from when nobody is named."""
        names = [each.name or each.aor or each.participant_id for each in self.participants]
        return " -> ".join(names) or self.source


def _known(entry: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """What this version knows of what a later one may have written."""
    return {key: value for key, value in raw.items() if key in entry.__slots__}


_NAMES = tuple(each.name for each in fields(Manifest))
_encode = json.JSONEncoder(
    ensure_ascii=False, default=lambda entry: {each: getattr(entry, each) for each in entry.__slots__}
).encode


def _text(value: Any) -> str:
    """The JSON of a value. Most keys of a call hold nothing, and an encoder costs more to start than to run."""
    if value is None:
        return "null"
    return "[]" if value == [] else _encode(value)


_ENTRIES: dict[str, Any] = {
    "sessions": SessionEntry,
    "participants": ParticipantEntry,
    "channels": ChannelEntry,
    "gaps": GapEntry,
    "recoveries": RecoveryEntry,
    "refused": RefusedEntry,
    "files": FileEntry,
}


SMALL_BYTES = 256 * 1024
"""Of a file that is read at once."""


def file_entry(path: Path, root: Path) -> FileEntry:
    """Size and SHA-256 of `path`, named relative to `root`. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # file_digest clears a buffer of 256 KiB first, whatever the size
        small = size <= SMALL_BYTES
        digest = hashlib.sha256(file.read()) if small else hashlib.file_digest(file, "sha256")
    return FileEntry(str(path).removeprefix(f"{root}/"), size, digest.hexdigest())


def verify(manifest: Manifest, root: Path) -> list[str]:
    """What is wrong with the files of a recording, a sentence each; [] when all match their SHA-256."""
    wrong = []
    for entry in manifest.files:
        path = root / entry.name
        if not path.is_file():
            wrong.append(f"{entry.name} is missing")
        elif file_entry(path, root).sha256 != entry.sha256:
            wrong.append(f"{entry.name} was changed")
    return wrong
