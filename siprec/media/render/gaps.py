"""What is missing on the time line, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from siprec.media.part import Part
from siprec.media.render.clock import StepUndo
from siprec.media.render.report import MAX_GAPS, Gap

NEAR_NS = 500_000_000
"""How close a loss has to be to an outage to be its doing: outages are noted by ticks and seconds."""

RANK = {"paused": 0, "hold": 1, "disk": 2, "interrupted": 3, "backlog": 4, "kernel_drop": 5, "loss": 6}
"""Where two causes meet, the one that says more counts."""


@dataclass(frozen=True, slots=True)
class Missing:
    """Silence on a channel, in nanoseconds after the recording's start; `packets`: how many a loss has cost."""

    channel: int
    start: int
    end: int
    cause: str
    packets: int = 0


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


def silent_phases(
    spans: Sequence[Span], origin_ns: int, end_ns: int, laid: Mapping[int, Sequence[tuple[int, int]]]
) -> list[Missing]:
    """Holds and pauses of all streams. A hold that the metadata alone tells is silent only where no audio was `laid`
    down in its channel (start and end in ns after `origin_ns`, by time).
    """
    found = []
    for span in spans:
        for stream in span.part.streams:
            since = [span.undo.at(each.since_ns) for each in stream.phases]
            last = _told_until(spans, span, stream.channel, since[-1], end_ns) if since else 0
            for phase, start, end in zip(stream.phases, since, [*since[1:], last], strict=False):
                cause = "hold" if phase.mode == "metadata-hold" else phase.mode
                if cause in ("hold", "paused") and end > start:
                    silence = Missing(stream.channel, start - origin_ns, end - origin_ns, cause)
                    heard = laid.get(stream.channel, ()) if phase.mode == "metadata-hold" else ()
                    found += _outside([silence], [Missing(stream.channel, *each, "") for each in heard])
    return found


def excused(losses: Sequence[Missing], silences: Sequence[Missing], channel: int) -> int:
    """Packets of a channel that are missing where nothing was to be recorded: a sender on hold may count on."""
    lost = [each for each in losses if each.channel == channel]
    mine = _join([replace(each, cause="") for each in silences if each.channel == channel])
    if not (lost and mine):
        return 0
    edges = np.array([[each.start, each.end] for each in mine], np.float64)
    silent = np.repeat(np.cumsum(edges[:, 1] - edges[:, 0]), 2)  # how much of it lies before each end, and each start
    silent[::2] -= edges[:, 1] - edges[:, 0]
    start, end, packets = np.array([[each.start, each.end, each.packets] for each in lost], np.float64).T
    share = (np.interp(end, edges.ravel(), silent) - np.interp(start, edges.ravel(), silent)) / (end - start)
    return int(np.rint(packets * share).sum())


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
    by whose number it is missed, or not.
    """
    return [
        Missing(channel, span.undo.at(each.start_ns) - start_ns, span.undo.at(each.end_ns) - start_ns, each.cause)
        for span in spans
        for each in span.part.outages
        if each.cause == "disk" and each.packets
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


def _told_until(spans: Sequence[Span], span: Span, channel: int, since: int, end_ns: int) -> int:
    """How long the last phase of a channel in `span`, in force `since` then, holds: until a later part tells of the
    channel anew, whoever was there meanwhile to record; without one to the end of a part, which one that was cut short
    does not know.
    """
    later = [
        at
        for each in spans
        if each is not span
        for stream in each.part.streams
        if stream.channel == channel
        for at in [each.undo.at(phase.since_ns) for phase in stream.phases]
        if at > since
    ]
    return min(later, default=end_ns if span.part.ended_ns is None else span.end_ns)


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
