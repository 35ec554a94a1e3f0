"""Where on the recording's time line the timestamps of an SSRC lie.

An RTP timestamp counts from an unknown moment. What ties it to time is arrival: arrival minus media time is the
moment of timestamp zero plus that packet's delay, so its lower envelope is the least delayed guess. It is taken
over many packets, never from the first alone. Where media time and arrival part ways for good (a sender that
jumped, was reset, or stood still while it was on hold), a new piece begins with a base of its own; a piece that
turns out to fit the one before is joined to it, so a late burst after a stall moves nothing.

The first pass keeps two numbers for each two seconds of a line. That suffices for the base, for the sender's
clock drift, and to see counters that run wild.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.order import Line
from siprec.media.render.source import SenderReport, deltas

BIN_NS = 2_000_000_000
"""One minimum of the envelope for this much of arrival time: what a counter that runs wild can be off."""

JUMP_NS = 500_000_000
"""Media time and arrival that differ by more from one packet to the next are looked at: above jitter, below what
makes two people talk past each other."""

CAP_NS = 2_000_000_000
"""How far the envelope may stray slowly from where it was."""

SLEW = 1e-3
"""The worst clock a sender may have (1000 ppm); RTP senders have crystals of 100."""

PERSISTS = 100
"""Packets after a jump, two seconds, in which a mere delay would show itself by catching up."""

LEAST = 25
"""Fewer packets than this after a jump tell nothing yet."""

BASE_BINS = 30
"""The first minute decides the base of a line whose drift is not corrected."""

DRIFT_NS, DRIFT_AFTER_NS = 40_000_000, 60_000_000_000
"""Drift is corrected only when it made 40 ms and was measured over 60 s: less is not heard, and may be jitter."""

DRIFT_BINS = 5
"""Bins joined for the fit: minima over 10 s."""

SENDER_CLOCK_NS = 200_000_000
"""Sender reports move a stream by no more than that; streams that differ by more have clocks of their own."""

LATE_START_NS = 200_000_000
"""A first packet that came this much later than the rest of its line is not laid before the recording's start, where it
would be cut off, when it came after it: some senders begin with a burst."""

MAX_PIECES = 10_000
"""Pieces of one recording; a peer whose timestamps jump more often than that is placed by its last one."""


@dataclass(slots=True)
class Piece:
    """A stretch of a line in which timestamps tell time. `origin` and `clock` turn timestamps to seconds."""

    first: int  # extended sequence number
    origin: int
    clock: int
    bins: list[tuple[int, float]] = field(default_factory=list)  # bin number, least (arrival - media) in ns
    report: tuple[int, int] | None = None  # unwrapped timestamp, sender's NTP time in ns
    reference: float = np.inf

    def head(self) -> float:
        return min(least for _, least in self.bins[:DRIFT_BINS])

    def tail(self) -> float:
        return min(least for _, least in self.bins[-DRIFT_BINS:])


@dataclass(frozen=True, slots=True)
class Anchor:
    """From sequence number `first` on, timestamp `t` lies at `base_ns + (t - origin) / clock` after the start.

    `drift` is seconds of arrival gained per second of media; where `correct`, places move with it.
    """

    first: int
    origin: int
    clock: int
    base_ns: float
    drift: float
    seconds: float
    since_ns: float  # media time (after origin) from which drift counts

    @property
    def correct(self) -> bool:
        return self.seconds * 1e9 >= DRIFT_AFTER_NS and abs(self.drift) * self.seconds * 1e9 >= DRIFT_NS

    def drifted(self, media: NDArray[np.int64]) -> NDArray[np.float64]:
        """Nanoseconds by which `media` should lie later than without correction."""
        if not self.correct:
            return np.zeros(media.size)
        return self.drift * ((media - self.origin).astype(np.float64) * (1e9 / self.clock) - self.since_ns)

    def time_ns(self, media: NDArray[np.int64]) -> NDArray[np.float64]:
        """Where `media` lies, in nanoseconds after the start of the recording."""
        time = (media - self.origin).astype(np.float64) * (1e9 / self.clock)
        return self.base_ns + time + self.drifted(media)


class LineTimeline:
    """Collects the pieces of one line, packet by packet in order of sequence."""

    def __init__(self, line: Line, budget: list[int]) -> None:
        self.line = line
        self.pieces: list[Piece] = []
        self._budget = budget  # pieces left, shared by all lines of a recording
        self._last: tuple[float, float] | None = None  # arrival and media time of the last packet, in ns
        self._bin: tuple[int, float] | None = None
        self.difference_ns, self.differences = 0.0, 0  # sum and number for the mean jitter
        self.began_ns = 0.0
        """Arrival of the first packet, after the recording's start; below 0 for early media."""

    @property
    def clock(self) -> int:
        """The clock rate in force; 0 before the first packet."""
        return self.pieces[-1].clock if self.pieces else 0

    def add(self, sequence: NDArray[np.int64], media: NDArray[np.int64], *, arrival: NDArray[np.float64],
            clock: int) -> None:  # fmt: skip
        """Packets that carry time (no events), all of one clock; `arrival` in ns after the recording's start."""
        if not self.pieces:
            self.began_ns = float(arrival[0])
        if not self.pieces or self.pieces[-1].clock != clock:
            self._begin(Piece(int(sequence[0]), int(media[0]), clock))
        time = (media - self.pieces[-1].origin).astype(np.float64) * (1e9 / clock)
        delay = arrival - time
        cuts = self._cuts(arrival, time, delay)
        edges = sorted({0, *cuts})
        for start, end in zip(edges, [*edges[1:], len(delay)], strict=True):
            if start or cuts[:1] == [0]:
                self._split(int(sequence[start]))
            self._bins(sequence[start:end], arrival[start:end], delay[start:end])
        self._last = (float(arrival[-1]), float(time[-1]))

    def note(self, report: SenderReport) -> None:
        """A sender report of this line, if it is the first of the piece."""
        last = self.line.last_media
        if self.pieces and self.pieces[-1].report is None and last is not None:
            step = (report.timestamp - last + 2**31) % 2**32 - 2**31
            self.pieces[-1].report = (last + step + self.line.still.shift, report.ntp_ns)

    def close(self) -> None:
        """No more packets come."""
        self._close_bin()

    def _begin(self, piece: Piece) -> None:
        self._close_bin()
        self.pieces.append(piece)
        self._budget[0] -= 1
        self._last = None

    def _split(self, first: int) -> None:
        if self._budget[0] > 0:
            self._close_bin()
            self.pieces.append(Piece(first, self.pieces[-1].origin, self.pieces[-1].clock))
            self._budget[0] -= 1

    def _cuts(self, arrival: NDArray[np.float64], time: NDArray[np.float64], delay: NDArray[np.float64]) -> list[int]:
        """Where media time jumped by itself, or arrival did and did not come back."""
        size = np.abs(deltas(delay, delay[0] if self._last is None else self._last[0] - self._last[1]))
        sharp = size > JUMP_NS
        even = size[~sharp] if sharp.any() else size
        self.difference_ns += float(even.sum())
        self.differences += even.size
        if even is size:
            return []
        media_step = np.abs(deltas(time, time[0] if self._last is None else self._last[1]))
        return [
            index
            for index in np.flatnonzero(sharp).tolist()
            if media_step[index] > JUMP_NS or self._stays(delay, index)
        ]

    def _stays(self, delay: NDArray[np.float64], index: int) -> bool:
        after = delay[index : index + PERSISTS]
        before = delay[max(index - PERSISTS, 0) : index]
        reference = float(before.min()) if before.size else self._reference()
        return after.size >= LEAST and abs(float(after.min()) - reference) > JUMP_NS

    def _reference(self) -> float:
        if self._bin is not None:
            return self._bin[1]
        return self.pieces[-1].bins[-1][1] if self.pieces[-1].bins else 0.0

    def _bins(self, sequence: NDArray[np.int64], arrival: NDArray[np.float64], delay: NDArray[np.float64]) -> None:
        numbers = np.maximum.accumulate(arrival.astype(np.int64) // BIN_NS)
        starts = np.flatnonzero(deltas(numbers, numbers[0] - 1))
        least = np.minimum.reduceat(delay, starts).tolist()
        for start, number, low in zip(starts.tolist(), numbers[starts].tolist(), least, strict=True):
            if self._bin is not None and number <= self._bin[0]:
                self._bin = (self._bin[0], min(self._bin[1], low))
            else:
                self._close_bin()
                if self._runs_wild(number, low):
                    self._split(int(sequence[start]))
                self._bin = (number, low)

    def _runs_wild(self, number: int, low: float) -> bool:
        """Whether the envelope strayed further than any clock may; keeps the reference it is compared with."""
        piece = self.pieces[-1]
        if not piece.bins:
            return False
        first_number, first_low = piece.bins[0]
        slew = SLEW * BIN_NS * (number - first_number)
        if low < first_low - CAP_NS - slew or low > piece.reference + CAP_NS:
            return True
        passed = SLEW * BIN_NS * (number - piece.bins[-1][0])
        piece.reference = min(low, piece.reference + passed)
        return False

    def _close_bin(self) -> None:
        if self._bin is not None and self.pieces:
            piece = self.pieces[-1]
            piece.bins.append(self._bin)
            piece.reference = min(piece.reference, self._bin[1])
        self._bin = None


def anchors(timelines: list[LineTimeline]) -> dict[tuple[int, int], list[Anchor]]:
    """The anchors of all lines, by (channel, SSRC), each list in order of `first`."""
    joined = {(each.line.channel, each.line.ssrc): _join(each.pieces) for each in timelines}
    moves = _moves([piece for pieces in joined.values() for piece in pieces])
    found = {place: [_anchor(piece, moves.get(id(piece), 0.0)) for piece in pieces] for place, pieces in joined.items()}
    for each in timelines:
        line = found[(each.line.channel, each.line.ssrc)]
        if line and each.began_ns >= 0 and -LATE_START_NS <= line[0].base_ns < 0:
            line[0] = replace(line[0], base_ns=0.0)
    return found


def drift_ppm(timeline: list[Anchor]) -> float:
    """The drift of the longest anchor in parts per million, above 0 when the sender's clock is fast."""
    longest = max(timeline, key=lambda each: each.seconds, default=None)
    return round(-longest.drift * 1e6, 3) if longest else 0.0


def find(timeline: list[Anchor], sequence: NDArray[np.int64]) -> NDArray[np.intp]:
    """The index of the anchor that each sequence number belongs to."""
    first = np.array([each.first for each in timeline[1:]], np.int64)
    return np.searchsorted(first, sequence, side="right")


def _join(pieces: list[Piece]) -> list[Piece]:
    """Pieces that fit the one before become part of it."""
    joined: list[Piece] = []
    for piece in pieces:
        if not piece.bins:
            continue
        before = joined[-1] if joined else None
        fits = before is not None and (before.origin, before.clock) == (piece.origin, piece.clock)
        if before is not None and fits and abs(piece.head() - before.tail()) < JUMP_NS:
            before.bins.extend(piece.bins)
            before.report = before.report or piece.report
        else:
            joined.append(piece)
    return joined


def _moves(pieces: list[Piece]) -> dict[int, float]:
    """What sender reports say about streams of one sender clock: how much earlier each lies than it arrived.

    The transit (arrival minus sender's clock) of such streams is the same but for what delayed each on its way,
    so all are brought to the least. Streams whose transits are far apart have different clocks.
    """
    transits = []
    for piece in pieces:
        if piece.report is not None:
            timestamp, ntp_ns = piece.report
            arrival = _base(piece, 0.0, 0.0) + (timestamp - piece.origin) * (1e9 / piece.clock)
            transits.append((arrival - ntp_ns, id(piece)))
    moves: dict[int, float] = {}
    least = -np.inf
    for transit, piece_id in sorted(transits):
        if transit - least > SENDER_CLOCK_NS:
            least = transit
        moves[piece_id] = least - transit
    return moves


def _anchor(piece: Piece, move: float) -> Anchor:
    numbers = np.array([number for number, _ in piece.bins], np.float64)
    lows = np.array([low for _, low in piece.bins])
    seconds = (numbers[-1] - numbers[0] + 1) * BIN_NS / 1e9
    drift = _slope(numbers, lows)
    start = numbers[0] * BIN_NS
    anchor = Anchor(
        first=piece.first,
        origin=piece.origin,
        clock=piece.clock,
        base_ns=0.0,
        drift=drift,
        seconds=seconds,
        since_ns=start - lows[0],
    )
    base = _base(piece, drift if anchor.correct else 0.0, start) + move
    return Anchor(anchor.first, anchor.origin, anchor.clock, base, drift, seconds, anchor.since_ns)


def _base(piece: Piece, drift: float, start: float) -> float:
    """The lower envelope, seen from the beginning of the piece."""
    if drift == 0.0:
        return min(low for _, low in piece.bins[:BASE_BINS])
    return min(low - drift * (number * BIN_NS - start) for number, low in piece.bins)


def _slope(numbers: NDArray[np.float64], lows: NDArray[np.float64]) -> float:
    """Nanoseconds of delay gained per nanosecond, from minima over 10 s; 0 when there are too few to tell."""
    groups = len(lows) // DRIFT_BINS
    if groups < 3:
        return 0.0
    least = lows[: groups * DRIFT_BINS].reshape(groups, DRIFT_BINS).min(axis=1)
    times = numbers[: groups * DRIFT_BINS].reshape(groups, DRIFT_BINS).mean(axis=1) * BIN_NS
    centred = times - times.mean()
    return float((centred * (least - least.mean())).sum() / (centred**2).sum())
