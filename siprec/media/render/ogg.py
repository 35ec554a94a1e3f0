"""Opus packets in an Ogg file (RFC 3533, RFC 7845), as small as a decoder takes it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator

_PAGE = struct.Struct("<4sBBqIIIB")
_FIRST, _LAST = 2, 4
_SERIAL = 1
_MAX_SEGMENTS = 255
_MIRROR = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def mux(packets: Iterable[tuple[bytes, int]], *, channels: int = 1) -> bytes:
    """An Ogg Opus file of `packets`, each with its samples at 48 kHz; nothing is skipped at its beginning."""
    head = struct.pack("<8sBBHIhB", b"OpusHead", 1, channels, 0, 48_000, 0, 0)
    tags = struct.pack("<8sII", b"OpusTags", 0, 0)
    pages = [_page([head], 0, number=0, flags=_FIRST), _page([tags], 0, number=1)]
    granule = 0
    groups = list(_groups(packets))
    for number, group in enumerate(groups):
        granule += sum(samples for _, samples in group)
        flags = _LAST if number == len(groups) - 1 else 0
        pages.append(_page([packet for packet, _ in group], granule, number=number + 2, flags=flags))
    return b"".join(pages)


def _groups(packets: Iterable[tuple[bytes, int]]) -> Iterator[list[tuple[bytes, int]]]:
    """As many packets as fit one page each time. The caller's packets are from the network, so below 65 025."""
    group: list[tuple[bytes, int]] = []
    segments = 0
    for packet, samples in packets:
        needs = len(packet) // 255 + 1
        if segments + needs > _MAX_SEGMENTS and group:
            yield group
            group, segments = [], 0
        group.append((packet, samples))
        segments += needs
    if group:
        yield group


def _page(packets: list[bytes], granule: int, *, number: int, flags: int = 0) -> bytes:
    lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
    body = lacing + b"".join(packets)
    head = _PAGE.pack(b"OggS", 0, flags, granule, _SERIAL, number, 0, len(lacing))
    return head[:22] + struct.pack("<I", _checksum(head + body)) + head[26:] + body


def _checksum(data: bytes) -> int:
    """The CRC of RFC 3533 section 6. It is zlib's with bits in the other order, begun at zero and not inverted."""
    mirrored = zlib.crc32(data.translate(_MIRROR), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)
