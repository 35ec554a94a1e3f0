"""What rendering found: plain values, ready for recording.json and the verdict."""

from __future__ import annotations

from dataclasses import dataclass

SILENT_PEAK = 32
"""A channel that never rises above this (-60 dBFS) is silent: G.711's own idle noise is +-8."""

MAX_PEAKS = 1000
"""Peaks of one channel in a report: more than a page is wide."""

MAX_GAPS = 10_000
"""Gaps listed in a report, the longest first to stay; recording.json has to stay a file one can open."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio that is missing. `start` and `length` in seconds, `start` from the beginning of the file.

    `cause`: loss, kernel_drop, interrupted, hold, paused, disk or backlog.
    """

    channel: int
    start: float
    length: float
    cause: str


@dataclass(frozen=True, slots=True)
class KeyPress:
    """A telephone event at `start` seconds for `duration` seconds; `key` is "X" unless keys are to be seen."""

    channel: int
    start: float
    duration: float
    key: str


@dataclass(frozen=True, slots=True)
class ChannelReport:
    """One channel.

    `codecs`: of the audio, not what accompanies it (telephone events, comfort noise).
    `packets`: distinct packets accepted, with those that cannot be decoded. `lost`: sequence numbers that never
    came, whatever the cause; not those that a sender counted on while it was held or paused. `duplicate` and
    `reordered` as each recorder saw them. `jitter_ms`: mean interarrival difference (RFC 3550 section 6.4.1).
    `drift_ppm`: above 0 when the sender's clock is fast; 0 when the stream is too short to tell. `undecodable`:
    codecs kept in the capture only. `first_packet_ns` and `last_packet_ns` are CLOCK_REALTIME with steps undone,
    None without packets. `peaks`: largest sample (0 to 32768) of each of equal stretches of the file, at most
    MAX_PEAKS. `captured`: seconds of audio in the packets that came from start to end; `unheard`: those of them that
    are not in the file, and `unheard_cause` why, as far as it can be told.
    """

    index: int
    label: str | None
    codecs: tuple[str, ...]
    undecodable: tuple[str, ...]
    ssrcs: tuple[int, ...]
    packets: int
    lost: int
    duplicate: int
    reordered: int
    jitter_ms: float
    drift_ppm: float
    first_packet_ns: int | None
    last_packet_ns: int | None
    peak_dbfs: float | None
    silent: bool
    captured: float
    unheard: float
    unheard_cause: str
    peaks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """A whole recording. `problems`: one sentence for each thing that could not be read.

    `gaps_omitted` and `keys_omitted` count what the limits of the lists left out. `heard`: channel and label of each
    stream of which packets came. `left_out`: what is in the captures and not in the audio, since there is too much.
    """

    start_ns: int
    end_ns: int
    rate: int
    channels: tuple[ChannelReport, ...]
    gaps: tuple[Gap, ...]
    gaps_omitted: int
    keys: tuple[KeyPress, ...]
    keys_omitted: int
    problems: tuple[str, ...]
    heard: frozenset[tuple[int, str | None]] = frozenset()
    left_out: tuple[str, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return (self.end_ns - self.start_ns) / 1e9
