"""The first pass: what came, how the streams lie on the time line, what is missing; no audio is touched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.clock import StepUndo
from siprec.media.render.decode import Buffers, packets, ticks
from siprec.media.render.gaps import Hole, Span
from siprec.media.render.order import LOWEST, Line, Order, Ordered, ordered
from siprec.media.render.source import FOREVER, Records, Source, distinct, groups
from siprec.media.render.timeline import MAX_PIECES, Anchor, LineTimeline, anchors, find
from siprec.rtp.codecs import Codec
from siprec.rtp.dtmf import MAX_EVENTS, Collector, duration
from siprec.rtp.sequence import MAX_DROPOUT

KEEP_BYTES = 64 << 20
"""Captures up to this size (50 minutes of a G.711 call) are read once and kept for the second pass."""


EARLY_LIMIT_NS = 10_000_000_000
"""How much earlier than its recording a file may begin, for audio that came ahead of its time: a sender's bursts are
shorter, and what a wrong clock asks for beyond it is told by the verdict."""

MEET_NS = 200_000_000
"""Two lines that share no more than this are one after the other: packets of the first that were delayed."""

MAX_LAYERS = 4
"""Lines of one channel that are mixed, each of which costs memory; what more there are share the last layer, where the
later packet is heard."""


@dataclass(slots=True)
class _Holes:
    """Where sequence numbers are missing on a line: columns, since a long call may have very many."""

    before: list[NDArray[np.int64]] = field(default_factory=list)  # sequence number of the last packet before
    after: list[NDArray[np.int64]] = field(default_factory=list)
    media: list[NDArray[np.int64]] = field(default_factory=list)  # where the audio before ends
    length: list[NDArray[np.int64]] = field(default_factory=list)  # in timestamp units
    packet: list[NDArray[np.int64]] = field(default_factory=list)  # nanoseconds of each, 0 where nobody can tell
    left: list[NDArray[np.int64]] = field(default_factory=list)  # arrival of the last packet before
    back: list[NDArray[np.int64]] = field(default_factory=list)  # of the first after
    last: tuple[int, int, int, int] | None = None  # sequence, timestamp, ticks and arrival of the last packet


@dataclass(slots=True)
class _LineScan:
    timeline: LineTimeline
    keys: Collector
    holes: _Holes = field(default_factory=_Holes)
    spoke: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Arrival of the first and the last packet that is to be heard, by part."""
    usual: int = 0  # ticks of the latest audio packet, which a lost one will have had
    usual_ns: int = 0


@dataclass(slots=True)
class ChannelScan:
    """What came on a channel; `heard` are the codecs of packets that are to be decoded."""

    codecs: Counter[int] = field(default_factory=Counter)
    heard: set[int] = field(default_factory=set)
    first_ns: int | None = None
    last_ns: int | None = None


