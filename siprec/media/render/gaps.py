"""What is missing on the time line, and why."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from operator import itemgetter

from siprec.media.part import Mode, Part, PartStream
from siprec.media.render.clock import StepUndo
from siprec.media.render.report import MAX_GAPS, Gap

NEAR_NS = 500_000_000
"""How close a loss has to be to an outage to be its doing: outages are noted by ticks and seconds. And by how much less
a phase may last, as we saw it, than the sender was silent for it: the request that tells of it takes its way.
"""

RANK = {"paused": 0, "hold": 1, "disk": 2, "interrupted": 3, "backlog": 4, "kernel_drop": 5, "loss": 6}
"""Where two causes meet, the one that says more counts."""

QUIET: frozenset[Mode] = frozenset({"hold", "metadata-hold", "paused"})
"""Modes in which nothing needs to come."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Silence on a channel, in nanoseconds after the recording's start."""

    channel: int
    start: int
    end: int
    cause: str


@dataclass(frozen=True, slots=True)
class Hole:
    """Sequence numbers of a sender that never came: `packets` of `packet_ns` each. Times are as above.

    Its audio would lie from `start` to `end`, which are equal where nobody can tell; nothing arrived from `left_ns` to
    `back_ns`.
    """

    channel: int
    start: int
    end: int
    packets: int
    packet_ns: int
    left_ns: int
    back_ns: int


@dataclass(frozen=True, slots=True)
class Span:
    """The time a part answers for; `undo` brings its stamps to one clock."""

    part: Part
    undo: StepUndo
    start_ns: int
    end_ns: int


def held_by_metadata(spans: Sequence[Span]) -> set[int]:
    """Channels that a hold silences only where nothing came."""
    streams = (stream for span in spans for stream in span.part.streams)
    return {stream.channel for stream in streams if any(each.mode == "metadata-hold" for each in stream.phases)}


def quiet_phases(spans: Sequence[Span], origin_ns: int, end_ns: int) -> list[Missing]:
    """When nothing was to be recorded of a channel, by time, and by what mode: hold, metadata-hold, or paused, which is
    also one that was closed and opened again.
    """
    told: dict[int, list[int]] = {}
    for span, stream in _streams(spans):
        told.setdefault(stream.channel, []).extend(span.undo.at(phase.since_ns) for phase in stream.phases)
    for times in told.values():
        times.sort()
    found = _reopened(spans)
    for span, stream in _streams(spans):
        since = [span.undo.at(each.since_ns) for each in stream.phases]
        # The last phase holds until a later part tells of the channel anew, whoever was there meanwhile to record;
        # without one to the end of a part, which one that was cut short does not know.
        later = told[stream.channel][bisect_right(told[stream.channel], since[-1]) :][:1]
        last = later[0] if later else end_ns if span.part.ended_ns is None else span.end_ns
        for phase, start, end in zip(stream.phases, since, [*since[1:], last], strict=True):
            if phase.mode in QUIET and end > start:
                found.append(Missing(stream.channel, start, end, phase.mode))
    by_time = sorted(found, key=lambda each: each.start)
    return [replace(each, start=each.start - origin_ns, end=each.end - origin_ns) for each in by_time]


def silent_phases(quiet: Iterable[Missing], laid: Mapping[int, Sequence[tuple[int, int]]]) -> list[Missing]:
    """The gaps that are holds and pauses. A hold that the metadata alone tells is silent only where no audio was `laid`
    down in its channel (start and end by time).
    """
    found = []
    for each in quiet:
        if each.cause == "metadata-hold":
            heard = [Missing(each.channel, *edges, "") for edges in laid.get(each.channel, ())]
            found += _outside([replace(each, cause="hold")], heard)
        else:
            found.append(each)
    return found


