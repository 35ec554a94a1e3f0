"""Decides, for an arena full of datagrams at once, which belong to a recording (SECURITY A5).

Packets of settled streams are accepted by comparing vectors; what is plainly foreign is refused and counted by
vectors too. Only what may change a stream's mind about its source goes through `Source.judge` one by one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from siprec.media.arena import HEADROOM, STRIDE, Arena
from siprec.media.reception import Heard, Round, follow_all, note
from siprec.media.secure import FORGED, REPLAYED, open_all
from siprec.media.source import SILENT_SECONDS, Arrival, Reason
from siprec.media.streams import DEFAULT_RATE, Stream, StreamTable
from siprec.rtp import packets

MIN_RTCP = 8
"""Bytes of the smallest RTCP packet worth keeping: header and SSRC (RFC 3550 section 6.4.2)."""

EASY_ROUNDS = 3
"""Times that the first doubtful packet of each stream is judged and all others compared anew: after the first
or the second packet a source is usually settled, and the rest of a new call's packets need no judging."""

MAX_RTCP_READ = 8
"""RTCP packets of a stream that are read in one round, the latest: an SRC sends one in five seconds."""

_REASONS = (*Reason,)
_CODE = {reason: code for code, reason in enumerate(_REASONS, 1)}


def _codes_by_first_byte() -> NDArray[np.int8]:
    """What a datagram on an RTP port is when it is no RTP, by its first byte (RFC 7983 section 7)."""
    codes = np.full(256, _CODE[Reason.NOT_RTP], np.int8)
    codes[:4] = _CODE[Reason.STUN]
    codes[20:64] = _CODE[Reason.DTLS]
    return codes


_FIRST_BYTE = _codes_by_first_byte()

_SRTP = np.zeros(3, np.int8)
_SRTP[FORGED], _SRTP[REPLAYED] = _CODE[Reason.SRTP_AUTH], _CODE[Reason.SRTP_REPLAY]

Extras = list[tuple[Stream, list[Arrival]]]


