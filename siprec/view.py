"""Recordings on a terminal: the list, and one recording with its waveform."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import soundfile
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import ChannelEntry, GapEntry, Manifest
from siprec.errors import ArchiveError
from siprec.log import tame
from siprec.session.model import CallData
from siprec.session.transitions import possible
from siprec.store import codec
from siprec.store.codec import Row

BARS = " ▁▂▃▄▅▆▇█"
WAVEFORM_WIDTH = 64
FLOOR_DB = -48.0
"""Peaks at or below this level draw as a blank."""

_COLOURS = {"ok": "green", "gaps": "yellow", "one-way": "red", "silent": "red", "no-rtp": "red", "truncated": "yellow"}
_BLOCK_FRAMES = 1 << 16


def listing(folders: Iterable[RecordingFolder]) -> Table:
    """A row for each recording; one whose recording.json cannot be read says so."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for name in ("id", "started", "length", "who", "channels", "state", "verdict"):
        table.add_column(name, justify="right" if name in {"length", "channels"} else "left", no_wrap=name != "who")
    for folder in folders:
        try:
            manifest = folder.read()
        except ArchiveError:
            _row(table, folder.session_id[-8:], "", "", "recording.json cannot be read", "", "lost", "")
            continue
        _row(
            table,
            folder.session_id[-8:],
            (manifest.started_at or "").replace("T", " ")[:19],
            clock_time(manifest.duration),
            tame(manifest.title, 60),
            str(len(manifest.channels)),
            manifest.state,
            verdict(manifest),
        )
    return table


def details(folder: RecordingFolder) -> RenderableType:
    """One recording: who, which channels, waveforms, gaps, files."""
    manifest = folder.read()
    head = Text.assemble(
        (tame(manifest.title), "bold"), f"  {manifest.started_at or ''}  {clock_time(manifest.duration)}  "
    )
    head.append_text(verdict(manifest))
    lines: list[RenderableType] = [head]
    if manifest.verdict_reason:
        lines.append(Text(tame(manifest.verdict_reason, 1000), "dim"))
    lines.append(Text(f"{manifest.id}  {manifest.state}  from {manifest.source}", "dim"))
    lines += [
        Text(f"  {tame(each.name or '')} <{tame(each.aor or each.participant_id)}>") for each in manifest.participants
    ]
    shapes = waveforms(folder.path / _audio(manifest)) if _audio(manifest) else []
    rendered = manifest.duration is not None
    for channel in manifest.channels:
        shape = shapes[channel.index] if channel.index < len(shapes) else ""
        lines += _channel(channel, shape, rendered=rendered)
    lines += [Text(_gap(each)) for each in manifest.gaps[:20]]
    if len(manifest.gaps) > 20:
        lines.append(Text(f"  ... and {len(manifest.gaps) - 20} more gaps (recording.json has them all)", "dim"))
    lines.append(Text(str(folder.path), "dim"))
    return Group(*lines)


def inspection(folder: RecordingFolder, row: Row | None, now_ns: int) -> RenderableType:
    """A session as its server stands to it. `row` is what the journal of this node has of it, None for nothing.

    Raises StoreError when the row cannot be read.
    """
    manifest = folder.read()
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    _row(table, "session", manifest.id)
    if row is None:
        _row(table, "state", manifest.state)
        _row(table, "owner", f"node {manifest.node}, fence {manifest.fence}")
        _row(table, "journal", "this node's has no such session: it is over for long, or another node's")
    else:
        _standing(table, row, now_ns)
    for name, value in (("continues", manifest.continues), ("replica of", manifest.replica_of),
                        ("merged into", manifest.merged_into)):  # fmt: skip
        if value:
            _row(table, name, value)
    for each in manifest.dialogs:
        _row(table, "dialog", tame("{call_id} {remote} {transport} as {identity}".format(**each), 200))
    for taken in manifest.recoveries:
        cost = "" if taken.gap_ms is None else f", {taken.gap_ms} ms lost"
        _row(table, "recovery", f"{taken.time} {taken.how} from {taken.from_node} to {taken.to_node}{cost}")
    return table


