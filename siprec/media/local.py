"""Capture in this process: the drain, writer and sync threads, behind the interface of `capture`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
from numpy.typing import NDArray

from siprec import clock
from siprec.media import tiers
from siprec.media.capture import BACKLOG_BYTES, TICK_SECONDS, Changes, Terms, Totals
from siprec.media.drain import CaptureResult, Drain, Session
from siprec.media.exchange import Exchange
from siprec.media.file import CaptureFile
from siprec.media.part import Outage
from siprec.media.ports import PortPair
from siprec.media.reports import REPORT_SECONDS
from siprec.media.rooms import Rooms
from siprec.media.source import Source, SourcePolicy
from siprec.media.streams import Liveness, Stream, StreamCounters
from siprec.media.threads import Fault, resolve
from siprec.media.writer import Writer


class LocalCapture:
    """All captures of this process, and their three threads.

    `tick`: seconds between two looks into the sockets. `backlog_bytes`: see RTP_BACKLOG. `on_fault` is called
    from any of the threads, at the beginning and end of trouble, and must return at once. `receive`: how
    sockets are emptied (RTP_RECEIVE; `tier` tells which it became). `report_seconds`: mean time between our RTCP
    reports on a stream. `on_tick` is called by the drain when it has read all sockets, and must return at once.
    `memory`: the descriptor of where what is read lies until it is written, for a successor (`rooms`). Raises
    ConfigurationError when that tier cannot run here.
    """

    def __init__(
        self,
        *,
        tick: float = TICK_SECONDS,
        backlog_bytes: int = BACKLOG_BYTES,
        on_fault: Callable[[Fault], None] | None = None,
        receive: tiers.Choice = "auto",
        report_seconds: float = REPORT_SECONDS,
        on_tick: Callable[[], None] | None = None,
        memory: int | None = None,
    ) -> None:
        report = on_fault or _ignore
        self.tier = tiers.choose(receive)
        self._rooms = Rooms(memory=memory)
        self._writer = Writer(report, tiers.appender(self.tier))
        self._drain = Drain(
            self._writer,
            tick=tick,
            backlog_bytes=backlog_bytes,
            on_fault=report,
            tier=self.tier,
            report_seconds=report_seconds,
            on_tick=on_tick,
            rooms=self._rooms,
        )

    def start(self) -> None:
        self._writer.start()
        self._drain.start()

    def stop(self) -> None:
        self.halt()
        self._writer.stop()

    def halt(self) -> None:
        """Read all sockets a last time and let go of them; what was read may still wait for the disk."""
        self._drain.stop()

    def open(self, directory: Path, *, segment_seconds: float = 0.0) -> LocalSession:
        return self.carry_on(CaptureFile(directory, segment_seconds=segment_seconds, now=clock.monotonic()))

    def carry_on(self, file: CaptureFile) -> LocalSession:
        """A new capture in a file that another process has made."""
        file.entry = self._rooms.enter(file.directory)
        session = Session(file)
        self._drain.submit(partial(self._drain.open, session), at_once=False)
        return LocalSession(self._drain, self._writer, session)

    def totals(self) -> Totals:
        drain, writer = self._drain, self._writer
        return Totals(
            streams=drain.streams,
            packets=drain.packets,
            written=writer.written,
            backlog=writer.waiting_bytes,
            troubled=writer.troubled,
            kernel_drops=drain.kernel_drops,
            write_errors=writer.errors,
            receive_errors=drain.receive_errors,
            late_ticks=drain.late_ticks,
        )

    def clock_steps(self) -> tuple[tuple[int, int], ...]:
        return self._drain.clock.all()

    def rows(self, streams: Sequence[LocalStream]) -> NDArray[np.void]:
        """Counters and liveness of many streams at once, a ROW each; those not begun or ended are left out."""
        return self._drain.table.rows([each.stream for each in streams])


class LocalSession:
    """The capture of one session: its streams and its file."""

    __slots__ = ("_closing", "_drain", "_session", "_writer")

    def __init__(self, drain: Drain, writer: Writer, session: Session) -> None:
        self._drain = drain
        self._writer = writer
        self._session = session
        self._closing = False

    def add(
        self, pair: PortPair, *, channel: int, dropped: tuple[int, int] | None = None, **terms: Unpack[Terms]
    ) -> LocalStream:
        """As the interface has it. `dropped`: the kernel's count of drops at the RTP socket and when (ns) it stood
        there, as known to the capture that had the pair before; None: what it dropped so far concerns nobody."""
        source = Source(terms.get("policy", SourcePolicy.ADDRESS), terms.get("networks", ()))
        exchange = Exchange(self._session.identity)
        destination = terms.get("destination") or pair.address
        stream = Stream(channel, pair, source, self._session.file, destination, exchange)
        stream.rates = terms.get("clock_rates", {})
        add = partial(
            self._drain.add,
            self._session,
            stream,
            remote=terms["remote"],
            payload_types=terms["payload_types"],
            rtcp=terms.get("rtcp"),
            srtp=terms.get("srtp"),
            writing=terms.get("writing", True),
            dropped=dropped,
        )
        self._drain.submit(add, at_once=False)
        return LocalStream(self._drain, self._session, stream)

    def sync(self) -> Future[None]:
        future: Future[None] = Future()
        self._writer.sync(self._session.file, future)
        return future

    def applied(self) -> Future[None]:
        future: Future[None] = Future()
        self._drain.submit(partial(resolve, future, None), at_once=True)
        return future

    def outages(self) -> tuple[Outage, ...]:
        return self._session.file.outages.all()

    def files(self) -> tuple[Path, ...]:
        return tuple(self._session.file.paths)

    def close(self) -> Future[CaptureResult]:
        if not self._closing:
            self._closing = True
            self._drain.submit(partial(self._drain.close, self._session), at_once=True)
        return self._session.closed


class LocalStream:
    """The capture of one stream."""

    __slots__ = ("_drain", "_removing", "_session", "stream")

    def __init__(self, drain: Drain, session: Session, stream: Stream) -> None:
        self._drain = drain
        self._session = session
        self.stream = stream
        self._removing: Future[StreamCounters] | None = None

    @property
    def channel(self) -> int:
        return self.stream.channel

    def update(self, **changes: Unpack[Changes]) -> None:
        drain, stream = self._drain, self.stream
        if "payload_types" in changes:
            rates = changes.get("clock_rates", {})
            drain.submit(partial(drain.set_payload_types, stream, changes["payload_types"], rates), at_once=True)
        if "remote" in changes:
            drain.submit(partial(drain.set_remote, stream, changes["remote"]), at_once=True)
        if "rtcp" in changes:
            drain.submit(partial(drain.set_rtcp, stream, changes["rtcp"]), at_once=True)
        if "srtp" in changes:
            drain.submit(partial(drain.set_srtp, stream, changes["srtp"]), at_once=True)
        if "writing" in changes:
            drain.submit(partial(drain.set_writing, stream, changes["writing"]), at_once=True)

    def counters(self) -> StreamCounters:
        return self._drain.counters(self.stream)

    def liveness(self) -> Liveness | None:
        return self._drain.liveness(self.stream)

    def remove(self) -> Future[StreamCounters]:
        if self._removing is None:
            self._removing = Future()
            remove = partial(self._drain.remove, self._session, self.stream, self._removing)
            self._drain.submit(remove, at_once=True)
        return self._removing


def _ignore(fault: Fault) -> None:
    """Faults that nobody asked to hear of; they still show in `totals` and as outages."""
