"""A media worker: a process that captures what another one hands it, and ends when that one does.

    python -m siprec.media.workers.worker LINK BOARD ROOMS PARENT TICK BACKLOG_BYTES TIER REPORT_SECONDS

It ends by the end of its link, not by a signal that the kernel would send at its parent's death: what was read must
still be written. Signals that go to all processes of a group or a service are for the parent to act on.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, cast

import numpy as np

from siprec import clock
from siprec.media.capture import Fault
from siprec.media.file import CaptureFile
from siprec.media.local import LocalCapture, LocalSession, LocalStream
from siprec.media.ports import PortPair
from siprec.media.streams import StreamCounters
from siprec.media.threads import guarded
from siprec.media.tiers import Tier
from siprec.media.workers import wire
from siprec.media.workers.board import Board
from siprec.media.workers.link import Link
from siprec.media.workers.wire import Message, Orders

DETAIL_TICKS = 25
"""Ticks in which each session's details are looked at once: every 5 s, which costs little even for thousands. What
they were last is added to what a successor counts; for packets and octets, the board is."""

END_SECONDS = 2.0
"""An orphan that has not written everything by then ends all the same: what is written needs no process to last."""

FINISH_SECONDS = 5.0
"""For the last words to be read."""


@dataclass(slots=True, eq=False)
class _Stream:
    capture: LocalStream
    pair: PortPair
    session: _Session


@dataclass(slots=True, eq=False)
class _Session:
    """`told`: the details that were told last; `closing` once."""

    capture: LocalSession
    closing: bool = False
    streams: dict[int, _Stream] = field(default_factory=dict)
    told: Message = field(default_factory=dict)


class Worker:
    """`parent`: the process id of whoever is at the other end of `link`. `memory`: for `media.rooms`."""

    def __init__(self, link: Link, board: Board, memory: int, *, parent: int, orders: Orders) -> None:
        self._link = link
        self._board = board
        self._parent = parent
        self._tick = orders.tick
        self._ticks = 0
        self._engine = LocalCapture(
            tick=orders.tick,
            backlog_bytes=orders.backlog_bytes,
            receive=orders.tier,
            report_seconds=orders.report_seconds,
            on_fault=lambda fault: self._later(partial(self._tell_fault, fault)),
            on_tick=lambda: self._later(self._show),
            memory=memory,
        )
        self._sessions: dict[int, _Session] = {}
        self._streams: dict[int, _Stream] = {}
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._stopping = False

    def run(self) -> None:
        """Until told to stop, or nobody is there any more."""
        self._engine.start()
        try:
            self._say("hello")
            self._serve()
            self._stop()
        except (EOFError, OSError):
            self._end()

    def _serve(self) -> None:
        due = clock.monotonic()
        while not self._stopping:
            self._wait(max(0.0, due - clock.monotonic()))
            for body, descriptors in self._link.receive():
                message = wire.load(body)
                guarded(partial(self._DO[message["do"]], self, message, descriptors), self._tell_fault)
            self._run_jobs()
            now = clock.monotonic()
            if now >= due:
                self._tell()
                due = max(due + self._tick, now)
            if self._link.waiting:
                self._link.flush()

    def _wait(self, seconds: float) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self._link, select.POLLIN | (select.POLLOUT if self._link.blocked else 0))
        poll.poll(seconds * 1000)
        if os.getppid() != self._parent:
            raise EOFError

    # ---- commands --------------------------------------------------------------------------------------------

    def _open(self, message: Message, descriptors: list[int]) -> None:
        file = CaptureFile(
            Path(message["directory"]),
            segment_seconds=message["segment_seconds"],
            now=clock.monotonic(),
            first=message["number"],
            descriptor=descriptors[0],
        )
        self._sessions[message["session"]] = _Session(self._engine.carry_on(file))

    def _add(self, message: Message, descriptors: list[int]) -> None:
        rtp, rtcp = (socket.socket(fileno=each) for each in descriptors)
        for each in (rtp, rtcp):
            each.setblocking(False)
        address, port, receive_buffer = message["pair"]
        pair = PortPair(rtp, rtcp, address, port, receive_buffer)
        session, slot = self._sessions[message["session"]], message["stream"]
        count, at_ns = message["dropped"]
        terms = wire.unpack_terms(message["terms"])
        capture = session.capture.add(pair, channel=message["channel"], dropped=(count, at_ns), **terms)
        self._streams[slot] = session.streams[slot] = _Stream(capture, pair, session)

    def _update(self, message: Message, _: list[int]) -> None:
        self._streams[message["stream"]].capture.update(**wire.unpack_terms(message["changes"]))

    def _remove(self, message: Message, _: list[int]) -> None:
        slot = message["stream"]
        self._when_done(self._streams[slot].capture.remove(), lambda counters: self._removed(slot, counters))

    def _close(self, message: Message, _: list[int]) -> None:
        number = message["session"]
        session = self._sessions[number]
        if not session.closing:
            session.closing = True
            self._when_done(session.capture.close(), lambda result: self._closed(number, result.octets))

    def _sync(self, message: Message, _: list[int]) -> None:
        self._say_when(self._sessions[message["session"]].capture.sync(), message)

    def _apply(self, message: Message, _: list[int]) -> None:
        self._say_when(self._sessions[message["session"]].capture.applied(), message)

    def _say_when(self, done: Future[None], message: Message) -> None:
        self._when_done(done, lambda _: self._say("done", session=message["session"], ticket=message["ticket"]))

    def _told_to_stop(self, _: Message, __: list[int]) -> None:
        self._stopping = True

    _DO: dict[str, Callable[[Worker, Message, list[int]], None]] = {
        "open": _open,
        "add": _add,
        "update": _update,
        "remove": _remove,
        "close": _close,
        "sync": _sync,
        "apply": _apply,
        "stop": _told_to_stop,
    }

    # ---- what is told ----------------------------------------------------------------------------------------

    def _removed(self, slot: int, counters: StreamCounters) -> None:
        """Our duplicates are closed first: the port is free once the other end has closed its own."""
        stream = self._streams.pop(slot)
        del stream.session.streams[slot]
        stream.pair.close()
        self._say("removed", stream=slot, counters=wire.pack_counters(counters))

    def _closed(self, number: int, octets: int) -> None:
        session = self._sessions.pop(number)
        for slot, stream in session.streams.items():
            del self._streams[slot]
            stream.pair.close()
        counters = [[slot, wire.pack_counters(each.capture.counters())] for slot, each in session.streams.items()]
        outages = wire.pack_outages(session.capture.outages())
        self._say("closed", session=number, octets=octets, outages=outages, counters=counters)

    def _tell_fault(self, fault: Fault) -> None:
        self._say("fault", fault=asdict(fault))

    def _show(self) -> None:
        """Right after the drain's tick: who looks at them must not take their age for an SRC's silence."""
        slots = np.fromiter(self._streams, np.int64, len(self._streams))
        self._board.put(slots, self._engine.rows([each.capture for each in self._streams.values()]))

    def _tell(self) -> None:
        """Each tick. What the other end has not read yet is not followed by more of the same."""
        if self._link.blocked:
            return
        self._say("totals", totals=asdict(self._engine.totals()))
        phase = self._ticks % DETAIL_TICKS
        self._ticks += 1
        for number, session in self._sessions.items():
            if number % DETAIL_TICKS == phase:
                self._tell_details(number, session)

    def _tell_details(self, number: int, session: _Session) -> None:
        """Only when they have changed; what the board shows is none of them."""
        counters = {slot: replace(each.capture.counters(), **_SHOWN) for slot, each in session.streams.items()}
        details: Message = {"outages": session.capture.outages(), "counters": counters}
        if details != session.told:
            session.told = details
            self._say(
                "details",
                session=number,
                outages=wire.pack_outages(details["outages"]),
                counters=[[slot, wire.pack_counters(each)] for slot, each in counters.items()],
            )

    def _say(self, what: str, **details: Any) -> None:
        self._link.send(wire.dump({"tell": what, **details}))

    # ---- other threads ---------------------------------------------------------------------------------------

    def _when_done(self, future: Future[Any], tell: Callable[[Any], None]) -> None:
        future.add_done_callback(lambda done: self._later(lambda: tell(done.result())))

    def _later(self, job: Callable[[], None]) -> None:
        """Have `job` run in the thread that speaks."""
        self._jobs.put(job)
        os.eventfd_write(self._wake, 1)

    def _run_jobs(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        while True:
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return
            guarded(job, self._tell_fault)

    # ---- the end ---------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        """Close all that is open, tell what came of it, end."""
        for number in list(self._sessions):
            self._close({"session": number}, [])
        self._engine.stop()
        self._run_jobs()
        self._say("totals", totals=asdict(self._engine.totals()))
        self._link.finish(FINISH_SECONDS)

    def _end(self) -> None:
        """Nobody is there any more: a successor wants the ports, and what was read belongs on disk."""
        limit = threading.Timer(END_SECONDS, os._exit, [1])
        limit.daemon = True
        limit.start()
        self._engine.halt()
        for stream in self._streams.values():
            stream.pair.close()
        self._link.close()
        self._engine.stop()


_SHOWN: Any = {"accepted": 0, "octets": 0, "rtcp": 0, "first_packet_ns": 0, "last_packet_ns": 0, "jitter_ms": 0.0}
"""What the board shows."""


def main(arguments: list[str]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    link, board, memory, parent, tick, backlog_bytes, tier, report_seconds = arguments
    orders = Orders(float(tick), int(backlog_bytes), cast(Tier, tier), float(report_seconds))
    sock = socket.socket(fileno=int(link))
    sock.set_inheritable(False)
    Worker(Link(sock), Board(int(board)), int(memory), parent=int(parent), orders=orders).run()


if __name__ == "__main__":
    main(sys.argv[1:])
