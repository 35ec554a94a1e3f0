"""From part folders to packets: every channel's packets of all parts, in order of arrival, a stretch at a time.

Parts overlap when two recorders took the same call, and follow each other when one took over. Each part is read
in blocks; the part that is behind is read next, and what lies before the one furthest behind is handed out. So
memory holds a block or two of each part that is being read, however long the call was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from siprec.errors import RenderError
from siprec.media import part as parts_file
from siprec.media.part import HEARD, Part, PartStream, PayloadFormat
from siprec.media.pcap import Batch, PcapReader, rows
from siprec.media.render.clock import StepUndo
from siprec.rtp import packets as rtp
from siprec.rtp.codecs import Codec, codec, static_codec

BLOCK_BYTES = 8 << 20
"""Of a capture file read at a time: enough that numpy's cost per call vanishes, small beside the process."""

SLACK_NS = 2_000_000_000
"""How far records of one file may be out of order: a drain takes one socket after the other, and packets that
wait for their source to be learned are written late."""

EARLY_NS = 10_000_000_000
"""Packets may come this long before their stream is answered; a port rests longer before it serves another one."""

STEP_NS = 300_000_000_000
"""The longest stretch handed out at once, so that placing it needs bounded memory even where packets are rare."""

STEP_SAMPLES = 8_000_000
"""As STEP_NS, in samples of all channels together: 16 MB."""

MAX_CHANNELS = 64
"""Channels of a file: twice as many as a session gets (siprec.session.streams). Folders of earlier versions may have
any number; each would cost 57 MB an hour, so what is beyond stays in the capture, and the report says so.
"""

RECORD = np.dtype(
    [
        ("arrival", "i8"),
        ("sequence", "i8"),  # as received; extended (unwrapped) once ordered
        ("media", "i8"),  # RTP timestamp as received; unwrapped once ordered
        ("offset", "i8"),
        ("length", "i4"),
        ("buffer", "i4"),
        ("ssrc", "u4"),
        ("part", "i2"),
        ("codec", "i2"),
        ("open", "?"),  # its stream was to be heard when it arrived
        ("late", "?"),  # a later one was there before it
    ],
    align=True,
)
"""One RTP packet: a row of the tables that are passed from step to step.

Rows are chosen by `take` and `compress`: indexing a table of records with an array takes ten times as long.
"""

Records = NDArray[np.void]
_ROW = np.dtype((np.void, RECORD.itemsize))
FOREVER = 2**62


def distinct(column: NDArray[np.integer]) -> list[int]:
    """The values of a column in ascending order; most columns of a call hold but one, which is seen at a glance."""
    values: list[int] = (column[:1] if (column == column[:1]).all() else np.unique(column)).tolist()
    return values


def joined(tables: Sequence[Records]) -> Records:
    """Tables one after the other, in memory of their own; copied as bytes, since numpy does it field by field else."""
    return np.concatenate([each.view(_ROW) for each in tables]).view(RECORD)


def groups(records: Records, name: str) -> Iterator[tuple[int, Records]]:
    """The rows of each value of a column, ascending; all of them as they are when there is but one value."""
    values = distinct(records[name])
    for value in values:
        yield value, records if len(values) == 1 else records.compress(records[name] == value)


def deltas(column: NDArray[Any], before: float) -> NDArray[Any]:
    """What each value has more than the one before it, the first more than `before`; a fifth of np.diff's cost."""
    result = np.empty(column.size, column.dtype)
    result[:1] = column[:1] - before
    np.subtract(column[1:], column[:-1], out=result[1:])
    return result


@dataclass(frozen=True, slots=True)
class LoadedPart:
    """The content of a part folder: its control file and its captures in order."""

    part: Part
    captures: tuple[Path, ...]


