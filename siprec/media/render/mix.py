"""The second pass: decode, lay every packet down where its timestamp says, hand out blocks of all channels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from siprec.media.render.decode import Buffers, Decoder, decoder
from siprec.media.render.meter import Meter
from siprec.media.render.order import Ordered
from siprec.media.render.plane import CHUNK_SECONDS, Plane, Samples
from siprec.media.render.scan import MAX_LAYERS
from siprec.media.render.source import FOREVER, Records, deltas, distinct, groups
from siprec.media.render.timeline import DRIFT_NS, Anchor, find
from siprec.rtp.codecs import LAW, LAW_SILENCE, Codec

BEHIND_NS = 30_000_000_000
"""Blocks are handed out this long after their time: nothing is placed further back than a network can hold a
packet, or than a stream's clock may drift in a day."""

QUIET_PEAK = 256
"""A packet that stays below this (-42 dBFS) lies between talk spurts: there drift may be corrected unheard."""

Place = tuple[int, int]  # channel and SSRC


class Mixer:
    """All channels of a recording, `frames` long; `native` is the law whose octets are kept, if any. `watched`: those
    of which the meter is to tell where audio was laid down. `layers`: SSRCs that are to be mixed lie in layers of their
    own; in one layer, the later packet is heard.
    """

    def __init__(self, codecs: list[Codec], anchors: dict[Place, list[Anchor]], *, channels: int, rate: int,
                 frames: int, origin_ns: int, native: str | None = None, watched: Collection[int] = (),
                 layers: Mapping[Place, int] = MappingProxyType({})) -> None:  # fmt: skip
        self._codecs, self._anchors = codecs, anchors
        self._channels, self._rate, self._frames = channels, rate, frames
        self._origin_ns = origin_ns
        self._native = native
        self._layers = layers
        self._planes: list[dict[tuple[int, int], Plane]] = [{} for _ in range(channels)]  # by layer and rate
        self._decoders: dict[tuple[Place, int], Decoder] = {}
        self._shift: dict[tuple[Place, int], float] = defaultdict(float)
        self._ended: dict[Place, int] = {}  # sequence number of the last packet placed
        self._next = 0
        self.meter = Meter(channels, watched=watched, seconds=frames / rate)

    def blocks(self, steps: Iterable[Ordered]) -> Iterator[Samples]:
        """(n, channels) arrays, together `frames` long: int16, or uint8 when native."""
        for step in steps:
            for line, records in step.lines:
                self._place_line((line.channel, line.ssrc), records, step.buffers)
            yield from self._hand_out(step.until_ns)
        yield from self._hand_out(FOREVER)

    # ---- placing ----------------------------------------------------------------------------------------------

    def _place_line(self, place: Place, records: Records, buffers: Buffers) -> None:
        timeline = self._anchors.get(place)
        if not timeline:
            return
        for number, mine in groups(records, "codec"):
            if self._codecs[number].audible:
                heard = mine if mine["open"].all() else mine.compress(mine["open"])
                if heard.size:
                    self._place_codec(place, number, heard, buffers=buffers)

    def _place_codec(self, place: Place, number: int, records: Records, *, buffers: Buffers) -> None:
        codec = self._codecs[number]
        key = (place, number)
        if key not in self._decoders:
            self._decoders[key] = decoder(codec, raw=self._native is not None)
        samples, counts = self._decoders[key].decode(records, buffers)
        begins = np.cumsum(counts) - counts
        positions = self._positions(place, records, codec.rate, samples=samples, begins=begins)
        layer = self._layers.get(place, 0)
        line = place[1] if layer < MAX_LAYERS - 1 else "shared"
        plane = self._plane(place[0], layer, codec.rate)
        self._count(place[0], codec.rate, records, positions=positions, counts=counts)
        breaks = np.flatnonzero(positions[1:] != positions[:-1] + counts[:-1]) + 1
        starts = [0, *breaks.tolist()]
        edges = [*begins[starts].tolist(), len(samples)]
        for at, start, end in zip(positions[starts].tolist(), edges, edges[1:], strict=False):
            plane.place(at, samples[start:end])
            self.meter.note(place[0], at, end - start, rate=codec.rate, line=line)

    def _count(self, channel: int, rate: int, records: Records, *, positions: NDArray[np.int64],
               counts: NDArray[np.int64]) -> None:  # fmt: skip
        """Has the meter count what came between the recording's start and its end: no more is to be heard."""
        since = records["arrival"] - self._origin_ns
        due = (since >= 0) & (since < self._frames * 10**9 // self._rate)
        again = deltas(records["media"], records["media"][0] - 1) <= 0
        if not due.all():
            records, positions, counts, again = records.compress(due), positions[due], counts[due], again[due]
        self.meter.count(
            channel,
            positions,
            counts,
            rate=rate,
            frames=self._frames * rate // self._rate,
            again=again,
            broken=0 if counts.all() else int(np.count_nonzero((counts == 0) & (records["length"] > 0))),
        )

    def _positions(self, place: Place, records: Records, rate: int, *, samples: Samples,
                   begins: NDArray[np.int64]) -> NDArray[np.int64]:  # fmt: skip
        timeline = self._anchors[place]
        which = find(timeline, records["sequence"])
        positions = np.empty(records.size, np.int64)
        for number in distinct(which):
            anchor = timeline[number]
            mine = which == number if len(timeline) > 1 else slice(None)
            media = records["media"][mine]
            positions[mine] = round(anchor.base_ns * rate / 1e9) + (media - anchor.origin) * rate // anchor.clock
            if anchor.correct:
                quiet = self._quiet(samples, begins)[mine]
                shifts = self._shifts((place, number), anchor, records[mine], quiet=quiet)
                positions[mine] += np.rint(shifts * rate / 1e9).astype(np.int64)
        return positions

    def _quiet(self, samples: Samples, begins: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which packets may be moved without being heard."""
        loud = np.zeros(begins.size, np.int32)
        inside = np.flatnonzero(begins < samples.size)
        if inside.size:
            linear = LAW[self._native].take(samples) if self._native else samples
            loud[inside] = np.maximum.reduceat(np.abs(linear.astype(np.int32)), begins[inside])
        return loud < QUIET_PEAK

    def _shifts(self, key: tuple[Place, int], anchor: Anchor, records: Records, *, quiet: NDArray[np.bool_]
                ) -> NDArray[np.float64]:  # fmt: skip
        """Nanoseconds by which each packet is moved: what the drift demands, but changed only where unheard."""
        wanted = anchor.drifted(records["media"])
        step = np.diff(records["sequence"], prepend=self._ended.get(key[0], int(records["sequence"][0]) - 1))
        self._ended[key[0]] = int(records["sequence"][-1])
        chances = np.flatnonzero(quiet | (step > 1))
        result = np.empty(records.size)
        current, at = self._shift[key], 0
        while True:
            due = np.flatnonzero(np.abs(wanted[at:] - current) >= DRIFT_NS)
            chance = chances[chances >= at + int(due[0])] if due.size else chances[:0]
            until = int(chance[0]) if chance.size else records.size
            result[at:until] = current
            if until == records.size:
                break
            current, at = float(wanted[until]), until
        self._shift[key] = current
        return result

    def _plane(self, channel: int, layer: int, rate: int) -> Plane:
        planes = self._planes[channel]
        if (layer, rate) not in planes:
            length = -(-self._frames * rate // self._rate)
            planes[layer, rate] = (
                Plane(rate, length, dtype=np.uint8, silence=LAW_SILENCE[self._native])
                if self._native
                else Plane(rate, length)
            )
            planes[layer, rate].skip(self._next)
        return planes[layer, rate]

    # ---- handing out ------------------------------------------------------------------------------------------

    def _hand_out(self, until_ns: int) -> Iterator[Samples]:
        chunk = CHUNK_SECONDS * self._rate
        while self._next * chunk < self._frames:
            # a second more than the chunk: resampling looks a little ahead
            needed_ns = ((self._next + 1) * CHUNK_SECONDS + 1) * 10**9 + BEHIND_NS
            if until_ns < FOREVER and until_ns - self._origin_ns < needed_ns:
                return
            frames = min(chunk, self._frames - self._next * chunk)
            yield self._block(frames)
            self._next += 1

    def _block(self, frames: int) -> Samples:
        block: Samples = np.empty((frames, self._channels), np.uint8 if self._native else np.int16)
        silence = LAW_SILENCE[self._native] if self._native else 0
        for channel, planes in enumerate(self._planes):
            samples = self._samples(planes)
            linear = None
            if samples is None:
                block[:, channel] = silence
            else:
                block[:, channel] = samples[:frames]
                linear = LAW[self._native].take(samples[:frames]) if self._native else samples[:frames]
            self.meter.add(channel, linear, frames, self._rate)
        return block

    def _samples(self, planes: dict[tuple[int, int], Plane]) -> Samples | None:
        """The next chunk of a channel: what came at the file's rate as it is, all else brought to it."""
        exact = [
            found
            for (_, rate), plane in planes.items()
            if rate == self._rate and (found := plane.take(self._next)) is not None
        ]
        raised = [
            found
            for (_, rate), plane in planes.items()
            if rate != self._rate and (found := plane.take_at(self._next, self._rate)) is not None
        ]
        if not raised and len(exact) < 2:
            return exact[0] if exact else None
        total = np.add.reduce([*(each.astype(np.float32) for each in exact), *raised])
        clipped: Samples = np.clip(np.rint(total), -32768, 32767).astype(np.int16)
        return clipped
