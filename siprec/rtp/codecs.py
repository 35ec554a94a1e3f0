"""What the payload of an RTP packet is: static payload types, encodings, G.711 tables, Opus packet lengths.

Tables only: what needs a library to decode is decoded in `siprec.media.render`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["law", "linear", "g722", "opus", "event", "noise", "unknown"]
"""How a payload becomes sound: by table, as it is, by a decoder, or not at all (events and comfort noise are
silence on purpose; `unknown` is kept but cannot be decoded)."""

LINEAR_RATES = frozenset({8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000})
"""Rates of L16 that are decoded: those a WAV player knows; the resampler's tables stay small for any pair."""

OPUS_RATE = 48_000
"""RTP clock and decoding rate of Opus, whatever was encoded (RFC 7587 section 4.1)."""

OPUS_LONGEST = 5760
"""Samples of the longest Opus packet, 120 ms (RFC 6716 section 3.2, requirement R5)."""


@dataclass(frozen=True, slots=True)
class Codec:
    """One encoding with its parameters; `rate` is that of the decoded audio in Hz, 0 when there is none."""

    encoding: str
    kind: Kind
    clock_rate: int
    rate: int
    channels: int = 1

    @property
    def name(self) -> str:
        """As an rtpmap names it: `PCMU/8000`, `L16/16000/2`."""
        return f"{self.encoding}/{self.clock_rate}" + (f"/{self.channels}" if self.channels > 1 else "")

    @property
    def audible(self) -> bool:
        """Whether decoding it gives sound."""
        return self.rate > 0


STATIC: dict[int, tuple[str, int, int]] = {
    0: ("PCMU", 8000, 1),
    3: ("GSM", 8000, 1),
    4: ("G723", 8000, 1),
    5: ("DVI4", 8000, 1),
    6: ("DVI4", 16000, 1),
    7: ("LPC", 8000, 1),
    8: ("PCMA", 8000, 1),
    9: ("G722", 8000, 1),
    10: ("L16", 44100, 2),
    11: ("L16", 44100, 1),
    12: ("QCELP", 8000, 1),
    13: ("CN", 8000, 1),
    14: ("MPA", 90000, 1),
    15: ("G728", 8000, 1),
    16: ("DVI4", 11025, 1),
    17: ("DVI4", 22050, 1),
    18: ("G729", 8000, 1),
    19: ("CN", 8000, 1),  # reserved since RFC 3551, comfort noise in what went before it and in old gateways
}
"""Audio payload types that need no rtpmap: encoding, clock rate, channels (RFC 3551 table 4)."""


def codec(encoding: str, clock_rate: int, channels: int = 1) -> Codec:
    """The codec that an rtpmap names; the encoding is compared without case (RFC 8866 section 6.6)."""
    name = encoding.upper()
    if name in ("PCMU", "PCMA") and channels == 1:
        return Codec(name, "law", clock_rate, clock_rate if clock_rate in LINEAR_RATES else 0)
    if name == "L16" and channels in (1, 2) and clock_rate in LINEAR_RATES:
        return Codec(name, "linear", clock_rate, clock_rate, channels)
    if name == "G722":
        # the clock is 8000 by an old error that RFC 3551 section 4.5.2 keeps; those who offer 16000 send 8000 too
        return Codec(name, "g722", 8000, 16_000)
    if name == "OPUS":
        return Codec(name, "opus", OPUS_RATE, OPUS_RATE, 2)
    if name == "TELEPHONE-EVENT":
        return Codec(name, "event", clock_rate, 0)
    if name == "CN":
        return Codec(name, "noise", clock_rate, 0)
    return Codec(name, "unknown", clock_rate if clock_rate > 0 else 8000, 0, channels)


def static_codec(payload_type: int) -> Codec:
    """The codec of a payload type without rtpmap; `PT<number>`, unknown, when RFC 3551 assigns none."""
    if payload_type in STATIC:
        return codec(*STATIC[payload_type])
    return Codec(f"PT{payload_type}", "unknown", 8000, 0)


# ---- G.711 -----------------------------------------------------------------------------------------------------


def _mu_law() -> NDArray[np.int16]:
    code = ~np.arange(256) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _a_law() -> NDArray[np.int16]:
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    mantissa = ((code & 0x0F) << 4) + np.where(segment > 0, 0x108, 8)
    magnitude = mantissa << np.maximum(segment - 1, 0)
    table: NDArray[np.int16] = np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)
    return table


LAW: dict[str, NDArray[np.int16]] = {"PCMU": _mu_law(), "PCMA": _a_law()}
"""Octet to sample at full scale (ITU-T G.711): PCMU reaches +-32124, PCMA +-32256."""

LAW_SILENCE: dict[str, int] = {"PCMU": 0xFF, "PCMA": 0xD5}
"""The octet of the smallest positive sample."""


def _encoder(law: str) -> NDArray[np.uint8]:
    """Sample + 32768 to the octet whose sample is nearest; zero is the law's silence."""
    codes = np.argsort(LAW[law], kind="stable").astype(np.uint8)
    if law == "PCMU":  # two octets mean zero: leave the negative one out
        codes = codes[codes != 0x7F]
    levels = LAW[law][codes].astype(np.int32)
    between = (levels[1:] + levels[:-1]) / 2
    encoder: NDArray[np.uint8] = codes[np.searchsorted(between, np.arange(-32768, 32768), side="right")]
    return encoder


_ENCODER = {law: _encoder(law) for law in LAW}


def encode_law(samples: NDArray[np.int16], law: str) -> NDArray[np.uint8]:
    """`samples` as octets of `law` ("PCMU" or "PCMA"), each the nearest there is."""
    return _ENCODER[law][samples.astype(np.int32) + 32768]


# ---- Opus ------------------------------------------------------------------------------------------------------


def _opus_frames() -> NDArray[np.int64]:
    silk = [480, 960, 1920, 2880] * 3  # narrow, medium, wide band: 10 20 40 60 ms
    hybrid = [480, 960] * 2
    celt = [120, 240, 480, 960] * 4
    return np.array(silk + hybrid + celt, np.int64)


OPUS_FRAME = _opus_frames()
"""Samples of one frame at 48 kHz for each of the 32 configurations (RFC 6716 table 2)."""


def opus_samples(first: NDArray[np.uint8], second: NDArray[np.uint8], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """Samples (48 kHz) in Opus packets, from their first two bytes and lengths; 0 for what is no packet.

    RFC 6716 section 3.1 and 3.2; `second` is not looked at where `length` is 1.
    """
    code = first & 3
    frames = np.where(code == 3, second & 0x3F, np.where(code == 0, 1, 2)).astype(np.int64)
    samples = OPUS_FRAME[first >> 3] * frames
    good = (length >= np.where(code >= 2, 2, 1)) & (samples <= OPUS_LONGEST)
    return np.where(good, samples, 0)
