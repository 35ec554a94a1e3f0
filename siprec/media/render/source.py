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

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from siprec.errors import RenderError
from siprec.media import part as parts_file
from siprec.media.part import HEARD, Part, PartStream, PayloadFormat
from siprec.media.pcap import Batch, PcapReader
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
    ]
)
"""One RTP packet: a row of the tables that are passed from step to step."""

Records = NDArray[np.void]
FOREVER = 2**62


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
            used = {int(number) for tables in self.packets.values() for each in tables
                    for number in np.unique(each["buffer"])}  # fmt: skip
            self.buffers = {number: data for number, data in self.buffers.items() if number in used}

    def _first(self) -> int:
        return min((int(each["arrival"].min()) for tables in self.packets.values() for each in tables), default=FOREVER)

    def _take(self, channel: int, until: int) -> Records:
        tables = self.packets[channel]
        several = len(np.unique([each["part"][0] for each in tables])) > 1
        table = np.concatenate(tables) if len(tables) > 1 else (tables[0] if tables else np.empty(0, RECORD))
        if several:  # one part's packets stay in the order of its file, which is the kernel's
            table = table[np.argsort(table["arrival"], kind="stable")]
        now = table["arrival"] < until
        rest = table[~now] if not now.all() else table[:0]
        self.packets[channel] = [rest] if rest.size else []
        return table[now] if rest.size else table


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
        buffer = waiting.keep(batch.data)
        arrival = self._arrivals(batch)
        for stream in self._streams:
            mine = stream.mine(batch.port, arrival)
            if stream.channel >= MAX_CHANNELS:
                self._source.beyond += int(mine.size)
                continue
            if mine.size:
                table = stream.table(batch, arrival, mine)
                table["part"], table["buffer"] = self._number, buffer
                if table.size:
                    self._source.heard.add((stream.channel, stream.label))
                    waiting.packets[stream.channel].append(table)
            waiting.reports.extend(stream.reports(batch, arrival))
        self.frontier = max(self.frontier, int(arrival[-1]) - SLACK_NS)

    def _arrivals(self, batch: Batch) -> NDArray[np.int64]:
        if not self._undo.stepped:
            return batch.time_ns
        arrival = batch.time_ns.copy()
        for port in np.unique(batch.port):
            mine = batch.port == port
            arrival[mine] = self._undo.undo(batch.time_ns[mine], int(port))
        return arrival


_SR_BYTES = 20
_SR = 200
_NTP_EPOCH_SECONDS = 2_208_988_800  # 1900 to 1970 (RFC 3550 section 4)


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

    def mine(self, port: NDArray[np.uint16], arrival: NDArray[np.int64]) -> NDArray[np.intp]:
        """Which packets came to this stream's port while it was this stream's."""
        mine = port == self._port
        if self._closed < FOREVER:  # a port may serve another stream after its rest
            mine &= arrival < self._closed + SLACK_NS
        if self._since.size:
            mine &= arrival >= self._since[0] - EARLY_NS
        return np.flatnonzero(mine)

    def table(self, batch: Batch, arrival: NDArray[np.int64], mine: NDArray[np.intp]) -> Records:
        """The valid RTP packets among `mine`."""
        headers = rtp.parse(batch.data, batch.offset[mine], batch.length[mine])
        table = np.zeros(mine.size, RECORD)
        table["arrival"] = arrival[mine]
        table["sequence"], table["media"], table["ssrc"] = headers.sequence, headers.timestamp, headers.ssrc
        table["offset"], table["length"] = headers.payload_offset, headers.payload_length
        if self._since.size:
            phase = np.maximum(np.searchsorted(self._since, table["arrival"], side="right") - 1, 0)
            table["open"] = self._open[phase]
        else:
            phase = np.zeros(mine.size, np.intp)
        kinds, which = np.unique(phase * 128 + headers.payload_type, return_inverse=True)
        table["codec"] = np.array([self._codec(*divmod(int(each), 128)) for each in kinds], np.int16)[which]
        return table if headers.valid.all() else table[headers.valid]

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

    def reports(self, batch: Batch, arrival: NDArray[np.int64]) -> Iterator[SenderReport]:
        """The sender reports that head RTCP packets (RFC 3550 section 6.4.1), on either port (RFC 5761)."""
        ours = (batch.port == self._rtcp_port) | (batch.port == self._port)
        if self._closed < FOREVER:
            ours &= arrival < self._closed + SLACK_NS
        candidates = np.flatnonzero(ours & (batch.length >= _SR_BYTES))
        candidates = candidates[batch.data[batch.offset[candidates] + 1] == _SR]
        if not candidates.size:
            return
        heads = sliding_window_view(batch.data, _SR_BYTES)[batch.offset[candidates]]
        words = heads.view(">u4")
        for row in words[heads[:, 0] >> 6 == 2].tolist():
            ntp_ns = (row[2] - _NTP_EPOCH_SECONDS) * 10**9 + (row[3] * 10**9 >> 32)
            yield SenderReport(self.channel, row[1], ntp_ns, row[4])