def load_part(folder: Path) -> LoadedPart:
    """Reads `folder`/part.json and finds the captures. Raises RenderError."""
    try:
        part = parts_file.load((folder / "part.json").read_bytes())
    except OSError as error:
        raise RenderError(f"cannot read {folder / 'part.json'}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise RenderError(f"{folder / 'part.json'} is no control file of a part") from error
    return LoadedPart(part, tuple(sorted(folder.glob("capture-*.pcap"))))


@dataclass(frozen=True, slots=True)
class SenderReport:
    """What an RTCP SR says of a stream's clocks: at `ntp_ns` by the sender's clock it was at `timestamp`."""

    channel: int
    ssrc: int
    ntp_ns: int
    timestamp: int


@dataclass(slots=True)
class Stretch:
    """Packets that arrived before `until_ns` and were not handed out before, by channel, in order of arrival."""

    until_ns: int
    channels: dict[int, Records]
    reports: list[SenderReport]
    buffers: dict[int, NDArray[np.uint8]]


class Source:
    """All parts of a recording, read as often as wanted with the same result each time."""

    def __init__(self, loaded: Sequence[LoadedPart]) -> None:
        self.loaded = sorted(loaded, key=lambda each: (each.part.started_ns, each.part.fence, each.part.node))
        self.codecs: list[Codec] = []
        self._codec_numbers: dict[Codec, int] = {}
        self.problems: list[str] = []
        self.heard: set[tuple[int, str | None]] = set()
        """Channel and label of each stream of which packets came: streams may have one channel after each other."""
        self.beyond = 0
        """Packets of channels beyond MAX_CHANNELS, which are not handed out."""

    def number(self, found: Codec) -> int:
        """The index of a codec in `codecs`."""
        if found not in self._codec_numbers:
            self._codec_numbers[found] = len(self.codecs)
            self.codecs.append(found)
        return self._codec_numbers[found]

    def stretches(self) -> Iterator[Stretch]:
        """Every packet of every part, in stretches; the last one is empty and lasts for ever."""
        self.problems, self.heard, self.beyond = [], set(), 0
        readers = [_PartReader(self, number, each) for number, each in enumerate(self.loaded)]
        step_ns = self._step_ns()
        waiting = _Waiting()
        while True:
            behind = min((each for each in readers if not each.finished), key=lambda each: each.frontier, default=None)
            if behind is not None:
                behind.pull(waiting)
            limit = min((each.frontier for each in readers if not each.finished), default=FOREVER)
            yield from waiting.release(limit, step_ns)
            if behind is None:
                yield Stretch(FOREVER, {}, [], {})
                return

    def _step_ns(self) -> int:
        formats = [each for loaded in self.loaded for stream in loaded.part.streams for phase in stream.phases
                   for each in phase.formats]  # fmt: skip
        rate = max((codec(each.encoding, each.clock_rate, each.channels).rate for each in formats), default=0)
        channels = len({stream.channel for loaded in self.loaded for stream in loaded.part.streams})
        return min(STEP_NS, STEP_SAMPLES * 10**9 // (max(rate, 8000) * max(channels, 1)))


@dataclass(slots=True)
class _Waiting:
    """Packets read but not yet handed out."""

    packets: dict[int, list[Records]] = field(default_factory=lambda: defaultdict(list))
    reports: list[SenderReport] = field(default_factory=list)
    buffers: dict[int, NDArray[np.uint8]] = field(default_factory=dict)
    buffer_count: int = 0

    def keep(self, data: NDArray[np.uint8]) -> int:
        self.buffer_count += 1
        self.buffers[self.buffer_count] = data
        return self.buffer_count

    def release(self, limit: int, step_ns: int) -> Iterator[Stretch]:
        while (first := self._first()) < limit:
            until = min(limit, first + step_ns)
            channels = {
                channel: taken for channel in sorted(self.packets) if (taken := self._take(channel, until)).size
            }
            yield Stretch(until, channels, self.reports, dict(self.buffers))
            self.reports = []
            tables = [each for several in self.packets.values() for each in several]
            used = {number for each in tables for number in distinct(each["buffer"])}
            self.buffers = {number: data for number, data in self.buffers.items() if number in used}

    def _first(self) -> int:
        return min((int(each["arrival"].min()) for tables in self.packets.values() for each in tables), default=FOREVER)

    def _take(self, channel: int, until: int) -> Records:
        tables = self.packets[channel]
        several = len({int(each["part"][0]) for each in tables}) > 1
        table = joined(tables) if len(tables) > 1 else (tables[0] if tables else np.empty(0, RECORD))
        if several:  # one part's packets stay in the order of its file, which is the kernel's
            table = table.take(np.argsort(table["arrival"], kind="stable"))
        now = table["arrival"] < until
        if now.all():
            self.packets[channel] = []
            return table
        self.packets[channel] = [table.compress(~now)]
        return table.compress(now)


class _PartReader:
    """Reads one part; `frontier` is the time before which nothing more comes from it."""

    def __init__(self, source: Source, number: int, loaded: LoadedPart) -> None:
        self._source = source
        self._number = number
        self._undo = StepUndo(loaded.part.clock)
        self._streams = [_StreamReader(source, each, self._undo) for each in loaded.part.streams]
        self._batches = self._read(loaded)
        self.frontier = loaded.part.started_ns - SLACK_NS
        self.finished = False

    def _read(self, loaded: LoadedPart) -> Iterator[Batch]:
        for path in loaded.captures:
            reader = PcapReader(path)
            yield from reader.batches(BLOCK_BYTES)
            if reader.problem:
                self._source.problems.append(f"{path.name}: {reader.problem}")

    def pull(self, waiting: _Waiting) -> None:
        batch = next(self._batches, None)
        if batch is None:
            self.finished = True
            return
        arrival = self._arrivals(batch)
        packets = _Packets(batch, arrival)
        packets.table["part"], packets.table["buffer"] = self._number, waiting.keep(batch.data)
        for stream in self._streams:
            mine = stream.mine(batch.port, arrival)
            if stream.channel >= MAX_CHANNELS:
                self._source.beyond += int(np.count_nonzero(mine))
                continue
            table = stream.table(packets, mine)
            if table.size:
                self._source.heard.add((stream.channel, stream.label))
                waiting.packets[stream.channel].append(table)
            waiting.reports.extend(stream.reports(packets))
        self.frontier = max(self.frontier, int(arrival[-1]) - SLACK_NS)

    def _arrivals(self, batch: Batch) -> NDArray[np.int64]:
        if not self._undo.stepped:
            return batch.time_ns
        arrival = batch.time_ns.copy()
        for port in distinct(batch.port):
            mine = batch.port == port
            arrival[mine] = self._undo.undo(batch.time_ns[mine], port)
        return arrival


_SR_BYTES = 20
_SR = 200
_NTP_EPOCH_SECONDS = 2_208_988_800  # 1900 to 1970 (RFC 3550 section 4)


class _Packets:
    """A batch looked into: `table` has a row for each datagram, of which those that are `valid` RTP count."""

    def __init__(self, batch: Batch, arrival: NDArray[np.int64]) -> None:
        self.batch, self.arrival = batch, arrival
        # what ends with the buffer is seen through a window further back: it is too short to be RTP
        window = np.minimum(batch.offset, batch.data.size - rtp.FIXED_HEADER)
        heads = rows(batch.data, window, rtp.FIXED_HEADER)
        headers = rtp.parse_heads(heads, batch.data, batch.offset, batch.length)
        self.valid, self.payload_type = headers.valid, headers.payload_type
        self.table = table = np.zeros(arrival.size, RECORD)
        table["arrival"] = arrival
        table["sequence"], table["media"], table["ssrc"] = headers.sequence, headers.timestamp, headers.ssrc
        table["offset"], table["length"] = headers.payload_offset, headers.payload_length
        self.sender_reports = np.flatnonzero((heads[:, 1] == _SR) & (batch.length >= _SR_BYTES))


class _StreamReader:
    """Picks one stream's packets out of a batch and tells what each is, by the phases of the stream's life."""

    def __init__(self, source: Source, stream: PartStream, undo: StepUndo) -> None:
        self._source = source
        self.channel, self.label = stream.channel, stream.label
        self._port, self._rtcp_port = stream.port, stream.rtcp_port
        since = np.array([each.since_ns for each in stream.phases], np.int64)
        self._since = undo.undo(since, ("phases", stream.port, stream.channel))
        self._open = np.array([each.mode in HEARD for each in stream.phases], np.bool_)
        self._formats = [each.formats for each in stream.phases]
        self._closed = int(self._since[-1]) if stream.phases and stream.phases[-1].mode == "closed" else FOREVER
        self._codec_of: dict[tuple[int, int], int] = {}

    def mine(self, port: NDArray[np.uint16], arrival: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which datagrams came to this stream's port while it was this stream's."""
        mine: NDArray[np.bool_] = port == self._port
        if self._closed < FOREVER:  # a port may serve another stream after its rest
            mine &= arrival < self._closed + SLACK_NS
        if self._since.size:
            mine &= arrival >= self._since[0] - EARLY_NS
        return mine

    def table(self, packets: _Packets, mine: NDArray[np.bool_]) -> Records:
        """The valid RTP packets among `mine`."""
        chosen = np.flatnonzero(mine & packets.valid)
        table = packets.table.take(chosen)
        kinds = packets.payload_type[chosen].astype(np.int64)
        if len(self._since) > 1:
            phase = np.maximum(np.searchsorted(self._since, table["arrival"], side="right") - 1, 0)
            table["open"] = self._open[phase]
            kinds += phase * 128
        elif len(self._since):
            table["open"] = self._open[0]
        known = distinct(kinds)
        codecs = [self._codec(*divmod(each, 128)) for each in known]
        table["codec"] = codecs[0] if len(known) == 1 else np.array(codecs, np.int16)[np.searchsorted(known, kinds)]
        return table

    def _codec(self, phase: int, payload_type: int) -> int:
        """By the phase's own formats, else by another phase's (a packet may cross a re-INVITE), else static."""
        place = (phase, payload_type)
        if place not in self._codec_of:
            ordered = [*self._formats[phase : phase + 1], *reversed(self._formats[:phase]), *self._formats[phase + 1 :]]
            known: list[PayloadFormat] = [
                each for formats in ordered for each in formats if each.payload_type == payload_type
            ]
            found = (
                codec(known[0].encoding, known[0].clock_rate, known[0].channels)
                if known
                else static_codec(payload_type)
            )
            self._codec_of[place] = self._source.number(found)
        return self._codec_of[place]

    def reports(self, packets: _Packets) -> Iterator[SenderReport]:
        """The sender reports that head RTCP packets (RFC 3550 section 6.4.1), on either port (RFC 5761)."""
        batch, candidates = packets.batch, packets.sender_reports
        if not candidates.size:
            return
        port = batch.port[candidates]
        ours = (port == self._rtcp_port) | (port == self._port)
        if self._closed < FOREVER:
            ours &= packets.arrival[candidates] < self._closed + SLACK_NS
        heads = rows(batch.data, batch.offset[candidates[ours]], _SR_BYTES)
        words = heads.view(">u4")
        for row in words[heads[:, 0] >> 6 == 2].tolist():
            ntp_ns = (row[2] - _NTP_EPOCH_SECONDS) * 10**9 + (row[3] * 10**9 >> 32)
            yield SenderReport(self.channel, row[1], ntp_ns, row[4])
