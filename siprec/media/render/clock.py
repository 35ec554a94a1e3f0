"""Undo steps of the wall clock: packets are stamped with CLOCK_REALTIME, and that may be set while a call lasts.

`Part.clock` holds (monotonic ns, realtime minus monotonic ns), a pair for each step, noted up to about a second
after it happened. Every stamp is brought to the clock of the part's first pair. In which stretch a stamp lies is
told by the stamps themselves, in the order in which one socket gave them: a jump in the direction of the step
close to when it was noted, or a stamp that the old offset would place after the noting.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

_NOTED_WITHIN_NS = 3_000_000_000
"""The offset is looked at each second; three allow for a machine that is busy."""

_BACKWARD_NS = -25_000_000
"""One socket's stamps never run backwards but by a step, and a step that matters is 50 ms."""


class StepUndo:
    """Brings stamps of one part to one clock. Keeps, for each socket, in which stretch it is."""

    def __init__(self, clock: Sequence[tuple[int, int]]) -> None:
        self._clock = list(clock)
        self._stretch: dict[Hashable, int] = {}
        self._last: dict[Hashable, int] = {}

    @property
    def stepped(self) -> bool:
        """Whether there is anything to undo."""
        return len(self._clock) > 1

    def undo(self, stamps: NDArray[np.int64], socket: Hashable) -> NDArray[np.int64]:
        """`stamps` of one socket, in the order they came; calls for the same socket continue each other."""
        if not self.stepped or not stamps.size:
            return stamps
        result = stamps.copy()
        begin = 0
        while begin < stamps.size:
            stretch = self._stretch.get(socket, 0)
            until = self._step_at(stamps, begin, stretch=stretch, last=self._last.get(socket))
            result[begin:until] -= self._clock[stretch][1] - self._clock[0][1]
            if until > begin:
                self._last[socket] = int(stamps[until - 1])
            if until < stamps.size:
                self._stretch[socket] = stretch + 1
                self._last.pop(socket, None)  # the step itself is used up; the next one needs a jump of its own
            begin = until
        return result

    def at(self, stamp: int) -> int:
        """A single stamp, by what its value alone tells."""
        stretch = 0
        while stretch + 1 < len(self._clock) and stamp - self._clock[stretch][1] >= self._clock[stretch + 1][0]:
            stretch += 1
        return stamp - (self._clock[stretch][1] - self._clock[0][1]) if stretch else stamp

    def final(self, stamp: int) -> int:
        """A stamp taken after all steps, such as a part's end."""
        return stamp - (self._clock[-1][1] - self._clock[0][1]) if self.stepped else stamp

    def _step_at(self, stamps: NDArray[np.int64], begin: int, *, stretch: int, last: int | None) -> int:
        """The first index from `begin` on that lies after the next step; the length when none does."""
        if stretch + 1 >= len(self._clock):
            return int(stamps.size)
        noted, offset = self._clock[stretch + 1]
        step = offset - self._clock[stretch][1]
        here = stamps[begin:]
        jump = np.diff(here, prepend=here[0] if last is None else last)
        along = jump < max(step // 2, _BACKWARD_NS) if step < 0 else jump > step // 2
        close = here - offset >= noted - _NOTED_WITHIN_NS
        # the old offset would place the stamp after the noting, when the old offset no longer held
        past = here - self._clock[stretch][1] >= noted
        hits = np.flatnonzero((along & close) | past)
        return begin + int(hits[0]) if hits.size else int(stamps.size)
