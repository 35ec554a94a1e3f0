"""Ogg pages that libsndfile accepts, at the limits of a page."""

import io

import numpy as np
import pytest
import soundfile

from siprec.media.render.decode import OpusDecoder
from siprec.media.render.ogg import mux
from siprec.media.render.source import RECORD

SILK_20_MS = b"\x08\xff\xfe"  # narrow band, 20 ms, one frame
HEAD_BYTES = 28


@pytest.mark.parametrize("count", [1, 254, 255, 256, 511])
def test_any_number_of_packets_gives_all_samples(count: int) -> None:
    decoded, rate = soundfile.read(io.BytesIO(mux([(SILK_20_MS, 960)] * count)))
    assert (rate, len(decoded)) == (48_000, 960 * count)


@pytest.mark.parametrize(("size", "samples"), [(1276, 960), (65_024, 960), (65_025, 0)])
def test_a_packet_larger_than_a_page_is_not_decoded(size: int, samples: int) -> None:
    packet = bytes([0x08 | 3, 0x41]) + _padding(size)
    record = np.zeros(1, RECORD)
    record["length"] = len(packet)
    decoded, counts = OpusDecoder().decode(record, {0: np.frombuffer(packet, np.uint8)})
    assert len(packet) == size
    assert counts.tolist() == [samples]
    assert decoded.size == samples


def _padding(size: int) -> bytes:
    """The rest of a packet of one frame of 3 bytes, filled up by padding (RFC 6716 section 3.2.5)."""
    frame = b"\xff\xfe\xff"
    room = size - 2 - len(frame)
    for count in range(room):
        padded = room - count - 1
        if count * 254 <= padded < count * 254 + 255 and padded - count * 254 < 255:
            return b"\xff" * count + bytes([padded - count * 254]) + frame + bytes(padded)
    raise AssertionError("no such padding")
