"""Tracks: the conversation in frames, encoded once."""

import G722
import numpy as np
import pytest

from siprec.client.tracks import CODECS, LOOP_SECONDS, tracks
from siprec.client.voices import conversation
from siprec.rtp.codecs import LAW

SIZES = {"PCMU": 160, "PCMA": 160, "G722": 160, "L16": 640}


@pytest.mark.parametrize("codec", list(CODECS))
def test_each_frame_is_twenty_milliseconds(codec: str) -> None:
    for track in tracks(2.0, codec=codec, seed=1):
        assert len(track.payloads) == len(track.frames) == 100
        assert {len(payload) for payload in track.payloads} == {SIZES[codec]}
        assert track.frames.shape[1] == track.codec.audio_rate // 50


def test_frames_are_the_conversation() -> None:
    alice, bob = tracks(2.0, codec="PCMU", seed=3)
    audio = conversation(2.0, seed=3)
    assert np.array_equal(alice.frames.reshape(-1), audio[0])
    assert np.array_equal(bob.frames.reshape(-1), audio[1])


@pytest.mark.parametrize("law", ["PCMU", "PCMA"])
def test_law_decodes_to_the_source(law: str) -> None:
    track = tracks(3.0, codec=law, seed=1)[0]
    decoded = LAW[law][np.frombuffer(b"".join(track.payloads), np.uint8)].astype(float)
    source = track.frames.reshape(-1).astype(float)
    noise = np.sum((decoded - source) ** 2)
    assert 10 * np.log10(np.sum(source**2) / noise) > 33


def test_g722_decodes_to_the_source() -> None:
    track = tracks(3.0, codec="G722", seed=1)[0]
    decoded = np.asarray(G722.G722(16000, 64000).decode(b"".join(track.payloads)), float)
    source = track.frames.reshape(-1).astype(float)
    lag = int(np.argmax(np.correlate(decoded[2000:20000], source[2000:19900], "valid")))
    assert np.corrcoef(decoded[lag : lag + 40000], source[:40000])[0, 1] > 0.95


def test_l16_is_the_source_in_network_order() -> None:
    track = tracks(1.0, codec="L16", seed=1)[0]
    assert np.array_equal(np.frombuffer(b"".join(track.payloads), ">i2"), track.frames.reshape(-1))


@pytest.mark.parametrize("seconds", [LOOP_SECONDS, LOOP_SECONDS + 1])
def test_a_long_call_shares_one_loop(seconds: float) -> None:
    assert len(tracks(seconds, codec="PCMU", seed=1)[0].payloads) == 50 * LOOP_SECONDS


def test_a_call_shorter_than_a_frame_has_one() -> None:
    assert len(tracks(0.0, codec="PCMU", seed=1)[0].payloads) == 1
