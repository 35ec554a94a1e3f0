"""One part of a recording: what one process captured, and all that rendering must know to read it.

A part is a folder with capture files and `part.json`. The process that captures writes `part.json` anew
(atomically) whenever what it says changes, so that after a crash the file still tells how to read the
packets before it. Times are CLOCK_REALTIME nanoseconds, as the kernel stamps packets.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

SCHEMA = "siprec.part/1"

Mode = Literal["active", "hold", "paused", "closed"]
"""What a stream should be doing: sending; held by the call; paused by the SRC; removed from the session."""


@dataclass(frozen=True, slots=True)
class PayloadFormat:
    """What one RTP payload type means on a stream (a=rtpmap and a=fmtp, RFC 8866 section 6)."""

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1
    fmtp: str = ""


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of a stream's life, from `since_ns` to the next phase of the same stream."""

    since_ns: int
    mode: Mode
    formats: tuple[PayloadFormat, ...] = ()


@dataclass(slots=True)
class PartStream:
    """One channel of the recording as this part received it: RTP on `port`, RTCP on `rtcp_port`.

    A channel may have several entries in one part, when it moved to another port.
    """

    channel: int
    label: str | None
    port: int
    rtcp_port: int
    phases: list[Phase] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outage:
    """A time for which audio may be missing for a cause known to the capture itself."""

    start_ns: int
    end_ns: int
    cause: Literal["kernel_drop", "disk", "backlog", "interrupted"]
    channel: int | None = None  # None: all channels
    packets: int = 0


@dataclass(slots=True)
class Part:
    """The content of `part.json`.

    `started_ns`: from when on this part answers for the time line (for a call's first part: the 200 OK).
    `ended_ns`: None while live, and for ever when the process died.
    `clock`: pairs (monotonic ns, realtime minus monotonic ns), a new pair at each change by over 50 ms, with
    which a stepped wall clock is undone.
    """

    session_id: str
    node: str
    fence: int
    started_ns: int
    ended_ns: int | None = None
    streams: list[PartStream] = field(default_factory=list)
    outages: list[Outage] = field(default_factory=list)
    clock: list[tuple[int, int]] = field(default_factory=list)
    decrypted: bool = False
    schema: str = SCHEMA


def dump(part: Part) -> bytes:
    """`part` as the bytes of `part.json`."""
    return json.dumps(asdict(part), indent=1).encode() + b"\n"


def load(data: bytes) -> Part:
    """The inverse of `dump`. Raises ValueError, KeyError or TypeError when `data` is no part of this schema."""
    raw: dict[str, Any] = json.loads(data)
    if raw["schema"] != SCHEMA:
        raise ValueError(f"not {SCHEMA}")
    streams = [PartStream(**{**each, "phases": [_phase(phase) for phase in each["phases"]]}) for each in raw["streams"]]
    outages = [Outage(**each) for each in raw["outages"]]
    clock = [(int(at), int(offset)) for at, offset in raw["clock"]]
    return Part(**{**raw, "streams": streams, "outages": outages, "clock": clock})


def _phase(raw: dict[str, Any]) -> Phase:
    return Phase(**{**raw, "formats": tuple(PayloadFormat(**each) for each in raw["formats"])})