def losses(holes: Iterable[Hole], quiet: Iterable[Missing]) -> tuple[list[Missing], Counter[int]]:
    """What is lost, with its place, and how many packets of each channel are not, though their numbers are missing: the
    sender counted on while nothing was to be recorded. `quiet` is by time.
    """
    by_channel: dict[int, list[Missing]] = {}
    for each in quiet:
        by_channel.setdefault(each.channel, []).append(each)
    phases = {channel: _Phases(mine) for channel, mine in by_channel.items()}
    found: list[Missing] = []
    excused: Counter[int] = Counter()
    for hole in holes:
        over = phases[hole.channel].over(hole) if hole.channel in phases else []
        rests = _outside([Missing(hole.channel, hole.left_ns, hole.back_ns, "loss")], over) if over else []
        rest_ns = sum(each.end - each.start for each in rests)
        if over and hole.packets * hole.packet_ns > rest_ns + hole.packet_ns:  # it counted on meanwhile
            lost = sum(round((each.end - each.start) / hole.packet_ns) for each in rests if _is_loss(each))
            excused[hole.channel] += max(0, hole.packets - lost)
            cause = "paused" if over[0].cause == "paused" else "hold"
            placed = _outside([Missing(hole.channel, hole.start, hole.end, "loss")], over)
            found += [each if _is_loss(each) else replace(each, cause=cause) for each in placed]
        elif hole.end > hole.start:
            found.append(Missing(hole.channel, hole.start, hole.end, "loss"))
    return found, excused


class _Phases:
    """Quiet phases of a channel, by time."""

    def __init__(self, phases: list[Missing]) -> None:
        self._phases = phases
        self._starts = [each.start for each in phases]
        self._ends = list(accumulate((each.end for each in phases), max))

    def over(self, hole: Hole) -> list[Missing]:
        """Those that explain some of a hole."""
        first, last = bisect_right(self._ends, hole.left_ns), bisect_left(self._starts, hole.back_ns)
        return [each for each in self._phases[first:last] if _covers(each, hole)]


def _covers(quiet: Missing, hole: Hole) -> bool:
    """Whether a quiet phase explains some of a hole. What is amid a hold by metadata was lost: it was being sent."""
    amid = quiet.start + NEAR_NS < hole.left_ns and hole.back_ns + NEAR_NS < quiet.end
    overlap = quiet.start < hole.back_ns and hole.left_ns < quiet.end
    return overlap and not (amid and quiet.cause == "metadata-hold")


def _is_loss(rest: Missing) -> bool:
    """Whether what is missing beside a quiet phase is too much to belong to it."""
    return rest.end - rest.start > NEAR_NS


def interruptions(spans: Sequence[Span], start_ns: int, end_ns: int) -> list[Missing]:
    """Times for which no part answers, on every channel that was being recorded before."""
    found = []
    covered = spans[0].start_ns if spans else end_ns
    for index, span in enumerate([*spans, None]):
        begins = end_ns if span is None else span.start_ns
        if begins > covered:
            start, end = covered - start_ns, begins - start_ns
            found += [Missing(channel, start, end, "interrupted") for channel in _open_channels(spans[:index])]
        covered = max(covered, begins if span is None else span.end_ns)
    return found


def given_up(spans: Sequence[Span], start_ns: int) -> list[Missing]:
    """What was received and waited for the disk in vain, on every channel of its part: whether a packet came after it,
    by whose number it is missed, or not. (An outage of one channel is what its socket had no room for meanwhile: it
    lies somewhere in that time.)
    """
    return [
        Missing(channel, span.undo.at(each.start_ns) - start_ns, span.undo.at(each.end_ns) - start_ns, each.cause)
        for span in spans
        for each in span.part.outages
        if each.cause == "disk" and each.packets and each.channel is None
        for channel in sorted({stream.channel for stream in span.part.streams})
    ]


def outages(spans: Sequence[Span], start_ns: int) -> list[Missing]:
    """What the captures themselves say may be missing; channel -1 is all."""
    return [
        Missing(
            -1 if each.channel is None else each.channel,
            span.undo.at(each.start_ns) - start_ns,
            span.undo.at(each.end_ns) - start_ns,
            each.cause,
        )
        for span in spans
        for each in span.part.outages
    ]


def gaps(losses: Iterable[Missing], known: Sequence[Missing], causes: Sequence[Missing], length_ns: int
         ) -> tuple[tuple[Gap, ...], int]:  # fmt: skip
    """All gaps of a recording of `length_ns`, by time, none overlapping on a channel, neighbours of one cause joined.

    `known` are gaps by themselves (holds, pauses, interruptions, what was given up); each of `losses` takes the cause
    of the outage (`causes`) or interruption next to it. Also returns how many gaps the list's limit left out.
    """
    reasons = [*causes, *(each for each in known if each.cause == "interrupted")]
    explained = [_explain(each, reasons) for each in losses]
    merged = [
        joined
        for channel in sorted({each.channel for each in [*explained, *known]})
        for joined in _flatten([each for each in [*explained, *known] if each.channel == channel], length_ns)
    ]
    longest = sorted(merged, key=lambda each: each.start - each.end)[:MAX_GAPS]
    listed = sorted(longest, key=lambda each: (each.start, each.channel))
    return tuple(
        Gap(each.channel, each.start / 1e9, (each.end - each.start) / 1e9, each.cause) for each in listed
    ), len(merged) - len(listed)