class Scan:
    """Reads all of a source. Times are relative to `origin_ns`."""

    def __init__(self, source: Source, origin_ns: int) -> None:
        self.source = source
        self.origin_ns = origin_ns
        self.order = Order()
        self.channels: dict[int, ChannelScan] = {}
        self.kept: list[Ordered] | None = []
        self._lines: dict[tuple[int, int], _LineScan] = {}
        self._budget, self._key_room = [MAX_PIECES], [MAX_EVENTS]
        self._part_ends: dict[int, int] = {}
        kept_bytes, kept_buffers = 0, set[int]()
        for step in ordered(source, self.order):
            self._add(step)
            kept_bytes += sum(data.nbytes for number, data in step.buffers.items() if number not in kept_buffers)
            kept_buffers |= step.buffers.keys()
            self.kept = [*self.kept, step] if self.kept is not None and kept_bytes <= KEEP_BYTES else None
        for each in self._lines.values():
            each.timeline.close()
        self.anchors = anchors(self.timelines())

    # ---- results ----------------------------------------------------------------------------------------------

    def reach_back(self) -> int:
        """Moves the origin back to the first audio of all that came after it, if that lies before it: sent in bursts,
        ahead of its time. Returns by how many nanoseconds, whole milliseconds.
        """
        firsts = [
            self.anchors[place][0].base_ns
            for place, each in self._lines.items()
            if self.anchors[place] and each.timeline.began_ns >= 0
        ]
        early = min(ceil(-min(firsts, default=0.0) / 1e6) * 1_000_000, EARLY_LIMIT_NS)
        if early <= 0:
            return 0
        self.origin_ns -= early
        self.anchors = {
            place: [replace(each, base_ns=each.base_ns + early) for each in found]
            for place, found in self.anchors.items()
        }
        return early

    def steps(self) -> list[Ordered] | None:
        """What the pass kept, None when it was too much."""
        return self.kept

    def timelines(self, channel: int | None = None) -> list[LineTimeline]:
        """The timelines of one channel or of all."""
        return [each.timeline for (place, _), each in self._lines.items() if channel in (None, place)]

    def spans(self) -> list[Span]:
        """What each part answers for; one that was cut short ends with its last packet, or what it told last."""
        spans = []
        for number, loaded in enumerate(self.source.loaded):
            undo = StepUndo(loaded.part.clock)
            start = loaded.part.started_ns
            ended = loaded.part.ended_ns
            told = [undo.at(phase.since_ns) for stream in loaded.part.streams for phase in stream.phases]
            end = undo.final(ended) if ended is not None else max([*told, self._part_ends.get(number, start)])
            spans.append(Span(loaded.part, undo, start, max(start, end)))
        return spans

    def holes(self) -> list[Hole]:
        """Where packets are missing by the sequence numbers; no audio where they have taken no time."""
        return [
            hole
            for (channel, ssrc), each in self._lines.items()
            for hole in self._holes(channel, self.anchors[(channel, ssrc)], each.holes)
        ]

    def layers(self) -> dict[tuple[int, int], int]:
        """The layer of each line, by (channel, SSRC): what speaks at once (RFC 7866 section 8.1.3) is to be mixed.

        One sender that goes on with another SSRC stays in its layer, and so does one that another part heard: there it
        is the same audio once more.
        """
        found: dict[tuple[int, int], int] = {}
        ends: dict[tuple[int, int, int], int] = {}  # last arrival by channel, layer and part
        for (channel, ssrc), scan in self._lines.items():
            layer = 0
            while layer < MAX_LAYERS - 1 and any(
                min(last, ends.get((channel, layer, part), first)) - first > MEET_NS
                for part, (first, last) in scan.spoke.items()
            ):
                layer += 1
            for part, (_, last) in scan.spoke.items():
                ends[channel, layer, part] = max(last, ends.get((channel, layer, part), last))
            found[channel, ssrc] = layer
        return found

    def key_presses(self) -> list[tuple[int, float, float, str, str]]:
        """(channel, start and duration in seconds, key, masked key) of each telephone event."""
        found = []
        for (channel, ssrc), each in self._lines.items():
            timeline = self.anchors[(channel, ssrc)]
            for event in each.keys.events if timeline else []:
                anchor = timeline[int(find(timeline, np.array([event.sequence]))[0])]
                start = float(anchor.time_ns(np.array([event.start]))[0]) / 1e9
                found.append((channel, start, event.duration / anchor.clock, event.key, event.masked))
        return sorted(found, key=lambda key: (key[1], key[0]))

    def keys_omitted(self) -> int:
        """Telephone events beyond the limit."""
        return sum(each.keys.omitted for each in self._lines.values())

    # ---- the pass ---------------------------------------------------------------------------------------------

    def _add(self, step: Ordered) -> None:
        for line, records in step.lines:
            self._add_line(line, records, step.buffers)
        for report in step.reports:
            if (scan := self._lines.get((report.channel, report.ssrc))) is not None:
                scan.timeline.note(report)

    def _add_line(self, line: Line, records: Records, buffers: Buffers) -> None:
        scan = self._lines.get((line.channel, line.ssrc))
        if scan is None:
            scan = self._lines[(line.channel, line.ssrc)] = _LineScan(
                LineTimeline(line, self._budget), Collector(self._key_room)
            )
        numbers = distinct(records["codec"])
        lasts = np.zeros(records.size, np.int64)
        clocks = np.zeros(records.size, np.int64)
        timed = np.ones(records.size, np.bool_)
        for number in numbers:
            codec = self.source.codecs[number]
            every = len(numbers) == 1
            chosen = records if every else records.compress(records["codec"] == number)
            mine = slice(None) if every else records["codec"] == number
            clocks[mine] = codec.clock_rate
            if codec.kind == "event":
                timed[mine] = False
                lasts[mine] = self._collect(scan, chosen, buffers)
            else:
                lasts[mine] = ticks(chosen, buffers, codec)
        self._account(line.channel, scan, records)
        self._note_part_ends(records, lasts, clocks)
        # what comes behind the horizon is placed, but tells nothing: the line has been measured past it
        known = scan.holes.last[0] if scan.holes.last else LOWEST
        if int(records["sequence"][0]) <= known:
            fresh = records["sequence"] > known
            records, lasts, clocks, timed = records.compress(fresh), lasts[fresh], clocks[fresh], timed[fresh]
        if not records.size:
            return
        timely = timed.all()
        self._note_times(
            scan.timeline,
            records if timely else records.compress(timed),
            self._clocks(scan, numbers, clocks if timely else clocks[timed]),
        )
        self._note_holes(scan, records, lasts=lasts, timed=timed, clocks=clocks)

    def _clocks(self, scan: _LineScan, numbers: list[int], clocks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Comfort noise counts by the clock of the audio around it, whatever its own rtpmap says."""
        noise = [number for number in numbers if self.source.codecs[number].kind == "noise"]
        audio = [self.source.codecs[number].clock_rate for number in numbers if number not in noise
                 and self.source.codecs[number].kind != "event"]  # fmt: skip
        if noise and len(set(audio)) <= 1:
            return np.full_like(clocks, audio[0] if audio else scan.timeline.clock or clocks[:1])
        return clocks

    def _note_times(self, timeline: LineTimeline, records: Records, clocks: NDArray[np.int64]) -> None:
        if not records.size:
            return
        arrival = (records["arrival"] - self.origin_ns).astype(np.float64)
        edges = [0, *(np.flatnonzero(clocks[1:] != clocks[:-1]) + 1).tolist(), records.size]
        for start, end in pairwise(edges):
            timeline.add(
                records["sequence"][start:end],
                records["media"][start:end],
                arrival=arrival[start:end],
                clock=int(clocks[start]),
            )

    def _collect(self, scan: _LineScan, records: Records, buffers: Buffers) -> list[int]:
        rows = zip(records["sequence"].tolist(), records["media"].tolist(), packets(records, buffers),
                   records["open"].tolist(), strict=True)  # fmt: skip
        lasts = []
        for sequence, media, payload, is_open in rows:
            lasts.append(duration(payload))
            if is_open:
                scan.keys.feed(media, payload, sequence=sequence)
        return lasts

    def _account(self, channel: int, scan: _LineScan, records: Records) -> None:
        account = self.channels.setdefault(channel, ChannelScan())
        for number, mine in groups(records, "codec"):
            account.codecs[number] += mine.size
            heard = mine if mine["open"].all() else mine.compress(mine["open"])
            if heard.size:
                account.heard.add(number)
                if self.source.codecs[number].audible:
                    self._note_spoken(scan, heard)
        first, last = int(records["arrival"].min()), int(records["arrival"].max())
        account.first_ns = first if account.first_ns is None else min(account.first_ns, first)
        account.last_ns = last if account.last_ns is None else max(account.last_ns, last)

    def _note_spoken(self, scan: _LineScan, records: Records) -> None:
        for part, mine in groups(records, "part"):
            first, last = scan.spoke.get(part, (FOREVER, -FOREVER))
            scan.spoke[part] = min(first, int(mine["arrival"].min())), max(last, int(mine["arrival"].max()))

    def _note_holes(self, scan: _LineScan, records: Records, *, lasts: NDArray[np.int64], timed: NDArray[np.bool_],
                    clocks: NDArray[np.int64]) -> None:  # fmt: skip
        sequence, media, arrival = records["sequence"], records["media"], records["arrival"]
        last = scan.holes.last or (int(sequence[0]) - 1, int(media[0]), 0, int(arrival[0]))
        scan.holes.last = (int(sequence[-1]), int(media[-1]), int(lasts[-1]), int(arrival[-1]))
        audio = timed & (lasts > 0)
        if audio.any():
            latest = audio.size - 1 - int(audio[::-1].argmax())
            scan.usual = int(lasts[latest])
            scan.usual_ns = scan.usual * 10**9 // int(clocks[latest] or 1)
        if scan.holes.last[0] - last[0] == sequence.size:  # each number is there
            return
        before = np.concatenate([[last[0]], sequence[:-1]])
        ends = np.concatenate([[last[1] + last[2]], media[:-1] + lasts[:-1]])
        left = np.concatenate([[last[3]], arrival[:-1]])
        steps = sequence - before
        holes = np.flatnonzero((steps > 1) & (steps <= MAX_DROPOUT))
        if not holes.size:
            return
        lost, space = steps[holes] - 1, np.maximum(media - ends, 0)[holes]
        # what was sent between may have been silence, so no more is lost than the missing packets can have held
        most = lost * scan.usual if scan.usual else space * lost // (lost + 1)
        scan.holes.before.append(before[holes])
        scan.holes.after.append(sequence[holes])
        scan.holes.media.append(ends[holes])
        scan.holes.length.append(np.minimum(space, most))
        scan.holes.packet.append(np.full(holes.size, scan.usual_ns))
        scan.holes.left.append(left[holes] - self.origin_ns)
        scan.holes.back.append(arrival[holes] - self.origin_ns)

    def _note_part_ends(self, records: Records, lasts: NDArray[np.int64], clocks: NDArray[np.int64]) -> None:
        # an event's duration says when it began, not how long its packet lasts
        ends = records["arrival"] + np.minimum(lasts * 10**9 // np.maximum(clocks, 1), 120_000_000)
        parts = distinct(records["part"])
        for part in parts:
            end = int((ends if len(parts) == 1 else ends[records["part"] == part]).max())
            self._part_ends[part] = max(self._part_ends.get(part, 0), end)

    def _holes(self, channel: int, timeline: list[Anchor], holes: _Holes) -> Iterator[Hole]:
        if not holes.before:
            return
        before, after = np.concatenate(holes.before), np.concatenate(holes.after)
        media, length, packet = (np.concatenate(each) for each in (holes.media, holes.length, holes.packet))
        left, back = np.concatenate(holes.left), np.concatenate(holes.back)
        starts = np.zeros(before.size, np.int64)
        ends = np.zeros(before.size, np.int64)
        which = find(timeline, before) if timeline else np.zeros(0, np.int64)
        same = which == find(timeline, after) if timeline else np.zeros(0, np.bool_)
        for number in np.unique(which[same]).tolist():
            mine = same & (which == number)
            starts[mine] = _whole_ns(timeline[number].time_ns(media[mine]))
            ends[mine] = _whole_ns(timeline[number].time_ns(media[mine] + length[mine]))
        packet = np.where(packet > 0, packet, np.maximum((back - left) // (after - before), 1))
        left = np.minimum(left + packet, back)  # the last one before is no part of it
        columns = (starts, ends, after - before - 1, packet, left, back)
        yield from (Hole(channel, *row) for row in zip(*(each.tolist() for each in columns), strict=True))


def _whole_ns(times: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rounded; what a wild counter puts beyond all time is brought back to its edge."""
    return np.rint(np.clip(times, -FOREVER, FOREVER)).astype(np.int64)


def audible(codecs: list[Codec], numbers: set[int]) -> list[Codec]:
    """Those of the codecs that give sound."""
    return [codecs[number] for number in sorted(numbers) if codecs[number].audible]
