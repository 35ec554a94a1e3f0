"""Capture: what comes to the sockets goes to disk as it came, with the time the kernel saw it.

Theory of operation. A recorder forwards nothing, so it may be late: packets wait in their sockets (a default
buffer holds 5 s of G.711), and some four times a second the *drain* thread empties all of them, hundreds of packets
per system call (`receive`), into one *arena* of fixed slots (`arena`). While a group of sockets is still in the
processor's cache, vectors decide which packets belong to a recording (`sift`, and `source` for the few that
take thought), lay a record header in front of each (`records`), and copy the records together, those of one
session side by side. Where the C extension was built it does all this for sockets with nothing doubtful in them
(`native`), and the arena holds the rest. Records lie in *rooms* until they are written, and these may outlive the
process (`rooms`): what a killed one had read is not lost. The *writer* thread appends one piece per session and tick
to its pcap file, hundreds in one call of the extension, and keeps in memory what a full or slow disk cannot take
(`writer`); a third thread makes it durable each second (`syncer`). RTCP sockets and the kernel's drop counters are
looked at where something is likely to be found: epoll tells of the ones, a socket that gave much of the others, and
every counter has its turn. When more waits than the backlog allows, draining stops: then the sockets hold the rest,
and what the kernel drops is counted there and becomes an `Outage` with its cause.

The event loop never waits for any of this. What it wants (a stream more, a new SDP, a pause) goes through a queue
of commands that the drain applies between ticks; what it reads (counters, liveness) are single numbers that need no
lock. Sockets stay the property of whoever opened them: a port pair may be released once the future of `remove` or
`close` is done, not before.

Here is the interface alone. `local` captures in this process; `workers` in processes of their own, for more cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Required, TypedDict, Unpack

from siprec.media.drain import CaptureResult
from siprec.media.exchange import RtcpTerms
from siprec.media.part import Outage
from siprec.media.ports import PortPair
from siprec.media.secure import SrtpTerms
from siprec.media.source import Network, SourcePolicy
from siprec.media.streams import Liveness, StreamCounters
from siprec.media.threads import Fault

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

TICK_SECONDS = 0.22
"""Between two looks into the sockets: a default buffer could wait 20 times as long. Each look costs the same for each
stream, however many packets it brings; but what waits in the sockets is lost when keeper and worker die together, and
with a packet's time that shall be no more than 250 ms."""

BACKLOG_BYTES = 512 << 20
"""Memory for records that the disk cannot take yet (RTP_BACKLOG)."""


@dataclass(frozen=True, slots=True)
class Totals:
    """Everything since start, for logs and metrics. `written` and `backlog` in bytes of records; `troubled`: files that
    the disk does not take now."""

    streams: int = 0
    packets: int = 0
    written: int = 0
    backlog: int = 0
    troubled: int = 0
    kernel_drops: int = 0
    write_errors: int = 0
    receive_errors: int = 0
    late_ticks: int = 0


class Capture(Protocol):
    """All captures of this server."""

    def start(self) -> None:
        """Begin; sessions may be opened before."""

    def stop(self) -> None:
        """Close every open session and end; returns when everything that can be is on disk."""

    def open(self, directory: Path, *, segment_seconds: float = 0.0) -> SessionCapture:
        """A new capture in the part folder `directory`: `capture-0001.pcap`, a new file each `segment_seconds`.

        The file is there, header and all, on return; `SessionCapture.sync` tells when it would survive a power
        cut. Raises ArchiveError when it cannot be created.
        """

    def totals(self) -> Totals: ...

    def clock_steps(self) -> tuple[tuple[int, int], ...]:
        """(monotonic ns, wall minus monotonic ns) at start and after each step of the wall clock (Part.clock)."""


class Agreed(TypedDict, total=False):
    """What may be left out when a stream is added, and later.

    `clock_rates`: of payload types that do not run at 8000 a second, for jitter. `rtcp`: what was agreed on RTCP; None
    sends no reports. `srtp`: the keys of an SRTP stream, whose packets are written decrypted. `writing`: False while
    the recording is paused.
    """

    clock_rates: Mapping[int, int]
    rtcp: RtcpTerms | None
    srtp: SrtpTerms | None
    writing: bool


class Changes(Agreed, total=False):
    """What a new SDP may change of a stream."""

    remote: tuple[str, int] | None
    payload_types: frozenset[int]


class Terms(Agreed, total=False):
    """How a stream is captured.

    `remote`: IP literal and port of the peer's SDP; None while there is none, then up to 50 packets wait for it.
    `networks`: from where `latch` may learn. `destination`: the address that records show as ours when the pair is
    bound to a wildcard.
    """

    remote: Required[tuple[str, int] | None]
    payload_types: Required[frozenset[int]]
    policy: SourcePolicy
    networks: Sequence[Network]
    destination: str | None


class SessionCapture(Protocol):
    """The capture of one session: its streams and its file."""

    def add(self, pair: PortPair, *, channel: int, **terms: Unpack[Terms]) -> StreamCapture:
        """Capture what comes to `pair`."""

    def sync(self) -> Future[None]:
        """Done when the file, its folder entry, and all packets handed over so far would survive a power cut."""

    def applied(self) -> Future[None]:
        """Done when all that was said of the streams so far is in force."""

    def outages(self) -> tuple[Outage, ...]:
        """For what times audio may be missing, and why; so far."""

    def files(self) -> tuple[Path, ...]: ...

    def close(self) -> Future[CaptureResult]:
        """Read the sockets a last time now, write and sync everything, close the file.

        The same future at every call. With a disk in trouble it is done after `writer.CLOSE_PATIENCE` at last.
        """


class StreamCapture(Protocol):
    """The capture of one stream."""

    @property
    def channel(self) -> int: ...

    def update(self, **changes: Unpack[Changes]) -> None:
        """Follow a new SDP, pause (`writing=False`) or resume.

        Giving `remote` or `rtcp`, even the same, lets the source of either be learned anew. Old payload types stay
        accepted for 5 s. While not writing, packets are read and counted as refused for the reason `paused`.
        """

    def counters(self) -> StreamCounters:
        """Everything since `add`; final once `remove` or `close` is done."""

    def liveness(self) -> Liveness | None:
        """Whether packets come; None before the first tick and after the end."""

    def remove(self) -> Future[StreamCounters]:
        """Read the sockets a last time now and let go of them. The same future at every call."""
