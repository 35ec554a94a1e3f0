"""A channel's time line while it is being filled: samples at one rate, in chunks, and their way to the file's rate."""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

CHUNK_SECONDS = 10
"""What is handed out at a time."""

HALF_TAPS = 16
"""Neighbours on each side that a resampled sample is made of: 70 dB of stop band with the window below."""

KAISER_BETA = 7.0

CUTOFF = 0.94
"""Of the source's Nyquist frequency: 3.76 kHz for telephony."""

Samples = NDArray[Any]
"""int16, or uint8 where G.711 octets are kept."""


class Plane:
    """One rate of one channel, `length` samples long. What was not placed reads as `silence`."""

    def __init__(
        self, rate: int, length: int, *, dtype: type[np.int16 | np.uint8] = np.int16, silence: int = 0
    ) -> None:
        self.rate = rate
        self._length = length
        self._dtype, self._silence = dtype, silence
        self._chunk = CHUNK_SECONDS * rate
        self._chunks: dict[int, Samples] = {}
        self._done = 0  # chunks before this one are handed out and gone
        self._tail: NDArray[np.float32] = np.zeros(HALF_TAPS, np.float32)

    def place(self, position: int, samples: Samples) -> None:
        """Lays `samples` down from `position` on; what lies outside of the time line is cut off.

        They are this plane's from now on: a chunk that they fill is made of them, not copied.
        """
        begin = self._done * self._chunk
        if position < begin:
            samples, position = samples[begin - position :], begin
        samples = samples[: max(self._length - position, 0)]
        while samples.size:
            number, within = divmod(position, self._chunk)
            room = self._chunk - within
            piece = samples[:room]
            if piece.size == self._chunk:
                self._chunks[number] = piece
            else:
                if number not in self._chunks:
                    self._chunks[number] = np.full(self._chunk, self._silence, self._dtype)
                self._chunks[number][within : within + piece.size] = piece
            samples, position = samples[room:], position + piece.size

    def skip(self, number: int) -> None:
        """The chunks before `number` were handed out before this plane was needed."""
        self._done = number

    def take(self, number: int) -> Samples | None:
        """Chunk `number` (ascending), None when it is silent; nothing can be placed there any more."""
        self._done = number + 1
        return self._chunks.pop(number, None)

    def take_at(self, number: int, rate: int) -> NDArray[np.float32] | None:
        """As `take`, resampled to the higher `rate`; chunk `number` + 1 has to be filled at its beginning."""
        chunk, following = self.take(number), self._chunks.get(number + 1)
        tail = self._tail
        if chunk is None and following is None and not tail.any():
            return None
        body = np.zeros(self._chunk, np.float32) if chunk is None else chunk.astype(np.float32)
        ahead = np.zeros(HALF_TAPS, np.float32) if following is None else following[:HALF_TAPS].astype(np.float32)
        self._tail = body[-HALF_TAPS:]
        return upsample(np.concatenate([tail, body, ahead]), self.rate, rate)


def upsample(samples: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    """`samples` at a higher rate, by a windowed sinc; HALF_TAPS at either end are context and are not put out.

    The length without context times target / source has to be whole.
    """
    common = gcd(source, target)
    up, down = target // common, source // common
    count = (samples.size - 2 * HALF_TAPS) * up // down
    windows = sliding_window_view(samples, 2 * HALF_TAPS)
    result = np.empty(count, np.float32)
    bank = _bank(up)
    for first in range(up):
        whole, phase = divmod(first * down, up)
        size = len(range(first, count, up))
        rows = windows[whole + 1 : whole + 1 + (size - 1) * down + 1 : down]
        result[first::up] = rows @ bank[phase]
    return result


_banks: dict[int, NDArray[np.float32]] = {}


def _bank(up: int) -> NDArray[np.float32]:
    """Row p: what the neighbours of a sample weigh at p / `up` behind it; each row sums to 1."""
    if up not in _banks:
        offset = np.arange(-HALF_TAPS + 1, HALF_TAPS + 1)[None, :] - np.arange(up)[:, None] / up
        window = np.i0(KAISER_BETA * np.sqrt(np.maximum(1 - (offset / HALF_TAPS) ** 2, 0)))
        weights = np.sinc(offset * CUTOFF) * window
        _banks[up] = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return _banks[up]
