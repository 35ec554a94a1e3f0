"""From captures to a finished recording: audio, report, verdict, hashes. Runs in a rendering process.

`finish` needs nothing but the folder, so the same code serves a call that just ended, what a crash left, and
`siprec render`.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from siprec.archive.audio import AudioFormat, write_audio
from siprec.archive.folder import PartFolder, RecordingFolder, mark_of
from siprec.archive.manifest import ChannelEntry, GapEntry, Manifest, RecoveryEntry, file_entry
from siprec.errors import ArchiveError, LocalError, NotOwner, RenderError, is_disk_trouble
from siprec.log import tame
from siprec.media import part as media_part
from siprec.media import pcap
from siprec.media.part import Part, PartStream
from siprec.media.render import Gap, LoadedPart, Rendering, Report, render
from siprec.recorder.dossier import ANSWER_REFUSED, timestamp
from siprec.recorder.verdict import SILENT_SECONDS, Evidence, Shortfall, judge

LONG_LOSS_SECONDS = 0.25
"""Packets missing for longer than this are a failure of the network, not the usual loss of a bad one."""

TOLD_SECONDS = 0.001
"""The time of a recovery, as recording.json tells it, is that much before the real one at most."""

DISK_REASON = "RECORDING_DIR takes nothing for now"
"""How the reason of such a failure begins: of what a renderer raises, only the text comes back."""

CaptureKeep = Literal["always", "issues", "never"]


@dataclass(frozen=True, slots=True)
class FinishOptions:
    """AUDIO_FORMAT and CAPTURE_KEEP."""

    audio_format: AudioFormat = "wav"
    capture_keep: CaptureKeep = "issues"


@dataclass(frozen=True, slots=True)
class Finished:
    """What came of a recording. `duration` in seconds."""

    session_id: str
    verdict: str
    reason: str
    duration: float
    audio: Path
    participants: str


def finish(path: Path, options: FinishOptions, beside: Sequence[Path] = ()) -> Finished:
    """Render the recording in `path`, judge it, and write its recording.json as `ended`.

    `beside`: folders of the same session on other nodes' disks, whose parts are rendered with it. Raises ArchiveError
    when the folder cannot be read or written, with DISK_REASON when that is the disk's fault, RenderError when its
    captures cannot be rendered, OSError; the captures then stay as they are.
    """
    try:
        return _finish(path, options, beside)
    except (OSError, LocalError) as error:
        if is_disk_trouble(error):
            raise ArchiveError(f"{DISK_REASON}: {error}") from error
        raise


def mark_failed(path: Path, reason: str) -> None:
    """Say in recording.json that rendering failed and why; the capture stays. A broken recording.json is replaced; of a
    session that another node carries on nothing is said. Raises OSError when the disk does not take it.

    With DISK_REASON it stays unfinished, so that it is a leftover for the next start.
    """
    if reason.startswith(DISK_REASON):
        return
    folder = RecordingFolder(path)
    manifest = _manifest(folder)
    manifest.state = "failed"
    manifest.verdict_reason = reason
    with contextlib.suppress(NotOwner):
        folder.write(manifest)


def _finish(path: Path, options: FinishOptions, beside: Sequence[Path]) -> Finished:
    folder = RecordingFolder(path)
    folders = [RecordingFolder(each) for each in (path, *beside)]
    held = sorted((part for each in folders for part in each.parts()), key=lambda part: part.path.name)
    parts = [_load(each) for each in held]
    if not parts:
        raise ArchiveError(f"{path.name} has no capture any more (CAPTURE_KEEP)")
    while len(parts) > 1 and _in_vain(parts[-1]):
        parts.pop()  # a leg that waited in vain for its SRC has nothing to add to the time line
    mark = mark_of(folder.manifest_path)
    manifest = max((_manifest(each) for each in folders), key=lambda each: each.fence)
    rendering = render(parts)
    audio = _write(path, rendering, options.audio_format)
    report = rendering.report
    _fill(manifest, rendering, report)
    _price(manifest.recoveries, parts[0].part, report)
    evidence = _evidence(parts, report, refused=None if any(each.part.streams for each in parts) else _refused(held))
    manifest.verdict, manifest.verdict_reason = judge(manifest, evidence)
    issue = manifest.verdict != "ok" or evidence.undecodable
    keeps = options.capture_keep == "always" or (options.capture_keep == "issues" and issue)
    whole = len(held) == 1 and parts[0].part.ended_ns is not None
    gathered = folder.gather(held, _keys(report), link=whole and not keeps)
    manifest.state = "ended"
    manifest.files = [file_entry(each, path) for each in (audio, *gathered)]
    folder.write_after(manifest, mark)
    if not keeps:
        shutil.rmtree(path / "parts")
    return Finished(
        folder.session_id,
        manifest.verdict,
        manifest.verdict_reason,
        manifest.duration or 0.0,
        audio,
        manifest.title,
    )


def _load(folder: PartFolder) -> LoadedPart:
    try:
        control = media_part.load(folder.control.read_bytes())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RenderError(f"{folder.path.name}/part.json cannot be read: {error}") from error
    return LoadedPart(control, tuple(folder.captures()))


def _manifest(folder: RecordingFolder) -> Manifest:
    """recording.json, or what the folder's names tell when it was lost."""
    try:
        return folder.read()
    except ArchiveError:
        last = next(reversed(folder.parts()), None)
        node, fence = (last.node, last.fence) if last is not None else ("unknown", 0)
        return Manifest(folder.session_id, "ending", node, fence, source="unknown", call_id="")


