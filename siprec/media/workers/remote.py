"""The interface of `siprec.media.capture`, for sessions that media workers capture."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import count
from pathlib import Path
from typing import Unpack

from siprec import clock
from siprec.media import tiers
from siprec.media.capture import BACKLOG_BYTES, TICK_SECONDS, CaptureResult, Changes, Fault, Terms, Totals
from siprec.media.drain import kernel_drops
from siprec.media.file import create
from siprec.media.part import Outage
from siprec.media.ports import PortPair
from siprec.media.reports import REPORT_SECONDS
from siprec.media.streams import Liveness, StreamCounters
from siprec.media.workers.crew import Crew
from siprec.media.workers.ledger import SessionEntry, StreamEntry
from siprec.media.workers.wire import Orders, Question


class RemoteCapture:
    """All captures of this server, in `workers` processes. `backlog_bytes` is for all of them together.

    Otherwise as `local.LocalCapture`; of a worker's death and its successor `on_fault` hears as the cause `worker`.
    """

    def __init__(
        self,
        workers: int,
        *,
        tick: float = TICK_SECONDS,
        backlog_bytes: int = BACKLOG_BYTES,
        on_fault: Callable[[Fault], None] = lambda _: None,
        receive: tiers.Choice = "auto",
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        orders = Orders(tick, backlog_bytes // workers, tiers.choose(receive), report_seconds)
        self._crew = Crew(workers, orders, on_fault)
        self._numbers = count(1)

    def start(self) -> None:
        self._crew.start()

    def stop(self) -> None:
        self._crew.stop()

    def open(self, directory: Path, *, segment_seconds: float = 0.0) -> RemoteSession:
        session = SessionEntry(next(self._numbers), directory, segment_seconds, create(directory, 1))
        self._crew.submit(partial(self._crew.open, session))
        return RemoteSession(self._crew, session)

    def totals(self) -> Totals:
        return self._crew.totals()

    def clock_steps(self) -> tuple[tuple[int, int], ...]:
        return self._crew.clock.all()

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that listen."""
        return self._crew.pids


class RemoteSession:
    """The capture of one session, by whichever worker has it."""

    def __init__(self, crew: Crew, session: SessionEntry) -> None:
        self._crew = crew
        self._session = session
        self._tickets = count(1)
        self._closing = False

    def add(self, pair: PortPair, *, channel: int, **terms: Unpack[Terms]) -> RemoteStream:
        stream = StreamEntry(pair, channel, dict(terms), (kernel_drops(pair.rtp), clock.wall_ns()))
        self._crew.submit(partial(self._crew.add, self._session, stream))
        return RemoteStream(self._crew, self._session, stream)

    def sync(self) -> Future[None]:
        return self._ask("sync")

    def applied(self) -> Future[None]:
        return self._ask("apply")

    def _ask(self, what: Question) -> Future[None]:
        future: Future[None] = Future()
        self._crew.submit(partial(self._crew.ask, self._session, what, ticket=next(self._tickets), future=future))
        return future

    def outages(self) -> tuple[Outage, ...]:
        return self._session.outages()

    def files(self) -> tuple[Path, ...]:
        return self._session.files()

    def close(self) -> Future[CaptureResult]:
        if not self._closing:
            self._closing = True
            self._crew.submit(partial(self._crew.close, self._session))
        return self._session.closed


class RemoteStream:
    """The capture of one stream, by whichever worker has its session."""

    def __init__(self, crew: Crew, session: SessionEntry, stream: StreamEntry) -> None:
        self._crew = crew
        self._session = session
        self._stream = stream
        self._removing: Future[StreamCounters] | None = None

    @property
    def channel(self) -> int:
        return self._stream.channel

    def update(self, **changes: Unpack[Changes]) -> None:
        self._crew.submit(partial(self._crew.update, self._session, self._stream, changes))

    def counters(self) -> StreamCounters:
        return self._stream.counters(self._crew.board_of(self._session))

    def liveness(self) -> Liveness | None:
        return self._stream.liveness(self._crew.board_of(self._session))

    def remove(self) -> Future[StreamCounters]:
        if self._removing is None:
            self._removing = Future()
            self._crew.submit(partial(self._crew.remove, self._session, self._stream, self._removing))
        return self._removing
