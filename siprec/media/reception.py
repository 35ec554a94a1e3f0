"""How streams are received, as receiver reports tell it: sequence numbers, loss and jitter (RFC 3550 appendix A).

One row of `RECEPTION` per stream, for the SSRC heard last. Nearly all packets are counted by vectors, a whole
round at a time; a stream that begins, changes its SSRC or payload type, or jumps, is followed packet by packet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from siprec.rtp.rtcp import ReportBlock
from siprec.rtp.sequence import MAX_DROPOUT

MAX_MISORDER = 100
"""A step back by up to this is a late packet, by more a new start (RFC 3550 appendix A.1)."""

RECEPTION = np.dtype(
    [
        ("started", "?"),
        ("ssrc", "u4"),
        ("payload_type", "u1"),
        ("rate", "i8"),  # of the RTP clock, per second
        ("base", "i8"),  # first sequence number
        ("highest", "i8"),  # extended by the cycles
        ("received", "i8"),  # duplicates and late packets too, as appendix A.3 has it
        ("suspect", "i8"),  # what would follow a jump, plus `_JUMPED`; 0: there was none
        ("jitter", "f8"),  # in units of the RTP clock
        ("timestamp", "u4"),  # of the last packet
        ("time_ns", "i8"),  # and its arrival
        ("reported_expected", "i8"),  # as of the last report
        ("reported_received", "i8"),
        ("lost_before", "i8"),  # by earlier SSRCs of the stream, and before restarts
    ]
)
"""The reception of one stream."""

Rows = NDArray[np.void]
Row = dict[str, Any]
"""A row as Python has it, while it is worked on."""

_NAMES = RECEPTION.names or ()

_GAIN = 16  # RFC 3550 section 6.4.1: J += (|D| - J) / 16
_FADE = (1 - 1 / _GAIN) ** np.arange(2049)
"""What is left of a jitter after so many packets; of more than one visit's worth nothing is."""

_JUMPED = 1 << 16
_NS = 1_000_000_000


class Round(NamedTuple):
    """Accepted packets of one round, those of each stream side by side and in order of arrival.

    `starts`: where each stream's packets begin; `who`: its row. The other arrays have an element per packet.
    """

    starts: NDArray[np.int64]
    who: NDArray[np.int64]
    sequence: NDArray[np.uint16]
    timestamp: NDArray[np.uint32]
    ssrc: NDArray[np.uint32]
    payload_type: NDArray[np.uint8]
    time_ns: NDArray[np.int64]


def note(rows: Rows, heard: Round) -> NDArray[np.int64]:
    """Count a round; gives back which of its streams (places in `who`) must be followed packet by packet instead.

    An SSRC that comes and goes within one round is not noticed: the sequence numbers tell, or it does no harm.
    """
    starts, who = heard.starts, heard.who
    edges = np.append(starts, len(heard.sequence))
    last, counts = edges[1:] - 1, np.diff(edges)
    highest = rows["highest"][who]
    ahead = (heard.sequence - np.repeat(highest.astype(np.uint16), counts)).view(np.int16).astype(np.int64)
    most = np.maximum.reduceat(ahead, starts)
    odd = (most >= MAX_DROPOUT) | (np.minimum.reduceat(ahead, starts) < -MAX_MISORDER) | ~rows["started"][who]
    odd |= (heard.ssrc[last] != rows["ssrc"][who]) | (heard.payload_type[last] != rows["payload_type"][who])
    jitter = _jitter(rows, heard, last, counts)
    strange = np.flatnonzero(odd)
    if strange.size:
        plain = ~odd
        who, last, counts, highest, most = who[plain], last[plain], counts[plain], highest[plain], most[plain]
        jitter = jitter[plain]
    rows["highest"][who] = highest + np.maximum(most, 0)
    rows["received"][who] += counts
    rows["jitter"][who] = jitter
    rows["timestamp"][who] = heard.timestamp[last]
    rows["time_ns"][who] = heard.time_ns[last]
    return strange


