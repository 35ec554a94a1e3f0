"""Voices made of sines: people talking in turns, so that no recorded audio has to be shipped or licensed.

A vowel is the sum of the harmonics of a gliding pitch, each as loud as the resonances (formants) of a vocal
tract make it; a consonant is a burst of noise. Everything follows from the seed, so a test can make the audio
again and find it in a recording by correlation. Between talk spurts the samples are exactly zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Signal = NDArray[np.float64]

PEAK = 0.5
"""Loudest sample of every talk spurt, of full scale: -6 dBFS, which leaves room when two voices are mixed."""

LEAD_IN = 0.1
"""Seconds of silence before the first word."""

MAX_HARMONICS = 40
"""Enough to fill the telephone band (to 3400 Hz) from 85 Hz up; more would only cost time."""

_VOWELS = ((730, 1090, 2440), (530, 1840, 2480), (270, 2290, 3010), (570, 840, 2410), (300, 870, 2240))
_BANDWIDTHS = (90.0, 110.0, 170.0)


@dataclass(frozen=True, slots=True)
class Voice:
    """`pitch`: mean fundamental in hertz; `tract`: formants relative to a grown man's (a shorter tract is higher)."""

    name: str
    pitch: float
    tract: float


VOICES = (
    Voice("Alice", 205, 1.16),
    Voice("Bob", 112, 1.0),
    Voice("Carol", 245, 1.22),
    Voice("Dave", 92, 0.95),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """One talk spurt: who speaks, from when to when in seconds."""

    speaker: int
    start: float
    end: float


def turns(seconds: float, *, speakers: int, seed: int) -> list[Turn]:
    """Who talks when: turns of 0.6 to 2.2 s one after another, with pauses and now and then an overlap.

    A longer conversation of the same seed begins with the shorter one's turns.
    """
    rng = np.random.default_rng((seed, 0))
    spoken: list[Turn] = []
    at, speaker = LEAD_IN, 0
    while at < seconds:
        end = at + float(rng.uniform(0.6, 2.2))
        spoken.append(Turn(speaker, at, end))
        at = max(end + float(rng.uniform(-0.3, 0.5)), at + 0.1)
        speaker = (speaker + 1 + int(rng.integers(max(1, speakers - 1)))) % speakers
    return spoken


@lru_cache(maxsize=16)
def conversation(seconds: float, *, rate: int = 8000, speakers: int = 2, seed: int = 0) -> Samples:
    """A conversation as an array (speakers, samples) of 16-bit audio at `rate` per second; read-only, cached.

    Speaker n has the voice `VOICES[n % 4]`. Equal arguments give equal samples.
    """
    audio = np.zeros((speakers, round(seconds * rate)))
    for number, turn in enumerate(turns(seconds, speakers=speakers, seed=seed), 1):
        voice = VOICES[turn.speaker % len(VOICES)]
        start = round(turn.start * rate)
        spurt = _spurt(voice, turn.end - turn.start, rate, np.random.default_rng((seed, number)))
        room = audio[turn.speaker, start : start + len(spurt)]
        room += spurt[: len(room)]
    samples = np.rint(np.clip(audio, -1, 1) * 32767).astype(np.int16)
    samples.flags.writeable = False
    return samples


def _spurt(voice: Voice, seconds: float, rate: int, rng: np.random.Generator) -> Signal:
    """Syllables one after another until `seconds` are full, faded at both ends, with a peak of PEAK."""
    count = round(seconds * rate)
    syllables: list[Signal] = []
    while sum(map(len, syllables)) < count:
        syllables.append(_consonant(rate, rng))
        syllables.append(_vowel(voice, float(rng.uniform(0.09, 0.22)), rate, rng))
    spurt = np.concatenate(syllables)[:count]
    fade = np.minimum(1, np.arange(count) / (0.01 * rate))
    spurt = spurt * fade * fade[::-1]
    loudest = float(np.max(np.abs(spurt), initial=0.0))
    return spurt * (PEAK / loudest) if loudest else spurt


def _consonant(rate: int, rng: np.random.Generator) -> Signal:
    noise = rng.standard_normal(round(rng.uniform(0.02, 0.06) * rate))
    hiss = np.diff(noise, prepend=0.0) * np.hanning(len(noise))
    return np.asarray(0.12 * hiss, np.float64)


def _vowel(voice: Voice, seconds: float, rate: int, rng: np.random.Generator) -> Signal:
    count = round(seconds * rate)
    low, high = voice.pitch * rng.uniform(0.88, 1.14, 2)
    glide = np.linspace(float(low), float(high), count)
    phase = np.cumsum(glide) * (2 * np.pi / rate)
    pitch = float(glide.mean())
    harmonics = np.arange(1, min(MAX_HARMONICS, int(0.45 * rate / float(glide.max()))) + 1)
    formants = np.array(_VOWELS[rng.integers(len(_VOWELS))]) * voice.tract
    off = (harmonics[:, None] * pitch - formants) / np.array(_BANDWIDTHS)
    loudness = (np.array((1.0, 0.6, 0.3)) / np.sqrt(1 + off**2)).sum(axis=1) / np.sqrt(harmonics)
    swell = np.sin(np.pi * (np.arange(count) + 0.5) / count) ** 0.4
    wave = np.sin(harmonics[:, None] * phase + rng.uniform(0, 2 * np.pi, len(harmonics))[:, None])
    return np.asarray(loudness @ wave * swell * rng.uniform(0.6, 1.0), np.float64)
