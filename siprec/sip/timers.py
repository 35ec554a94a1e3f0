"""SIP timers (RFC 3261 section 17 and table 4, RFC 6026): their values, and the one heap they run in."""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Cancelled timers stay in the heap until they come up. Once they are this many and the majority, the heap is
# rebuilt: each timer is then moved a constant number of times, and memory stays within twice what is live.
COMPACT_FROM = 1024


@dataclass(frozen=True, slots=True)
class Timings:
    """Base values in seconds; all others follow from them (RFC 3261 17.1.1.1, 17.1.2.1)."""

    t1: float = 0.5
    t2: float = 4.0
    t4: float = 5.0
    # Timer D is "at least 32 s", whatever T1 is: the other side's T1 is not known (17.1.1.2).
    wait_d: float = 32.0
    # How long an INVITE of ours may ring: timer C of proxies, over 3 minutes (16.6 step 11).
    ring: float = 181.0
    # How long our user may leave an INVITE unanswered: less, so that the 500 comes before anybody's timer C.
    answer: float = 170.0

    @property
    def transaction(self) -> float:
        """64*T1: timers B, F, H, J, L, M, and the wait for the ACK of a 2xx."""
        return 64 * self.t1


def _nothing(_: float) -> None:
    """What a stopped timer does."""


class Timer:
    """A running timer: `fire(now)` does what it is there for. Who has thousands of them makes a kind of its own."""

    __slots__ = ("live",)

    def __init__(self) -> None:
        self.live = True

    def fire(self, now: float) -> None:
        raise NotImplementedError

    def let_go(self) -> None:
        """Hold nothing any more: a stopped timer may stay in the heap for minutes, what it acts on must not."""


class _Call(Timer):
    __slots__ = ("_action",)

    def __init__(self, action: Callable[[float], None]) -> None:
        super().__init__()
        self._action = action

    def fire(self, now: float) -> None:
        self._action(now)

    def let_go(self) -> None:
        self._action = _nothing


class TimerQueue:
    """All timers of an endpoint. Starting and firing cost O(log n), stopping O(1) amortised."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._started = 0
        self._dead = 0

    def __len__(self) -> int:
        return len(self._heap) - self._dead

    def start(self, at: float, action: Callable[[float], None]) -> Timer:
        """Have `action(now)` called once `now` has reached `at`."""
        timer = _Call(action)
        self.run(at, timer)
        return timer

    def run(self, at: float, timer: Timer) -> None:
        """Have `timer` fire once `now` has reached `at`."""
        self._started += 1
        heapq.heappush(self._heap, (at, self._started, timer))

    def stop(self, timer: Timer) -> None:
        """Stop a timer; one that has fired or was stopped before is left alone."""
        if not timer.live:
            return
        timer.live = False
        timer.let_go()
        self._dead += 1
        if self._dead > COMPACT_FROM and self._dead * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].live]
            heapq.heapify(self._heap)
            self._dead = 0

    def deadline(self) -> float | None:
        """When the next timer fires."""
        heap = self._heap
        while heap and not heap[0][2].live:
            heapq.heappop(heap)
            self._dead -= 1
        return heap[0][0] if heap else None

    def due(self, now: float) -> Iterator[Timer]:
        """Every timer that fires at `now` or before, in order; each is over when it is handed out."""
        while (at := self.deadline()) is not None and at <= now:
            timer = heapq.heappop(self._heap)[2]
            timer.live = False
            yield timer
