"""Decoders: payloads of one SSRC in order, to samples.

Each takes a group of packets at once and says how many samples each of them gave. Those with a memory keep it
from call to call; across packets that never came they go on as they were.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import soundfile
from G722 import G722
from numpy.typing import NDArray

from siprec.media.pcap import rows
from siprec.media.render.ogg import mux
from siprec.media.render.source import Records, distinct
from siprec.rtp.codecs import LAW, OPUS_RATE, Codec, opus_samples

OPUS_PACKETS = 1000
"""Opus packets decoded at a time: 20 s, so memory stays small."""

OPUS_RUN_IN = 5
"""Packets decoded again in front of each group and thrown away: an Opus decoder has converged after 80 ms
(RFC 7845 section 4.6)."""

LOOK_UP = 32_768
"""Octets looked up at a time: numpy makes eight bytes of each on the way, which then stay in the processor's cache
(a whole stretch at once costs twice the time, most of it for memory never used before)."""

_LARGEST_OGG_PACKET = 65_025  # one page's worth; a UDP datagram may be longer by a little, an Opus packet is not

Buffers = dict[int, NDArray[np.uint8]]


def payloads(records: Records, buffers: Buffers) -> NDArray[np.uint8]:
    """The payloads of `records` one after the other; as an (n, length) matrix when all have one length."""
    lengths = records["length"]
    if not records.size or (lengths != lengths[0]).any():
        return np.frombuffer(bytearray().join(packets(records, buffers)), np.uint8)
    width = int(lengths[0])
    if width == 0:
        return np.zeros((records.size, 0), np.uint8)
    numbers = distinct(records["buffer"])
    if len(numbers) == 1:
        return rows(buffers[numbers[0]], records["offset"], width)
    found = np.empty((records.size, width), np.uint8)
    for number in numbers:
        mine = records["buffer"] == number
        found[mine] = rows(buffers[number], records["offset"][mine], width)
    return found


def packets(records: Records, buffers: Buffers) -> Iterator[bytes]:
    """The payload of each record."""
    views = {number: memoryview(data.data) for number, data in buffers.items()}
    columns = (records["buffer"].tolist(), records["offset"].tolist(), records["length"].tolist())
    for number, offset, length in zip(*columns, strict=True):
        yield bytes(views[number][offset : offset + length])


def ticks(records: Records, buffers: Buffers, codec: Codec) -> NDArray[np.int64]:
    """How long each packet's audio lasts by its RTP clock; 0 where that is not known from the outside."""
    length = records["length"].astype(np.int64)
    if codec.kind in ("law", "g722"):
        return length
    if codec.kind == "linear":
        return length // (2 * codec.channels)
    if codec.kind == "opus":
        return _opus_ticks(records, buffers)
    return np.zeros(records.size, np.int64)


def _opus_ticks(records: Records, buffers: Buffers) -> NDArray[np.int64]:
    result = np.zeros(records.size, np.int64)
    for number in distinct(records["buffer"]):
        mine = np.flatnonzero((records["buffer"] == number) & (records["length"] > 0))
        data, offset, length = buffers[number], records["offset"][mine], records["length"][mine].astype(np.int64)
        second = data[offset + (length > 1)]
        result[mine] = opus_samples(data[offset], second, length)
    return result


class Decoder(Protocol):
    """Turns packets of one SSRC to samples."""

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        """The samples of all packets one after the other, and how many each gave (0: could not be decoded)."""
        ...


class LawDecoder:
    """G.711: a table look-up."""

    def __init__(self, law: str) -> None:
        self._table = LAW[law]

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        octets = payloads(records, buffers).reshape(-1)
        samples = np.empty(octets.size, np.int16)
        for at in range(0, octets.size, LOOK_UP):
            self._table.take(octets[at : at + LOOK_UP], out=samples[at : at + LOOK_UP], mode="clip")
        return samples, records["length"].astype(np.int64)


