"""Capture: what comes to the sockets goes to disk as it came, with the time the kernel saw it.

Theory of operation. A recorder forwards nothing, so it may be late: packets wait in their sockets (a default
buffer holds 5 s of G.711), and five times a second the *drain* thread empties all of them, hundreds of packets
per system call (`receive`), into one *arena* of fixed slots (`arena`). While a group of sockets is still in the
processor's cache, vectors decide which packets belong to a recording (`sift`, and `source` for the few that
take thought), lay a record header in front of each (`records`), and copy the records together, those of one
session side by side. The *writer* thread appends one piece per session and tick to its pcap file, and keeps in
memory what a full or slow disk cannot take (`writer`); a third thread makes it durable about once a second.
When more waits than the backlog allows, draining stops: then the sockets hold the rest, and what the kernel
drops is counted there and becomes an `Outage` with its cause.

The event loop never waits for any of this. What it wants (a stream more, a new SDP, a pause) goes through a queue
of commands that the drain applies between ticks; what it reads (counters, liveness) are single numbers that need no
lock. Sockets stay the property of whoever opened them: a port pair may be released once the future of `remove` or
`close` is done, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from siprec import clock
from siprec.media import receive
from siprec.media.arena import Arena
from siprec.media.drain import CaptureResult, Drain, Session
from siprec.media.exchange import Exchange, RtcpTerms
from siprec.media.part import Outage
from siprec.media.ports import PortPair
from siprec.media.reports import REPORT_SECONDS
from siprec.media.secure import SrtpTerms
from siprec.media.source import Network, Source, SourcePolicy
from siprec.media.streams import Liveness, Stream, StreamCounters
from siprec.media.writer import CaptureFile, Fault, Writer

__all__ = [
    "Capture",
    "CaptureResult",
    "Fault",
    "Liveness",
    "RtcpTerms",
    "SessionCapture",
    "SourcePolicy",
    "SrtpTerms",
    "StreamCapture",
    "StreamCounters",
    "Totals",
]

TICK_SECONDS = 0.2
"""Between two looks into the sockets: a default buffer could wait 25 times as long."""

BACKLOG_BYTES = 512 << 20
"""Memory for records that the disk cannot take yet (RTP_BACKLOG)."""


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Leave this as it is."""


