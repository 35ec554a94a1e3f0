"""Audio that SIPp sends, and how to find it again in a recording: every sample in its place, and nothing else."""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from siprec.media.pcap import PcapReader
from siprec.rtp import packets as rtp
from tests.support.captures import noise

SAMPLES_PER_PACKET = 160
PACE_NS = 20_000_000
FIRST_SECONDS = 0.1
"""Packets before that may be cut where the recording begins."""

Samples = NDArray[np.int16]
Octets = NDArray[np.uint8]

_ETHERNET = bytes(12) + b"\x08\x00"
_LAWS = {"PCMU": "ULAW", "PCMA": "ALAW"}


@dataclass(frozen=True, slots=True)
class Voice:
    """A stream that a capture file holds: `octets` are what is said, `lost`, `twice` and `late` packet numbers."""

    octets: Octets
    payload_type: int
    ssrc: int
    lost: frozenset[int] = frozenset()
    twice: frozenset[int] = frozenset()
    late: frozenset[int] = frozenset()
    """Each comes after its successor."""

    def datagrams(self) -> list[tuple[int, bytes]]:
        """(nanoseconds after the start, RTP packet) in the order of sending."""
        order = []
        for number in range(len(self.octets) // SAMPLES_PER_PACKET):
            if number in self.lost:
                continue
            at = number * PACE_NS + (PACE_NS * 5 // 4 if number in self.late else 0)
            order += [(at, self._packet(number))] * (2 if number in self.twice else 1)
        return sorted(order, key=lambda each: each[0])

    def _packet(self, number: int) -> bytes:
        first = number * SAMPLES_PER_PACKET
        return rtp.build(
            self.payload_type,
            65_500 + number,  # wraps on the way
            timestamp=4_294_960_000 + first,
            ssrc=self.ssrc,
            payload=self.octets[first : first + SAMPLES_PER_PACKET].tobytes(),
        )


KEEP_ALIVE = b""
"""An empty datagram, RFC 6263 section 4.1."""


def write_capture(path: Path, first: Iterable[tuple[int, bytes]], second: Iterable[tuple[int, bytes]], *, falling: bool
                  ) -> str:  # fmt: skip
    """A capture that SIPp can play: `first` to the port of the first m=audio, `second` to the port 2 above it.

    With `falling`, to the port 2 below. SIPp takes the lowest port of the file for the first; its arithmetic is that
    of 16-bit numbers, so two below is 65534 above.
    """
    ports = (1, 65_535) if falling else (1, 3)
    sent = [(at, ports[0], data) for at, data in first] + [(at, ports[1], data) for at, data in second]
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    for at, port, data in sorted(sent, key=lambda each: each[0]):
        frame = _ETHERNET + _ip(port, data)
        content += struct.pack("<IIII", at // 1_000_000_000, at % 1_000_000_000 // 1000, len(frame), len(frame)) + frame
    path.write_bytes(content)
    return str(path)


def _ip(port: int, data: bytes) -> bytes:
    loopback = socket.inet_aton("127.0.0.1")
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28 + len(data), 0, 0, 64, 17, 0, loopback, loopback)
    return header + struct.pack(">HHHH", port, port, 8 + len(data), 0) + data


def raw_sockets() -> bool:
    """Whether SIPp will be able to play captures."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP).close()
    except PermissionError:
        return False
    return True


def decode(octets: bytes, law: str) -> Samples:
    """G.711 by libsndfile, which shares no table with us."""
    decoded, _ = soundfile.read(
        io.BytesIO(octets), dtype="int16", format="RAW", subtype=_LAWS[law], channels=1, samplerate=8000
    )
    result: Samples = decoded
    return result


@dataclass(frozen=True, slots=True)
class Arrived:
    """The distinct packets of one stream in a kept capture: sequence numbers, unwrapped places in samples, payloads."""

    ssrc: int
    places: NDArray[np.int64]
    payloads: tuple[bytes, ...]

    def expected(self, law: str, length: int, start: int) -> Samples:
        """What a channel of `length` samples must hold when the first packet lies at `start`."""
        channel = np.zeros(length, np.int16)
        for place, payload in zip(self.places + start, self.payloads, strict=True):
            begin, end = (min(max(0, int(each)), length) for each in (place, place + len(payload)))
            channel[begin:end] = decode(payload, law)[begin - place : end - place]
        return channel


def arrived(captures: Sequence[Path], port: int) -> Arrived:
    """What came to `port`, by the capture files of a recording."""
    found: dict[int, bytes] = {}
    ssrcs = set()
    for capture in captures:
        for batch in PcapReader(capture).batches():
            headers = rtp.parse(batch.data, batch.offset, batch.length)
            for index in np.flatnonzero(headers.valid & (batch.port == port)):
                begin = int(headers.payload_offset[index])
                payload = batch.data[begin : begin + int(headers.payload_length[index])].tobytes()
                found[int(headers.timestamp[index])] = payload
                ssrcs.add(int(headers.ssrc[index]))
    assert len(ssrcs) == 1, f"port {port} got streams {ssrcs}"
    stamps = np.array(list(found), np.uint32)
    places = (stamps - stamps[0]).astype(np.int32).astype(np.int64)  # stamps wrap
    order = np.argsort(places)
    payloads = list(found.values())
    return Arrived(ssrcs.pop(), places[order] - places[order[0]], tuple(payloads[each] for each in order))


def start_of(stream: Arrived, law: str, channel: Samples) -> int:
    """Where the first packet lies in `channel`, found by the first that comes after FIRST_SECONDS of it.

    It may lie before the beginning: SIPp sends the first two packets of a capture at once, so the first is late by
    all others, and what would have been said before the answer is not in the file.
    """
    number = int(np.flatnonzero(stream.places >= FIRST_SECONDS * 8000)[0])
    said = decode(stream.payloads[number], law)
    windows = np.lib.stride_tricks.sliding_window_view(channel, len(said))
    found = np.flatnonzero((windows == said).all(axis=1))
    assert len(found) == 1, f"packet {number} lies at {found.tolist()} of the channel"
    return int(found[0] - stream.places[number])


def source(packets: int, *, seed: int) -> Octets:
    """What is said: noise of which no two packets are alike, so that a misplaced one shows."""
    return noise(packets, seed=seed)
