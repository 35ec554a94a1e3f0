"""The thread that empties all sockets a few times a second. The theory of operation is in `capture`.

Everything here but `submit` and the read-only numbers belongs to the drain thread; others hand over commands,
which are applied between ticks in the order given.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

import numpy as np

from siprec import clock
from siprec.media import pcap, receive, records, tiers
from siprec.media.arena import Arena, address_text
from siprec.media.exchange import Identity, RtcpTerms
from siprec.media.file import CaptureFile
from siprec.media.part import Outage
from siprec.media.plan import Plan
from siprec.media.reports import REPORT_SECONDS, Reporter
from siprec.media.rooms import Rooms
from siprec.media.secure import SrtpTerms
from siprec.media.sift import Extras, Sieve
from siprec.media.source import SILENT_SECONDS, Arrival
from siprec.media.streams import OLD_TYPES_SECONDS, Liveness, Stream, StreamCounters, StreamTable, origin
from siprec.media.threads import Fault, guarded, resolve
from siprec.media.writer import Pieces, Writer, pieces_of
from siprec.rtp import packets

ROUND_SECONDS = 1.0
"""How often RTCP is read, the clock looked at, and each socket's drop counter while all sockets wait for the disk."""

QUIET_SECONDS = 10.0
"""How often the drop counter of a socket is looked at that does not give much: there is hardly a cause for drops."""

CROWDED = 36
"""Datagrams in one visit from which a socket may have been full meanwhile: three times what a tick of 20 ms packets
brings, and less than fits a default buffer where a driver charges whole pages for each."""

CLOCK_STEP_NS = 50_000_000
"""A change of wall minus monotonic clock worth noting: rendering undoes steps above this."""

MAX_CLOCK_STEPS = 1000
"""Steps remembered; a clock that steps more often is beyond help, and the first steps are the ones that count."""

_SMALLEST_RECORD = pcap.RECORD_HEADER + pcap.IPV4_HEADERS + packets.FIXED_HEADER
_SO_MEMINFO = 55  # asm-generic/socket.h; nine 32-bit numbers, the last is drops (linux/sock_diag.h)
_MEMINFO = 36


@dataclass(frozen=True, slots=True)
class CaptureResult:
    """What a closed session leaves. `octets` counts record bytes written; `counters` is by channel, one entry
    per stream that ever was, in the order of their end."""

    files: tuple[Path, ...]
    octets: int
    outages: tuple[Outage, ...]
    counters: tuple[tuple[int, StreamCounters], ...]


@dataclass(slots=True, eq=False)
class Session:
    """The streams that share one file. `ended` keeps the counters of those that are gone. `identity` is ours in the
    RTCP of all of them."""

    file: CaptureFile
    streams: list[Stream] = field(default_factory=list)
    ended: list[tuple[int, StreamCounters]] = field(default_factory=list)
    identity: Identity = field(default_factory=Identity)
    _closed: Future[CaptureResult] | None = None

    @property
    def closed(self) -> Future[CaptureResult]:
        """Done when the file is. Made when it is first asked for, by any thread: a future holds 1.5 KB."""
        with _CLOSING:
            if self._closed is None:
                self._closed = Future()
            return self._closed


_CLOSING = threading.Lock()


class ClockSteps:
    """Pairs (monotonic ns, wall minus monotonic ns): one at first, one after each step of the wall clock."""

    def __init__(self) -> None:
        self._steps: list[tuple[int, int]] = []

    def look(self) -> None:
        offset = clock.offset_ns()
        stepped = not self._steps or abs(offset - self._steps[-1][1]) > CLOCK_STEP_NS
        if stepped and len(self._steps) < MAX_CLOCK_STEPS:
            self._steps.append((int(clock.monotonic() * 1e9), offset))

    def all(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._steps)


