"""Turns an arena full of datagrams into capture records: headers for all of them at once, then one buffer.

Offsets below count from the start of a slot. A datagram lies at 64; in front of it end the headers, which for
IPv4 begin at 20 (so that every field keeps its alignment) and for IPv6 at 0:

             record header   IP header   UDP header
    IPv4     20 to 36        36 to 56    56 to 64
    IPv6      0 to 16        16 to 56    56 to 64
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from siprec.media.arena import HEADROOM, STRIDE, Arena
from siprec.media.pcap import IPV4_HEADERS, IPV6_HEADERS, RECORD_HEADER
from siprec.media.streams import StreamTable

START = HEADROOM - RECORD_HEADER - IPV4_HEADERS
"""Where an IPv4 record begins in its slot; an IPv6 record begins at 0."""

RUN = 4
"""Mean length of runs of equal records from which copying run by run beats copying row by row."""

_NS = 1_000_000_000


def lay(arena: Arena, table: StreamTable, kind: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Write the headers of the first `len(kind)` slots; `kind` is 2 x stream, plus 1 for RTCP.

    Gives back which of them are IPv6.
    """
    count = len(kind)
    arena.rows[:count, :HEADROOM] = table.templates[kind]
    arena.halves[:count, 28] = arena.names.view(">u2")[:count, 1]
    arena.halves[:count, 30] = arena.length[:count] + 8
    six: NDArray[np.bool_] = table.six[kind >> 1]
    if not six.any():
        _lay_ipv4(arena, table.sums[kind], slice(0, count))
    else:
        four = np.flatnonzero(~six)
        _lay_ipv4(arena, table.sums[kind[four]], four)
        _lay_ipv6(arena, table.sums[kind], np.flatnonzero(six))
    return six


def _lay_ipv4(arena: Arena, sums: NDArray[np.uint32], rows: slice | NDArray[np.int64]) -> None:
    size = arena.length[rows] + IPV4_HEADERS
    _record_headers(arena, rows, size, first_word=START // 4)
    source = arena.names.view(">u4")[rows, 1]
    arena.halves[rows, 19] = size
    arena.rows.view(">u4")[rows, 12] = source
    total = sums + size + (source >> 16) + (source & 0xFFFF)
    arena.halves[rows, 23] = ~_folded(total) & 0xFFFF


def _lay_ipv6(arena: Arena, sums: NDArray[np.uint32], rows: NDArray[np.int64]) -> None:
    length = arena.length[rows]
    _record_headers(arena, rows, length + IPV6_HEADERS, first_word=0)
    arena.halves[rows, 10] = length + 8
    arena.rows[rows, 24:40] = arena.names[rows, 8:24]
    total = sums[rows] + 2 * (length + 8) + arena.names.view(">u2")[rows, 1]
    total += arena.names.view(">u2")[rows, 4:12].sum(axis=1, dtype=np.int64)
    for size in np.unique(length):  # UDP over IPv6 must carry a checksum, and that is over the datagram too
        alike = np.flatnonzero(length == size)
        datagrams = arena.rows[rows[alike], HEADROOM : HEADROOM + size + size % 2]
        if size % 2:
            datagrams[:, -1] = 0
        total[alike] += np.ascontiguousarray(datagrams).view(">u2").sum(axis=1, dtype=np.int64)
    checksum = ~_folded(total) & 0xFFFF
    arena.halves[rows, 31] = np.where(checksum == 0, 0xFFFF, checksum)


def _record_headers(arena: Arena, rows: slice | NDArray[np.int64], size: NDArray[np.int64], *, first_word: int) -> None:
    seconds, rest = np.divmod(arena.time_ns[rows], _NS)
    for column, values in enumerate((seconds, rest, size, size), first_word):
        arena.words[rows, column] = values


def _folded(total: NDArray[np.int64]) -> NDArray[np.int64]:
    """The sum of 16-bit words with its carries added in (RFC 1071)."""
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


def compact(
    arena: Arena, six: NDArray[np.bool_], keep: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The records of the slots to `keep`, one after the other, and where each slot's record ends in there.

    The second array has one element more than there are slots, and begins with 0.
    """
    size = np.where(six, RECORD_HEADER + IPV6_HEADERS, RECORD_HEADER + IPV4_HEADERS) + arena.length[: len(six)]
    begin = np.where(six, 0, START)
    ends = np.zeros(len(six) + 1, np.int64)
    np.cumsum(np.where(keep, size, 0), out=ends[1:])
    kept = np.flatnonzero(keep)
    if not kept.size:
        return np.zeros(0, np.uint8), ends
    size, begin = size[kept], begin[kept]
    breaks = np.flatnonzero((np.diff(kept) != 1) | (np.diff(size) != 0) | (np.diff(begin) != 0)) + 1
    if (breaks.size + 1) * RUN > kept.size:
        return _row_by_row(arena, kept, begin, size), ends
    data = np.empty(int(ends[-1]), np.uint8)
    at = 0
    edges = [0, *breaks.tolist(), kept.size]
    for first, last in pairwise(edges):
        row, width, start = int(kept[first]), int(size[first]), int(begin[first])
        rows = last - first
        run = data[at : at + rows * width].reshape(rows, width)
        run[...] = arena.rows[row : row + rows, start : start + width]
        at += rows * width
    return data, ends


def _row_by_row(
    arena: Arena, kept: NDArray[np.int64], begin: NDArray[np.int64], size: NDArray[np.int64]
) -> NDArray[np.uint8]:
    flat = arena.flat.data
    first = kept * STRIDE + begin
    records = [flat[a:b] for a, b in zip(first.tolist(), (first + size).tolist(), strict=True)]
    return np.frombuffer(b"".join(records), np.uint8)