def _jitter(rows: Rows, heard: Round, last: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The recursion of section 6.4.1 in closed form, all streams at once."""
    starts, who = heard.starts, heard.who
    arrival = np.diff(heard.time_ns, prepend=0)
    arrival[starts] = heard.time_ns[starts] - rows["time_ns"][who]
    media = np.diff(heard.timestamp, prepend=np.uint32(0))
    media[starts] = heard.timestamp[starts] - rows["timestamp"][who]
    rate = rows["rate"][who] / _NS
    steady = bool((rate == rate[0]).all())
    difference = np.abs(arrival * (rate[0] if steady else np.repeat(rate, counts)) - media.view(np.int32))
    to_come = np.repeat(last, counts) - np.arange(len(arrival))
    difference *= _FADE[np.minimum(to_come, len(_FADE) - 1)]
    faded = rows["jitter"][who] * _FADE[np.minimum(counts, len(_FADE) - 1)]
    return np.asarray(faded + np.add.reduceat(difference, starts) / _GAIN)


class Heard(NamedTuple):
    """One accepted packet. `rate`: of its payload type."""

    sequence: int
    timestamp: int
    ssrc: int
    payload_type: int
    rate: int
    time_ns: int


def follow_all(rows: Rows, index: int, packets: Iterable[Heard]) -> None:
    """Count packets of the stream in row `index` one by one, in order of arrival."""
    row: Row = dict(zip(_NAMES, rows[index].item(), strict=True))  # numpy's fields one by one take 20 times as long
    for packet in packets:
        follow(row, packet)
    rows[index] = tuple(row.values())


def follow(row: np.void | Row, packet: Heard) -> None:
    """Count one packet (update_seq of appendix A.1, and A.8)."""
    ahead = (packet.sequence - int(row["highest"])) & 0xFFFF
    if not row["started"] or row["ssrc"] != packet.ssrc:
        _begin(row, packet)
    elif ahead < MAX_DROPOUT:
        row["highest"] += ahead
    elif ahead <= 0x10000 - MAX_MISORDER - 1:
        if row["suspect"] != packet.sequence + _JUMPED:
            row["suspect"] = ((packet.sequence + 1) & 0xFFFF) + _JUMPED
            return
        _begin(row, packet)
    row["received"] += 1
    _delay(row, packet)


def _begin(row: np.void | Row, packet: Heard) -> None:
    row["lost_before"] = lost(row)
    for name in ("received", "suspect", "jitter", "reported_expected", "reported_received", "time_ns"):
        row[name] = 0
    row["base"] = row["highest"] = packet.sequence
    row["ssrc"], row["started"] = packet.ssrc, True


def _delay(row: np.void | Row, packet: Heard) -> None:
    if row["time_ns"] and row["rate"] == packet.rate:
        media = (packet.timestamp - int(row["timestamp"]) + (1 << 31)) % (1 << 32) - (1 << 31)
        difference = abs((packet.time_ns - int(row["time_ns"])) * packet.rate / _NS - media)
        row["jitter"] += (difference - float(row["jitter"])) / _GAIN
    elif row["rate"] != packet.rate:  # another unit
        row["jitter"] = 0
    row["rate"], row["payload_type"] = packet.rate, packet.payload_type
    row["timestamp"], row["time_ns"] = packet.timestamp, packet.time_ns


def lost(row: np.void | Row) -> int:
    """Packets lost on their way, as far as sequence numbers tell; duplicates never make it less than before."""
    if not row["started"]:
        return 0
    return int(row["lost_before"]) + max(0, _expected(row) - int(row["received"]))


def jitter_ms(row: np.void) -> float:
    return float(row["jitter"]) * 1000 / int(row["rate"]) if row["rate"] else 0.0


def heard_since_report(row: np.void) -> bool:
    """Whether the source is one to report on: it was heard since the last report (section 6.4)."""
    return bool(row["received"] > row["reported_received"])


def report(row: np.void, *, last_sr: int, delay: int) -> ReportBlock:
    """The block for a report that is sent now (appendix A.3)."""
    expected, received = _expected(row), int(row["received"])
    due = expected - int(row["reported_expected"])
    missing = due - (received - int(row["reported_received"]))
    row["reported_expected"], row["reported_received"] = expected, received
    return ReportBlock(
        ssrc=int(row["ssrc"]),
        fraction_lost=min(255, (missing << 8) // due) if due > 0 and missing > 0 else 0,
        cumulative_lost=expected - received,
        highest_sequence=int(row["highest"]),
        jitter=min(int(row["jitter"]), 0xFFFFFFFF),
        last_sr=last_sr,
        delay_since_last_sr=delay,
    )


def _expected(row: np.void | Row) -> int:
    return int(row["highest"]) - int(row["base"]) + 1
