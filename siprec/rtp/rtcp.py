"""RTCP (RFC 3550 section 6): compound packets read leniently, reports built exactly.

Reading never raises: what is understood is returned, reading ends at the first piece that does not fit into
its datagram. A recorder lives without RTCP, so broken reports must cost nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SENDER_REPORT, RECEIVER_REPORT, SOURCE_DESCRIPTION, BYE = 200, 201, 202, 203

CNAME = 1
"""SDES item that names a source for good (RFC 3550 section 6.5.1)."""

MAX_ITEMS = 31
"""Reports, chunks or sources in one packet: the count field has five bits."""

MAX_TEXT = 255
"""Octets of an SDES item or a reason for leaving: its length is one octet."""

NTP_EPOCH = 2_208_988_800
"""Seconds from 1900, where NTP time begins, to 1970 (RFC 868)."""

_HEADER = struct.Struct(">BBH")
_BLOCK = struct.Struct(">IIIIII")
_SENDER = struct.Struct(">IQIII")
_WORD = struct.Struct(">I")
_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class ReportBlock:
    """How one source is received (section 6.4.1). `fraction_lost` in 1/256, `jitter` in timestamp units,
    `delay_since_last_sr` in 1/65536 s, `cumulative_lost` signed (duplicates can make it negative)."""

    ssrc: int
    fraction_lost: int
    cumulative_lost: int
    highest_sequence: int
    jitter: int
    last_sr: int
    delay_since_last_sr: int

    def __bytes__(self) -> bytes:
        lost = max(-(1 << 23), min(self.cumulative_lost, (1 << 23) - 1)) & 0xFFFFFF
        second = (self.fraction_lost & 0xFF) << 24 | lost
        rest = (self.highest_sequence, self.jitter, self.last_sr, self.delay_since_last_sr)
        return _BLOCK.pack(self.ssrc, second, *(each & 0xFFFFFFFF for each in rest))


@dataclass(frozen=True, slots=True)
class SenderReport:
    """Section 6.4.1; `ntp` is 64-bit NTP time (see `ntp_from_ns`), `rtp_timestamp` the same instant in RTP."""

    ssrc: int
    ntp: int
    rtp_timestamp: int
    packet_count: int
    octet_count: int
    reports: tuple[ReportBlock, ...] = ()

    def __bytes__(self) -> bytes:
        counts = (self.rtp_timestamp, self.packet_count, self.octet_count)
        body = _SENDER.pack(self.ssrc, self.ntp, *(each & 0xFFFFFFFF for each in counts))
        return _packet(SENDER_REPORT, len(self.reports), body + b"".join(map(bytes, self.reports)))


@dataclass(frozen=True, slots=True)
class ReceiverReport:
    """Section 6.4.2."""

    ssrc: int
    reports: tuple[ReportBlock, ...] = ()

    def __bytes__(self) -> bytes:
        body = _WORD.pack(self.ssrc) + b"".join(map(bytes, self.reports))
        return _packet(RECEIVER_REPORT, len(self.reports), body)


@dataclass(frozen=True, slots=True)
class Chunk:
    """What one source says about itself: (item type, octets as received), in order."""

    ssrc: int
    items: tuple[tuple[int, bytes], ...]

    def __bytes__(self) -> bytes:
        items = b"".join(bytes((kind, len(text[:MAX_TEXT]))) + text[:MAX_TEXT] for kind, text in self.items)
        # the list ends with one null octet at least, then up to the next word (section 6.5)
        return _WORD.pack(self.ssrc) + items + bytes(4 - len(items) % 4)


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """Section 6.5."""

    chunks: tuple[Chunk, ...]

    def __bytes__(self) -> bytes:
        return _packet(SOURCE_DESCRIPTION, len(self.chunks), b"".join(map(bytes, self.chunks)))


@dataclass(frozen=True, slots=True)
class Bye:
    """Section 6.6."""

    ssrcs: tuple[int, ...]
    reason: bytes = b""

    def __bytes__(self) -> bytes:
        body = b"".join(map(_WORD.pack, self.ssrcs))
        if self.reason:
            text = self.reason[:MAX_TEXT]
            body += bytes((len(text),)) + text
            body += bytes(-len(body) % 4)
        return _packet(BYE, len(self.ssrcs), body)


Packet = SenderReport | ReceiverReport | SourceDescription | Bye


def compound(*packets: Packet | bytes) -> bytes:
    """One datagram of several packets, or their bytes; the first must be a report (section 6.1)."""
    return b"".join(map(bytes, packets))


def parse(data: bytes) -> tuple[Packet, ...]:
    """The packets of a datagram that are understood, in order; other types (APP, feedback) are stepped over."""
    found: list[Packet] = []
    at = 0
    while at + _HEADER.size <= len(data):
        first, kind, words = _HEADER.unpack_from(data, at)
        end = at + 4 + 4 * words
        if first >> 6 != 2 or end > len(data):
            break
        reader = _READERS.get(kind)
        packet = reader(data[at + 4 : end - _padding(data, first, at=at, end=end)], first & 0x1F) if reader else None
        if packet is not None:
            found.append(packet)
        at = end
    return tuple(found)


def ntp_from_ns(time_ns: int) -> int:
    """Nanoseconds since 1970 as 64-bit NTP time (RFC 3550 section 4), which wraps in 2036."""
    seconds, rest = divmod(time_ns, _NS)
    return ((seconds + NTP_EPOCH) << 32 | (rest << 32) // _NS) & 0xFFFFFFFFFFFFFFFF


def ns_from_ntp(ntp: int) -> int:
    """The inverse of `ntp_from_ns`, to 1 ns; times before 1968 are taken as after 2036 (RFC 4330 section 3)."""
    seconds = ntp >> 32
    if seconds < 0x80000000:
        seconds += 1 << 32
    return (seconds - NTP_EPOCH) * _NS + (((ntp & 0xFFFFFFFF) * _NS + (1 << 31)) >> 32)


def _packet(kind: int, count: int, body: bytes) -> bytes:
    if count > MAX_ITEMS:
        raise ValueError(f"{count} items in one RTCP packet, {MAX_ITEMS} fit")
    return _HEADER.pack(0x80 | count, kind, len(body) // 4) + body


def _padding(data: bytes, first: int, *, at: int, end: int) -> int:
    """Octets to leave off at the end of the packet; a count that does not fit is not believed."""
    padding = data[end - 1] if first & 0x20 else 0
    return padding if padding <= end - at - 4 else 0


def _blocks(body: bytes, count: int) -> tuple[ReportBlock, ...]:
    whole = min(count, len(body) // _BLOCK.size)
    return tuple(_block(*_BLOCK.unpack_from(body, index * _BLOCK.size)) for index in range(whole))


def _block(ssrc: int, lost: int, highest: int, jitter: int, last_sr: int, delay: int) -> ReportBlock:
    cumulative = lost & 0xFFFFFF
    if cumulative >= 1 << 23:
        cumulative -= 1 << 24
    return ReportBlock(ssrc, lost >> 24, cumulative, highest, jitter, last_sr, delay)


def _sender_report(body: bytes, count: int) -> SenderReport | None:
    if len(body) < _SENDER.size:
        return None
    ssrc, ntp, timestamp, packets, octets = _SENDER.unpack_from(body)
    return SenderReport(ssrc, ntp, timestamp, packets, octets, _blocks(body[_SENDER.size :], count))


def _receiver_report(body: bytes, count: int) -> ReceiverReport | None:
    if len(body) < _WORD.size:
        return None
    return ReceiverReport(_WORD.unpack_from(body)[0], _blocks(body[_WORD.size :], count))


def _source_description(body: bytes, count: int) -> SourceDescription | None:
    chunks: list[Chunk] = []
    at = 0
    while len(chunks) < count and at + 4 <= len(body):
        ssrc = _WORD.unpack_from(body, at)[0]
        items, at = _items(body, at + 4)
        chunks.append(Chunk(ssrc, items))
    return SourceDescription(tuple(chunks)) if chunks else None


def _items(body: bytes, at: int) -> tuple[tuple[tuple[int, bytes], ...], int]:
    """The items from `at` on, and where the next chunk begins."""
    items: list[tuple[int, bytes]] = []
    while at + 2 <= len(body) and body[at]:
        end = at + 2 + body[at + 1]
        if end > len(body):
            return tuple(items), len(body)
        items.append((body[at], body[at + 2 : end]))
        at = end
    return tuple(items), (at // 4 + 1) * 4


def _bye(body: bytes, count: int) -> Bye | None:
    sources = min(count, len(body) // 4)
    ssrcs: Sequence[int] = struct.unpack_from(f">{sources}I", body)
    rest = body[4 * sources :]
    reason = rest[1 : 1 + rest[0]] if rest and len(rest) > rest[0] else b""
    return Bye(tuple(ssrcs), reason)


_READERS: dict[int, Callable[[bytes, int], Packet | None]] = {
    SENDER_REPORT: _sender_report,
    RECEIVER_REPORT: _receiver_report,
    SOURCE_DESCRIPTION: _source_description,
    BYE: _bye,
}
