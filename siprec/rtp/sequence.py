"""Sequence numbers, loss and jitter over whole vectors (RFC 3550 appendix A.1, A.3 and A.8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_DROPOUT = 3000
"""A forward step below this is loss, from it on a new start (RFC 3550 appendix A.1): one minute at 50 a second."""

_JITTER_GAIN = 16  # RFC 3550 section 6.4.1: J += (|D| - J) / 16
_JITTER_BLOCK = 256  # (16/15) ** 256 is 1.5e7: the closed form below loses no more than 24 of 53 bits


def in_order(previous: int, following: int) -> bool:
    """Whether `following` comes after `previous` by fewer than `MAX_DROPOUT` steps (16 bit, wrapping)."""
    return 0 < (following - previous) & 0xFFFF < MAX_DROPOUT


def unwrap16(sequence: ArrayLike, *, last: int | None = None) -> NDArray[np.int64]:
    """RTP sequence numbers in order of arrival as numbers that do not wrap.

    Each lies nearest to the one before it; the first nearest to `last`, an earlier result, or as it is.
    """
    return _unwrap(np.asarray(sequence, np.uint16), np.dtype(np.int16), last)


def unwrap32(timestamp: ArrayLike, *, last: int | None = None) -> NDArray[np.int64]:
    """As `unwrap16`, for RTP timestamps."""
    return _unwrap(np.asarray(timestamp, np.uint32), np.dtype(np.int32), last)


def _unwrap(values: NDArray[np.unsignedinteger], signed: np.dtype, last: int | None) -> NDArray[np.int64]:
    if not values.size:
        return np.zeros(0, np.int64)
    mask = np.iinfo(values.dtype).max
    start = int(values[0])
    if last is not None:
        step = (start - last) & int(mask)
        start = last + (step if step <= mask // 2 else step - int(mask) - 1)
    extended = np.empty(values.size, np.int64)
    extended[0] = start
    extended[1:] = np.diff(values).view(signed)  # unsigned subtraction wraps; read as signed it is the nearest step
    return np.cumsum(extended, out=extended)


@dataclass(frozen=True, slots=True)
class Loss:
    """What arrived against what should have (RFC 3550 appendix A.3), duplicates and reordering told apart.

    `lost` counts numbers that never came, so unlike A.3 a duplicate does not hide a loss.
    """

    expected: int
    distinct: int
    duplicate: int
    reordered: int

    @property
    def lost(self) -> int:
        return self.expected - self.distinct


def loss(extended: NDArray[np.int64]) -> Loss:
    """The account of one SSRC, whose extended sequence numbers are given in order of arrival."""
    if not extended.size:
        return Loss(expected=0, distinct=0, duplicate=0, reordered=0)
    distinct, first_at = np.unique(extended, return_index=True)
    highest = np.maximum.accumulate(extended)
    late = extended[first_at] < highest[first_at]
    return Loss(
        expected=int(distinct[-1] - distinct[0]) + 1,
        distinct=distinct.size,
        duplicate=extended.size - distinct.size,
        reordered=int(np.count_nonzero(late)),
    )


def jitter(arrival: ArrayLike, timestamp: ArrayLike, *, initial: float = 0.0) -> NDArray[np.float64]:
    """Interarrival jitter after each packet but the first (RFC 3550 section 6.4.1 and appendix A.8).

    Both vectors in timestamp units (unwrapped), in order of arrival; the result is in those units. The last
    element is what a receiver report would carry.
    """
    transit = np.asarray(arrival, np.float64) - np.asarray(timestamp, np.float64)
    step = np.abs(np.diff(transit)) / _JITTER_GAIN
    result = np.empty_like(step)
    decay = (1 - 1 / _JITTER_GAIN) ** np.arange(1, _JITTER_BLOCK + 1)
    level = initial
    for start in range(0, step.size, _JITTER_BLOCK):
        part = step[start : start + _JITTER_BLOCK]
        scale = decay[: part.size]
        result[start : start + part.size] = scale * (level + np.cumsum(part / scale))
        level = float(result[start + part.size - 1])
    return result
