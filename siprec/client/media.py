"""The media half of the recording client: RTP streams from their own sockets, paced by one task for all calls.

A frame of a stream is due every 20 ms of the monotonic clock. The task sends whatever is due and sleeps until the
next frame, at least TICK; when it was late it catches up, so that the rate is right over any second. What a network
would do to the packets (loss, duplicates, reordering, jitter) is done here, from a seed, and counted, so a test knows
what the recorder must find.
"""

from __future__ import annotations

import asyncio
import heapq
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from random import Random

import numpy as np

from siprec import clock
from siprec.client.security import StreamSecurity
from siprec.client.tracks import FRAME_SECONDS, Codec, Track
from siprec.client.voices import Samples
from siprec.errors import ListenError
from siprec.rtp import rtcp

TICK = 0.002
"""Shortest sleep: bounds wake-ups to 500 a second however many streams there are; far below any jitter that matters."""

MAX_CATCH_UP = 1.0
"""Seconds of frames sent in one burst after the process was held up; more (a suspended machine) is skipped, as no
real sender would send it and a receive buffer holds only a few seconds."""

REPORT_INTERVAL = 5.0
"""Seconds between RTCP sender reports of a stream (RFC 3550 section 6.2, the recommended minimum)."""

MAX_REPORTS = 16
"""RTCP datagrams read at a time: a recorder sends one each 5 s, and we look that often."""

PORT_ATTEMPTS = 64
"""Tries to find an even port with its odd neighbour free: half of the free ports are even, so 64 never all fail."""

RTP_HEADER = struct.Struct(">BBHII")


@dataclass(frozen=True, slots=True)
class Impairments:
    """What happens to packets on the way: `loss` and `duplicate` in percent; `reorder` = by how many packets one in
    ten is overtaken; `jitter_ms` = the longest extra delay, which keeps the order as a queue does."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: int = 0
    jitter_ms: float = 0.0

    def __bool__(self) -> bool:
        return any((self.loss, self.duplicate, self.reorder, self.jitter_ms))


@dataclass(slots=True)
class Counts:
    """Packets of one stream: put on the wire (`sent`, duplicates included), and what the impairments did."""

    sent: int = 0
    suppressed: int = 0
    duplicated: int = 0
    reordered: int = 0
    refused: int = 0
    """Told by ICMP that nobody listens at the destination."""
    failed: int = 0
    """Not taken by our own kernel: no route, no buffer."""
    skipped: int = 0
    """Never sent because the process was held up for longer than MAX_CATCH_UP."""
    reports: int = 0
    """RTCP sender reports."""


class Fates:
    """Decides, from a seed, what becomes of each packet of one stream."""

    REORDERED = 0.1

    def __init__(self, impairments: Impairments, seed: object) -> None:
        self._impairments = impairments
        self._random = Random(repr(seed))  # noqa: S311 - reproducible, no secret
        self._last_due = 0.0

    def next(self, due: float, counts: Counts) -> list[float]:
        """When the copies of a packet that is sent at `due` leave: none for a lost one, two for a duplicate."""
        draw, impairments = self._random.random, self._impairments
        if draw() * 100 < impairments.loss:
            counts.suppressed += 1
            return []
        self._last_due = at = max(due + draw() * impairments.jitter_ms / 1000, self._last_due)
        copies = [at]
        if draw() * 100 < impairments.duplicate:
            counts.duplicated += 1
            copies.append(at)
        if impairments.reorder and draw() < self.REORDERED:
            counts.reordered += 1
            copies[0] = at + (impairments.reorder + 0.5) * FRAME_SECONDS
        return copies


class PortPair:
    """An even UDP port for RTP and the odd one above it for RTCP, both non-blocking.

    Raises ListenError when `host` is not an address of this machine or no pair is free.
    """

    def __init__(self, host: str) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        taken: ListenError | None = None
        for _ in range(PORT_ATTEMPTS):
            rtp = self._bind(host, 0)
            self.port: int = rtp.getsockname()[1]
            if self.port % 2 == 0:
                try:
                    self.rtcp = self._bind(host, self.port + 1)
                except ListenError as problem:
                    taken = problem
                else:
                    self.rtp, self.host = rtp, host
                    return
            rtp.close()
        raise ListenError(f"no pair of UDP ports is to be had on {host}: {taken}")

    def _bind(self, host: str, port: int) -> socket.socket:
        opened = None
        try:
            opened = socket.socket(self._family, socket.SOCK_DGRAM)
            opened.setblocking(False)
            opened.bind((host, port))
        except OSError as problem:
            if opened is not None:
                opened.close()
            raise ListenError(f"cannot bind UDP port {port} of {host}: {problem.strerror}") from problem
        return opened

    def close(self) -> None:
        self.rtp.close()
        self.rtcp.close()


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a stream's packets go: the address and ports of the answered m-line."""

    host: str
    port: int
    rtcp_port: int


