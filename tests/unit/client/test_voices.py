"""The made-up conversations: reproducible, loud enough, silent in the pauses, told apart by correlation."""

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.client.voices import LEAD_IN, PEAK, VOICES, conversation, turns


def correlation(one: NDArray[np.int16], other: NDArray[np.int16]) -> float:
    return float(np.corrcoef(one.astype(float), other.astype(float))[0, 1])


def test_equal_arguments_give_equal_samples() -> None:
    first = conversation(3.0, seed=7).copy()
    conversation.cache_clear()
    assert np.array_equal(first, conversation(3.0, seed=7))
    assert not np.array_equal(first, conversation(3.0, seed=8))


def test_a_longer_conversation_begins_with_the_shorter_one() -> None:
    short, long = conversation(4.0, seed=2), conversation(9.0, seed=2)
    assert np.array_equal(short, long[:, : short.shape[1]])


@pytest.mark.parametrize("rate", [8000, 16000])
def test_shape_and_level(rate: int) -> None:
    audio = conversation(12.0, rate=rate, speakers=3, seed=1)
    assert audio.shape == (3, 12 * rate)
    assert audio.dtype == np.int16
    peaks = np.abs(audio.astype(int)).max(axis=1)
    assert np.allclose(peaks / 32767, PEAK, atol=0.02)


def test_pauses_are_exactly_zero_and_speech_is_not() -> None:
    audio = conversation(10.0, seed=5)
    spoken = np.zeros_like(audio, bool)
    for turn in turns(10.0, speakers=2, seed=5):
        spoken[turn.speaker, int(turn.start * 8000) : int(turn.end * 8000) + 2] = True
    assert not audio[~spoken].any()
    assert (audio[spoken] != 0).mean() > 0.9
    assert not audio[:, : int(LEAD_IN * 8000) - 1].any()


def test_everybody_speaks_and_turns_overlap_now_and_then() -> None:
    spoken = turns(60.0, speakers=2, seed=1)
    assert {turn.speaker for turn in spoken} == {0, 1}
    assert any(later.start < earlier.end for earlier, later in itertools.pairwise(spoken))
    assert all(later.start > earlier.start for earlier, later in itertools.pairwise(spoken))


def test_voices_are_told_apart_by_correlation_and_by_pitch() -> None:
    alice, bob = conversation(30.0, seed=1)
    assert abs(correlation(alice, bob)) < 0.05
    assert abs(correlation(alice, conversation(30.0, seed=2)[0])) < 0.05
    assert abs(correlation(alice[:-1], alice[1:])) > 0.5
    assert len({voice.pitch for voice in VOICES}) == len(VOICES)


def test_one_speaker_alone_pauses_too() -> None:
    audio = conversation(10.0, speakers=1, seed=1)
    assert audio.shape == (1, 80000)
    assert audio.any()
