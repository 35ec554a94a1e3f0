"""RTP headers in batches (RFC 3550 section 5.1): values, and that nothing on the wire can raise or mislead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.rtp import packets


def parse_all(*datagrams: bytes) -> packets.Packets:
    data = np.frombuffer(b"".join(datagrams), np.uint8)
    length = np.array([len(each) for each in datagrams], np.int64)
    return packets.parse(data, np.cumsum(length) - length, length)


@given(
    payload_type=st.integers(0, 127).filter(lambda value: not 64 <= value <= 95),
    sequence=st.integers(0, 0xFFFF),
    timestamp=st.integers(0, 0xFFFFFFFF),
    ssrc=st.integers(0, 0xFFFFFFFF),
    payload=st.binary(max_size=40),
    marker=st.booleans(),
)
def test_what_is_built_is_read_back(
    payload_type: int, sequence: int, timestamp: int, ssrc: int, payload: bytes, marker: bool
) -> None:
    built = packets.build(payload_type, sequence, timestamp=timestamp, ssrc=ssrc, payload=payload, marker=marker)
    read = parse_all(b"\xff" * 7, built)
    assert read.valid.tolist() == [False, True]
    assert (read.payload_type[1], read.sequence[1], read.timestamp[1]) == (payload_type, sequence, timestamp)
    assert (read.ssrc[1], read.marker[1]) == (ssrc, marker)
    assert (read.payload_offset[1], read.payload_length[1]) == (7 + 12, len(payload))


HEAD = bytes.fromhex("0001 00000002 0a0b0c0d")


@pytest.mark.parametrize(
    ("datagram", "start", "length"),
    [
        (b"\x80\x08" + HEAD, 12, 0),
        (b"\x82\x08" + HEAD + bytes(8) + b"abc", 20, 3),
        (b"\x90\x08" + HEAD + b"\xbe\xde\x00\x01" + bytes(4) + b"abc", 20, 3),
        (b"\x90\x08" + HEAD + b"\xbe\xde\x00\x00", 16, 0),
        (b"\xa0\x08" + HEAD + b"abc\x00\x00\x03", 12, 3),
        (b"\xa0\x08" + HEAD + b"\x01", 12, 0),
        (b"\xb1\x08" + HEAD + bytes(4) + b"\xbe\xde\x00\x01" + bytes(4) + b"abc\x01", 24, 3),
    ],
)
def test_sources_extension_and_padding_are_stepped_over(datagram: bytes, start: int, length: int) -> None:
    read = parse_all(datagram)
    assert read.valid[0]
    assert (read.payload_offset[0], read.payload_length[0]) == (start, length)


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        b"\x80\x08" + HEAD[:-1],
        b"\x40\x08" + HEAD,
        b"\xc0\x08" + HEAD,
        b"\x81\x08" + HEAD + bytes(3),
        b"\x8f\x08" + HEAD,
        b"\x90\x08" + HEAD,
        b"\x90\x08" + HEAD + b"\xbe\xde\x00\x01" + bytes(3),
        b"\x90\x08" + HEAD + b"\xbe\xde\xff\xff",
        b"\xa0\x08" + HEAD,
        b"\xa0\x08" + HEAD + b"\x00",
        b"\xa0\x08" + HEAD + b"abc\x05",
        b"\x80\xc8" + HEAD,
        b"\x81\xdf" + HEAD,
    ],
)
def test_what_is_no_rtp_is_marked_and_zero(datagram: bytes) -> None:
    read = parse_all(datagram, b"\x80\x08" + HEAD)
    assert read.valid.tolist() == [False, True]
    assert (read.payload_type[0], read.sequence[0], read.ssrc[0], read.payload_length[0]) == (0, 0, 0, 0)


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_any_bytes_give_payloads_inside_their_own_datagram(datagrams: list[bytes]) -> None:
    read = parse_all(*datagrams)
    end = np.cumsum([len(each) for each in datagrams])
    for index in np.flatnonzero(read.valid):
        assert read.payload_length[index] >= 0
        assert read.payload_offset[index] + read.payload_length[index] <= end[index]
        assert read.payload_offset[index] >= end[index] - len(datagrams[index]) + 12
