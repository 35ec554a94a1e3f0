"""A recording's audio file: from blocks of samples to WAV, FLAC or Opus, complete or not there at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from siprec.archive.wav import A_LAW, MU_LAW, PCM, Provenance, WavWriter
from siprec.errors import ArchiveError

AudioFormat = Literal["wav", "wav-native", "flac", "opus"]
"""The values of AUDIO_FORMAT."""

SUFFIX: dict[str, str] = {"wav": ".wav", "wav-native": ".wav", "flac": ".flac", "opus": ".opus"}

LAW_TAG = {"PCMU": MU_LAW, "PCMA": A_LAW}

MAX_CHANNELS = {"flac": 8, "opus": 8}
"""FLAC has no more (RFC 9639 section 9.1.3), Opus in Ogg no more with a meaning (RFC 7845 section 5.1.1.2)."""

OPUS_RATES = frozenset({8000, 12000, 16000, 24000, 48000})
"""What an Opus encoder takes (RFC 6716 section 2)."""

FILE_MODE = 0o640

PROBE_BYTES = 1 << 16
"""Written once more to learn why libsndfile failed: more than the last block of a full disk may have left."""

Blocks = Iterator[NDArray[Any]]


def problem(chosen: AudioFormat, *, rate: int, channels: int) -> str | None:
    """Why a recording cannot be written in this format, as a sentence; None when it can."""
    most = MAX_CHANNELS.get(chosen, channels)
    if channels > most:
        return f"AUDIO_FORMAT={chosen} holds at most {most} channels, this recording has {channels}: use wav"
    if chosen == "opus" and rate not in OPUS_RATES:
        return f"AUDIO_FORMAT=opus cannot hold audio at {rate} Hz: use flac or wav"
    return None


def write_audio(
    path: Path,
    blocks: Blocks,
    *,
    rate: int,
    channels: int,
    format: AudioFormat,  # noqa: A002  (as the setting is called)
    law: str | None = None,
    recording: str = "",
    start_ns: int | None = None,
    fallback: bool = True,
) -> Path:
    """Writes `blocks` beside `path` and gives them its name when they are safe on disk.

    `path` is taken without regard to its suffix; the path written is returned. `blocks` are (n, channels) int16
    or, with `law` ("PCMU" or "PCMA", only for wav-native), uint8. `recording` and `start_ns` go into a WAV's
    bext. What FLAC or Opus cannot hold becomes wav if `fallback`. Raises ArchiveError.
    """
    reason = problem(format, rate=rate, channels=channels)
    if reason is not None and not fallback:
        raise ArchiveError(reason)
    chosen: AudioFormat = format if reason is None else "wav"
    final = path.with_suffix(SUFFIX[chosen])
    partial = final.with_name(f".{final.name}.partial")
    provenance = _provenance(recording, start_ns, rate)
    try:
        if chosen in ("flac", "opus"):
            _write_encoded(partial, blocks, rate=rate, channels=channels, chosen=chosen)
        else:
            tag = LAW_TAG[law] if law is not None and chosen == "wav-native" else PCM
            _write_wav(partial, blocks, rate=rate, channels=channels, tag=tag, provenance=provenance)
        _settle(partial, final)
    except (OSError, soundfile.LibsndfileError) as error:
        cause = error if isinstance(error, OSError) else (_refusal(partial) or error)
        raise ArchiveError(f"cannot write {final}: {cause}") from cause
    finally:
        partial.unlink(missing_ok=True)
    return final


def _write_wav(partial: Path, blocks: Blocks, *, rate: int, channels: int, tag: int,
               provenance: Provenance | None) -> None:  # fmt: skip
    with partial.open("wb") as file:
        writer = WavWriter(file, rate=rate, channels=channels, tag=tag, provenance=provenance)
        for block in blocks:
            writer.write(_little_endian(block))
        writer.flush()


def _little_endian(block: NDArray[Any]) -> memoryview:
    return memoryview(np.ascontiguousarray(block, block.dtype.newbyteorder("<")).data).cast("B")


def _write_encoded(partial: Path, blocks: Blocks, *, rate: int, channels: int, chosen: str) -> None:
    container, subtype = {"flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS")}[chosen]
    with soundfile.SoundFile(partial, "w", rate, channels, subtype, format=container) as file:
        for block in blocks:
            file.write(block)


def _settle(partial: Path, final: Path, sync: Callable[[int], None] = os.fsync) -> None:
    """Content first, then the name, then the folder that holds the name."""
    with partial.open("rb") as file:
        os.fchmod(file.fileno(), FILE_MODE)
        sync(file.fileno())
    partial.replace(final)
    folder = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(folder)
    finally:
        os.close(folder)


def _refusal(partial: Path) -> OSError | None:
    """What the disk answers to a further write; libsndfile tells of its answers only that there was one."""
    try:
        with partial.open("ab", buffering=0) as file:
            file.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error
    return None


def _provenance(recording: str, start_ns: int | None, rate: int) -> Provenance | None:
    if start_ns is None:
        return None
    start = datetime.fromtimestamp(start_ns / 1e9, UTC)
    midnight = start.replace(hour=0, minute=0, second=0, microsecond=0)
    samples = round((start - midnight).total_seconds() * rate)
    return Provenance(recording, f"{start:%Y-%m-%d}", f"{start:%H:%M:%S}", samples)
