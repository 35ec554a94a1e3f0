"""Capture files: written as other tools expect them, read back however they end."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import RenderError
from siprec.media import pcap

ALICE, US = ("192.0.2.1", 4000), ("192.0.2.9", 10_000)
ALICE6, US6 = ("2001:db8::1", 4000), ("2001:db8::9", 10_000)
T0 = 1_700_000_000_123_456_789


def read(
    path: Path, max_bytes: int = pcap.READ_BYTES
) -> tuple[list[tuple[bytes, int, str, int, int]], pcap.PcapReader]:
    reader = pcap.PcapReader(path)
    found = []
    for batch in reader.batches(max_bytes):
        for index in range(len(batch.offset)):
            start, length = int(batch.offset[index]), int(batch.length[index])
            payload = batch.data[start : start + length].tobytes()
            source = (batch.address(index), int(batch.source_port[index]), int(batch.port[index]))
            found.append((payload, int(batch.time_ns[index]), *source))
    return found, reader


@given(st.lists(st.tuples(st.binary(max_size=300), st.booleans()), max_size=60))
def test_records_come_back_as_written(tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[bytes, bool]]) -> None:
    path = tmp_path_factory.mktemp("pcap") / "capture.pcap"
    content, expected = pcap.write_header(), []
    for index, (payload, six) in enumerate(sent):
        source, destination = (ALICE6, US6) if six else (ALICE, US)
        content += pcap.record(T0 + index, payload, source=source, destination=destination)
        expected.append((payload, T0 + index, *source, destination[1]))
    path.write_bytes(content)
    found, reader = read(path)
    assert found == expected
    assert (reader.cut, reader.problem, reader.skipped) == (False, None, 0)


def many(count: int = 5000) -> list[bytes]:
    """Runs of one length with others strewn in, as two calls' streams and RTCP make them."""
    sizes = [172 if index % 97 else 52 + index % 7 for index in range(5000)]
    sizes[1000:1100] = [40 + index % 3 for index in range(100)]
    return [
        pcap.record(T0 + index, index.to_bytes(4, "big") + bytes(size - 4), source=ALICE, destination=US)
        for index, size in enumerate(sizes[:count])
    ]


@pytest.mark.parametrize("max_bytes", [1, 100_000, pcap.READ_BYTES])
def test_a_long_file_comes_in_batches_without_loss(tmp_path: Path, max_bytes: int) -> None:
    (tmp_path / "c.pcap").write_bytes(pcap.write_header() + b"".join(many()))
    found, reader = read(tmp_path / "c.pcap", max_bytes)
    assert [int.from_bytes(each[0][:4], "big") for each in found] == list(range(5000))
    assert not reader.cut


@pytest.mark.parametrize("cut", [1, 15, 16, 17, 100, 215])
def test_a_cut_last_record_is_tolerated(tmp_path: Path, cut: int) -> None:
    (tmp_path / "c.pcap").write_bytes((pcap.write_header() + b"".join(many(500)))[:-cut])
    found, reader = read(tmp_path / "c.pcap")
    assert len(found) == 499
    assert reader.cut
    assert reader.problem is None


@pytest.mark.parametrize("length", [0, pcap.IPV4_HEADERS - 1, pcap.MAX_RECORD + 1, 0xFFFFFFFF])
def test_a_garbage_length_ends_the_reading_and_is_reported(tmp_path: Path, length: int) -> None:
    good = pcap.write_header() + b"".join(many(500))
    (tmp_path / "c.pcap").write_bytes(good + bytes(8) + length.to_bytes(4, "little") + bytes(500))
    found, reader = read(tmp_path / "c.pcap")
    assert len(found) == 500
    assert reader.problem == f"no record at byte {len(good)} (length {length})"


def test_the_longest_record_is_read(tmp_path: Path) -> None:
    payload = bytes(65_535 - 8)
    longest = pcap.record(T0, payload, source=ALICE6, destination=US6)
    (tmp_path / "c.pcap").write_bytes(pcap.write_header() + longest)
    found, reader = read(tmp_path / "c.pcap", 1)
    assert [len(each[0]) for each in found] == [len(payload)]
    assert reader.problem is None


@pytest.mark.parametrize(
    ("content", "cut", "problem"),
    [
        (b"", True, None),
        (pcap.write_header()[:-1], True, None),
        (pcap.write_header(), False, None),
        (bytes(24), False, "not a little-endian pcap file of link type 101"),
    ],
)
def test_a_file_without_packets_says_why(tmp_path: Path, content: bytes, cut: bool, problem: str | None) -> None:
    (tmp_path / "c.pcap").write_bytes(content)
    found, reader = read(tmp_path / "c.pcap")
    assert (found, reader.cut, reader.problem) == ([], cut, problem)


def test_what_is_no_udp_is_skipped_and_counted(tmp_path: Path) -> None:
    good = pcap.record(T0, b"abc", source=ALICE, destination=US)
    tcp = bytearray(good)
    tcp[16 + 9] = 6
    short_six = bytearray(pcap.record(T0, bytes(20), source=ALICE, destination=US))
    short_six[16] = 0x60
    (tmp_path / "c.pcap").write_bytes(pcap.write_header() + good + bytes(tcp) + good + bytes(short_six[: 16 + 31 + 0]))
    found, reader = read(tmp_path / "c.pcap")
    assert len(found) == 2
    assert reader.skipped == 1
    assert reader.cut


@pytest.mark.parametrize("count", [1, 3, 4, 5, 31, 32, 33, 4_127, 4_128, 4_129])
def test_runs_of_equal_records_end_anywhere(tmp_path: Path, count: int) -> None:
    """A file that ended after exactly 32 records of one length, or 4 096 more, was once an error."""
    one = pcap.record(T0, bytes(172), source=ALICE, destination=US)
    (tmp_path / "c.pcap").write_bytes(pcap.write_header() + one * count)
    found, reader = read(tmp_path / "c.pcap")
    assert (len(found), reader.cut, reader.problem) == (count, False, None)


def test_a_missing_file_is_a_render_error(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="cannot read"):
        list(pcap.PcapReader(tmp_path / "none.pcap").batches())


@given(st.binary(max_size=400))
def test_any_bytes_after_the_header_are_survived(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    path = tmp_path_factory.mktemp("pcap") / "capture.pcap"
    path.write_bytes(pcap.write_header() + garbage)
    for batch in pcap.PcapReader(path).batches():
        assert np.all(batch.offset + batch.length <= batch.data.size)
        assert np.all(batch.length >= 0)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_finds_every_frame_sound(tmp_path: Path) -> None:
    records = [pcap.record(T0, b"\x80\x00" + bytes(size), source=ALICE, destination=US) for size in (0, 9, 172)]
    records += [pcap.record(T0, b"\x80\x00" + bytes(size), source=ALICE6, destination=US6) for size in (0, 9, 172)]
    (tmp_path / "c.pcap").write_bytes(pcap.write_header() + b"".join(records))
    checks = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    fields = ["-T", "fields", "-e", "ip.checksum.status", "-e", "udp.checksum.status", "-e", "_ws.malformed"]
    result = subprocess.run(
        ["tshark", "-r", str(tmp_path / "c.pcap"), *checks, *fields], capture_output=True, text=True, check=True
    )
    # 1 = good, 3 = not there (UDP over IPv4 may go without)
    assert result.stdout.splitlines() == ["1\t3\t"] * 3 + ["\t1\t"] * 3
