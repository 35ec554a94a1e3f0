"""The ways to empty sockets, from the fastest, and which of them this machine can go (RTP_RECEIVE)."""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

from siprec.errors import ConfigurationError
from siprec.media.arena import Arena
from siprec.media.receive import BatchReceiver, Receiver, SingleReceiver
from siprec.media.rooms import Rooms
from siprec.media.streams import StreamTable
from siprec.media.writer import Appender, append

Tier = Literal["native", "batch", "single"]
Choice = Literal["auto", "native", "batch", "single"]

_BY_HAND = sys.platform == "linux" and sys.byteorder == "little" and struct.calcsize("P") == 8
"""Whether C structures lie in memory as `BatchReceiver` writes them."""


def available() -> tuple[Tier, ...]:
    """What this machine can run, the fastest first."""
    native: tuple[Tier, ...] = ("native",) if _BY_HAND and find_spec("siprec.media._native") else ()
    return (*native, "batch", "single") if _BY_HAND else ("single",)


def choose(wanted: Choice) -> Tier:
    """The fastest tier, or the one `wanted`. Raises ConfigurationError when it cannot run here."""
    tiers = available()
    if wanted == "auto":
        return tiers[0]
    if wanted not in tiers:
        how = "build the C extension (pip install with gcc)" if wanted == "native" else "it needs 64-bit Linux"
        raise ConfigurationError([f"RTP_RECEIVE: {wanted} cannot run here: {how}"])
    return wanted


def receiver(tier: Tier, arena: Arena, *, table: StreamTable, rooms: Rooms) -> Receiver:
    """What empties sockets into `arena` by `tier`; what is finished at once, into `rooms`."""
    return _MAKERS[tier](arena, table, rooms)


def appender(tier: Tier) -> Appender:
    """What appends records to files by `tier`."""
    if tier != "native":
        return append
    from siprec.media import _native

    return _native.append


def _native(arena: Arena, table: StreamTable, rooms: Rooms) -> Receiver:
    from siprec.media.native import NativeReceiver  # only where it was built

    return NativeReceiver(arena, table, rooms)


_MAKERS: dict[Tier, Callable[[Arena, StreamTable, Rooms], Receiver]] = {
    "native": _native,
    "batch": lambda arena, *_: BatchReceiver(arena),
    "single": lambda arena, *_: SingleReceiver(arena),
}