class Drain:
    """Empties sockets into an arena, sifts, and hands records to `writer`."""

    def __init__(
        self,
        writer: Writer,
        *,
        tick: float,
        backlog_bytes: int,
        on_fault: Callable[[Fault], None],
        tier: tiers.Tier,
        report_seconds: float = REPORT_SECONDS,
        on_tick: Callable[[], None] | None = None,
        rooms: Rooms | None = None,
    ) -> None:
        self.table = StreamTable()
        self._reporter = Reporter(self.table, seconds=report_seconds)
        self.clock = ClockSteps()
        self.packets = 0
        self.kernel_drops = 0
        self.late_ticks = 0
        self._writer = writer
        self._tick = tick
        self._backlog_bytes = backlog_bytes
        self._on_fault = on_fault
        self._on_tick = on_tick
        self._arena = Arena()
        self._rooms = rooms or Rooms()
        self._receiver = tiers.receiver(tier, self._arena, table=self.table, rooms=self._rooms)
        self._sieve = Sieve(self._arena, self.table, self._connect)
        self._sessions: dict[Session, None] = {}
        self._rtcp = selectors.DefaultSelector()  # hardly any of these sockets holds anything: not worth a call each
        self._plan: Plan | None = None
        self._per_round = max(1, round(ROUND_SECONDS / tick))
        self._ticks = 0
        self._read_ns = 0
        self._read_on = 0  # the first socket that the last tick had no room for; else 0
        self._crowded: set[int] = set()
        self._outgrowing: set[Stream] = set()  # those with old payload types
        self._held_back = False
        self._held_back_until_ns = 0
        self._held_back_cause: Literal["disk", "backlog"] = "backlog"
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._rest = threading.Lock()  # the thread rests while it is held; an Event costs ten times as much each tick
        self._rest.acquire()
        self._stopping = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="capture-drain", daemon=True)

    # ---- any thread ------------------------------------------------------------------------------------------

    def submit(self, command: Callable[[], None], *, at_once: bool) -> None:
        """Have `command` run in the drain thread, before its next tick or without waiting for it."""
        if self._ended:
            command()
            return
        self._commands.put(command)
        if at_once:
            self._rouse()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close every session that is still open, then end the thread."""
        self._stopping = True
        self._rouse()
        if self._thread.is_alive():
            self._thread.join()
        self._ended = True
        self._apply()

    @property
    def receive_errors(self) -> int:
        return self._receiver.failures

    @property
    def streams(self) -> int:
        return sum(stream is not None for stream in self.table.streams)

    def counters(self, stream: Stream) -> StreamCounters:
        """What `stream` has received; zeros until its first tick."""
        if stream.index >= 0:
            counters = self.table.counters(stream)
            if stream.index >= 0:  # else it ended meanwhile, and the row may be another's
                return counters
        return stream.final or StreamCounters()

    def liveness(self, stream: Stream) -> Liveness | None:
        """None before the first tick and after the end."""
        if stream.index < 0:
            return None
        liveness = self.table.liveness(stream)
        return liveness if stream.index >= 0 else None

    # ---- commands --------------------------------------------------------------------------------------------

    def open(self, session: Session) -> None:
        self._sessions[session] = None
        self._plan = None

    def add(
        self,
        session: Session,
        stream: Stream,
        *,
        remote: tuple[str, int] | None,
        payload_types: frozenset[int],
        rtcp: RtcpTerms | None,
        srtp: SrtpTerms | None,
        writing: bool,
        dropped: tuple[int, int] | None = None,
    ) -> None:
        self.table.add(stream, writing=writing)
        self.table.set_payload_types(stream, payload_types)
        stream.source.remote = origin(remote)
        self.table.follow(stream)
        self.set_rtcp(stream, rtcp)
        stream.secure.renew(srtp)
        self.table.follow_srtp(stream)
        stream.drops, stream.drops_seen_ns = dropped or (kernel_drops(stream.pair.rtp), clock.wall_ns())
        stream.connected = _is_connected(stream.pair.rtp)
        self.table.only[stream.index] = stream.connected
        self._rtcp.register(stream.pair.rtcp, selectors.EVENT_READ, stream)
        session.streams.append(stream)
        self._plan = None

    def set_writing(self, stream: Stream, writing: bool) -> None:
        """What came before the change is treated as before the change."""
        if stream.index >= 0:
            self._read_only(stream)
            self.table.writing[stream.index] = writing

    def set_payload_types(self, stream: Stream, types: frozenset[int], rates: Mapping[int, int]) -> None:
        """New types count at once, old ones for a while longer."""
        if stream.index < 0:
            return
        stream.rates = {**stream.rates, **rates}
        old = stream.source.payload_types
        self.table.set_payload_types(stream, types | old)
        stream.old_types_until = clock.monotonic() + OLD_TYPES_SECONDS
        stream.new_types = types
        self._outgrowing.add(stream)

    def set_remote(self, stream: Stream, remote: tuple[str, int] | None) -> None:
        """A new SDP: the source may be learned again."""
        if stream.index < 0:
            return
        self._read_only(stream)
        self._disconnect(stream)
        self.table.settled[stream.index] = False
        released = stream.source.renew(origin(remote), now_ns=clock.wall_ns())
        extras = self._sieve.take(stream, released, now=clock.monotonic())
        self._hand_over(self._ahead(extras))

    def set_rtcp(self, stream: Stream, terms: RtcpTerms | None) -> None:
        """Other terms, or the same anew: where the peer's RTCP comes from may be learned again."""
        if stream.index >= 0:
            stream.exchange.renew(terms)
            self.table.follow_rtcp(stream)
            self._reporter.begin(stream, clock.monotonic())

    def set_srtp(self, stream: Stream, terms: SrtpTerms | None) -> None:
        """What came before the change is opened as before the change."""
        if stream.index >= 0:
            self._read_only(stream)
            stream.secure.renew(terms)
            self.table.follow_srtp(stream)

    def remove(self, session: Session, stream: Stream, future: Future[StreamCounters]) -> None:
        if stream.index >= 0:
            self._read_only(stream)
            session.streams.remove(stream)
            self._end(session, stream)
            self._plan = None
        resolve(future, self.counters(stream))

    def close(self, session: Session) -> None:
        """One last look into all sockets of the session, then its file is finished by the writer."""
        if session not in self._sessions:
            return
        del self._sessions[session]
        self._plan = None
        if not (self._stopping and self._writer.failing):  # in its socket a packet may outlive us, for a successor
            self._read(Plan([(session.file, session.streams)], rtcp=True))
        for stream in session.streams:
            self._end(session, stream)
        session.streams.clear()
        self._writer.close(session.file, lambda: self._closed(session))

    def _closed(self, session: Session) -> None:
        self._rooms.leave(session.file.entry)
        resolve(session.closed, _result(session))

    def _connect(self, stream: Stream) -> None:
        """Let the kernel refuse what does not come from the locked source; where it cannot, the policy still does."""
        if stream.source.locked is not None:
            high, low, port = stream.source.locked
            with contextlib.suppress(OSError):
                stream.pair.rtp.connect((address_text(high, low), port))
                stream.connected = True
                self.table.only[stream.index] = 1

    def _disconnect(self, stream: Stream) -> None:
        """Let the policy judge again what does not come from the locked source."""
        if stream.connected:
            with contextlib.suppress(OSError):  # then the policy is all there is, and the old source all it hears
                receive.disconnect(stream.pair.rtp)
                stream.connected = False
        self.table.only[stream.index] = 0

    def _end(self, session: Session, stream: Stream) -> None:
        self._reporter.leave(stream)
        self._rtcp.unregister(stream.pair.rtcp)
        self._outgrowing.discard(stream)
        self._note_drops(stream, kernel_drops(stream.pair.rtp), clock.wall_ns())
        stream.source.forget()
        stream.final = self.table.counters(stream)
        session.ended.append((stream.channel, stream.final))
        self.table.remove(stream)

    def _read_only(self, stream: Stream) -> None:
        self._read(Plan([(stream.file, [stream])]))

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        due = clock.monotonic()
        while not self._stopping:
            self._rest.acquire(timeout=max(0.0, due - clock.monotonic()))
            self._apply()
            now = clock.monotonic()
            if now >= due:
                guarded(self.tick, self._on_fault)
                self.late_ticks += now >= due + self._tick
                due = max(due + self._tick, now)
        self._apply()
        for session in list(self._sessions):
            guarded(partial(self.close, session), self._on_fault)

    def _rouse(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is awake already
            self._rest.release()

    def _apply(self) -> None:
        while not self._commands.empty():  # nobody else takes any
            guarded(self._commands.get_nowait(), self._on_fault)

    def tick(self) -> None:
        """Look into all sockets once, in the thread or before it is started."""
        if not self._hold_back():
            if self._plan is None:
                self._plan = Plan((session.file, session.streams) for session in self._sessions)
            read_ns = clock.wall_ns()
            first = self._read_on
            self._read_on = self._read(self._plan, first, until_full=True)
            if first and not self._read_on:  # the others too, else their sources would be taken for silent
                self._read_on = self._read(self._plan, until_full=True)
            if self._ticks % self._per_round == 0:
                self._read_rtcp()
            if self._crowded:
                self._look_for_drops(self._crowded, since_ns=self._read_ns)
                self._crowded = set()
            self._read_ns = read_ns
        if self._on_tick is not None:
            self._on_tick()
        if self._ticks % self._per_round == 0:
            self._look_after()
        self._ticks += 1
        self._reporter.send_due(clock.monotonic())

    def _read_rtcp(self) -> None:
        ready: dict[CaptureFile, list[Stream]] = {}
        for key, _ in self._rtcp.select(0):
            ready.setdefault(key.data.file, []).append(key.data)
        if ready:
            self._read(Plan(ready.items(), rtp=False, rtcp=True))

    def _hold_back(self) -> bool:
        """Whether so much waits for the disk that the packets had better wait in their sockets."""
        holding = self._writer.waiting_bytes >= self._backlog_bytes
        if holding:
            self._held_back_cause = "disk" if self._writer.failing else "backlog"
        if holding or self._held_back:
            self._held_back_until_ns = clock.wall_ns()
        if holding != self._held_back:
            self._held_back = holding
            detail = f"{self._writer.waiting_bytes} bytes wait for the disk"
            self._on_fault(Fault("backlog", holding, detail))
        return holding

    def _look_after(self) -> None:
        """Once a round: drops in the kernel where nothing told of them, the clock, payload types that are over."""
        self.clock.look()
        now, count = clock.monotonic(), len(self.table.streams)
        step = 1 if self._held_back else round(QUIET_SECONDS / ROUND_SECONDS)
        self._look_for_drops(range(self._ticks // self._per_round % step, count, step), since_ns=0)
        for stream in [each for each in self._outgrowing if each.old_types_until <= now]:
            self._outgrowing.discard(stream)
            self.table.set_payload_types(stream, stream.new_types)
        if not self._held_back:  # else the packets wait in their sockets
            self._look_for_silence(now)

    def _look_for_silence(self, now: float) -> None:
        """Open the sockets of sources that have fallen silent to all senders; close those of sources that speak."""
        table = self.table
        quiet = table.last_at < now - SILENT_SECONDS
        for index in np.flatnonzero((table.only > 0) & quiet).tolist():
            stream = table.streams[index]
            assert stream is not None
            self._disconnect(stream)
            stream.source.falls_silent(int(table.reception["highest"][index]) & 0xFFFF)
            table.follow(stream)
        for index in np.flatnonzero(table.silent & ~quiet).tolist():
            stream = table.streams[index]
            assert stream is not None
            stream.source.speaks()
            table.follow(stream)
            self._connect(stream)

    def _look_for_drops(self, indexes: Iterable[int], *, since_ns: int) -> None:
        """At these streams, which have dropped nothing before `since_ns`."""
        now_ns = clock.wall_ns()
        for index in indexes:
            stream = self.table.streams[index]
            if stream is not None:
                stream.drops_seen_ns = max(stream.drops_seen_ns, since_ns)
                self._note_drops(stream, kernel_drops(stream.pair.rtp), now_ns)

    def _note_drops(self, stream: Stream, drops: int, now_ns: int) -> None:
        """The kernel's counter stands at `drops`; it wraps at 32 bits and is never reset."""
        if lost := (drops - stream.drops) & 0xFFFFFFFF:
            stream.drops = drops
            stream.kernel_drops += lost
            self.kernel_drops += lost
            held_back = stream.drops_seen_ns <= self._held_back_until_ns
            cause: Literal["disk", "backlog", "kernel_drop"]
            cause = self._held_back_cause if held_back else "kernel_drop"
            stream.file.outages.add(Outage(stream.drops_seen_ns, now_ns, cause, channel=stream.channel, packets=lost))
        stream.drops_seen_ns = now_ns

    # ---- from sockets to the writer --------------------------------------------------------------------------

    def _read(self, plan: Plan, begin: int = 0, *, until_full: bool = False) -> int:
        """Everything that waits in the sockets of `plan` from `begin` on; `until_full`: no more than may wait for the
        disk, and then where to go on is given back. After a while in which nothing was read they hold a lot."""
        at = begin
        while at < len(plan.sockets.numbers):
            if until_full and at > begin and self._hold_back():
                return at
            fill = self._receiver.fill(plan.sockets, at)
            if fill.most >= CROWDED:
                self._note_crowds(plan, at, fill)
            if fill.used or fill.laid:
                self._hand_over(self._take(plan, at, fill))
            at += len(fill.counts) - fill.unfinished
        return 0

    def _note_crowds(self, plan: Plan, begin: int, fill: receive.Fill) -> None:
        """Sockets that gave so much that they may have been full."""
        crowded = np.array(fill.counts) >= CROWDED
        if fill.laid:
            crowded |= np.diff(fill.laid.ends) >= CROWDED * _SMALLEST_RECORD
        self._crowded.update((plan.sockets.kinds[begin + np.flatnonzero(crowded)] >> 1).tolist())

    def _take(self, plan: Plan, begin: int, fill: receive.Fill) -> list[Pieces]:
        """What is to be written of a round. Packets that had been held come before the others: they are older."""
        ready: list[receive.Laid] = [fill.laid] if fill.laid else []
        older: list[Pieces] = []
        if fill.used:
            laid, extras = self._sift(plan, begin, fill)
            ready += [laid] if laid else []
            older = self._ahead(extras)
        for laid in ready:
            self.packets += laid.packets
        return [*older, plan.pieces(begin, ready)] if ready else older

    def _sift(self, plan: Plan, begin: int, fill: receive.Fill) -> tuple[receive.Laid | None, Extras]:
        """The records of what is to be written of the datagrams in the arena, and older packets that had been held."""
        counts = np.array(fill.counts, np.int64)
        kind = np.repeat(plan.sockets.kinds[begin : begin + len(counts)], counts)
        keep, extras = self._sieve.sift(kind >> 1, kind & 1 == 1, now=clock.monotonic())
        kept = int(np.count_nonzero(keep))
        if not kept:
            return None, extras
        six = records.lay(self._arena, self.table, kind)
        data, ends = records.compact(self._arena, six, keep)
        slots = np.zeros(len(counts) + 1, np.int64)
        np.cumsum(counts, out=slots[1:])
        room = self._rooms.take(plan.sockets.entries[begin : begin + len(counts)])
        room.octets[: len(data)] = data
        room.ends[: len(slots)] = edges = ends[slots]
        return receive.Laid(room.lend(len(data)), edges, kept), extras

    def _ahead(self, extras: Extras) -> list[Pieces]:
        """Packets that had been held, one piece for each file; none if there are none."""
        found: dict[CaptureFile, bytes] = {}
        for stream, accepted in extras:
            records = b"".join(_record(stream, packet) for packet in accepted)
            found[stream.file] = found.get(stream.file, b"") + records
            self.packets += len(accepted)
        return [pieces_of(list(found.items()))] if found else []

    def _hand_over(self, ready: Iterable[Pieces]) -> None:
        now = clock.monotonic()
        for pieces in ready:
            self._writer.write(pieces, now=now)


def _record(stream: Stream, packet: Arrival) -> bytes:
    high, low, port = packet.origin
    source = (address_text(high, low), port)
    return pcap.record(
        packet.time_ns, packet.datagram, source=source, destination=(stream.destination, stream.pair.port)
    )


def _is_connected(sock: socket.socket) -> bool:
    """A socket that outlived an earlier process may be."""
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def kernel_drops(sock: socket.socket) -> int:
    """Datagrams the kernel has dropped at this socket; 0 where it does not tell."""
    try:
        return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO)[32:], sys.byteorder)
    except OSError:
        return 0


def _result(session: Session) -> CaptureResult:
    file = session.file
    return CaptureResult(tuple(file.paths), file.octets, file.outages.all(), tuple(session.ended))
