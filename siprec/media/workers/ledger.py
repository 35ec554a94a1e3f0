"""What each media worker has been given and has told, so that a successor can be given the same.

Written by the crew's thread alone; other threads read single attributes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from siprec.media.drain import CaptureResult
from siprec.media.file import OutageLog, create, following
from siprec.media.part import Outage
from siprec.media.pcap import FILE_HEADER
from siprec.media.ports import PortPair
from siprec.media.streams import Liveness, StreamCounters
from siprec.media.workers import wire
from siprec.media.workers.board import Board
from siprec.media.workers.wire import Message, Question


@dataclass(slots=True, eq=False)
class StreamEntry:
    """One stream. `slot` is -1 until the crew has taken note of it, and after its end.

    `told` is by the worker that has it now, `before` and `heard_before` by those that had it earlier. `dropped`: the
    kernel's count of drops when the first of them got it, and when that was.
    """

    pair: PortPair
    channel: int
    terms: dict[str, Any]
    dropped: tuple[int, int]
    slot: int = -1
    told: StreamCounters = field(default_factory=StreamCounters)
    before: StreamCounters = field(default_factory=StreamCounters)
    heard_before: Liveness | None = None
    final: StreamCounters | None = None
    removing: Future[StreamCounters] | None = None

    def change(self, changes: Mapping[str, Any]) -> None:
        rates = {**self.terms.get("clock_rates", {}), **changes.get("clock_rates", {})}
        self.terms |= {**changes, "clock_rates": rates}

    def counters(self, board: Board) -> StreamCounters:
        slot = self.slot
        row = board[slot]
        if self.final is not None:  # looked for last: it may have ended meanwhile
            return self.final
        if slot < 0:
            return self.before
        now = replace(
            self.told,
            accepted=int(row["accepted"]),
            octets=int(row["octets"]),
            rtcp=int(row["rtcp"]),
            first_packet_ns=int(row["first_ns"]),
            last_packet_ns=int(row["last_ns"]),
            jitter_ms=float(row["jitter_ms"]),
        )
        return added(self.before, now)

    def liveness(self, board: Board) -> Liveness | None:
        slot = self.slot
        if slot < 0 or not (board.told(slot) or self.heard_before):
            return None
        row, before = board[slot], self.heard_before or Liveness(0, None, 0)
        return Liveness(
            packets=before.packets + int(row["packets"]),
            last_packet_at=float(row["last_at"]) or before.last_packet_at,
            last_packet_ns=int(row["last_ns"]) or before.last_packet_ns,
            left_ns=self.told.left_ns or before.left_ns,
        )

    def lose(self, board: Board) -> None:
        """Its worker is gone: what it told is what it leaves."""
        self.heard_before = self.liveness(board)
        self.before = self.counters(board)
        self.told = StreamCounters()
        board.clear(self.slot)

    def finish(self, counters: StreamCounters) -> None:
        """It has ended in its worker, which counted this since it got it."""
        self.final = added(self.before, counters)
        self.slot = -1

    def message(self, session: int, at_ns: int) -> Message:
        """For its first worker, or a successor, which looks for drops since the last one told of any, at `at_ns`."""
        count, since_ns = self.dropped
        known = self.before.kernel_drops
        return {
            "do": "add",
            "session": session,
            "stream": self.slot,
            "channel": self.channel,
            "pair": [self.pair.address, self.pair.port, self.pair.receive_buffer],
            "terms": wire.pack_terms(self.terms),
            "dropped": [(count + known) & 0xFFFFFFFF, max(since_ns, at_ns)],
        }


@dataclass(slots=True, eq=False)
class SessionEntry:
    """One session. `worker`: which of the crew has it; `given` while that one does.

    `descriptor`: of file `number`, made and not handed over yet. `streams` by slot. `outages_told` is by the worker
    that has it now; `outages_before` and `octets_before` concern those that had it earlier; `told_ns`: when the last
    of them told anything.
    """

    number: int
    directory: Path
    segment_seconds: float
    descriptor: int | None
    worker: int = -1
    given: bool = False
    file: int = 1
    streams: dict[int, StreamEntry] = field(default_factory=dict)
    ended: list[tuple[int, StreamCounters]] = field(default_factory=list)
    outages_told: tuple[Outage, ...] = ()
    outages_before: OutageLog = field(default_factory=OutageLog)
    octets_before: int = 0
    told_ns: int = 0
    asked: dict[int, tuple[Question, Future[None]]] = field(default_factory=dict)
    closing: bool = False
    closed: Future[CaptureResult] = field(default_factory=Future)

    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(self.directory.glob("capture-*.pcap")))

    def outages(self) -> tuple[Outage, ...]:
        return (*self.outages_before.all(), *self.outages_told)

    def lose(self, board: Board, since_ns: int, until_ns: int) -> None:
        """Its worker is gone, which may have read packets from `since_ns` on without having written them."""
        self.given = False
        self.told_ns = since_ns
        for each in self.outages_told:
            self.outages_before.add(each)
        self.outages_told = ()
        self.outages_before.add(Outage(since_ns, until_ns, "interrupted"))
        self.octets_before = sum(each.stat().st_size - FILE_HEADER for each in self.files())
        for stream in self.streams.values():
            stream.lose(board)

    def opening(self) -> tuple[Message, int]:
        """To be said to a worker first, and the descriptor to hand over. Raises ArchiveError."""
        if self.descriptor is None:
            self.file = following(self.files())
            self.descriptor = create(self.directory, self.file)
        descriptor, self.descriptor = self.descriptor, None
        message = {
            "do": "open",
            "session": self.number,
            "directory": str(self.directory),
            "number": self.file,
            "segment_seconds": self.segment_seconds,
        }
        return message, descriptor

    def commands(self) -> Iterator[Message]:
        """All that is not done yet, to be said after that and its streams."""
        for stream in self.streams.values():
            if stream.removing is not None:
                yield {"do": "remove", "stream": stream.slot}
        for ticket, (what, _) in self.asked.items():
            yield {"do": what, "session": self.number, "ticket": ticket}
        if self.closing:
            yield {"do": "close", "session": self.number}

    def result(self, octets: int) -> CaptureResult:
        return CaptureResult(self.files(), self.octets_before + octets, self.outages(), tuple(self.ended))


def added(before: StreamCounters, after: StreamCounters) -> StreamCounters:
    """What two captures of one stream have received, one after the other."""
    if before == StreamCounters():
        return after
    refused = dict(before.refused)
    for key, count in after.refused.items():
        refused[key] = refused.get(key, 0) + count
    return StreamCounters(
        accepted=before.accepted + after.accepted,
        octets=before.octets + after.octets,
        rtcp=before.rtcp + after.rtcp,
        refused=refused,
        kernel_drops=before.kernel_drops + after.kernel_drops,
        first_packet_ns=before.first_packet_ns or after.first_packet_ns,
        last_packet_ns=after.last_packet_ns or before.last_packet_ns,
        ssrcs=tuple(dict.fromkeys(before.ssrcs + after.ssrcs)),
        lost=before.lost + after.lost,
        jitter_ms=after.jitter_ms if after.accepted else before.jitter_ms,
        sent=_larger(before.sent, after.sent),  # the SRC counts from its own beginning
        sent_octets=_larger(before.sent_octets, after.sent_octets),
        left_ns=after.left_ns or before.left_ns,
    )


def _larger(one: int | None, other: int | None) -> int | None:
    return max((each for each in (one, other) if each is not None), default=None)
