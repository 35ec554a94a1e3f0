"""Rendering: `render(parts) -> audio, report`, a pure function of what was captured.

The parts of a recording are read twice. The first pass (`scan`) orders packets by line (SSRC), finds out where
each line's timestamps lie on the common time line, what is missing and what was pressed. The second (`mix`)
decodes and lays every packet down at its place, and hands out blocks while it goes, so memory stays bounded for
a call of a day. No packet is an object: tables of packets (`source.RECORD`) pass from step to step:

    source   part folders -> stretches of packets by channel, parts merged by arrival, clock steps undone
    order    -> by SSRC in order, unwrapped, without duplicates, counted
    still    -> timestamps that stood still set going
    timeline -> timestamps to time                    gaps  -> what is missing and why
    decode   -> samples                               plane -> samples on the time line, resampled
    meter    -> how much of what came is heard
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.gaps import (
    Span,
    gaps,
    given_up,
    held_by_metadata,
    interruptions,
    losses,
    outages,
    quiet_phases,
    silent_phases,
)
from siprec.media.render.meter import Meter
from siprec.media.render.mix import Mixer
from siprec.media.render.order import MAX_LINES, Order, Ordered, ordered
from siprec.media.render.plane import Samples
from siprec.media.render.report import MAX_PEAKS, SILENT_PEAK, ChannelReport, Gap, KeyPress, Report
from siprec.media.render.scan import ChannelScan, Scan, audible
from siprec.media.render.source import MAX_CHANNELS, LoadedPart, Source, load_part
from siprec.media.render.timeline import drift_ppm

__all__ = ["ChannelReport", "Gap", "KeyPress", "LoadedPart", "Rendering", "Report", "load_part", "render"]

DEFAULT_RATE = 8000
"""Of a file in which nothing can be heard."""


def render(
    parts: Sequence[LoadedPart | Path], *, start_ns: int | None = None, end_ns: int | None = None,
    mask_keys: bool = True,
) -> Rendering:  # fmt: skip
    """Renders a recording from its parts (folders, or loaded ones).

    `start_ns` and `end_ns` (CLOCK_REALTIME) bound the file; by default the first part's start, or the first audio that
    came ahead of its time, and the last end of any part, which for a part cut short is the end of its last packet.
    `mask_keys` hides which keys were pressed. Raises RenderError when a part cannot be read.
    """
    return Rendering([each if isinstance(each, LoadedPart) else load_part(each) for each in parts], start_ns=start_ns,
                     end_ns=end_ns, mask_keys=mask_keys)  # fmt: skip


class Rendering:
    """A recording as audio. `rate` in Hz, `frames` samples long, `channels` wide.

    `native` is the G.711 law ("PCMU", "PCMA") that everything audible came in, else None; also None where SSRCs of one
    channel spoke at once and were mixed.
    """

    def __init__(
        self, parts: Sequence[LoadedPart], *, start_ns: int | None, end_ns: int | None, mask_keys: bool
    ) -> None:
        source = Source(parts)
        starts = [each.part.started_ns for each in source.loaded]
        self.start_ns = start_ns if start_ns is not None else min(starts, default=0)
        self._mask_keys = mask_keys
        self._scan = Scan(source, self.start_ns)
        if start_ns is None:
            self.start_ns -= self._scan.reach_back()
        self._spans = self._scan.spans()
        ends = [span.end_ns for span in self._spans]
        self.end_ns = max(self.start_ns, end_ns if end_ns is not None else max(ends, default=0))
        heard = audible(source.codecs, {number for each in self._scan.channels.values() for number in each.heard})
        self.rate = max((codec.rate for codec in heard), default=DEFAULT_RATE)
        laws = {codec.encoding if codec.kind == "law" and codec.rate == self.rate else "" for codec in heard}
        self._layers = self._scan.layers()
        mixed = any(self._layers.values())
        self.native = laws.pop() or None if len(laws) == 1 and not mixed else None
        self.frames = round((self.end_ns - self.start_ns) * self.rate / 1e9)
        self.labels = _labels(self._spans)
        self.channels = min(max(self.labels, default=0) + 1, MAX_CHANNELS)
        self._source = source
        self._meter: Meter | None = None

    def blocks(self, native: bool = False) -> Iterator[Samples]:
        """The audio: (n, channels) arrays of int16, or of uint8 in the law of `native` when that is asked for.

        May be called again; gives the same each time. Raises ValueError when there is no one law to be native in.
        """
        if native and self.native is None:
            raise ValueError("not all of this recording is of one G.711 law")
        mixer = Mixer(
            self._source.codecs,
            self._scan.anchors,
            channels=self.channels,
            rate=self.rate,
            frames=self.frames,
            origin_ns=self.start_ns,
            native=self.native if native else None,
            layers=self._layers,
            watched=held_by_metadata(self._spans) & set(range(self.channels)),
        )
        yield from mixer.blocks(self._steps())
        self._meter = mixer.meter

    @property
    def report(self) -> Report:
        """What was found. Levels need the audio: if `blocks` was not run to its end, this does."""
        if self._meter is None:
            for _ in self.blocks():
                pass
        assert self._meter is not None
        quiet = quiet_phases(self._spans, self.start_ns, self.end_ns)
        lost, excused = losses(self._scan.holes(), quiet)
        listed, omitted = gaps(
            lost,
            [
                *silent_phases(quiet, self._meter.laid()),
                *interruptions(self._spans, self.start_ns, self.end_ns),
                *given_up(self._spans, self.start_ns),
            ],
            outages(self._spans, self.start_ns),
            self.end_ns - self.start_ns,
        )
        return Report(
            start_ns=self.start_ns,
            end_ns=self.end_ns,
            rate=self.rate,
            channels=tuple(self._channel(index, self._meter, excused=excused[index]) for index in range(self.channels)),
            gaps=listed,
            gaps_omitted=omitted,
            keys=tuple(
                KeyPress(channel, start, duration, masked if self._mask_keys else key)
                for channel, start, duration, key, masked in self._scan.key_presses()
            ),
            keys_omitted=self._scan.keys_omitted(),
            problems=tuple(self._source.problems),
            heard=frozenset(self._source.heard),
            left_out=self._left_out(),
        )

    def _left_out(self) -> tuple[str, ...]:
        counted = (
            (self._source.beyond, f"channels beyond {MAX_CHANNELS}"),
            (self._scan.order.beyond, f"SSRCs beyond {MAX_LINES} in a channel"),
        )
        return tuple(f"{packets} packets of {what} are in the capture only" for packets, what in counted if packets)

    def _steps(self) -> Iterator[Ordered]:
        kept = self._scan.steps()
        yield from kept if kept is not None else ordered(self._source, Order())

    def _channel(self, index: int, meter: Meter, *, excused: int) -> ChannelReport:
        account = self._scan.channels.get(index, ChannelScan())
        lines = self._scan.order.lines_of(index)
        timelines = self._scan.timelines(index)
        anchors = [anchor for line in lines for anchor in self._scan.anchors.get((index, line.ssrc), [])]
        differences = sum(each.differences for each in timelines)
        jitter_ns = sum(each.difference_ns for each in timelines) / differences if differences else 0.0
        peaks = np.concatenate(meter.peaks[index]) if meter.peaks[index] else np.zeros(0, np.int32)
        peak = int(peaks.max(initial=0))
        packets = sum(line.packets for line in lines)
        repeated = sum(line.repeated for line in lines)
        came, unheard, cause = meter.unheard(index, repeated * meter.decoded[index] // max(packets, 1))
        codecs = [self._source.codecs[number] for number, _ in account.codecs.most_common()]
        return ChannelReport(
            index=index,
            label=self.labels.get(index),
            codecs=tuple(codec.name for codec in codecs if codec.kind not in ("event", "noise")),
            undecodable=tuple(
                codec.name for codec in codecs if codec.kind == "unknown" or (codec.kind == "law" and not codec.audible)
            ),
            ssrcs=tuple(line.ssrc for line in lines),
            packets=packets,
            lost=max(0, sum(line.lost for line in lines) - excused),
            duplicate=sum(line.duplicate for line in lines),
            reordered=sum(line.reordered for line in lines),
            jitter_ms=round(jitter_ns / 1e6, 3),
            drift_ppm=drift_ppm(anchors),
            first_packet_ns=account.first_ns,
            last_packet_ns=account.last_ns,
            peak_dbfs=round(20 * float(np.log10(peak / 32768)), 1) if peak else None,
            silent=peak <= SILENT_PEAK,
            captured=came / 1e9,
            unheard=unheard / 1e9,
            unheard_cause=cause,
            peaks=_reduced(peaks),
        )


def _labels(spans: Sequence[Span]) -> dict[int, str | None]:
    """The label of each channel: that of its last stream which has one."""
    labels: dict[int, str | None] = {}
    for span in spans:
        for stream in span.part.streams:
            labels[stream.channel] = stream.label or labels.get(stream.channel)
    return labels


def _reduced(peaks: NDArray[np.int32]) -> tuple[int, ...]:
    """At most MAX_PEAKS of them, each the largest of as many."""
    group = max(-(-peaks.size // MAX_PEAKS), 1)
    padded = np.zeros(peaks.size + -peaks.size % group, peaks.dtype)
    padded[: peaks.size] = peaks
    return tuple(padded.reshape(-1, group).max(axis=1).tolist())