class Sieve:
    """Judges the content of `arena` against `table`.

    `on_locked(stream)` is called when a stream has learned its source, or that it lives: its socket may be connected.
    """

    def __init__(self, arena: Arena, table: StreamTable, on_locked: Callable[[Stream], None]) -> None:
        self._arena = arena
        self._table = table
        self._on_locked = on_locked
        self._offsets = np.arange(arena.slots, dtype=np.int64) * STRIDE + HEADROOM

    def sift(
        self, stream: NDArray[np.int64], rtcp: NDArray[np.bool_], *, now: float
    ) -> tuple[NDArray[np.bool_], Extras]:
        """Which of the first slots to write, given the stream (table row) each came to and whether to its RTCP port.

        Packets that had been held and are now accepted come as extras, to be written before the others.
        """
        table, count = self._table, len(stream)
        faults = open_all(self._arena, table, stream=stream, rtcp=rtcp) if table.securing else None
        view = _View(self._arena, table, stream, self._offsets[:count])
        if faults is not None and faults.any():
            view.unopened(faults)
        if table.muxing:
            rtcp = rtcp | view.muxed()
        good = view.rtp_good()
        if rtcp.any():
            good = np.where(rtcp, view.rtcp_good(), good)
        extras: Extras = []
        if not good.all():
            extras = self._odd(view, rtcp, good, now)
        keep = good & table.writing[stream]
        if rtcp.any():
            self._hear(view, np.flatnonzero(good & rtcp), keep)
            good = good & ~rtcp
        if good.any():
            self._count(view, slice(None) if good.all() else np.flatnonzero(good), now)
        return keep, extras

    def _count(self, view: _View, rows: slice | NDArray[np.int64], now: float) -> None:
        """RTP that was accepted; the packets of one stream lie side by side, since each socket is read once."""
        table = self._table
        stream, time_ns = view.stream[rows], view.time_ns[rows]
        starts = np.append(0, np.flatnonzero(stream[1:] != stream[:-1]) + 1)
        ends = np.append(starts[1:], len(stream))
        heard = Round(
            starts,
            stream[starts],
            view.packets.sequence[rows],
            view.packets.timestamp[rows],
            view.packets.ssrc[rows],
            view.packets.payload_type[rows],
            time_ns,
        )
        who, counts = heard.who, ends - starts
        for place in note(table.reception, heard).tolist():
            self._follow(heard, place, int(ends[place]))
        table.last_ns[who] = time_ns[ends - 1]
        table.last_at[who] = now
        octets = np.add.reduceat(view.length[rows], starts)
        writing = table.writing[who]
        if not writing.all():
            table.paused[who] += counts * ~writing
            starts, who, counts, octets = starts[writing], who[writing], counts[writing], octets[writing]
        fresh = np.flatnonzero(table.first_ns[who] == 0)
        table.first_ns[who[fresh]] = time_ns[starts[fresh]]
        table.accepted[who] += counts
        table.octets[who] += octets

    def _follow(self, heard: Round, place: int, end: int) -> None:
        index, part = int(heard.who[place]), slice(int(heard.starts[place]), end)
        stream = self._table.streams[index]
        assert stream is not None
        rates = stream.rates
        columns = (heard.sequence, heard.timestamp, heard.ssrc, heard.payload_type, heard.time_ns)
        packets = (
            Heard(sequence, timestamp, ssrc, kind, rates.get(kind, DEFAULT_RATE), time_ns)
            for sequence, timestamp, ssrc, kind, time_ns in zip(*(each[part].tolist() for each in columns), strict=True)
        )
        follow_all(self._table.reception, index, packets)

    def _hear(self, view: _View, rows: NDArray[np.int64], keep: NDArray[np.bool_]) -> None:
        """RTCP that was accepted: the latest of each stream is read."""
        table = self._table
        np.add.at(table.rtcp, view.stream[rows[keep[rows]]], 1)
        read: Counter[int] = Counter()
        latest = []
        for row, index in zip(rows[::-1].tolist(), view.stream[rows[::-1]].tolist(), strict=True):
            read[index] += 1
            if read[index] <= MAX_RTCP_READ:
                latest.append((row, index))
        for row, index in reversed(latest):
            stream = table.streams[index]
            assert stream is not None
            arrival = view.arrival(row)
            stream.exchange.hear(arrival.datagram, arrival.origin, arrival.time_ns, source=stream.source)

    def _odd(self, view: _View, rtcp: NDArray[np.bool_], good: NDArray[np.bool_], now: float) -> Extras:
        """Refuse what is plainly wrong, judge the rest; what thereby becomes plainly right is set in `good`."""
        rows = np.flatnonzero(~good)
        codes = view.refusals(rows, rtcp[rows])
        refused = rows[codes > 0]
        if refused.size:
            keys = (view.stream[refused], codes[codes > 0], view.high[refused], view.low[refused])
            self._refuse(Counter(zip(*(key.tolist() for key in keys), strict=True)))
        extras: Extras = []
        rows = rows[codes == 0]
        for _ in range(EASY_ROUNDS):
            if not rows.size:
                return extras
            first = np.unique(view.stream[rows], return_index=True)[1]
            extras += self._judge(view, rows[first], good, now)
            rows = np.delete(rows, first)
            view.look_again()
            easy = view.rtp_good()[rows]
            good[rows[easy]] = True
            rows = rows[~easy]
        return extras + self._judge(view, rows, good, now)

    def _judge(self, view: _View, rows: NDArray[np.int64], good: NDArray[np.bool_], now: float) -> Extras:
        """One by one. What is accepted at once stays in its place; only what had been held before is extra, and
        is older than every packet of its SSRC still to come, so that each SSRC is written in order of arrival."""
        extras: Extras = []
        for row in rows.tolist():
            stream = self._table.streams[int(view.stream[row])]
            assert stream is not None
            if stream.source.silent and now - self._table.last_at[stream.index] < SILENT_SECONDS:
                stream.source.speaks()
            accepted = stream.source.judge(view.arrival(row))
            good[row] = bool(accepted)
            extras += self.take(stream, accepted[:-1], now=now)
        return extras

    def _refuse(self, counts: Counter[tuple[int, int, int, int]]) -> None:
        for (index, code, high, low), packets_refused in counts.items():
            stream = self._table.streams[index]
            assert stream is not None
            stream.source.refusals.count(_REASONS[code - 1], high, low, packets_refused)

    def take(self, stream: Stream, accepted: list[Arrival], *, now: float) -> Extras:
        """Bring the table in line with what the stream's source has just decided."""
        table, index = self._table, stream.index
        locked = bool(table.settled[index] and not table.silent[index])
        table.follow(stream)
        if table.settled[index] and not table.silent[index] and not locked:
            self._on_locked(stream)
        if not accepted:
            return []
        follow_all(table.reception, index, (_heard(each, stream) for each in accepted))
        table.last_ns[index] = max(int(table.last_ns[index]), accepted[-1].time_ns)
        table.last_at[index] = now
        if not table.writing[index]:
            table.paused[index] += len(accepted)
            return []
        if not table.first_ns[index]:
            table.first_ns[index] = accepted[0].time_ns
        table.accepted[index] += len(accepted)
        table.octets[index] += sum(len(each.datagram) for each in accepted)
        return [(stream, accepted)]


