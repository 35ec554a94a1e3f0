"""RTP packets (RFC 3550 section 5.1) read in batches: arrays in, arrays out, never an object per packet.

A batch is one buffer with many packets in it, told apart by `offset` and `length`. Whatever the bytes are,
nothing is raised: a packet that is no RTP is marked in `valid` and all its other fields are zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FIXED_HEADER = 12
"""Bytes of an RTP header without contributing sources and extension (RFC 3550 section 5.1)."""

RTCP_FIRST, RTCP_LAST = 192, 223
"""Second bytes that mean RTCP, not RTP, when both come to one port (RFC 5761 section 4)."""

_PLAIN = 0x80  # version 2, no padding, no extension, no contributing source: nearly every packet there is
_PADDING, _EXTENSION, _CSRC_COUNT = 0x20, 0x10, 0x0F
_HEAD = struct.Struct(">BBHII")


@dataclass(frozen=True, slots=True)
class Packets:
    """The headers of a batch; every array has one element per packet, in the order given.

    `payload_offset` counts from the start of the buffer, `payload_length` is without padding; both are int64.
    """

    valid: NDArray[np.bool_]
    marker: NDArray[np.bool_]
    payload_type: NDArray[np.uint8]
    sequence: NDArray[np.uint16]
    timestamp: NDArray[np.uint32]
    ssrc: NDArray[np.uint32]
    payload_offset: NDArray[np.int64]
    payload_length: NDArray[np.int64]


def parse(data: NDArray[np.uint8], offset: NDArray[np.int64], length: NDArray[np.int64]) -> Packets:
    """The headers of the packets at `offset` in `data`, `length` bytes each.

    `offset + length` must stay inside `data`; that is the caller's promise, not the network's.
    """
    long_enough = length >= FIXED_HEADER
    if not long_enough.all():
        offset = np.where(long_enough, offset, 0)
    if data.size < FIXED_HEADER:
        return parse_heads(np.zeros((len(offset), FIXED_HEADER), np.uint8), data, offset, length)
    return parse_heads(sliding_window_view(data, FIXED_HEADER)[offset], data, offset, length)


def parse_heads(
    heads: NDArray[np.uint8], data: NDArray[np.uint8], offset: NDArray[np.int64], length: NDArray[np.int64]
) -> Packets:
    """As `parse`, for a caller who has the first 12 bytes of all packets as a C-ordered (n, 12) matrix already."""
    first, second = heads[:, 0], heads[:, 1]
    words = heads.view(">u4")
    valid = (length >= FIXED_HEADER) & (first >> 6 == 2) & ~is_rtcp(second)
    header = np.full(len(heads), FIXED_HEADER, np.int64)
    padding = np.zeros(len(heads), np.int64)
    if (odd := np.flatnonzero(valid & (first != _PLAIN))).size:
        header[odd], padding[odd], valid[odd] = _variable(first[odd], data, offset[odd], length[odd])
    payload_length = length - header - padding
    if not valid.all():
        payload_length = np.where(valid, payload_length, 0)
    return Packets(
        valid=valid,
        marker=valid & (second >= 0x80),
        payload_type=np.where(valid, second & 0x7F, 0).astype(np.uint8),
        sequence=np.where(valid, heads.view(">u2")[:, 1], 0).astype(np.uint16),
        timestamp=np.where(valid, words[:, 1], 0).astype(np.uint32),
        ssrc=np.where(valid, words[:, 2], 0).astype(np.uint32),
        payload_offset=np.where(valid, offset + header, 0),
        payload_length=payload_length,
    )


def is_rtcp(second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a packet with this second byte is RTCP (RFC 5761 section 4)."""
    return (second >= RTCP_FIRST) & (second <= RTCP_LAST)


def _variable(
    first: NDArray[np.uint8], data: NDArray[np.uint8], offset: NDArray[np.int64], length: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Header length, padding and validity of packets that have sources, an extension or padding.

    All packets here are at least `FIXED_HEADER` long. Positions that would lie outside the packet are read
    at its first byte instead and the packet is marked invalid, so nothing outside is ever looked at.
    """
    header = FIXED_HEADER + 4 * (first & _CSRC_COUNT).astype(np.int64)
    extended = first & _EXTENSION != 0
    fits = header + 4 * extended <= length
    at = offset + np.where(fits & extended, header + 2, 0)
    words = data[at].astype(np.int64) << 8 | data[at + 1]
    header = header + np.where(extended & fits, 4 + 4 * words, 0)
    padded = first & _PADDING != 0
    padding = np.where(padded, data[offset + length - 1], 0).astype(np.int64)
    fits &= (header + padding <= length) & (~padded | (padding > 0))
    return np.where(fits, header, FIXED_HEADER), np.where(fits, padding, 0), fits


def build(
    payload_type: int, sequence: int, *, timestamp: int, ssrc: int, payload: bytes, marker: bool = False
) -> bytes:
    """One RTP packet; the numbers are taken modulo the width of their field."""
    second = (payload_type & 0x7F) | (0x80 if marker else 0)
    return _HEAD.pack(_PLAIN, second, sequence & 0xFFFF, timestamp & 0xFFFFFFFF, ssrc & 0xFFFFFFFF) + payload
