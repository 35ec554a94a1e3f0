"""WAV files written as they come: PCM16 or raw G.711, with provenance, and no limit at 4 GiB.

Chunks: RIFF/WAVE, JUNK (becomes ds64, and RIFF becomes RF64, past 4 GiB: EBU Tech 3306), bext (EBU Tech 3285),
fmt, fact (for G.711), data. The header is right after every `flush` and at the end, never a promise.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

RIFF_LIMIT = 0xFFFFFFFF
"""The largest size that a RIFF chunk's 32 bits can say; from there on the file is RF64."""

PCM, A_LAW, MU_LAW = 1, 6, 7
"""Format tags (RFC 2361)."""

_DS64 = 28
_BEXT = struct.Struct("<256s32s32s10s8sQH64s190s")
_FORMAT = struct.Struct("<HHIIHHH")
_FORMAT_BYTES = {PCM: 16, A_LAW: 18, MU_LAW: 18}  # other than PCM needs the length of its (empty) extension


@dataclass(frozen=True, slots=True)
class Provenance:
    """What `bext` says: which recording, begun when (UTC; `2026-11-20`, `18:44:00`), samples since midnight."""

    recording: str
    date: str
    time: str
    samples: int = 0

    def chunk(self) -> bytes:
        """The chunk's body. All is ASCII by our own making; what is too long is cut."""
        text = (f"siprec recording {self.recording}", "siprec", self.recording, self.date, self.time)
        fields = [each.encode("ascii", "replace") for each in text]
        return _BEXT.pack(*fields, self.samples, 1, b"", b"")


class WavWriter:
    """Writes one WAV to `file` (seekable, binary, empty). `tag`: PCM, A_LAW or MU_LAW."""

    def __init__(
        self, file: BinaryIO, *, rate: int, channels: int, tag: int = PCM, provenance: Provenance | None = None,
        limit: int = RIFF_LIMIT,
    ) -> None:  # fmt: skip
        self._file = file
        self._limit = limit
        self._frame = channels * (2 if tag == PCM else 1)
        self._data_bytes = 0
        depth = 16 if tag == PCM else 8
        form = _FORMAT.pack(tag, channels, rate, rate * self._frame, self._frame, depth, 0)[: _FORMAT_BYTES[tag]]
        head = b"RIFF" + struct.pack("<I", 0) + b"WAVE" + _chunk(b"JUNK", bytes(_DS64))
        head += _chunk(b"bext", provenance.chunk()) if provenance else b""
        head += _chunk(b"fmt ", form)
        self._fact_at = len(head) + 8 if tag != PCM else None
        head += _chunk(b"fact", bytes(4)) if tag != PCM else b""
        self._data_at = len(head) + 8
        file.write(head + b"data" + struct.pack("<I", 0))

    def write(self, samples: bytes | memoryview) -> None:
        """Whole frames, little-endian."""
        self._file.write(samples)
        self._data_bytes += len(samples)

    def flush(self) -> None:
        """Makes the header say what is there now; writing may go on."""
        self._pad()
        riff_bytes = self._data_at - 8 + self._data_bytes + self._data_bytes % 2
        frames = self._data_bytes // self._frame
        if riff_bytes > self._limit:
            ds64 = struct.pack("<QQQI", riff_bytes, self._data_bytes, frames, 0)
            head = b"RF64" + struct.pack("<I", 0xFFFFFFFF) + b"WAVE" + _chunk(b"ds64", ds64)
            self._put(0, head)
        else:
            self._put(4, struct.pack("<I", riff_bytes))
        large = riff_bytes > self._limit
        self._put(self._data_at - 4, struct.pack("<I", 0xFFFFFFFF if large else self._data_bytes))
        if self._fact_at is not None:
            self._put(self._fact_at, struct.pack("<I", 0xFFFFFFFF if large else frames))
        self._file.seek(self._data_at + self._data_bytes)
        self._file.flush()

    def _pad(self) -> None:
        if self._data_bytes % 2:
            self._put(self._data_at + self._data_bytes, b"\0")

    def _put(self, place: int, data: bytes) -> None:
        self._file.seek(place)
        self._file.write(data)


def _chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack("<I", len(body)) + body