def _streams(spans: Sequence[Span]) -> Iterator[tuple[Span, PartStream]]:
    """All that something is told of."""
    return ((span, stream) for span in spans for stream in span.part.streams if stream.phases)


def _reopened(spans: Sequence[Span]) -> list[Missing]:
    """From the close of each stream, at a time when no other part had its channel, to when it was opened again. Another
    stream may carry the channel on: that is no pause.
    """
    lives: dict[int, list[tuple[int, int, bool, str | None]]] = {}
    for span, stream in _streams(spans):
        first, last = (span.undo.at(each.since_ns) for each in (stream.phases[0], stream.phases[-1]))
        closed = stream.phases[-1].mode == "closed"
        lives.setdefault(stream.channel, []).append((first, last if closed else span.end_ns, closed, stream.label))
    found = []
    for channel, mine in lives.items():
        mine.sort(key=itemgetter(0))
        _, reached, closed, label = mine[0]
        for start, end, closes, now in mine[1:]:
            if closed and start > reached and now == label:
                found.append(Missing(channel, reached, start, "paused"))
            if end >= reached:
                reached, closed, label = end, closes, now
    return found


def _open_channels(spans: Sequence[Span]) -> list[int]:
    """Channels whose last known phase is not `closed`; of two of one time it is that of the later stream."""
    last: dict[int, tuple[int, str]] = {}
    for span in spans:
        for stream in span.part.streams:
            for phase in stream.phases[-1:]:
                if phase.since_ns >= last.get(stream.channel, (0, ""))[0]:
                    last[stream.channel] = (phase.since_ns, phase.mode)
    return sorted(channel for channel, (_, mode) in last.items() if mode != "closed")


def _explain(loss: Missing, reasons: Sequence[Missing]) -> Missing:
    near = [
        each.cause
        for each in reasons
        if each.channel in (-1, loss.channel) and each.start - NEAR_NS < loss.end and loss.start < each.end + NEAR_NS
    ]
    return replace(loss, cause=min(near, key=RANK.__getitem__, default=loss.cause))


def _flatten(missing: list[Missing], length_ns: int) -> list[Missing]:
    """One channel's gaps cut to the recording, without overlaps, neighbours of one cause joined."""
    taken: list[Missing] = []
    for cause in RANK:
        mine = _join([each for each in missing if each.cause == cause])
        taken = sorted([*taken, *_outside(mine, taken)], key=lambda each: each.start)
    cut = [Missing(each.channel, max(each.start, 0), min(each.end, length_ns), each.cause) for each in taken]
    return _join([each for each in cut if each.end > each.start])


def _outside(missing: list[Missing], taken: list[Missing]) -> list[Missing]:
    """What of `missing` lies outside of `taken`; both by time and without overlaps of their own."""
    result = []
    index = 0
    for each in missing:
        start = each.start
        while index < len(taken) and taken[index].end <= start:
            index += 1
        place = index
        while place < len(taken) and taken[place].start < each.end:
            if taken[place].start > start:
                result.append(Missing(each.channel, start, taken[place].start, each.cause))
            start = max(start, taken[place].end)
            place += 1
        if start < each.end:
            result.append(Missing(each.channel, start, each.end, each.cause))
    return result


_ROUNDING_NS = 1_000  # two places computed from timestamps meet, though their nanoseconds were rounded apart


def _join(missing: list[Missing]) -> list[Missing]:
    joined: list[Missing] = []
    for each in sorted(missing, key=lambda each: each.start):
        last = joined[-1] if joined else None
        if last is not None and last.cause == each.cause and each.start <= last.end + _ROUNDING_NS:
            joined[-1] = Missing(each.channel, last.start, max(last.end, each.end), each.cause)
        else:
            joined.append(each)
    return joined
