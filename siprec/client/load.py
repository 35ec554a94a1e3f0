"""One call or many from the command line: what was sent, what the server answered, in plain sentences."""

from __future__ import annotations

import asyncio
import contextlib
import math
import resource
import signal
import socket
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np

from siprec import clock
from siprec.client import failover
from siprec.client.options import CallOptions, CallResult, FailoverStyle
from siprec.client.src import RecordingClient, destination
from siprec.client.tracks import CODECS, tracks
from siprec.errors import ListenError, SipError
from siprec.net.address import bound_socket

Report = Callable[[str], None]

VOICE_SETS = 4
"""Different conversations among the calls of a load: each is made and encoded once, before the first call."""

PROGRESS_SECONDS = 5.0

EXIT_USAGE = 2
"""What was asked for makes no sense; nothing was sent."""


@dataclass(slots=True)
class LoadSummary:
    """The outcome of many calls. `refused`: calls by final status of 300 or more; `failed`: calls by problem."""

    calls: int = 0
    answered: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    packets: int = 0
    suppressed: int = 0
    carried: int = 0
    setup_ms: list[float] = field(default_factory=list)

    def add(self, result: CallResult) -> None:
        self.calls += 1
        self.packets += result.packets
        self.carried += result.carried > 0
        self.suppressed += sum(stream.counts.suppressed for stream in result.streams)
        if result.answered:
            self.answered += 1
            self.setup_ms.append(result.setup_ms or 0.0)
        if result.status >= 300:
            self.refused[result.status] += 1
        elif result.problem:
            self.failed[result.problem] += 1

    def setup_percentile(self, percent: float) -> float | None:
        """Milliseconds from INVITE to 200 that `percent` of the answered calls did not exceed."""
        return float(np.percentile(self.setup_ms, percent)) if self.setup_ms else None

    @property
    def ok(self) -> bool:
        return self.calls == self.answered and not self.failed

    def sentences(self) -> Iterator[str]:
        refused, failed = self.refused.total(), self.failed.total()
        yield f"{self.calls} calls: {self.answered} answered, {refused} refused, {failed} failed"
        for status, number in sorted(self.refused.items()):
            yield f"  refused with {status}: {number}"
        for problem, number in self.failed.most_common(5):
            yield f"  {number} x {problem}"
        lost = f" ({self.suppressed} more withheld as lost)" if self.suppressed else ""
        yield f"{self.packets} RTP packets sent{lost}"
        if self.carried:
            yield f"{self.carried} calls were carried on by another server"
        if self.setup_ms:
            middle, slow = self.setup_percentile(50), self.setup_percentile(99)
            yield f"INVITE to 200 OK: median {middle:.1f} ms, 99 % within {slow:.1f} ms"


def run(options: CallOptions, report: Report) -> int:
    """Make the call or calls of `options`, `report` a line at a time. 0 when all went well, else 1, or EXIT_USAGE."""
    wrong = list(mistakes(options))
    for each in wrong:
        report(each)
    if wrong:
        return EXIT_USAGE
    try:
        return asyncio.run(_run(options, report))
    except ListenError as problem:
        report(str(problem))
        return 1


def mistakes(options: CallOptions) -> Iterator[str]:
    """What cannot be asked for, a sentence each."""
    if options.codec not in CODECS:
        yield f"unknown codec {options.codec}: this client can send {', '.join(CODECS)}"
    if options.failover is not None and options.failover.style not in get_args(FailoverStyle):
        yield f"unknown style of failover: there are {', '.join(get_args(FailoverStyle))}"
    if not options.parties:
        yield "a call needs one party at least"
    yield from _wrong_numbers(options)
    try:
        uuid.UUID(options.session_id or str(uuid.NAMESPACE_URL))
    except ValueError:
        yield f"the session id is no UUID: {options.session_id}"
    yield from _wrong_addresses(options)


def _wrong_numbers(options: CallOptions) -> Iterator[str]:
    if not 0 <= options.duration < math.inf:
        yield f"duration: {options.duration} is no number of seconds"
    if not 0 < options.rate < math.inf:
        yield f"rate: {options.rate} is no number of calls a second"
    if not 0 <= options.jitter_ms < math.inf:
        yield f"jitter: {options.jitter_ms} is no number of milliseconds"
    for name, value in (("loss", options.loss), ("duplicate", options.duplicate)):
        if not 0 <= value <= 100:
            yield f"{name}: {value} is no percentage"


