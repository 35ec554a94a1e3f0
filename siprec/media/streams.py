"""All streams being captured, as arrays with one row per stream, so that packets are judged by vectors.

Only the drain thread writes here. Any thread may read a single number: it is whole, and at most a tick old.
"""

from __future__ import annotations

import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from siprec.media import pcap
from siprec.media.arena import HEADROOM, NAME, address_text, address_words
from siprec.media.exchange import Exchange
from siprec.media.file import CaptureFile
from siprec.media.ports import PortPair
from siprec.media.reception import RECEPTION, jitter_ms, lost
from siprec.media.secure import Secure
from siprec.media.source import Origin, Reason, Source, SourcePolicy

FIRST_CAPACITY = 64
PAYLOAD_TYPES = 128
"""RTP payload types are 7 bits wide."""

OLD_TYPES_SECONDS = 5.0
"""How long payload types of the last SDP stay accepted after a new one: packets sent before the peer saw the
answer are still on their way (RFC 3264 section 8.3.2)."""

DEFAULT_RATE = 8000
"""RTP clock of every telephony codec, G.722 among them (RFC 3551 section 4.5.2)."""

_KINDS = 2  # record headers per stream: to the RTP port and to the RTCP port


@dataclass(frozen=True, slots=True)
class StreamCounters:
    """What one stream has received. `accepted` packets and `octets` of RTP were handed to the file; `refused`
    is by (reason, source address); times are CLOCK_REALTIME nanoseconds, 0 before the first packet; `ssrcs`
    in order of appearance. `lost` is by sequence numbers; `jitter_ms` as RFC 3550 section 6.4.1 has it. `sent` and
    `sent_octets` are the SRC's own count (RTCP SR), None when it told none; `left_ns` is when it said BYE, or 0."""

    accepted: int = 0
    octets: int = 0
    rtcp: int = 0
    refused: dict[tuple[str, str], int] = field(default_factory=dict)
    kernel_drops: int = 0
    first_packet_ns: int = 0
    last_packet_ns: int = 0
    ssrcs: tuple[int, ...] = ()
    lost: int = 0
    jitter_ms: float = 0.0
    sent: int | None = None
    sent_octets: int | None = None
    left_ns: int = 0


@dataclass(frozen=True, slots=True)
class Liveness:
    """Enough to tell whether a stream is alive. `last_packet_at` is monotonic seconds, to a tick; None before
    the first packet. `packets` counts those that came while paused as well. `left_ns` is when the SRC said that
    it sends no more (RTCP BYE), 0 when it did not: silence after that is meant."""

    packets: int
    last_packet_at: float | None
    last_packet_ns: int
    left_ns: int = 0


ROW = np.dtype(
    [
        ("stream", "<i8"),  # which of those that were asked for
        ("packets", "<i8"),  # those that came while paused as well
        ("accepted", "<i8"),
        ("octets", "<i8"),
        ("rtcp", "<i8"),
        ("first_ns", "<i8"),
        ("last_ns", "<i8"),
        ("last_at", "<f8"),
        ("jitter_ms", "<f8"),
    ]
)
"""What changes all the time of `StreamCounters` and `Liveness`."""


@dataclass(slots=True, eq=False)
class Stream:
    """One stream as the drain knows it. `index` is its row; -1 before it has one and once it has ended.

    `drops` is the kernel's own counter as seen at `drops_seen_ns`; `kernel_drops` counts from when the socket was
    added. Until `old_types_until` payload types besides `new_types` are accepted. `rates`: the RTP clock of each
    payload type that does not run at `DEFAULT_RATE`.
    """

    channel: int
    pair: PortPair
    source: Source
    file: CaptureFile
    destination: str
    exchange: Exchange
    secure: Secure = field(default_factory=Secure)
    index: int = -1
    connected: bool = False
    kernel_drops: int = 0
    drops: int = 0
    drops_seen_ns: int = 0
    new_types: frozenset[int] = frozenset()
    rates: Mapping[int, int] = field(default_factory=dict)
    old_types_until: float = 0.0
    final: StreamCounters | None = None


