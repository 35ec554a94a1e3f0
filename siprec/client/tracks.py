"""Audio ready to be sent: a conversation cut into 20 ms frames and encoded once for all calls that send it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import G722
import numpy as np
from numpy.typing import NDArray

from siprec.client.voices import Samples, conversation
from siprec.rtp.codecs import encode_law

FRAME_SECONDS = 0.02
"""Packet time of everything we send: the default of RFC 3551 section 4.2 and what SBCs send."""

LOOP_SECONDS = 60.0
"""Longest conversation that is made; a longer call hears it again. Keeps a track below 3 MB and one second of work."""


@dataclass(frozen=True, slots=True)
class Codec:
    """What the client can send. `clock_rate`: RTP timestamp units per second; `audio_rate`: samples per second."""

    name: str
    payload_type: int
    clock_rate: int
    audio_rate: int
    encode: Callable[[Samples], bytes]

    @property
    def rtpmap(self) -> str:
        return f"{self.payload_type} {self.name}/{self.clock_rate}"


def _g722(samples: Samples) -> bytes:
    return bytes(G722.G722(16000, 64000).encode(samples))


def _l16(samples: Samples) -> bytes:
    return samples.astype(">i2").tobytes()


CODECS = {
    codec.name: codec
    for codec in (
        Codec("PCMU", 0, 8000, 8000, lambda samples: encode_law(samples, "PCMU").tobytes()),
        Codec("PCMA", 8, 8000, 8000, lambda samples: encode_law(samples, "PCMA").tobytes()),
        Codec("G722", 9, 8000, 16000, _g722),  # RFC 3551 4.5.2: the clock says 8000 for historical reasons
        Codec("L16", 96, 16000, 16000, _l16),
    )
}
"""By the name of the encoding in SDP (RFC 3551)."""


@dataclass(frozen=True, slots=True, eq=False)
class Track:
    """One speaker's audio: `frames` (frames, samples per frame) at `codec.audio_rate`, `payloads` the same encoded."""

    codec: Codec
    frames: NDArray[np.int16]
    payloads: tuple[bytes, ...]


@lru_cache(maxsize=32)
def tracks(seconds: float, *, codec: str, speakers: int = 2, seed: int = 0) -> tuple[Track, ...]:
    """A track for each speaker of `conversation(seconds, ...)`, at most LOOP_SECONDS long, whole frames only.

    `codec` is a key of CODECS; KeyError otherwise.
    """
    chosen = CODECS[codec]
    frame = round(chosen.audio_rate * FRAME_SECONDS)
    frames = max(1, round(min(seconds, LOOP_SECONDS) / FRAME_SECONDS))
    audio = conversation(frames * FRAME_SECONDS, rate=chosen.audio_rate, speakers=speakers, seed=seed)
    return tuple(_track(chosen, samples[: frames * frame].reshape(frames, frame)) for samples in audio)


def _track(codec: Codec, frames: NDArray[np.int16]) -> Track:
    encoded = codec.encode(np.ascontiguousarray(frames).reshape(-1))
    size = len(encoded) // len(frames)
    return Track(codec, frames, tuple(encoded[at : at + size] for at in range(0, len(frames) * size, size)))
