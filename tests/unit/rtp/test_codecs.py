"""Payload types, G.711 at full scale and with the right sign, Opus packet lengths."""

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.rtp.codecs import LAW, LAW_SILENCE, LINEAR_RATES, codec, encode_law, opus_samples, static_codec


def sine(level_dbm0: float, *, seconds: float = 1.0) -> NDArray[np.int16]:
    # 0 dBm0 lies 3.14 dB (A-law) or 3.17 dB (mu-law) below the full scale sine (G.711 section 7)
    peak = 32767 * 10 ** ((level_dbm0 - 3.14) / 20)
    # 1004 Hz, the usual test tone: exactly 1000 would be the same eight samples again and again
    wave: NDArray[np.float64] = peak * np.sin(2 * np.pi * 1004 / 8000 * np.arange(int(8000 * seconds)))
    return np.rint(wave).astype(np.int16)


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_a_sine_at_minus_ten_dbm0_keeps_37_db_and_its_polarity(law: str) -> None:
    source = sine(-10).astype(np.float64)
    decoded = LAW[law][encode_law(source.astype(np.int16), law)].astype(np.float64)
    noise = decoded - source
    assert 10 * np.log10((source**2).sum() / (noise**2).sum()) >= 37
    assert np.corrcoef(source, decoded)[0, 1] > 0.999


def test_the_tables_reach_full_scale() -> None:
    assert (LAW["PCMU"].min(), LAW["PCMU"].max()) == (-32124, 32124)
    assert (LAW["PCMA"].min(), LAW["PCMA"].max()) == (-32256, 32256)
    assert LAW["PCMU"][[0x80, 0x00, 0xFF, 0x7F]].tolist() == [32124, -32124, 0, 0]
    assert LAW["PCMA"][[0xAA, 0x2A, 0xD5, 0x55]].tolist() == [32256, -32256, 8, -8]


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_encoding_is_the_inverse_of_the_table(law: str) -> None:
    codes = np.arange(256, dtype=np.uint8)
    again = encode_law(LAW[law], law)
    assert (LAW[law][again] == LAW[law]).all()
    assert set(codes[again != codes].tolist()) <= {0x7F}
    assert encode_law(np.zeros(1, np.int16), law)[0] == LAW_SILENCE[law]


@pytest.mark.parametrize(
    ("payload_type", "name", "rate"),
    [
        (0, "PCMU/8000", 8000),
        (8, "PCMA/8000", 8000),
        (9, "G722/8000", 16000),
        (10, "L16/44100/2", 44100),
        (13, "CN/8000", 0),
        (19, "CN/8000", 0),
        (18, "G729/8000", 0),
        (77, "PT77/8000", 0),
    ],
)
def test_static_payload_types(payload_type: int, name: str, rate: int) -> None:
    found = static_codec(payload_type)
    assert (found.name, found.rate, found.audible) == (name, rate, rate > 0)


def test_encodings_are_compared_without_case() -> None:
    assert codec("pcmu", 8000) == static_codec(0)
    assert codec("opus", 48000, 2).kind == "opus"
    assert codec("telephone-event", 8000).kind == "event"
    assert codec("AMR", 0).clock_rate == 8000


def test_linear_audio_only_at_rates_a_player_knows() -> None:
    assert all(codec("L16", rate).audible for rate in LINEAR_RATES)
    assert not codec("L16", 8001).audible
    assert not codec("L16", 8000, 3).audible


@pytest.mark.parametrize(
    ("packet", "samples"),
    [
        (bytes([0b01111_0_00, 1]), 960),  # hybrid, 20 ms, one frame
        (bytes([0b11111_0_01, 1]), 1920),
        (bytes([0b11100_0_10, 1]), 240),
        (bytes([0b11111_0_11, 6]), 5760),
        (bytes([0b11111_0_11, 7]), 0),  # over 120 ms
        (bytes([0b11111_0_11]), 0),
        (bytes([0b11111_0_10]), 0),
        (bytes([0b00011_0_00]), 2880),
    ],
)
def test_opus_packets_tell_their_length(packet: bytes, samples: int) -> None:
    head = np.frombuffer(packet.ljust(2, b"\0"), np.uint8)
    assert opus_samples(head[:1], head[1:2], np.array([len(packet)])).tolist() == [samples]