class _View:
    """The datagrams of one round, and what the table expects of each."""

    def __init__(self, arena: Arena, table: StreamTable, stream: NDArray[np.int64], offset: NDArray[np.int64]) -> None:
        count = len(stream)
        self.stream = stream
        self.length = arena.length[:count]
        self.time_ns = arena.time_ns[:count]
        self.high, self.low, self.port = arena.sources(count)
        self.heads = np.ascontiguousarray(arena.rows[:count, HEADROOM : HEADROOM + packets.FIXED_HEADER])
        self.packets = packets.parse_heads(self.heads, arena.flat, offset, self.length)
        self.truncated = self.unusable = arena.truncated[:count]
        self.faults: NDArray[np.int8] | None = None
        self.negotiated = table.payload_types[stream, self.packets.payload_type]
        self._arena = arena
        self._table = table
        self.look_again()

    def unopened(self, faults: NDArray[np.int8]) -> None:
        """Some packets are SRTP that could not be opened."""
        self.faults = faults
        self.unusable = self.truncated | (faults > 0)

    def look_again(self) -> None:
        """Compare with the table as it is now."""
        table, stream = self._table, self.stream
        self.same_address = (self.low == table.low[stream]) & (self.high == table.high[stream])
        self.same_port = self.port == table.port[stream]

    def rtp_good(self) -> NDArray[np.bool_]:
        """From the locked source, with the current SSRC and a negotiated payload type."""
        table, stream = self._table, self.stream
        good: NDArray[np.bool_] = self.packets.valid & self.same_address & self.same_port
        good &= self.negotiated & ~self.unusable
        good &= table.settled[stream] & (self.packets.ssrc == table.ssrc[stream])
        return good

    def muxed(self) -> NDArray[np.bool_]:
        """RTCP on an RTP port where that was agreed (RFC 5761 section 4)."""
        muxed: NDArray[np.bool_] = self._table.mux[self.stream] & packets.is_rtcp(self.heads[:, 1])
        muxed &= self.heads[:, 0] >> 6 == 2
        return muxed

    def rtcp_good(self) -> NDArray[np.bool_]:
        """RTCP from the address that RTP is expected from, or SDP gives for RTCP, whatever the port."""
        good: NDArray[np.bool_] = (self.length >= MIN_RTCP) & (self.heads[:, 0] >> 6 == 2)
        good &= packets.is_rtcp(self.heads[:, 1])
        good &= self.rtcp_address() & self._table.known[self.stream] & ~self.unusable
        return good

    def rtcp_address(self) -> NDArray[np.bool_]:
        table, stream = self._table, self.stream
        named: NDArray[np.bool_] = (self.low == table.rtcp_low[stream]) & (self.high == table.rtcp_high[stream])
        named |= self.same_address
        return named

    def refusals(self, rows: NDArray[np.int64], rtcp: NDArray[np.bool_]) -> NDArray[np.int8]:
        """For each of `rows` the code of the reason to refuse it, 0 when it must be judged."""
        table, stream = self._table, self.stream[rows]
        codes = np.zeros(len(rows), np.int8)
        codes[~self.negotiated[rows] & table.known[stream]] = _CODE[Reason.PAYLOAD_TYPE]
        codes[table.fixed[stream] & ~self.same_port[rows]] = _CODE[Reason.PORT]
        foreign = ~self.same_address[rows]
        codes[foreign & ~table.open[stream]] = _CODE[Reason.ADDRESS]
        first, second = self.heads[rows, 0], self.heads[rows, 1]
        empty = self.length[rows] == 0
        no_rtp = ~self.packets.valid[rows]
        codes[no_rtp] = np.where(empty, _CODE[Reason.NOT_RTP], _FIRST_BYTE[first])[no_rtp]
        muxed = (first >> 6 == 2) & packets.is_rtcp(second) & (self.length[rows] >= MIN_RTCP)
        codes[muxed] = _CODE[Reason.RTCP_ON_RTP_PORT]
        foreign = ~self.rtcp_address()[rows]
        codes[rtcp] = np.where(foreign, _CODE[Reason.ADDRESS], _CODE[Reason.NOT_RTCP])[rtcp]
        codes[rtcp & ~table.known[stream]] = _CODE[Reason.UNLEARNED]
        codes[self.truncated[rows]] = _CODE[Reason.TRUNCATED]
        if self.faults is not None:
            codes = np.where(self.faults[rows] > 0, _SRTP[self.faults[rows]], codes)
        return codes

    def arrival(self, row: int) -> Arrival:
        length = int(self.length[row])
        return Arrival(
            origin=(int(self.high[row]), int(self.low[row]), int(self.port[row])),
            payload_type=int(self.packets.payload_type[row]),
            sequence=int(self.packets.sequence[row]),
            ssrc=int(self.packets.ssrc[row]),
            time_ns=int(self.time_ns[row]),
            datagram=self._arena.rows[row, HEADROOM : HEADROOM + length].tobytes(),
        )


def _heard(packet: Arrival, stream: Stream) -> Heard:
    """A packet that had been held, as the reception counts it."""
    timestamp = int.from_bytes(packet.datagram[4:8], "big")
    rate = stream.rates.get(packet.payload_type, DEFAULT_RATE)
    return Heard(packet.sequence, timestamp, packet.ssrc, packet.payload_type, rate, packet.time_ns)