class RtpStream:
    """One direction of a conversation as an RTP stream (RFC 3550) with its own port pair.

    SSRC, first sequence number and first timestamp are drawn from `seed`. The media clock starts with the first frame
    and goes on during hold, so that after a pause the timestamp has moved and the sequence number has not.
    """

    def __init__(
        self, track: Track, ports: PortPair, *, seed: object, label: str, impairments: Impairments | None = None,
        counter: bool = False, reports: bool = True, first_sequence: int | None = None,
        security: StreamSecurity | None = None,
    ) -> None:  # fmt: skip
        drawn = Random(repr((seed, label)))  # noqa: S311 - reproducible, no secret
        self.track, self.ports, self.label = track, ports, label
        self.security = security
        self.ssrc = drawn.getrandbits(32)
        self.sequence = drawn.getrandbits(16) if first_sequence is None else first_sequence
        self.first_timestamp = drawn.getrandbits(32)
        self.payload_type = track.codec.payload_type
        self.cname = f"{label}.{self.ssrc:08x}@siprec.example.com"
        self.remote: Remote | None = None
        self._active = False
        self.counter = counter
        self.counts = Counts()
        self.frames = bytearray()
        """One byte for each 20 ms since the first: 0 nothing sent, 1 sent, 2 suppressed as lost."""
        self.limit: int | None = None
        """Frames that there are at most: a clock that is asked at the end would see the next one due already."""
        self.reception: rtcp.ReportBlock | None = None
        """How the recorder says it receives this stream (RTCP RR), as of our last own report."""
        self._fates = Fates(impairments, (seed, label, "fate")) if impairments else None
        self._numbered = 0
        self._octets = 0
        self._reports = reports
        self._report_due = 0.0
        self._due = 0.0
        self._marker = True

    @property
    def codec(self) -> Codec:
        return self.track.codec

    # -- for the call: where to send, whether to

    @property
    def active(self) -> bool:
        """Whether frames are sent; the first packet after a pause carries the marker (RFC 3551 section 4.1)."""
        return self._active

    @active.setter
    def active(self, wanted: bool) -> None:
        self._marker = self._marker or (wanted and not self._active)
        self._active = wanted

    def connect(self, remote: Remote | None) -> None:
        """Send to `remote` from now on; None silences the stream, and so does an address that we have no way to."""
        if remote is not None and remote != self.remote:
            try:
                self.ports.rtp.connect((remote.host, remote.port))
                self.ports.rtcp.connect((remote.host, remote.rtcp_port))
            except OSError:  # another family, a broadcast address: what the answer names is the server's word
                self.counts.failed += 1
                remote = None
        self.remote = remote

    def change_source(self) -> None:
        """A new SSRC, sequence and timestamp, as after a failover inside the SRC (RFC 7866 section 8.1.3)."""
        drawn = Random(repr((self.ssrc, "next")))  # noqa: S311 - reproducible, no secret
        self.ssrc, self.sequence = drawn.getrandbits(32), drawn.getrandbits(16)
        self.first_timestamp = drawn.getrandbits(32)
        self._marker = True

    def close(self) -> None:
        self.active = False
        self.ports.close()

    # -- for tests: what was sent

    @property
    def numbered(self) -> int:
        """Packets made so far, which is the number that the next one carries (`counter`)."""
        return self._numbered

    def sent_audio(self, *, lost: bool = False) -> Samples:
        """The source audio at `codec.audio_rate` since the first frame, zero where nothing went out.

        With `lost`, frames that the impairments suppressed are kept: what the recording should hold without loss.
        """
        flags = np.frombuffer(bytes(self.frames), np.uint8)
        kept = (flags > 0) if lost else (flags == 1)
        samples = self.track.frames[np.arange(len(flags)) % len(self.track.frames)]
        return np.asarray(samples * kept[:, None], np.int16).reshape(-1)

    # -- for the sender

    def frame(self, due: float, now: float) -> list[tuple[float, bytes]]:
        """The packets of the frame due now, with the time each leaves; the media clock moves on by one frame."""
        position = len(self.frames)
        if self.limit is not None and position >= self.limit:
            return []
        self.frames.append(0)
        self._due = due
        if not self._active or self.remote is None:
            return []
        if now - due > MAX_CATCH_UP:
            self.counts.skipped += 1
            self._marker = True
            return []
        packet = self._packet(position)
        copies = self._fates.next(due, self.counts) if self._fates else [due]
        self.frames[position] = 1 if copies else 2
        return [(at, packet) for at in copies]

    def _packet(self, position: int) -> bytes:
        payloads = self.track.payloads
        payload = payloads[position % len(payloads)]
        if self.counter:
            payload = self._numbered.to_bytes(4, "big") + payload[4:]
        header = RTP_HEADER.pack(
            0x80,
            self.payload_type | (0x80 if self._marker else 0),
            self.sequence,
            self._timestamp(position),
            self.ssrc,
        )
        self._marker = False
        self._numbered += 1
        self._octets += len(payload)
        self.sequence = (self.sequence + 1) & 0xFFFF
        return self.security.rtp(header + payload) if self.security else header + payload

    def _timestamp(self, position: float) -> int:
        return (self.first_timestamp + round(position * self.codec.clock_rate * FRAME_SECONDS)) & 0xFFFFFFFF

    def transmit(self, packet: bytes) -> None:
        """Put `packet` on the wire. A connected socket reports an earlier ICMP refusal instead: then once more."""
        for _ in range(2):
            try:
                self.ports.rtp.send(packet)
            except ConnectionRefusedError:
                self.counts.refused += 1
            except OSError:
                self.counts.failed += 1
                return
            else:
                self.counts.sent += 1
                return

    # -- RTCP, from the sender too

    def report(self, now: float) -> None:
        """Send a sender report with CNAME when one is due (RFC 3550 section 6.4.1); take in the recorder's."""
        if self._reports and self.active and self.remote is not None and now >= self._report_due:
            self._report_due = now + REPORT_INTERVAL
            self.counts.reports += 1
            self._take_reports()
            self._send_report(now)

    def leave(self, now: float) -> None:
        """Fall silent; who has sent anything says so (RTCP BYE, RFC 3550 section 6.3.7)."""
        if self._reports and self._numbered and self.remote is not None:
            self._send_report(now, rtcp.Bye((self.ssrc,)))
        self.active = False

    def _send_report(self, now: float, *more: rtcp.Packet) -> None:
        # the instant `now` in RTP time: a little after the last frame was due
        position = len(self.frames) - 1 + (now - self._due) / FRAME_SECONDS
        stamp = self._timestamp(position)
        sender = rtcp.SenderReport(self.ssrc, rtcp.ntp_from_ns(clock.wall_ns()), stamp, self._numbered, self._octets)
        name = rtcp.SourceDescription((rtcp.Chunk(self.ssrc, ((rtcp.CNAME, self.cname.encode()),)),))
        report = rtcp.compound(sender, name, *more)
        with suppress(OSError):  # a report that cannot be sent is like one that was lost
            self.ports.rtcp.send(self.security.rtcp(report) if self.security else report)

    def _take_reports(self) -> None:
        for _ in range(MAX_REPORTS):
            try:
                datagram = self.ports.rtcp.recv(2048)
                packets = rtcp.parse(self.security.report(datagram) if self.security else datagram)
            except BlockingIOError:
                return
            except OSError:  # an ICMP refusal of an earlier report
                continue
            blocks = [block for each in packets if isinstance(each, rtcp.ReceiverReport) for block in each.reports]
            self.reception = next((block for block in blocks if block.ssrc == self.ssrc), self.reception)


