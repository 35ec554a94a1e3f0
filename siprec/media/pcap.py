"""Capture files: pcap with nanoseconds and LINKTYPE_RAW, as Wireshark and every other tool reads them.

A record is 16 bytes of record header, a synthesised IPv4 or IPv6 and UDP header, and the datagram as it came.
Source is the real sender, destination our port: the destination port tells the streams apart.
"""

from __future__ import annotations

import ipaddress
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siprec.errors import RenderError

MAGIC = 0xA1B23C4D
"""pcap with nanoseconds (pcap-savefile(5)), little-endian."""

LINKTYPE_RAW = 101
"""The packet begins with an IPv4 or IPv6 header."""

SNAPSHOT_LENGTH = 262_144
"""What libpcap itself writes when nothing is cut; ours are at most 65 535 + 48."""

FILE_HEADER = 24
RECORD_HEADER = 16
IPV4_HEADERS = 28
"""IPv4 and UDP."""
IPV6_HEADERS = 48
"""IPv6 and UDP."""

MAX_RECORD = 65_535 + IPV6_HEADERS
"""No UDP datagram makes a longer record; a length above it is no length but garbage."""

READ_BYTES = 8 << 20
"""How much of a file is held while it is read: 4 minutes of a two-stream G.711 call."""

TTL = 64

UDP = 17
"""The IP protocol number."""

_MICROSECONDS_MAGIC = 0xA1B2C3D4
_TICK_NS = {MAGIC: 1, _MICROSECONDS_MAGIC: 1000}
_FILE = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_IPV4 = struct.Struct(">BBHHHBBH4s4s")
_IPV6 = struct.Struct(">IHBB16s16s")
_UDP_HEADER = struct.Struct(">HHHH")
_LENGTH = struct.Struct("<I")
_DONT_FRAGMENT = 0x4000

# ---- writing -------------------------------------------------------------------------------------------------


def write_header() -> bytes:
    """The 24 bytes that every capture file begins with."""
    return _FILE.pack(MAGIC, 2, 4, 0, 0, SNAPSHOT_LENGTH, LINKTYPE_RAW)


