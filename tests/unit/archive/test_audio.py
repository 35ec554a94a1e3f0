"""Audio files in every format, complete or not there at all."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from siprec.archive.audio import MAX_CHANNELS, AudioFormat, problem, write_audio
from siprec.errors import ArchiveError
from siprec.rtp.codecs import LAW


def blocks(samples: NDArray[np.int16], size: int = 3000) -> Iterator[NDArray[np.int16]]:
    for at in range(0, len(samples), size):
        yield samples[at : at + size]


def waves(channels: int, *, rate: int = 8000) -> NDArray[np.int16]:
    time = np.arange(rate)[:, None] / rate
    wave: NDArray[np.float64] = 9000 * np.sin(2 * np.pi * (300 + 50 * np.arange(channels)[None, :]) * time)
    return np.rint(wave).astype(np.int16)


@pytest.mark.parametrize(("format_", "suffix"), [("wav", ".wav"), ("wav-native", ".wav"), ("flac", ".flac")])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_lossless_formats_are_exact(tmp_path: Path, format_: AudioFormat, suffix: str, channels: int) -> None:
    samples = waves(channels)
    path = write_audio(tmp_path / "audio.wav", blocks(samples), rate=8000, channels=channels, format=format_,
                       recording="01JD", start_ns=1_800_000_000 * 10**9)  # fmt: skip
    assert path == tmp_path / f"audio{suffix}"
    read, rate = soundfile.read(path, dtype="int16", always_2d=True)
    assert rate == 8000
    assert (read == samples).all()
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_opus(tmp_path: Path, rate: int) -> None:
    samples = waves(2, rate=rate)
    path = write_audio(tmp_path / "audio", blocks(samples), rate=rate, channels=2, format="opus")
    assert path.suffix == ".opus"
    read, _ = soundfile.read(path)
    assert read.shape[1] == 2
    inside = read[rate // 8 : -rate // 8]  # an encoder has no more to go by at either end
    assert np.abs(inside).max() == pytest.approx(9000 / 32768, rel=0.1)


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_native_keeps_every_octet(tmp_path: Path, law: str) -> None:
    octets = np.arange(512, dtype=np.uint8).reshape(-1, 2)
    path = write_audio(tmp_path / "audio", iter([octets]), rate=8000, channels=2, format="wav-native", law=law)
    assert path.read_bytes().endswith(octets.tobytes())
    read, _ = soundfile.read(path, dtype="int16")
    assert (read == LAW[law][octets]).all()


def test_what_a_format_cannot_hold_becomes_wav(tmp_path: Path) -> None:
    path = write_audio(tmp_path / "audio", iter([waves(1, rate=44_100)]), rate=44_100, channels=1, format="opus")
    assert path.suffix == ".wav"
    with pytest.raises(ArchiveError, match="AUDIO_FORMAT=opus cannot hold audio at 44100 Hz"):
        write_audio(tmp_path / "other", iter([]), rate=44_100, channels=1, format="opus", fallback=False)


@pytest.mark.parametrize("format_", ["flac", "opus"])
def test_channels_at_the_limit_and_past_it(tmp_path: Path, format_: AudioFormat) -> None:
    most = MAX_CHANNELS[format_]
    path = write_audio(tmp_path / "most", blocks(waves(most)), rate=8000, channels=most, format=format_)
    assert soundfile.info(path).channels == most
    assert problem(format_, rate=8000, channels=most) is None
    assert str(most) in (problem(format_, rate=8000, channels=most + 1) or "")
    path = write_audio(tmp_path / "more", blocks(waves(most + 1)), rate=8000, channels=most + 1, format=format_)
    assert path.suffix == ".wav"


def test_no_frames_is_an_empty_file(tmp_path: Path) -> None:
    for format_ in ("wav", "flac", "opus"):
        path = write_audio(tmp_path / format_, iter([]), rate=8000, channels=1, format=format_)
        assert path.exists()


def test_a_failure_leaves_nothing_and_the_old_file(tmp_path: Path) -> None:
    old = write_audio(tmp_path / "audio", blocks(waves(1)), rate=8000, channels=1, format="wav")
    before = old.read_bytes()

    def broken() -> Iterator[NDArray[np.int16]]:
        yield waves(1)
        raise OSError(28, "No space left on device")

    with pytest.raises(ArchiveError, match="No space left"):
        write_audio(tmp_path / "audio", broken(), rate=8000, channels=1, format="wav")
    assert old.read_bytes() == before
    assert list(tmp_path.iterdir()) == [old]
    with pytest.raises(ArchiveError):
        write_audio(tmp_path / "none" / "audio", iter([]), rate=8000, channels=1, format="flac")
