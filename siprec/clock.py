"""The only reader of time.

Everything else takes `now` as an argument, so that a test moves time by hand and a step of the wall
clock cannot stretch a timer.
"""

import time

monotonic = time.monotonic
"""Seconds that never jump; for timers and durations."""

wall_ns = time.time_ns
"""Nanoseconds since 1970 (CLOCK_REALTIME), the clock that stamps packets in the kernel."""


def offset_ns() -> int:
    """Wall clock minus monotonic clock in nanoseconds: it changes only when the wall clock is stepped."""
    return time.time_ns() - time.monotonic_ns()
