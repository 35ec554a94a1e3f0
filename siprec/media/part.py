"""One part of a recording: what one process captured, and all that rendering must know to read it.

A part is a folder with capture files and `part.json`. The process that captures writes `part.json` anew
(atomically) whenever what it says changes, so that after a crash the file still tells how to read the
packets before it. Times are CLOCK_REALTIME nanoseconds, as the kernel stamps packets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

SCHEMA = "siprec.part/1"

MAX_NUMBER = 2**63 - 1
"""Times are nanoseconds, which rendering keeps in 64-bit integers."""

_T = TypeVar("_T")

Mode = Literal["active", "hold", "metadata-hold", "paused", "closed"]
"""What a stream should be doing: sending; held by SDP; held as the metadata alone tells, while SDP lets it send, so
that what comes is to be heard; paused by the SRC; removed from the session."""

HEARD: frozenset[Mode] = frozenset({"active", "metadata-hold"})
"""Modes in which RTP that comes is rendered."""

Cause = Literal["kernel_drop", "disk", "backlog", "interrupted"]
"""Why a capture may miss something."""


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
    cause: Cause
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
    lines = (f'"{each.name}": {_encode(getattr(part, each.name))}' for each in fields(part))
    return ("{\n " + ",\n ".join(lines) + "\n}\n").encode()


_encode = json.JSONEncoder(default=lambda entry: {each: getattr(entry, each) for each in entry.__slots__}).encode


def load(data: bytes) -> Part:
    """The inverse of `dump`. Raises ValueError, KeyError or TypeError when `data` is no part of this schema.

    Every value is checked, since what a disk gives back after a crash need not be what was written.
    """
    try:
        raw = json.loads(data)
    except RecursionError:
        raise ValueError("nested too deep") from None
    part: Part = _read(Part, raw)
    if part.schema != SCHEMA:
        raise ValueError(f"not {SCHEMA}")
    return part


def _read(kind: Any, raw: Any) -> Any:
    """What JSON gave as `raw`, as a value of type `kind`."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = _hints(kind)
        return kind(**{name: _read(hints[name], value) for name, value in _typed(dict, raw).items()})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        if raw not in inner:
            raise ValueError("a word that is not known")
        return raw
    if origin is UnionType:  # X | None
        return None if raw is None else _read(inner[0], raw)
    if origin is list:
        return [_read(inner[0], each) for each in _typed(list, raw)]
    if origin is tuple:
        kinds = [inner[0]] * len(_typed(list, raw)) if inner[-1] is Ellipsis else inner
        return tuple(_read(each, value) for each, value in zip(kinds, _typed(list, raw), strict=True))
    if _typed(kind, raw).__class__ is int and abs(raw) > MAX_NUMBER:
        raise ValueError("a number beyond 63 bits")
    return raw


def _typed(kind: type[_T], raw: Any) -> _T:
    if type(raw) is not kind:
        raise TypeError(f"{kind.__name__} was expected")
    return raw


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