class StreamTable:
    """The arrays. `high`, `low` and `port` are the expected source: the SDP's, then the locked one's.

    `silent`: the locked source has sent nothing for a while; `known`: there is an SDP;
    `open`: a packet from any address is worth judging; `fixed`: only `port` is;
    `settled`: packets with `ssrc` from exactly this source are accepted unseen. `mux`: RTCP may come to the RTP port;
    `muxing` counts such streams. `secure`: its packets are SRTP; `securing` counts such streams.
    `only`: 1 since its socket was connected to a learned source, 2 once the C extension has emptied it after that and
    keeps in `peers` whom the kernel lets through. `rtcp_high` and `rtcp_low` are the address that SDP gives for RTCP;
    `report_at`: when ours is due (monotonic).
    """

    def __init__(self) -> None:
        self.streams: list[Stream | None] = []
        self._free = array.array("I")  # not objects: made while a burst of calls goes, each would pin memory of it
        self._capacity = FIRST_CAPACITY
        self.muxing = 0
        self.securing = 0
        self.high = np.zeros(FIRST_CAPACITY, np.uint64)
        self.low = np.zeros(FIRST_CAPACITY, np.uint64)
        self.port = np.zeros(FIRST_CAPACITY, np.uint16)
        self.ssrc = np.zeros(FIRST_CAPACITY, np.uint32)
        self.silent = np.zeros(FIRST_CAPACITY, np.bool_)
        self.known = np.zeros(FIRST_CAPACITY, np.bool_)
        self.open = np.zeros(FIRST_CAPACITY, np.bool_)
        self.fixed = np.zeros(FIRST_CAPACITY, np.bool_)
        self.settled = np.zeros(FIRST_CAPACITY, np.bool_)
        self.writing = np.zeros(FIRST_CAPACITY, np.bool_)
        self.six = np.zeros(FIRST_CAPACITY, np.bool_)
        self.mux = np.zeros(FIRST_CAPACITY, np.bool_)
        self.secure = np.zeros(FIRST_CAPACITY, np.bool_)
        self.rtcp_high = np.zeros(FIRST_CAPACITY, np.uint64)
        self.rtcp_low = np.zeros(FIRST_CAPACITY, np.uint64)
        self.report_at = np.zeros(FIRST_CAPACITY, np.float64)
        self.reception = np.zeros(FIRST_CAPACITY, RECEPTION)
        self.payload_types = np.zeros((FIRST_CAPACITY, PAYLOAD_TYPES), np.bool_)
        self.accepted = np.zeros(FIRST_CAPACITY, np.int64)
        self.octets = np.zeros(FIRST_CAPACITY, np.int64)
        self.paused = np.zeros(FIRST_CAPACITY, np.int64)
        self.rtcp = np.zeros(FIRST_CAPACITY, np.int64)
        self.first_ns = np.zeros(FIRST_CAPACITY, np.int64)
        self.last_ns = np.zeros(FIRST_CAPACITY, np.int64)
        self.last_at = np.zeros(FIRST_CAPACITY, np.float64)
        self.templates = np.zeros((FIRST_CAPACITY * _KINDS, HEADROOM), np.uint8)
        self.only = np.zeros(FIRST_CAPACITY, np.uint8)
        self.peers = np.zeros((FIRST_CAPACITY, NAME), np.uint8)
        self.sums = np.zeros(FIRST_CAPACITY * _KINDS, np.uint32)

    # ---- streams come and go ---------------------------------------------------------------------------------

    def add(self, stream: Stream, *, writing: bool) -> None:
        """Give `stream` a row of its own."""
        index = self._free_row()
        for name, column in self._arrays():
            if name not in _BY_KIND:
                column[index] = 0
        self.streams[index] = stream
        stream.index = index
        self.writing[index] = writing
        self.six[index] = six = ":" in stream.destination
        self.report_at[index] = np.inf
        template, total = _template(stream.destination)
        for row, port in enumerate((stream.pair.port, stream.pair.rtcp_port), index * _KINDS):
            self.templates[row] = template
            self.templates[row, _PORT_AT] = port >> 8, port & 0xFF
            self.sums[row] = total + port if six else total

    def remove(self, stream: Stream) -> None:
        self.streams[stream.index] = None
        self.only[stream.index] = self.silent[stream.index] = 0
        self._free.append(stream.index)
        self.report_at[stream.index] = np.inf
        self.muxing -= int(self.mux[stream.index])
        self.securing -= int(self.secure[stream.index])
        stream.index = -1

    def _free_row(self) -> int:
        if self._free:
            return self._free.pop()
        if len(self.streams) == self._capacity:
            for name, column in self._arrays():
                setattr(self, name, np.concatenate((column, np.zeros_like(column))))
            self._capacity *= 2
        self.streams.append(None)
        return len(self.streams) - 1

    def _arrays(self) -> list[tuple[str, NDArray[np.generic]]]:
        return [(name, value) for name, value in vars(self).items() if isinstance(value, np.ndarray)]

    # ---- what is expected of a stream ------------------------------------------------------------------------

    def set_payload_types(self, stream: Stream, types: frozenset[int]) -> None:
        """Accept exactly `types`."""
        stream.source.payload_types = types
        self.payload_types[stream.index] = False
        self.payload_types[stream.index, sorted(types)] = True

    def follow(self, stream: Stream) -> None:
        """Bring the row in line with the stream's source, which has just judged a packet or got a new SDP."""
        source, index = stream.source, stream.index
        expected = source.locked or source.remote
        if expected is not None:
            self.high[index], self.low[index], self.port[index] = expected
        self.known[index] = source.remote is not None
        learning = source.locked is None or source.silent
        self.open[index] = source.remote is None or (learning and source.policy is SourcePolicy.LATCH) or source.moving
        strict = source.policy is SourcePolicy.STRICT and not source.moving
        self.fixed[index] = source.remote is not None and (not learning or strict)
        self.settled[index] = source.locked is not None and source.ssrc is not None
        self.silent[index] = source.silent
        self.ssrc[index] = source.ssrc or 0

    def follow_rtcp(self, stream: Stream) -> None:
        """Bring the row in line with new terms of the stream's RTCP."""
        exchange, index = stream.exchange, stream.index
        self.muxing += exchange.mux - int(self.mux[index])
        self.mux[index] = exchange.mux
        self.rtcp_high[index], self.rtcp_low[index] = (exchange.negotiated or NOWHERE)[:2]

    def follow_srtp(self, stream: Stream) -> None:
        """Bring the row in line with new terms of the stream's SRTP."""
        self.securing += stream.secure.active - int(self.secure[stream.index])
        self.secure[stream.index] = stream.secure.active

    # ---- what has come ---------------------------------------------------------------------------------------

    def counters(self, stream: Stream) -> StreamCounters:
        index = stream.index
        refused = stream.source.refusals.by_source()
        if paused := int(self.paused[index]):
            source = address_text(int(self.high[index]), int(self.low[index]))
            refused[str(Reason.PAUSED), source] = paused
        told = stream.exchange.told(stream.source.ssrcs) or (None, None)
        row = self.reception[index]
        return StreamCounters(
            accepted=int(self.accepted[index]),
            octets=int(self.octets[index]),
            rtcp=int(self.rtcp[index]),
            refused=refused,
            kernel_drops=stream.kernel_drops,
            first_packet_ns=int(self.first_ns[index]),
            last_packet_ns=int(self.last_ns[index]),
            ssrcs=tuple(dict(stream.source.ssrcs)),
            lost=lost(row),
            jitter_ms=jitter_ms(row),
            sent=told[0],
            sent_octets=told[1],
            left_ns=stream.exchange.left_ns,
        )

    def liveness(self, stream: Stream) -> Liveness:
        index = stream.index
        return Liveness(
            packets=int(self.accepted[index] + self.paused[index]),
            last_packet_at=float(self.last_at[index]) or None,
            last_packet_ns=int(self.last_ns[index]),
            left_ns=stream.exchange.left_ns,
        )

    def rows(self, streams: Sequence[Stream]) -> NDArray[np.void]:
        """A ROW for each of `streams` that is in the table. Any thread may ask."""
        index = np.array([each.index for each in streams], np.int64)
        which = np.flatnonzero(index >= 0)
        index = index[which]
        rows = np.empty(len(which), ROW)
        rows["stream"] = which
        rows["packets"] = self.accepted[index] + self.paused[index]
        for name in ("accepted", "octets", "rtcp", "first_ns", "last_ns", "last_at"):
            rows[name] = getattr(self, name)[index]
        reception = self.reception[index]
        rows["jitter_ms"] = reception["jitter"] * 1000 / np.maximum(reception["rate"], 1)
        # A stream that ended meanwhile: its row may be another's by now.
        now = np.array([streams[each].index for each in which.tolist()], np.int64)
        current: NDArray[np.void] = rows[now == index]
        return current


