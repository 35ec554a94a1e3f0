"""Our WAV files, read by others: libsndfile, and by hand where it does not look."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from siprec.archive.wav import A_LAW, MU_LAW, PCM, RIFF_LIMIT, Provenance, WavWriter


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks in front of the audio, and the audio's size as stated."""
    found, place = dict[bytes, bytes](), 12
    while place < len(data):
        name, size = data[place : place + 4], struct.unpack("<I", data[place + 4 : place + 8])[0]
        if name == b"data":
            found[name] = data[place + 4 : place + 8]
            break
        found[name] = data[place + 8 : place + 8 + size]
        place += 8 + size
    return found


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pcm_is_read_back_by_libsndfile(channels: int) -> None:
    samples = np.random.default_rng(1).integers(-32768, 32767, (999, channels), dtype=np.int16, endpoint=True)
    file = io.BytesIO()
    writer = WavWriter(file, rate=16_000, channels=channels, provenance=Provenance("01JD", "2026-11-20", "18:44:00"))
    writer.write(samples[:500].tobytes())
    writer.write(samples[500:].tobytes())
    writer.flush()
    read, rate = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16", always_2d=True)
    assert rate == 16_000
    assert (read == samples).all()


@pytest.mark.parametrize(("tag", "subtype"), [(MU_LAW, "ULAW"), (A_LAW, "ALAW")])
def test_g711_octets_are_kept(tag: int, subtype: str) -> None:
    octets = bytes(range(256)) * 2 + b"\x7f"
    file = io.BytesIO()
    writer = WavWriter(file, rate=8000, channels=1, tag=tag)
    writer.write(octets)
    writer.flush()
    data = file.getvalue()
    assert len(data) % 2 == 0
    assert struct.unpack("<I", data[4:8])[0] == len(data) - 8
    assert octets in data
    info = soundfile.info(io.BytesIO(data))
    assert (info.subtype, info.frames) == (subtype, len(octets))
    assert chunks(data)[b"fact"] == struct.pack("<I", len(octets))


def test_bext_names_the_recording_and_its_start() -> None:
    file = io.BytesIO()
    WavWriter(file, rate=8000, channels=1, provenance=Provenance("01JD" * 9, "2026-11-20", "18:44:00", 7)).flush()
    body = chunks(file.getvalue())[b"bext"]
    assert len(body) == 602
    assert body[:256].rstrip(b"\0") == b"siprec recording " + b"01JD" * 9
    assert body[320:338] == b"2026-11-2018:44:00"
    assert struct.unpack("<Q", body[338:346])[0] == 7
    assert len(chunks(file.getvalue())[b"JUNK"]) == 28


@pytest.mark.parametrize("past", [0, 2])
def test_past_the_limit_it_becomes_rf64_in_place(past: int) -> None:
    file = io.BytesIO()
    samples = np.arange(1000, dtype=np.int16)
    header = 12 + 36 + 24 + 8
    writer = WavWriter(file, rate=8000, channels=1, limit=header - 8 + 2000 - past)
    writer.write(samples.tobytes())
    writer.flush()
    data = file.getvalue()
    assert data[:4] == (b"RF64" if past else b"RIFF")
    read, _ = soundfile.read(io.BytesIO(data), dtype="int16")
    assert (read == samples).all()
    if past:
        assert struct.unpack("<QQQI", chunks(data)[b"ds64"]) == (header - 8 + 2000, 2000, 1000, 0)
        assert chunks(data)[b"data"] == b"\xff" * 4


def test_a_real_file_over_4_gib(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    with path.open("wb") as file:
        writer = WavWriter(file, rate=8000, channels=2)
        file.seek(RIFF_LIMIT // 4 * 4, io.SEEK_CUR)  # a hole in the file stands for 37 hours of silence
        writer._data_bytes = RIFF_LIMIT // 4 * 4
        writer.write(np.array([[1, 2], [3, 4]], "<i2").tobytes())
        writer.flush()
    with soundfile.SoundFile(path) as sound:
        assert sound.frames == RIFF_LIMIT // 4 + 2
        sound.seek(sound.frames - 2)
        assert sound.read(dtype="int16").tolist() == [[1, 2], [3, 4]]


def test_the_header_is_right_at_each_flush_and_writing_goes_on() -> None:
    file = io.BytesIO()
    writer = WavWriter(file, rate=8000, channels=1, tag=PCM)
    for count in range(1, 4):
        writer.write(struct.pack("<h", count))
        writer.flush()
        read, _ = soundfile.read(io.BytesIO(file.getvalue()), dtype="int16")
        assert read.tolist() == list(range(1, count + 1))
