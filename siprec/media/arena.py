"""The memory that datagrams are received into: fixed slots, each with room for a record header in front.

One arena serves all streams, group after group, so that it stays a few MiB however many there are.
"""

from __future__ import annotations

import mmap
import socket
from functools import lru_cache
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

HEADROOM = 64
"""Bytes in front of each datagram: 16 of record header and 48 of IPv6 and UDP; IPv4 begins 20 later."""

SLOT = 2048
"""Bytes for one datagram: more than any Ethernet frame, so only fragmented nonsense is truncated."""

STRIDE = HEADROOM + SLOT

SLOTS = 4096
"""Datagrams read before they are worked on: 370 G.711 streams of one tick, in 8.25 MiB."""

NAME = 32
"""Bytes for the sender's address: sockaddr_in has 16, sockaddr_in6 28."""

_MAPPED = np.uint64(0xFFFF << 32)  # ::ffff:0:0/96 (RFC 4291 section 2.5.5.2)


class Arena:
    """Slots and what the receiver tells about each: `length` and `time_ns` int64, `truncated`, and the sender.

    `rows` is the (slots, STRIDE) byte matrix, `flat` the same in one dimension; `words` and `halves` are its
    native 32-bit and big-endian 16-bit views.
    """

    def __init__(self, slots: int = SLOTS) -> None:
        self.slots = slots
        self.flat = private_memory(slots * STRIDE)
        self.rows = self.flat.reshape(slots, STRIDE)
        self.words = self.rows.view("<u4")
        self.halves = self.rows.view(">u2")
        self.names = np.zeros((slots, NAME), np.uint8)
        self.length = np.zeros(slots, np.int64)
        self.time_ns = np.zeros(slots, np.int64)
        self.truncated = np.zeros(slots, np.bool_)

    def sources(self, count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint16]]:
        """The first `count` senders: the two halves of the address (IPv4 mapped) and the port."""
        names = self.names[:count]
        high = np.zeros(count, np.uint64)
        low = names.view(">u4")[:, 1].astype(np.uint64) | _MAPPED
        six = names.view(np.uint16)[:, 0] == socket.AF_INET6
        if six.any():
            wide = names[six].view(">u8")
            high[six], low[six] = wide[:, 1], wide[:, 2]
        return high, low, names.view(">u2")[:, 1].astype(np.uint16)

    def put_name(self, slot: int, address: str, port: int) -> None:
        """Write a sender as the kernel would have, for a receiver that gets it from Python."""
        packed = ip_address(address.partition("%")[0]).packed
        name = self.names[slot]
        name[:] = 0
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        name.view(np.uint16)[0] = family
        name.view(">u2")[1] = port
        start = 4 if len(packed) == 4 else 8
        name[start : start + len(packed)] = np.frombuffer(packed, np.uint8)


def private_memory(size: int) -> NDArray[np.uint8]:
    """`size` bytes on pages of their own, huge ones where the kernel gives such; untouched pages cost nothing."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


@lru_cache(maxsize=1024)
def address_words(address: str) -> tuple[int, int]:
    """An IP literal as the two halves that `Arena.sources` gives. A server hears from the same few again and again."""
    packed = ip_address(address.partition("%")[0]).packed
    if len(packed) == 4:
        return 0, int.from_bytes(packed, "big") | 0xFFFF << 32
    return int.from_bytes(packed[:8], "big"), int.from_bytes(packed[8:], "big")


@lru_cache(maxsize=1024)
def address_text(high: int, low: int) -> str:
    """The inverse of `address_words`."""
    if high == 0 and low >> 32 == 0xFFFF:
        return str(ip_address((low & 0xFFFFFFFF).to_bytes(4, "big")))
    return str(ip_address((high << 64 | low).to_bytes(16, "big")))