_Due = tuple[float, int, RtpStream, bytes | None]
"""When, a number that keeps the order of equals, whose; None: the next frame is due, else a packet held back."""


class Sender:
    """Sends the frames of all streams from one asyncio task. `now` is injectable; times are monotonic seconds."""

    def __init__(self, *, now: Callable[[], float] = clock.monotonic) -> None:
        self._now = now
        self._queue: list[_Due] = []
        self._numbers = count()
        self._streams: set[RtpStream] = set()
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="rtp sender")

    async def stop(self) -> None:
        """End the task; the streams' sockets are the caller's to close."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def add(self, stream: RtpStream) -> None:
        """The stream's first frame is due now; a stream that is sent already (taken over by another call) goes on."""
        if stream not in self._streams:
            self._streams.add(stream)
            self._push(self._now(), stream, None)
            self._work.set()

    def remove(self, stream: RtpStream) -> None:
        """No packet of the stream leaves after this; those that the impairments hold back leave now."""
        if stream in self._streams:
            self._streams.discard(stream)
            for _, _, _, packet in sorted(each for each in self._queue if each[2] is stream and each[3]):
                stream.transmit(packet or b"")
            stream.leave(self._now())

    def _push(self, at: float, stream: RtpStream, packet: bytes | None) -> None:
        heapq.heappush(self._queue, (at, next(self._numbers), stream, packet))

    async def _run(self) -> None:
        while True:
            if not self._queue:
                self._work.clear()
                await self._work.wait()
            now = self._now()
            while self._queue and self._queue[0][0] <= now:
                self._serve(heapq.heappop(self._queue), now)
            if self._queue:
                await asyncio.sleep(max(TICK, self._queue[0][0] - self._now()))

    def _serve(self, due: _Due, now: float) -> None:
        at, _, stream, held = due
        if stream not in self._streams:
            return
        if held is not None:
            stream.transmit(held)
            return
        for leaves, packet in stream.frame(at, now):
            if leaves <= now:
                stream.transmit(packet)
            else:
                self._push(leaves, stream, packet)
        stream.report(now)
        self._push(at + FRAME_SECONDS, stream, None)
