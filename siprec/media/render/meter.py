"""What the second pass lays down: how loud, where, and how much of what was captured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable
from math import ceil

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.plane import CHUNK_SECONDS, Samples

PEAKS_PER_CHUNK = 5 * CHUNK_SECONDS
"""One peak for 200 ms; every rate we know is a multiple of 5."""

SLOTS_PER_SECOND = 50
"""Where audio was laid down is kept by slots of 20 ms, the usual packet: 4 MB for a day, however it came."""

SLOTS_PER_CHUNK = SLOTS_PER_SECOND * CHUNK_SECONDS


class Meter:
    """Of each channel the largest sample of each 200 ms, and how long its audio lasts that was decoded and that can be
    heard; of the `watched` ones, also where any was laid down.

    `decoded`: nanoseconds of all packets together. `cut`: those of them that lie outside of the file. `again`: those
    that lie where the packet before them does. `broken`: what could not be decoded.
    """

    def __init__(self, channels: int, *, watched: Collection[int], seconds: float) -> None:
        self.peaks: list[list[NDArray[np.int32]]] = [[] for _ in range(channels)]
        self._slots = ceil(seconds * SLOTS_PER_SECOND)
        self._laid = {channel: np.zeros(self._slots, np.bool_) for channel in watched}
        self._covered: list[dict[tuple[int, Hashable], NDArray[np.bool_]]] = [{} for _ in range(channels)]
        self._chunks = [0] * channels  # handed out
        self._heard = [0] * channels  # slots
        self.decoded, self.cut, self.again, self.broken = Counter[int](), Counter[int](), Counter[int](), Counter[int]()

    def note(self, channel: int, position: int, count: int, *, rate: int, line: Hashable) -> None:
        """Where `count` samples of a packet or more were laid down; what one `line` lays over the other is heard."""
        first = max(position * SLOTS_PER_SECOND // rate, 0)
        last = min(-(-(position + count) * SLOTS_PER_SECOND // rate), self._slots)
        if channel in self._laid:
            self._laid[channel][first : max(last, 0)] = True
        covered = self._covered[channel]
        first = max(first, self._chunks[channel] * SLOTS_PER_CHUNK)
        while first < last:
            chunk, within = divmod(first, SLOTS_PER_CHUNK)
            until = min(last - chunk * SLOTS_PER_CHUNK, SLOTS_PER_CHUNK)
            if (chunk, line) not in covered:
                covered[chunk, line] = np.zeros(SLOTS_PER_CHUNK, np.bool_)
            covered[chunk, line][within:until] = True
            first = (chunk + 1) * SLOTS_PER_CHUNK

    def count(self, channel: int, positions: NDArray[np.int64], counts: NDArray[np.int64], *, rate: int, frames: int,
              again: NDArray[np.bool_], broken: int) -> None:  # fmt: skip
        """Packets that came while the recording lasted: where they were to lie, and their samples at `rate`, at which
        the file has `frames`.
        """
        inside = np.minimum(positions + counts, frames) - np.maximum(positions, 0)
        cut = counts - np.minimum(np.maximum(inside, 0), counts)
        lost = broken * int(counts.max(initial=0))
        for account, samples in ((self.decoded, int(counts.sum()) + lost), (self.cut, int(cut.sum())),
                                 (self.again, int(counts[again].sum())), (self.broken, lost)):  # fmt: skip
            account[channel] += samples * 10**9 // rate

    def unheard(self, channel: int, repeated_ns: int) -> tuple[int, int, str]:
        """Nanoseconds of audio that came, and of that, to the slot, cannot be heard; and why most of that cannot.

        `repeated_ns`: what was not even decoded, since its sequence numbers had been there.
        """
        came = self.decoded[channel] + repeated_ns
        missing = max(came - self._heard[channel] * (10**9 // SLOTS_PER_SECOND), 0)
        causes = {
            "RTP timestamps stood still": self.again[channel],
            "sequence numbers came again": repeated_ns,
            "it came ahead of its time and lies outside of the file": self.cut[channel],
            "it could not be decoded": self.broken[channel],
        }
        cause = max(causes, key=causes.__getitem__)
        return came, missing, cause if causes[cause] >= missing / 2 else "by their timestamps packets overlap"

    def laid(self) -> dict[int, list[tuple[int, int]]]:
        """Start and end of all audio of each watched channel by time, in nanoseconds and to the slot."""
        slot_ns = 10**9 // SLOTS_PER_SECOND
        found = {}
        for channel, slots in self._laid.items():
            edges = np.flatnonzero(np.diff(slots, prepend=False, append=False)) * slot_ns
            found[channel] = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
        return found

    def add(self, channel: int, samples: Samples | None, frames: int, rate: int) -> None:
        """The next `frames` samples; None for silence."""
        covered, chunk = self._covered[channel], self._chunks[channel]
        for place in [each for each in covered if each[0] == chunk]:
            self._heard[channel] += int(np.count_nonzero(covered.pop(place)))
        self._chunks[channel] += 1
        width = rate * CHUNK_SECONDS // PEAKS_PER_CHUNK
        count = -(-frames // width)
        if samples is None:
            self.peaks[channel].append(np.zeros(count, np.int32))
            return
        if frames % width:
            samples = np.concatenate([samples, np.zeros(count * width - frames, np.int16)])
        rows = samples.reshape(count, width)
        # the negative of -32768 is no 16-bit number
        self.peaks[channel].append(np.maximum(rows.max(axis=1).astype(np.int32), -rows.min(axis=1).astype(np.int32)))