def _write(path: Path, rendering: Rendering, wanted: AudioFormat) -> Path:
    law = rendering.native if wanted == "wav-native" else None
    return write_audio(
        path / "audio",
        rendering.blocks(native=law is not None),
        rate=rendering.rate,
        channels=rendering.channels,
        format=wanted,
        law=law,
        recording=path.name,
        start_ns=rendering.start_ns,
    )


def _fill(manifest: Manifest, rendering: Rendering, report: Report) -> None:
    manifest.started_at = timestamp(rendering.start_ns)
    manifest.ended_at = timestamp(rendering.end_ns)
    manifest.duration = round(rendering.frames / rendering.rate, 6)
    known = {each.index: each for each in manifest.channels}
    manifest.channels = []
    for found in report.channels:
        entry = known.get(found.index) or ChannelEntry(found.index, found.label)
        entry.codec = "/".join(found.codecs) or entry.codec
        entry.ssrcs = list(found.ssrcs)
        entry.keys = sum(each.channel == found.index for each in report.keys)
        entry.packets = found.packets
        entry.lost = found.lost
        entry.duplicate = found.duplicate
        entry.reordered = found.reordered
        entry.jitter_ms = round(found.jitter_ms, 3)
        entry.drift_ppm = round(found.drift_ppm, 1) + 0.0  # no -0.0
        manifest.channels.append(entry)
    manifest.gaps = [GapEntry(gap.channel, round(gap.start, 6), round(gap.length, 6), gap.cause) for gap in report.gaps]


def _keys(report: Report) -> list[dict[str, Any]]:
    """The telephone events of a recording (RFC 4733) as lines for events.jsonl. They are made of the capture each time,
    and no part has them, so none is told twice.
    """
    lines: list[dict[str, Any]] = [
        {
            "at": timestamp(report.start_ns + round(each.start * 1e9)),
            "event": "dtmf",
            "channel": each.channel,
            "start": round(each.start, 3),
            "duration": round(each.duration, 3),
            "key": each.key,
        }
        for each in report.keys
    ]
    if report.keys_omitted:
        lines.append({"at": timestamp(report.end_ns), "event": "dtmf-omitted", "count": report.keys_omitted})
    return lines