class RawDecoder:
    """G.711 as it came, for files that keep it."""

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        return payloads(records, buffers).reshape(-1), records["length"].astype(np.int64)


class LinearDecoder:
    """L16 (RFC 3551 section 4.5.11), two channels mixed to one. A cut sample at a payload's end is dropped."""

    def __init__(self, channels: int) -> None:
        self._channels = channels

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        width = 2 * self._channels
        if (records["length"] % width).any():
            records = records.copy()
            records["length"] -= records["length"] % width
        samples = payloads(records, buffers).reshape(-1).view(">i2").astype(np.int16)
        if self._channels == 2:
            samples = (samples.reshape(-1, 2).astype(np.int32).sum(axis=1) >> 1).astype(np.int16)
        return samples, records["length"].astype(np.int64) // width


class G722Decoder:
    """G.722 at 64 kbit/s: an octet is two samples."""

    def __init__(self) -> None:
        self._decoder = G722(16_000, 64_000)

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        counts = records["length"].astype(np.int64) * 2
        data = payloads(records, buffers).tobytes()
        samples = np.array(self._decoder.decode(data), np.int16) if data else np.zeros(0, np.int16)
        return samples, counts


class OpusDecoder:
    """Opus by way of Ogg files in memory, which libsndfile decodes whole."""

    def __init__(self) -> None:
        self._run_in: list[tuple[bytes, int]] = []

    def decode(self, records: Records, buffers: Buffers) -> tuple[NDArray[np.int16], NDArray[np.int64]]:
        counts = np.where(records["length"] < _LARGEST_OGG_PACKET, _opus_ticks(records, buffers), 0)
        good = np.flatnonzero(counts)
        all_packets = list(packets(records.take(good), buffers))
        pairs = list(zip(all_packets, counts[good].tolist(), strict=True))
        samples = []
        for start in range(0, len(pairs), OPUS_PACKETS):
            for place, decoded in enumerate(self._group(pairs[start : start + OPUS_PACKETS])):
                if decoded is None:
                    counts[good[start + place]] = 0
                else:
                    samples.append(decoded)
        return (np.concatenate(samples) if samples else np.zeros(0, np.int16)), counts

    def _group(self, pairs: list[tuple[bytes, int]]) -> Iterator[NDArray[np.int16] | None]:
        """Each packet's samples. A group that cannot be decoded is halved until what is broken stands alone."""
        decoded = self._samples(pairs)
        if decoded is not None:
            self._run_in = pairs[-OPUS_RUN_IN:]
            ends = np.cumsum([samples for _, samples in pairs])
            yield from np.split(decoded, ends[:-1])
        elif len(pairs) == 1:
            yield None
        else:
            yield from self._group(pairs[: len(pairs) // 2])
            yield from self._group(pairs[len(pairs) // 2 :])

    def _samples(self, pairs: list[tuple[bytes, int]]) -> NDArray[np.int16] | None:
        skip = sum(samples for _, samples in self._run_in)
        expected = sum(samples for _, samples in pairs)
        try:
            decoded, rate = soundfile.read(io.BytesIO(mux([*self._run_in, *pairs])), dtype="float32")
        except soundfile.LibsndfileError:
            return None
        if rate != OPUS_RATE or decoded.shape != (skip + expected,):
            return None
        # libsndfile's own conversion wraps what a decoder overshoots
        samples: NDArray[np.int16] = np.rint(np.clip(decoded[skip:], -1.0, 32767 / 32768) * 32768).astype(np.int16)
        return samples


def decoder(codec: Codec, *, raw: bool = False) -> Decoder:
    """A new decoder for an audible codec; `raw` gives G.711 octets as they are."""
    if codec.kind == "law":
        return RawDecoder() if raw else LawDecoder(codec.encoding)  # type: ignore[return-value]
    if codec.kind == "linear":
        return LinearDecoder(codec.channels)
    return G722Decoder() if codec.kind == "g722" else OpusDecoder()
