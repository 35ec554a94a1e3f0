"""The thread that speaks with the media workers: gives them sessions, hears what came of these, replaces the dead."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import fields
from functools import partial
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any, Literal

from siprec import clock
from siprec.errors import ArchiveError
from siprec.media.capture import Totals
from siprec.media.drain import ClockSteps
from siprec.media.part import Outage
from siprec.media.streams import StreamCounters
from siprec.media.threads import Fault, guarded, resolve
from siprec.media.workers import wire
from siprec.media.workers.board import Board
from siprec.media.workers.ledger import SessionEntry, StreamEntry
from siprec.media.workers.process import Process
from siprec.media.workers.wire import Message, Orders, Question

ROUND_SECONDS = 0.2
"""At least so often everything is looked after."""

SECOND = 1.0
"""How often the clock is looked at, and a session tried again whose next file could not be made."""

MAX_WAITING = 65_536
"""Frames that wait for one worker: four times what all sessions that 20 000 ports admit need to be handed over. One
that lets more wait is killed; its successor is given everything from the ledger, so that nothing said is lost."""

PAUSED_SECONDS = 0.5
"""When we ourselves wake this much too late, the whole machine stood still, and no worker is to blame."""

STOP_SECONDS = 20.0
"""For workers to write and sync what they have; twice what a recorder waits for its captures to be closed."""


class Crew:
    """`size` workers. `on_fault` is called from this thread and must return at once."""

    def __init__(self, size: int, orders: Orders, on_fault: Callable[[Fault], None]) -> None:
        self._workers = [Process(orders) for _ in range(size)]
        self._tick_ns = round(orders.tick * 1e9)
        self._on_fault = on_fault
        self._sessions: dict[int, SessionEntry] = {}
        self._streams: dict[int, tuple[SessionEntry, StreamEntry]] = {}
        self._troubles: dict[int, dict[str, str]] = {index: {} for index in range(size)}
        self._commands: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._looked_at = 0.0
        self._stop_by: float | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="capture-crew", daemon=True)
        self._slots = count()
        self._free: list[int] = []
        self.clock = ClockSteps()
        self.clock.look()

    # ---- any thread ------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Have every worker close what is open and end; the future of every session is done afterwards."""
        if self._ended:
            return
        self.submit(self._begin_stop)
        if self._thread.is_alive():
            self._thread.join()
        self._ended = True
        self._apply()
        for session in list(self._sessions.values()):
            self._abandon(session)
        for worker in self._workers:
            worker.close()

    def submit(self, command: Callable[[], None]) -> None:
        """Have `command` run in this thread, soon, in the order given."""
        if self._ended:
            command()
            return
        self._commands.put(command)
        os.eventfd_write(self._wake, 1)

    def totals(self) -> Totals:
        each = [part for worker in self._workers for part in (worker.totals, worker.totals_before)]
        return Totals(**{field.name: sum(getattr(part, field.name) for part in each) for field in fields(Totals)})

    def board_of(self, session: SessionEntry) -> Board:
        """Where its streams are shown; any, as long as it has no worker."""
        return self._workers[session.worker].board

    @property
    def pids(self) -> list[int]:
        """Process ids of those that listen."""
        return [worker.pid for worker in self._workers if worker.ready]

    # ---- commands --------------------------------------------------------------------------------------------

    def open(self, session: SessionEntry) -> None:
        """Give it to the worker that has least to do."""
        session.worker = min(range(len(self._workers)), key=lambda index: self._workers[index].sessions)
        self._workers[session.worker].sessions += 1
        self._sessions[session.number] = session
        self._give(session)

    def add(self, session: SessionEntry, stream: StreamEntry) -> None:
        slot = self._free.pop() if self._free else next(self._slots)
        self.board_of(session).clear(slot)
        stream.slot = slot
        session.streams[stream.slot] = stream
        self._streams[stream.slot] = (session, stream)
        self._give_stream(session, stream)

    def update(self, session: SessionEntry, stream: StreamEntry, changes: Mapping[str, Any]) -> None:
        stream.change(changes)
        if stream.slot >= 0:
            self._say(session, {"do": "update", "stream": stream.slot, "changes": wire.pack_terms(changes)})

    def remove(self, session: SessionEntry, stream: StreamEntry, future: Future[StreamCounters]) -> None:
        stream.removing = future
        if stream.slot >= 0:
            self._say(session, {"do": "remove", "stream": stream.slot})
        else:
            resolve(future, stream.counters(self.board_of(session)))

    def ask(self, session: SessionEntry, what: Question, *, ticket: int, future: Future[None]) -> None:
        """Have the worker say when that is done."""
        if session.closed.done():
            resolve(future, None)
            return
        session.asked[ticket] = what, future
        self._say(session, {"do": what, "session": session.number, "ticket": ticket})

    def close(self, session: SessionEntry) -> None:
        session.closing = True
        if self._ended:
            self._abandon(session)
        else:
            self._say(session, {"do": "close", "session": session.number})

    def _begin_stop(self) -> None:
        self._stop_by = clock.monotonic() + STOP_SECONDS

    # ---- the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        guarded(self._keep_time, self._on_fault)
        while not self._over():
            self._wait()
            self._apply()
            for index in range(len(self._workers)):
                guarded(partial(self._attend, index), self._on_fault)
            # Last, so that a disk which held us up is not taken for a worker's silence.
            guarded(self._keep_time, self._on_fault)

    def _over(self) -> bool:
        return self._stop_by is not None and not any(self._still_needed(each) for each in self._workers)

    def _still_needed(self, worker: Process) -> bool:
        """When all is to stop: a worker that lives, or a place whose sessions wait for one."""
        late = self._stop_by is not None and clock.monotonic() > self._stop_by
        if worker.link is None:
            return bool(worker.sessions) and not (late or worker.told_to_stop)
        if late or not (worker.ready or worker.sessions):
            worker.told_to_stop = True
            worker.kill()
        return True

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for worker in self._workers:
            if worker.link is not None:
                poll.register(worker.link, select.POLLIN | (select.POLLOUT if worker.link.blocked else 0))
        before = clock.monotonic()
        poll.poll(ROUND_SECONDS * 1000)
        late = clock.monotonic() - before - ROUND_SECONDS
        if late > PAUSED_SECONDS:
            for worker in self._workers:
                worker.heard_at += late
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake)

    def _apply(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                guarded(self._commands.get_nowait(), self._on_fault)

    def _attend(self, index: int) -> None:
        """Hear what a worker has to say, and have it hear us."""
        worker = self._workers[index]
        if worker.link is None:
            return
        try:
            for body, _ in worker.link.receive():
                worker.heard()
                message = wire.load(body)
                self._HEARD[message["tell"]](self, index, message)
            if worker.link.waiting:
                worker.link.flush()
        except (EOFError, OSError):
            self._died(index)

    def _keep_time(self) -> None:
        now = clock.monotonic()
        for index, worker in enumerate(self._workers):
            if worker.link is None:
                if self._stop_by is None or worker.sessions:
                    self._start(index, now)
            elif worker.overdue or worker.link.waiting > MAX_WAITING:
                self._trouble(index, "worker", f"capture process {worker.pid} is stuck: killed")
                worker.kill()
                self._died(index)
            elif self._stop_by is not None and worker.ready and not worker.told_to_stop:
                worker.told_to_stop = True
                self._send(worker, {"do": "stop"})
        if now - self._looked_at >= SECOND:
            self._looked_at = now
            self.clock.look()
            self._try_again()

    def _start(self, index: int, now: float) -> None:
        worker = self._workers[index]
        if now < worker.start_at or worker.told_to_stop:
            return
        try:
            worker.start()
        except OSError as error:
            worker.end()
            self._trouble(index, "worker", f"cannot start a capture process: {error.strerror}")

    def _try_again(self) -> None:
        """Sessions whose next file could not be made, and processes that could not be reaped."""
        for worker in self._workers:
            worker.look_after()
        for session in list(self._sessions.values()):
            if not session.given and self._workers[session.worker].ready:
                if session.closing:
                    self._abandon(session)
                else:
                    self._give(session)

    # ---- what workers tell -----------------------------------------------------------------------------------

    def _hello(self, index: int, _: Message) -> None:
        worker = self._workers[index]
        worker.begins()
        for session in list(self._sessions.values()):
            if session.worker == index:
                self._give(session)
        if "worker" in self._troubles[index]:
            self._over_with(index, "worker", f"capture process {worker.pid} goes on with {worker.sessions} sessions")

    def _totals(self, index: int, message: Message) -> None:
        self._workers[index].totals = Totals(**message["totals"])

    def _details(self, _: int, message: Message) -> None:
        session = self._sessions[message["session"]]
        session.outages_told = wire.unpack_outages(message["outages"])
        for slot, counters in message["counters"]:
            if slot in session.streams:
                session.streams[slot].told = wire.unpack_counters(counters)

    def _removed(self, _: int, message: Message) -> None:
        session, stream = self._streams[message["stream"]]
        self._end_stream(session, stream, wire.unpack_counters(message["counters"]))

    def _closed(self, _: int, message: Message) -> None:
        session = self._sessions[message["session"]]
        for slot, counters in message["counters"]:
            self._end_stream(session, session.streams[slot], wire.unpack_counters(counters))
        session.outages_told = wire.unpack_outages(message["outages"])
        self._end_session(session, message["octets"])

    def _done(self, _: int, message: Message) -> None:
        if (asked := self._sessions[message["session"]].asked.pop(message["ticket"], None)) is not None:
            resolve(asked[1], None)

    def _fault(self, index: int, message: Message) -> None:
        fault = Fault(**message["fault"])
        if fault.active and fault.cause != "internal":
            self._troubles[index][fault.cause] = fault.detail
        elif not fault.active:
            self._troubles[index].pop(fault.cause, None)
        self._on_fault(fault)

    _HEARD: dict[str, Callable[[Crew, int, Message], None]] = {
        "hello": _hello,
        "totals": _totals,
        "details": _details,
        "removed": _removed,
        "closed": _closed,
        "done": _done,
        "fault": _fault,
    }

    # ---- giving ----------------------------------------------------------------------------------------------

    def _give(self, session: SessionEntry) -> None:
        """Hand a session to its worker, as far as it is known by now; once the worker listens."""
        worker = self._workers[session.worker]
        if not worker.ready:
            return
        try:
            message, descriptor = session.opening()
        except ArchiveError as error:
            self._trouble(session.worker, "disk", str(error))
            return
        if "disk" in self._troubles[session.worker]:
            self._over_with(session.worker, "disk", f"captures can be created in {session.directory} again")
        session.given = True
        self._send(worker, message, [descriptor], give=True)
        for stream in session.streams.values():
            self._give_stream(session, stream)
        for command in session.commands():
            self._send(worker, command)

    def _give_stream(self, session: SessionEntry, stream: StreamEntry) -> None:
        if session.given:
            pair, message = stream.pair, stream.message(session.number, session.told_ns)
            self._send(self._workers[session.worker], message, [pair.rtp.fileno(), pair.rtcp.fileno()])

    def _say(self, session: SessionEntry, message: Message) -> None:
        """To its worker, if that one has the session; else its successor will be told."""
        if session.given:
            self._send(self._workers[session.worker], message)

    def _send(
        self, worker: Process, message: Message, descriptors: list[int] | None = None, give: bool = False
    ) -> None:
        if worker.link is not None:
            with contextlib.suppress(OSError):  # it has just died: that is heard from the link, and all is said anew
                worker.link.send(wire.dump(message), descriptors=descriptors or [], give=give)

    # ---- ends ------------------------------------------------------------------------------------------------

    def _end_stream(self, session: SessionEntry, stream: StreamEntry, counters: StreamCounters) -> None:
        slot = stream.slot
        stream.finish(counters)
        del session.streams[slot], self._streams[slot]
        self._free.append(slot)
        final = stream.counters(self.board_of(session))
        session.ended.append((stream.channel, final))
        if stream.removing is not None:
            resolve(stream.removing, final)

    def _end_session(self, session: SessionEntry, octets: int) -> None:
        del self._sessions[session.number]
        self._workers[session.worker].sessions -= 1
        for _, future in session.asked.values():
            resolve(future, None)
        session.asked.clear()
        resolve(session.closed, session.result(octets))

    def _abandon(self, session: SessionEntry) -> None:
        """No worker has it, nor will have: it ends as far as it came."""
        if session.number not in self._sessions:
            return
        if session.descriptor is not None:
            os.close(session.descriptor)
        if session.told_ns:
            cause: Literal["disk", "interrupted"] = "disk" if self._workers[session.worker].ready else "interrupted"
            session.outages_before.add(Outage(session.told_ns, clock.wall_ns(), cause))
        for stream in list(session.streams.values()):
            self._end_stream(session, stream, StreamCounters())
        self._end_session(session, 0)

    def _died(self, index: int) -> None:
        """Everything that this worker had is taken back; it is given anew when the next one listens."""
        worker, now_ns = self._workers[index], clock.wall_ns()
        pid, expected = worker.pid, worker.told_to_stop
        since_ns = worker.heard_ns - self._tick_ns
        cause = worker.end()
        for trouble in [each for each in self._troubles[index] if each != "worker"]:
            self._over_with(index, trouble, f"capture process {pid} ended")
        mine = [each for each in self._sessions.values() if each.worker == index]
        for session in mine:
            if session.given:
                session.lose(worker.board, since_ns, now_ns)
        if not expected:
            self._trouble(
                index, "worker", f"capture process {pid} died ({cause}), {len(mine)} sessions wait for the next"
            )

    def _trouble(self, index: int, cause: Any, detail: str) -> None:
        if cause not in self._troubles[index]:
            self._troubles[index][cause] = detail
            self._on_fault(Fault(cause, True, detail))

    def _over_with(self, index: int, cause: Any, detail: str) -> None:
        del self._troubles[index][cause]
        self._on_fault(Fault(cause, False, detail))