def _wrong_addresses(options: CallOptions) -> Iterator[str]:
    for uri in (options.target, *((options.failover.target,) if options.failover else ())):
        try:
            destination(uri)
        except SipError as problem:
            yield f"{uri!r} is no way to a server: {problem}"
    if options.local is not None:
        try:
            bound_socket(socket.SOCK_DGRAM, options.local, 0, setting="the local address").close()
        except ListenError as problem:
            yield str(problem)


async def _run(options: CallOptions, report: Report) -> int:
    _raise_descriptor_limit()
    async with RecordingClient.towards(options.target, transport=options.transport, local=options.local) as client:
        with _interrupts(client.hang_up):
            if options.calls == 1:
                return 0 if (await one(client, options, report)).ok else 1
            summary = await load(client, options, report)
    for sentence in summary.sentences():
        report(sentence)
    return 0 if summary.ok else 1


async def one(client: RecordingClient, options: CallOptions, report: Report) -> CallResult:
    """A single call, each step reported as it happens."""
    names = " and ".join(party.name for party in options.parties)
    report(f"INVITE {options.target} ({options.transport}): {len(options.parties)} streams, {options.codec}, {names}")
    call = client.begin(options)
    await call.answer()
    result = call.result
    if result.answered:
        taken = f"{sum(stream.accepted for stream in result.streams)} of {len(result.streams)} streams accepted"
        report(f"{result.status} {result.reason} in {result.setup_ms:.0f} ms: {taken}")
        call = await failover.carry(client, call, report=report)
        result = await call.bye()
    for stream in result.streams:
        counts = stream.counts
        lost = f", {counts.suppressed} withheld as lost" if counts.suppressed else ""
        deaf = f", {counts.refused} refused by the receiving host" if counts.refused else ""
        report(f"stream {stream.label} ({stream.name}): {counts.sent} RTP packets sent{lost}{deaf}")
    if result.bye_status:
        report(f"BYE answered {result.bye_status} after {result.seconds:.1f} s")
    if result.problem:
        report(result.problem)
    return result


async def load(client: RecordingClient, options: CallOptions, report: Report) -> LoadSummary:
    """`options.calls` calls at `options.rate` per second, at most `options.concurrency` at a time."""
    summary = LoadSummary()
    free = asyncio.Semaphore(options.concurrency)
    for seed in range(options.seed, options.seed + min(VOICE_SETS, options.calls)):
        tracks(options.duration, codec=options.codec, speakers=len(options.parties), seed=seed)
    began = clock.monotonic()
    progress = asyncio.create_task(_progress(client, summary, options, report))
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(options.calls):
                await asyncio.sleep(began + number / options.rate - clock.monotonic())
                await free.acquire()
                if client.stopping:
                    break
                numbered = replace(options, seed=options.seed + number)
                group.create_task(_counted(client, numbered, options.seed + number % VOICE_SETS, summary, free))
    finally:
        progress.cancel()
    return summary


async def _counted(
    client: RecordingClient, options: CallOptions, voices: int, summary: LoadSummary, free: asyncio.Semaphore
) -> None:
    try:
        call = await client.start(options, voices=voices)
        if call.result.answered:
            call = await failover.carry(client, call, report=_untold)
        summary.add(await call.bye())
    except ListenError as problem:  # out of ports or of files: this call's trouble, not the others'
        summary.add(CallResult(options.target, problem=str(problem)))
    finally:
        free.release()


def _untold(text: str) -> None:
    """Of one among many calls."""


async def _progress(client: RecordingClient, summary: LoadSummary, options: CallOptions, report: Report) -> None:
    while True:
        await asyncio.sleep(PROGRESS_SECONDS)
        report(f"{len(client.calls)} calls live, {summary.calls} of {options.calls} done")


def _raise_descriptor_limit() -> None:
    """Each stream takes two sockets; the usual soft limit of 1024 files ends at 250 calls."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextlib.contextmanager
def _interrupts(hang_up: Callable[[], None]) -> Iterator[None]:
    """The first Ctrl-C ends the calls with BYE; the second, with no handler left, ends the program."""
    loop = asyncio.get_running_loop()

    def first() -> None:
        loop.remove_signal_handler(signal.SIGINT)
        hang_up()

    try:
        loop.add_signal_handler(signal.SIGINT, first)
    except (ValueError, RuntimeError):  # not the main thread: the caller has its own way to stop
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