def record(time_ns: int, payload: bytes, *, source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """One datagram as a record; both addresses are IP literals of the same family."""
    source_ip, destination_ip = ipaddress.ip_address(source[0]).packed, ipaddress.ip_address(destination[0]).packed
    udp_length = 8 + len(payload)
    if len(source_ip) == 4:
        udp = _UDP_HEADER.pack(source[1], destination[1], udp_length, 0)
        header = _IPV4.pack(0x45, 0, 20 + udp_length, 0, _DONT_FRAGMENT, TTL, UDP, 0, source_ip, destination_ip)
        header = header[:10] + checksum(header).to_bytes(2, "big") + header[12:]
    else:
        udp = _UDP_HEADER.pack(source[1], destination[1], udp_length, 0)
        pseudo = source_ip + destination_ip + struct.pack(">II", udp_length, UDP)
        # RFC 8200 section 8.1: a sum of zero is sent as all ones, zero would mean "no checksum"
        value = checksum(pseudo + udp + payload) or 0xFFFF
        udp = udp[:6] + value.to_bytes(2, "big")
        header = _IPV6.pack(0x60000000, udp_length, UDP, TTL, source_ip, destination_ip)
    size = len(header) + udp_length
    return _RECORD.pack(time_ns // 1_000_000_000, time_ns % 1_000_000_000, size, size) + header + udp + payload


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of `data`, padded to whole 16-bit words."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


# ---- reading -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Many datagrams in one buffer; every array but `data` has one element per datagram, in file order.

    `ip` is where the IP packet begins in `data`, `offset` and `length` are the UDP payload's there (int64); `time_ns`
    is CLOCK_REALTIME; `port` is ours, the destination.
    """

    data: NDArray[np.uint8]
    ip: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    time_ns: NDArray[np.int64]
    source_port: NDArray[np.uint16]
    port: NDArray[np.uint16]

    def address(self, index: int) -> str:
        """The sender of datagram `index` as an IP literal."""
        ip = int(self.ip[index])
        first, width = (8, 16) if self.data[ip] >> 4 == 6 else (12, 4)
        address = ipaddress.ip_address(self.data[ip + first : ip + first + width].tobytes())
        return str(getattr(address, "ipv4_mapped", None) or address)


class PcapReader:
    """Reads one capture file, however it ends.

    A cut last record is what a crash leaves: `cut` is set and nothing else happens. Garbage where a record
    should begin ends the reading: `problem` says what and where. Records that are no whole UDP datagram are
    counted in `skipped`. All three are meaningful once `batches` is exhausted.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.cut = False
        self.problem: str | None = None
        self.skipped = 0

    def batches(self, max_bytes: int = READ_BYTES) -> Iterator[Batch]:
        """All datagrams, at most `max_bytes` of file (or one record, if that is longer) at a time.

        Raises RenderError when the file cannot be opened or read.
        """
        self.cut, self.problem, self.skipped = False, None, 0
        try:
            with self.path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size  # no more is asked for: the memory for it would be got anew
                max_bytes = max(min(max_bytes, size), RECORD_HEADER + MAX_RECORD)
                tick_ns = self._file_header(file.read(FILE_HEADER))
                place, rest = FILE_HEADER, b""
                while tick_ns and self.problem is None:
                    chunk = file.read(max_bytes - len(rest))
                    if not chunk:
                        break
                    data = rest + chunk
                    starts, end = self._walk(data, place)
                    if starts.size:
                        yield self._batch(np.frombuffer(data, np.uint8), starts, tick_ns)
                    place, rest = place + end, data[end:]
                self.cut = self.cut or bool(rest and self.problem is None)
        except OSError as error:
            raise RenderError(f"cannot read {self.path}: {error.strerror}") from error

    def _file_header(self, header: bytes) -> int:
        """Nanoseconds per tick of the file's fractions; 0 when this is no capture file of ours."""
        if len(header) < FILE_HEADER:
            self.cut = True
            return 0
        magic, *_, link = _FILE.unpack(header)
        if magic not in _TICK_NS or link != LINKTYPE_RAW:
            self.problem = "not a little-endian pcap file of link type 101"
            return 0
        return _TICK_NS[magic]

    def _walk(self, data: bytes, place: int) -> tuple[NDArray[np.int64], int]:
        """Where the whole records in `data` begin, and where the first that is not whole does.

        `place` is where `data` lies in the file. Records of one length lie in long runs, so a run is found by
        one comparison; where lengths change often, single steps are faster and are taken for a while.
        """
        found: list[NDArray[np.int64]] = []
        at, end, patience = 0, len(data), 0
        while at + RECORD_HEADER <= end:
            length = _LENGTH.unpack_from(data, at + 8)[0]
            if not IPV4_HEADERS <= length <= MAX_RECORD:
                self.problem = f"no record at byte {place + at} (length {length})"
                break
            stride = RECORD_HEADER + length
            room = (end - at) // stride
            if room == 0:
                break
            if patience:
                singles, at = _steps(data, at, min(_SINGLE_STEPS, patience))
                found.append(singles)
                patience = 0
                continue
            run = _run(data, at, stride=stride, length=length, room=room)
            found.append(at + stride * np.arange(run, dtype=np.int64))
            at += run * stride
            patience = _SINGLE_STEPS if run < _SHORT_RUN else 0
        return np.concatenate(found) if found else np.zeros(0, np.int64), at

    def _batch(self, data: NDArray[np.uint8], start: NDArray[np.int64], tick_ns: int) -> Batch:
        heads = rows(data, start, RECORD_HEADER + IPV4_HEADERS)
        six = heads[:, RECORD_HEADER] >> 4 == 6
        good = _is_udp(heads, six)
        if not good.all():
            self.skipped += int(np.count_nonzero(~good))
            start, heads, six = start[good], heads[good], six[good]
        words = heads.view("<u4")
        ip = start + RECORD_HEADER
        headers: NDArray[np.int64] | int = IPV4_HEADERS
        ports = heads[:, -8:].view(">u2")
        if six.any():
            headers = np.where(six, IPV6_HEADERS, IPV4_HEADERS)
            ports = rows(data, ip + headers - 8, 8).view(">u2")
        return Batch(
            data=data,
            ip=ip,
            offset=ip + headers,
            length=words[:, 2].astype(np.int64) - headers,
            time_ns=words[:, 0].astype(np.int64) * 1_000_000_000 + words[:, 1].astype(np.int64) * tick_ns,
            source_port=ports[:, 0].astype(np.uint16),
            port=ports[:, 1].astype(np.uint16),
        )


_SHORT_RUN = 4  # below this many records of one length in a row, single steps are cheaper than the comparison
_SINGLE_STEPS = 64
_FIRST_LOOK = 32  # records compared at first; only a run that fills it is followed to its end
_FULL_LOOK = 4096


def _run(data: bytes, at: int, *, stride: int, length: int, room: int) -> int:
    """How many records of `length` follow each other from `at` on; at least 1, at most `room`."""
    total = 0
    for look in (_FIRST_LOOK, _FULL_LOOK):
        count = min(look, room - total)
        if count == 0:
            break
        lengths = np.ndarray((count,), "<u4", data, at + total * stride + 8, (stride,))
        differ = lengths != length
        if differ.any():
            return total + int(differ.argmax())
        total += count
        if count < look:
            break
    return total


def _steps(data: bytes, at: int, count: int) -> tuple[NDArray[np.int64], int]:
    """The beginnings of up to `count` records from `at` on, and where the next begins; stops before trouble."""
    starts: list[int] = []
    end = len(data)
    unpack = _LENGTH.unpack_from
    while len(starts) < count and at + RECORD_HEADER <= end:
        length = unpack(data, at + 8)[0]
        following = at + RECORD_HEADER + length
        if following > end or not IPV4_HEADERS <= length <= MAX_RECORD:
            break
        starts.append(at)
        at = following
    return np.array(starts, np.int64), at


def rows(data: NDArray[np.uint8], start: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """The `width` bytes at each of `start` as an (n, width) matrix.

    Each row is copied as one item: numpy takes four times as long for a window of bytes.
    """
    windows = np.ndarray((data.size - width + 1,), np.dtype((np.void, width)), data, 0, (1,))
    return windows[start].view(np.uint8).reshape(-1, width)


def _is_udp(heads: NDArray[np.uint8], six: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether each packet is IPv4 without options or IPv6 without extensions, carrying UDP."""
    size = heads.view("<u4")[:, 2]
    udp6: NDArray[np.bool_] = six & (heads[:, RECORD_HEADER + 6] == UDP) & (size >= IPV6_HEADERS)
    udp4: NDArray[np.bool_] = (heads[:, RECORD_HEADER] == 0x45) & (heads[:, RECORD_HEADER + 9] == UDP)
    return udp4 | udp6


def split(records: bytes) -> list[bytes]:
    """The whole records in `records`, each for itself, the oldest first."""
    starts, end = _steps(records, 0, len(records))
    found = [records[begin:stop] for begin, stop in pairwise([*starts.tolist(), end])]
    return sorted(found, key=lambda record: _RECORD.unpack_from(record)[:2])


def span(records: bytes) -> tuple[int, int, int]:
    """First and last time stamp (ns) and number of the whole records in `records`."""
    starts, _ = _steps(records, 0, len(records))
    if not starts.size:
        return 0, 0, 0
    times = [
        seconds * 1_000_000_000 + rest
        for seconds, rest, *_ in (_RECORD.unpack_from(records, start) for start in starts.tolist())
    ]
    return min(times), max(times), len(times)


def mapped(address: str) -> bytes:
    """An IP literal as the 16 bytes of `Batch.source`."""
    packed = ipaddress.ip_address(address).packed
    return packed if len(packed) == 16 else b"\0" * 10 + b"\xff\xff" + packed