UNCHANGED = Unchanged()


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything since start, for logs and metrics. `written` and `backlog` in bytes of records."""

    streams: int
    packets: int
    written: int
    backlog: int
    kernel_drops: int
    write_errors: int
    receive_errors: int
    late_ticks: int


class Capture:
    """All captures of this process, and their three threads.

    `tick`: seconds between two looks into the sockets. `backlog_bytes`: see RTP_BACKLOG. `on_fault` is called
    from any of the threads, at the beginning and end of trouble, and must return at once. `choose` picks how
    sockets are read (see `receive`). `report_seconds`: mean time between our RTCP reports on a stream.
    """

    def __init__(
        self,
        *,
        tick: float = TICK_SECONDS,
        backlog_bytes: int = BACKLOG_BYTES,
        on_fault: Callable[[Fault], None] | None = None,
        choose: Callable[[Arena], receive.Receiver] = receive.choose,
        report_seconds: float = REPORT_SECONDS,
    ) -> None:
        report = on_fault or _ignore
        self._writer = Writer(report)
        self._drain = Drain(
            self._writer,
            tick=tick,
            backlog_bytes=backlog_bytes,
            on_fault=report,
            choose=choose,
            report_seconds=report_seconds,
        )

    def start(self) -> None:
        """Begin; sessions may be opened before."""
        self._writer.start()
        self._drain.start()

    def stop(self) -> None:
        """Close every open session and end all threads; returns when everything that can be is on disk."""
        self._drain.stop()
        self._writer.stop()

    def open(self, directory: Path, *, segment_seconds: float = 0.0) -> SessionCapture:
        """A new capture in the part folder `directory`: `capture-0001.pcap`, a new file each `segment_seconds`.

        The file is there, header and all, on return; `SessionCapture.sync` tells when it would survive a power
        cut. Raises ArchiveError when it cannot be created.
        """
        file = CaptureFile(directory, segment_seconds=segment_seconds, now=clock.monotonic())
        session = Session(file)
        self._drain.submit(partial(self._drain.open, session), at_once=False)
        return SessionCapture(self._drain, self._writer, session)

    def totals(self) -> Totals:
        drain, writer = self._drain, self._writer
        return Totals(
            streams=drain.streams,
            packets=drain.packets,
            written=writer.written,
            backlog=writer.waiting_bytes,
            kernel_drops=drain.kernel_drops,
            write_errors=writer.errors,
            receive_errors=drain.receive_errors,
            late_ticks=drain.late_ticks,
        )

    def clock_steps(self) -> tuple[tuple[int, int], ...]:
        """(monotonic ns, wall minus monotonic ns) at start and after each step of the wall clock (Part.clock)."""
        return tuple(self._drain.clock)


class SessionCapture:
    """The capture of one session: its streams and its file."""

    def __init__(self, drain: Drain, writer: Writer, session: Session) -> None:
        self._drain = drain
        self._writer = writer
        self._session = session
        self._closing = False

    def add(
        self,
        pair: PortPair,
        *,
        channel: int,
        policy: SourcePolicy = SourcePolicy.ADDRESS,
        payload_types: frozenset[int],
        remote: tuple[str, int] | None,
        networks: Sequence[Network] = (),
        clock_rates: Mapping[int, int] | None = None,
        rtcp: RtcpTerms | None = None,
        srtp: SrtpTerms | None = None,
        writing: bool = True,
        destination: str | None = None,
    ) -> StreamCapture:
        """Capture what comes to `pair`.

        `remote`: IP literal and port of the peer's SDP; None while there is none, then up to 50 packets wait
        for `update`. `networks`: from where `latch` may learn. `clock_rates`: of payload types that do not run at
        8000 a second, for jitter. `rtcp`: what was agreed on RTCP; None sends no reports. `srtp`: the keys of an SRTP
        stream, whose packets are written decrypted. `destination`: the address that records show as ours when the pair
        is bound to a wildcard.
        """
        source, exchange = Source(policy, networks), Exchange(self._session.identity)
        stream = Stream(channel, pair, source, self._session.file, destination or pair.address, exchange)
        stream.rates = dict(clock_rates or {})
        add = partial(
            self._drain.add,
            self._session,
            stream,
            remote=remote,
            payload_types=payload_types,
            rtcp=rtcp,
            srtp=srtp,
            writing=writing,
        )
        self._drain.submit(add, at_once=False)
        return StreamCapture(self._drain, self._session, stream)

    def sync(self) -> Future[None]:
        """Done when the file, its folder entry, and all packets handed over so far would survive a power cut."""
        future: Future[None] = Future()
        self._writer.sync(self._session.file, future)
        return future

    def outages(self) -> tuple[Outage, ...]:
        """For what times audio may be missing, and why; so far."""
        return self._session.file.outages.all()

    def files(self) -> tuple[Path, ...]:
        return tuple(self._session.file.paths)

    def close(self) -> Future[CaptureResult]:
        """Read the sockets a last time now, write and sync everything, close the file.

        The same future at every call. With a disk in trouble it is done after `writer.CLOSE_PATIENCE` at last.
        """
        if not self._closing:
            self._closing = True
            self._drain.submit(partial(self._drain.close, self._session), at_once=True)
        return self._session.closed


class StreamCapture:
    """The capture of one stream."""

    def __init__(self, drain: Drain, session: Session, stream: Stream) -> None:
        self._drain = drain
        self._session = session
        self._stream = stream
        self._removing: Future[StreamCounters] | None = None

    @property
    def channel(self) -> int:
        return self._stream.channel

    def update(
        self,
        *,
        remote: tuple[str, int] | Unchanged | None = UNCHANGED,
        payload_types: frozenset[int] | None = None,
        clock_rates: Mapping[int, int] | None = None,
        rtcp: RtcpTerms | None = None,
        srtp: SrtpTerms | Unchanged | None = UNCHANGED,
        writing: bool | None = None,
    ) -> None:
        """Follow a new SDP, pause (`writing=False`) or resume.

        Giving `remote` or `rtcp`, even the same, lets the source of either be learned anew. Old payload types stay
        accepted for 5 s. While not writing, packets are read and counted as refused for the reason `paused`.
        """
        drain, stream = self._drain, self._stream
        if payload_types is not None:
            rates = dict(clock_rates or {})
            drain.submit(partial(drain.set_payload_types, stream, payload_types, rates), at_once=True)
        if not isinstance(remote, Unchanged):
            drain.submit(partial(drain.set_remote, stream, remote), at_once=True)
        if rtcp is not None:
            drain.submit(partial(drain.set_rtcp, stream, rtcp), at_once=True)
        if not isinstance(srtp, Unchanged):
            drain.submit(partial(drain.set_srtp, stream, srtp), at_once=True)
        if writing is not None:
            drain.submit(partial(drain.set_writing, stream, writing), at_once=True)

    def counters(self) -> StreamCounters:
        """Everything since `add`; final once `remove` or `close` is done."""
        return self._drain.counters(self._stream)

    def liveness(self) -> Liveness | None:
        """Whether packets come; None before the first tick and after the end."""
        return self._drain.liveness(self._stream)

    def remove(self) -> Future[StreamCounters]:
        """Read the sockets a last time now and let go of them. The same future at every call."""
        if self._removing is None:
            self._removing = Future()
            remove = partial(self._drain.remove, self._session, self._stream, self._removing)
            self._drain.submit(remove, at_once=True)
        return self._removing


def _ignore(fault: Fault) -> None:
    """Faults that nobody asked to hear of; they still show in `totals` and as outages."""
