"""SRTP of captured streams: packets are opened in the arena, in place, before anything else looks at them.

What is opened shrinks by its authentication tag, so slots of one stream stay equally long and are copied as before.
Only packets from where the stream's may come from are tried: a stranger cannot make us compute. One that does not
prove right is counted and never more than that (SECURITY A17).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from siprec.errors import SrtpError
from siprec.media.arena import HEADROOM, STRIDE, Arena
from siprec.rtp.packets import is_rtcp
from siprec.rtp.srtp import Inbound, Outbound

if TYPE_CHECKING:
    from siprec.media.streams import StreamTable

FORGED, REPLAYED = 1, 2
"""Why a packet could not be opened."""

KEYS_KEPT = 2
"""The key in force and the one before it: packets sent before the peer saw our answer are still on their way."""


@dataclass(frozen=True, slots=True)
class SrtpTerms:
    """What SDP agreed: the suite, master key and salt of the peer's packets and of ours, and the length of the key
    identifier in the peer's. Keys are kept out of `repr`."""

    suite: str
    theirs: bytes = field(repr=False)
    ours: bytes = field(repr=False)
    mki_bytes: int = 0


class Secure:
    """The SRTP of one stream; nothing while it has no terms."""

    __slots__ = ("_inbound", "_outbound", "_terms")

    def __init__(self) -> None:
        self._terms: SrtpTerms | None = None
        self._inbound: list[Inbound] = []  # the newest first
        self._outbound: Outbound | None = None

    @property
    def active(self) -> bool:
        return self._terms is not None

    def renew(self, terms: SrtpTerms | None) -> None:
        """Follow a new SDP. A key that stays keeps its roll-over counter and its replay window."""
        old, self._terms = self._terms, terms
        if terms is None:
            self._inbound, self._outbound = [], None
            return
        if old is None or (old.suite, old.theirs, old.mki_bytes) != (terms.suite, terms.theirs, terms.mki_bytes):
            newest = Inbound(terms.suite, terms.theirs, mki_bytes=terms.mki_bytes)
            self._inbound = [newest, *self._inbound][:KEYS_KEPT]
        if old is None or (old.suite, old.ours) != (terms.suite, terms.ours):
            self._outbound = Outbound(terms.suite, terms.ours)

    def open(self, packet: bytes, *, rtcp: bool, now_ns: int) -> bytes:
        """What is in a packet of the peer. The old key is over once the new one is in use. Raises SrtpError."""
        newest, *older = self._inbound
        try:
            clear = newest.rtcp(packet) if rtcp else newest.rtp(packet, now_ns=now_ns)
        except SrtpError:
            for each in older:
                return each.rtcp(packet) if rtcp else each.rtp(packet, now_ns=now_ns)
            raise
        if older:
            self._inbound = [newest]
        return clear

    def close(self, report: bytes) -> bytes:
        """RTCP of ours as it goes out."""
        return self._outbound.rtcp(report) if self._outbound is not None else report


def open_all(
    arena: Arena, table: StreamTable, *, stream: NDArray[np.int64], rtcp: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Open the SRTP among the first slots, given the stream of each; FORGED or REPLAYED for what cannot be, else 0."""
    count = len(stream)
    faults = np.zeros(count, np.int8)
    heads = arena.rows[:count, HEADROOM : HEADROOM + 2]
    wanted = table.secure[stream] & ~arena.truncated[:count] & (heads[:, 0] >> 6 == 2)
    rows = np.flatnonzero(wanted)
    rows = rows[_near(arena, table, stream, rows)]
    control = rtcp[rows] | (table.mux[stream[rows]] & is_rtcp(heads[rows, 1]))
    flat = arena.flat.data
    begins = (rows * STRIDE + HEADROOM).tolist()
    columns = (rows, stream[rows], control, arena.length[rows], arena.time_ns[rows])
    for begin, row, index, kind, length, now_ns in zip(begins, *(each.tolist() for each in columns), strict=True):
        owner = table.streams[index]
        assert owner is not None
        try:
            clear = owner.secure.open(bytes(flat[begin : begin + length]), rtcp=kind, now_ns=now_ns)
        except SrtpError as error:
            faults[row] = REPLAYED if error.replay else FORGED
        else:
            flat[begin : begin + len(clear)] = clear
            arena.length[row] = len(clear)
    return faults


def _near(arena: Arena, table: StreamTable, stream: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `rows` come from an address that their stream may come from."""
    high, low, _ = arena.sources(len(stream))
    high, low, index = high[rows], low[rows], stream[rows]
    near: NDArray[np.bool_] = (low == table.low[index]) & (high == table.high[index])
    near |= (low == table.rtcp_low[index]) & (high == table.rtcp_high[index])
    near |= table.open[index]
    return near