def _standing(table: Table, row: Row, now_ns: int) -> None:
    """What only the journal tells: state and its age, what may happen next, owner, history."""
    call = codec.decode(row).call
    since = call.history[-1].at_ns if call.history else call.offered_ns
    age = f" for {clock_time((now_ns - since) / 1e9)}"
    _row(table, "state", f"over ({row.ended})" if row.ended else f"{call.state}{age}")
    if not row.ended:
        _row(table, "may happen", ", ".join(possible(call.state)) or "nothing")
    _row(table, "owner", f"node {row.node}, boot {row.boot or '-'}, fence {row.fence}, version {row.version}")
    if call.saved_ns:
        _row(table, "last saved", f"{clock_time((now_ns - call.saved_ns) / 1e9)} ago")
    for line in _history(call):
        _row(table, "history", line)


def _history(call: CallData) -> list[str]:
    return [
        f"{datetime.fromtimestamp(each.at_ns / 1e9, UTC):%H:%M:%S.%f}"[:-3]
        + f"  {each.before} -> {each.after}  {each.event}"
        for each in call.history
    ]


def _row(table: Table, *cells: str | Text) -> None:
    """A row of literal text: rich takes a str as markup, and what a network says may hold `[/x]` or `:x:`."""
    table.add_row(*(Text(each) if isinstance(each, str) else each for each in cells))


def verdict(manifest: Manifest) -> Text:
    """The verdict in its colour; nothing while there is none."""
    word = manifest.verdict or ""
    return Text(word, _COLOURS.get(word, ""))


def waveforms(audio: Path, width: int = WAVEFORM_WIDTH) -> list[str]:
    """A line of bars for each channel of an audio file, by its peaks in dB. Raises ArchiveError."""
    try:
        with soundfile.SoundFile(audio) as file:
            peaks = np.zeros((width, file.channels))
            position = 0
            for block in file.blocks(_BLOCK_FRAMES, dtype="float32", always_2d=True):
                columns = (np.arange(position, position + len(block)) * width) // max(1, file.frames)
                np.maximum.at(peaks, columns, np.abs(block))
                position += len(block)
    except (OSError, RuntimeError) as error:
        raise ArchiveError(f"{audio} cannot be read: {error}") from error
    level = 20 * np.log10(np.maximum(peaks, 1e-9))
    steps = np.clip((level - FLOOR_DB) / -FLOOR_DB * (len(BARS) - 1), 0, len(BARS) - 1).round().astype(int)
    return ["".join(BARS[step] for step in steps[:, channel]) for channel in range(steps.shape[1])]


def clock_time(seconds: float | None) -> str:
    """`1:05:09.2`; nothing while a recording has no length yet."""
    if seconds is None:
        return ""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def _audio(manifest: Manifest) -> str:
    return next((each.name for each in manifest.files if each.name.startswith("audio.")), "")


def _channel(channel: ChannelEntry, shape: str, *, rendered: bool) -> list[Text]:
    """Who, and what was heard; the latter is not known before a recording is `rendered`."""
    who = tame(channel.participant or f"channel {channel.index}", 20)
    flaws = (("lost", channel.lost), ("duplicate", channel.duplicate), ("reordered", channel.reordered))
    facts = [f"label {tame(channel.label or '-', 20)}", channel.codec or "no codec"]
    if not rendered:
        return [Text(f"  {who}"), Text(f"{'':13}{' · '.join(facts)}", "dim")]
    facts.append(f"{channel.packets} packets")
    facts += [f"{count} {name}" for name, count in flaws if count]
    facts += [f"{channel.keys} DTMF keys"] if channel.keys else []
    facts.append(f"jitter {channel.jitter_ms:.1f} ms")
    return [Text(f"  {who:<10}▕{shape}▏"), Text(f"{'':13}{' · '.join(facts)}", "dim")]


def _gap(gap: GapEntry) -> str:
    return f"  gap  channel {gap.channel}  at {clock_time(gap.start)}  {gap.length:.3f} s  {gap.cause}"
