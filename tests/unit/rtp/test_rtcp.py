"""RTCP: what is built is read back; what is broken costs nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.rtp import rtcp

word = st.integers(0, 0xFFFFFFFF)
block = st.builds(rtcp.ReportBlock, word, st.integers(0, 255), st.integers(-(2**23), 2**23 - 1), word, word, word, word)
blocks = st.lists(block, max_size=rtcp.MAX_ITEMS).map(tuple)
item = st.tuples(st.integers(1, 255), st.binary(max_size=rtcp.MAX_TEXT))
chunk = st.builds(rtcp.Chunk, word, st.lists(item, max_size=4).map(tuple))
packet = st.one_of(
    st.builds(rtcp.SenderReport, word, st.integers(0, 2**64 - 1), word, word, word, blocks),
    st.builds(rtcp.ReceiverReport, word, blocks),
    st.builds(rtcp.SourceDescription, st.lists(chunk, min_size=1, max_size=3).map(tuple)),
    st.builds(rtcp.Bye, st.lists(word, max_size=rtcp.MAX_ITEMS).map(tuple), st.binary(max_size=rtcp.MAX_TEXT)),
)


@given(st.lists(packet, max_size=4))
def test_what_is_built_is_read_back(packets: list[rtcp.Packet]) -> None:
    assert rtcp.parse(rtcp.compound(*packets)) == tuple(packets)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_raising(data: bytes) -> None:
    rtcp.parse(data)


@given(packet, st.data())
def test_a_changed_octet_is_read_without_raising(built: rtcp.Packet, data: st.DataObject) -> None:
    wire = bytearray(bytes(built))
    wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    rtcp.parse(bytes(wire))


REPORT = rtcp.ReceiverReport(0x0A0B0C0D)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (bytes(REPORT) + b"\x80", (REPORT,)),
        (bytes(REPORT) + b"\x40\xc9\x00\x01" + bytes(4), (REPORT,)),
        (bytes(REPORT) + b"\x80\xc9\x00\x02" + bytes(4), (REPORT,)),
        (b"\x80\xcc\x00\x01" + bytes(4) + bytes(REPORT), (REPORT,)),
        (b"\x80\xc8\x00\x01" + bytes(4) + bytes(REPORT), (REPORT,)),
        (b"\x80\xc9\x00\x00", ()),
        (b"\xa0\xc9\x00\x02\x0a\x0b\x0c\x0d\x00\x00\x00\x04", (REPORT,)),
        (b"\xa0\xc9\x00\x02\x0a\x0b\x0c\x0d\x00\x00\x00\xff", (REPORT,)),
        (b"\x81\xca\x00\x02\x00\x00\x00\x07\x01\xffab", (rtcp.SourceDescription((rtcp.Chunk(7, ()),)),)),
        (b"\x81\xca\x00\x00", ()),
        (b"\x81\xcb\x00\x02\x00\x00\x00\x07\x09abc", (rtcp.Bye((7,)),)),
    ],
)
def test_what_does_not_fit_is_left_out(data: bytes, expected: tuple[rtcp.Packet, ...]) -> None:
    assert rtcp.parse(data) == expected


def test_the_count_field_ends_at_31() -> None:
    assert len(bytes(rtcp.Bye(tuple(range(31))))) == 4 + 31 * 4
    with pytest.raises(ValueError, match="32 items"):
        bytes(rtcp.Bye(tuple(range(32))))


def test_long_texts_are_cut_to_their_length_octet() -> None:
    parsed = rtcp.parse(bytes(rtcp.SourceDescription((rtcp.Chunk(1, ((rtcp.CNAME, b"x" * 256),)),))))
    assert parsed == (rtcp.SourceDescription((rtcp.Chunk(1, ((rtcp.CNAME, b"x" * 255),)),)),)


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_ntp_time_keeps_nanoseconds_over_2036(time_ns: int) -> None:
    assert abs(rtcp.ns_from_ntp(rtcp.ntp_from_ns(time_ns)) - time_ns) <= 1


def test_ntp_time_of_a_known_instant() -> None:
    assert rtcp.ntp_from_ns(0) == 2_208_988_800 << 32
    assert rtcp.ntp_from_ns(500_000_000) & 0xFFFFFFFF == 1 << 31