def _price(recoveries: Sequence[RecoveryEntry], first: Part, report: Report) -> None:
    """What each recovery cost; nothing is known of those before all that is here, whose `first` part others precede,
    nor of the one that led to it: what it cost is between two disks.
    """
    times = [datetime.fromisoformat(each.time).timestamp() for each in recoveries]
    begun = first.started_ns / 1e9 - TOLD_SECONDS
    unknown = next((number for number, at in enumerate(times, 1) if at >= begun), len(times)) if first.fence > 1 else 0
    for number, (recovery, at) in enumerate(zip(recoveries, times, strict=True)):
        recovery.gap_ms = None if number < unknown else _cost(at - report.start_ns / 1e9, report.gaps)


def _cost(at: float, gaps: Sequence[Gap]) -> int:
    """Milliseconds of audio that the failure before a recovery cost: the longest gap of any channel about then, `at`
    seconds from the start of the file.

    When a network failed, packets may come again before the SRC does, and then it is their loss that makes the gap.
    """
    near = [
        gap.length
        for gap in gaps
        if (gap.cause == "interrupted" or (gap.cause == "loss" and gap.length >= LONG_LOSS_SECONDS))
        and gap.start - 1 < at < gap.start + gap.length + 1
    ]
    return round(max(near, default=0.0) * 1000)


def _in_vain(part: LoadedPart) -> bool:
    """Whether a part has no packet at all, although one was due."""
    due = any(phase.mode == "active" for stream in part.part.streams for phase in stream.phases)
    return due and not any(path.stat().st_size > pcap.FILE_HEADER for path in part.captures)


def _refused(parts: Sequence[PartFolder]) -> str | None:
    """Why the last answer to an offer of ours was refused, if one was."""
    events = [each for part in parts for each in part.events() if each.get("event") == ANSWER_REFUSED]
    return tame(str(events[-1].get("reason"))) if events else None


def _evidence(parts: list[LoadedPart], report: Report, *, refused: str | None) -> Evidence:
    streams = [stream for each in parts for stream in each.part.streams]
    active = (stream.channel for stream in streams if any(phase.mode == "active" for phase in stream.phases))
    last = parts[-1].part  # an earlier part that was cut is a gap, once a later one carried the session on
    cut = last.node if last.ended_ns is None else None
    return Evidence(
        expected=frozenset(active),
        silent=frozenset(each.index for each in report.channels if each.silent),
        truncated=f"the recorder on {cut} died during the call; what had reached the disk was saved" if cut else None,
        mute=frozenset(each.index for each in report.channels if each.silent and each.undecodable),
        shortfalls=[Shortfall(each.index, each.unheard, each.captured, each.unheard_cause) for each in report.channels],
        undecodable=sorted({codec for each in report.channels for codec in each.undecodable}),
        unheard=_unheard(streams, report),
        left_out=report.left_out,
        quiet=_quiet(last, report),
        refused=refused,
    )


def _quiet(last: Part, report: Report) -> dict[int, float]:
    """Channels that were to send to the end and fell silent well before it, and when."""
    active = {each.channel for each in last.streams if each.phases and each.phases[-1].mode == "active"}
    before_ns = report.end_ns - round(SILENT_SECONDS * 1e9)
    return {
        each.index: (each.last_packet_ns - report.start_ns) / 1e9
        for each in report.channels
        if each.index in active and each.last_packet_ns is not None and each.last_packet_ns < before_ns
    }


def _unheard(streams: Sequence[PartStream], report: Report) -> list[tuple[int, str]]:
    """The streams (channel and label) that were to send in a channel that several had, and never did."""
    labels: dict[int, dict[str, None]] = {}
    for stream in streams:
        if stream.label is not None and any(phase.mode == "active" for phase in stream.phases):
            labels.setdefault(stream.channel, {})[stream.label] = None
    return [
        (channel, label)
        for channel, several in sorted(labels.items())
        for label in several
        if len(several) > 1 and (channel, label) not in report.heard
    ]