NOWHERE = (0, 0)
"""No sender has this address (RFC 4291 section 2.5.2)."""

_BY_KIND = frozenset({"templates", "sums"})
_PORT_AT = slice(-6, -4)  # of the destination, in the UDP header that ends a template


def origin(remote: tuple[str, int] | None) -> Origin | None:
    """The SDP's address and port as the policy compares them."""
    return None if remote is None else (*address_words(remote[0]), remote[1])


@lru_cache(maxsize=64)
def _template(destination: str) -> tuple[NDArray[np.uint8], int]:
    """All that is the same in every record to an address of ours, ending where the datagram begins, and its checksum
    part; the port is left out of both.

    IPv4: the sum over the IP header with length and source zero. IPv6: that over pseudo header and UDP header.
    """
    nobody = "::" if ":" in destination else "0.0.0.0"  # noqa: S104 (no bind: an empty field)
    record = bytearray(pcap.record(0, b"", source=(nobody, 0), destination=(destination, 0)))
    record[8:16] = bytes(8)
    record[-4:] = bytes(4)
    if ":" in destination:
        record[20:22] = bytes(2)
        total = ~pcap.checksum(bytes(record[24:])) & 0xFFFF
        total += pcap.UDP
    else:
        record[18:20] = record[26:28] = bytes(2)
        total = ~pcap.checksum(bytes(record[16:36])) & 0xFFFF
    return np.frombuffer(bytes(record).rjust(HEADROOM, b"\0"), np.uint8), total
