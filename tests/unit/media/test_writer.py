"""The writer and a disk in trouble: nothing torn, nothing lost while memory lasts, everything said."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.errors import ArchiveError
from siprec.media import pcap, syncer, writer
from siprec.media.file import CaptureFile
from siprec.media.part import Outage
from siprec.media.threads import Fault
from tests.support.disk import FileSize

RECORD = pcap.record(5_000_000_000, bytes(172), source=("192.0.2.1", 1), destination=("192.0.2.2", 2))


class Harness:
    """A writer, and what it says."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.changed = threading.Condition()
        self.writer = writer.Writer(self._hear)
        self.writer.start()

    def _hear(self, fault: Fault) -> None:
        with self.changed:
            self.faults.append(fault)
            self.changed.notify_all()

    def wait_for(self, cause: str, *, active: bool) -> None:
        with self.changed:
            heard = self.changed.wait_for(
                lambda: any((each.cause, each.active) == (cause, active) for each in self.faults), timeout=5
            )
        assert heard, self.faults

    def write(self, file: CaptureFile, count: int) -> None:
        self.write_at(file, 0.0, count)

    def write_at(self, file: CaptureFile, now: float, count: int = 1) -> None:
        self.writer.write(writer.pieces_of([(file, memoryview(RECORD * count))]), now=now)

    def close(self, file: CaptureFile) -> None:
        done = threading.Event()
        self.writer.close(file, done.set)
        assert done.wait(5)


@pytest.fixture
def harness() -> Iterator[Harness]:
    made = Harness()
    yield made
    made.writer.stop()


@pytest.fixture
def limit() -> Iterator[FileSize]:
    made = FileSize()
    yield made
    made.lift()


def test_pieces_are_appended_and_synced(harness: Harness, tmp_path: Path) -> None:
    file = CaptureFile(tmp_path)
    assert (tmp_path / "capture-0001.pcap").read_bytes() == pcap.write_header()
    assert (tmp_path / "capture-0001.pcap").stat().st_mode & 0o777 == 0o640
    harness.write(file, 3)
    harness.close(file)
    assert file.paths[0].read_bytes() == pcap.write_header() + RECORD * 3
    assert harness.writer.waiting_bytes == 0
    assert file.outages.all() == ()


def test_a_capture_is_never_overwritten_nor_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "capture-0001.pcap").write_bytes(b"evidence")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "capture-0001.pcap").symlink_to(tmp_path / "elsewhere")
    for folder in ("a", "b", "missing"):
        with pytest.raises(ArchiveError, match="cannot create a capture"):
            CaptureFile(tmp_path / folder)
    assert (tmp_path / "a" / "capture-0001.pcap").read_bytes() == b"evidence"
    assert not (tmp_path / "elsewhere").exists()


def test_a_short_write_is_cut_back_and_made_good_later(harness: Harness, limit: FileSize, tmp_path: Path) -> None:
    file = CaptureFile(tmp_path)
    whole = pcap.FILE_HEADER + 2 * len(RECORD)
    harness.write(file, 2)
    limit.set(whole + len(RECORD) + 50)
    harness.write(file, 3)
    harness.wait_for("disk", active=True)
    assert file.paths[0].stat().st_size == whole
    harness.write(file, 1)
    limit.lift()
    harness.wait_for("disk", active=False)
    harness.close(file)
    assert file.paths[0].read_bytes() == pcap.write_header() + RECORD * 6
    assert harness.writer.waiting_bytes == 0
    assert file.outages.all() == ()


def test_pieces_behind_one_that_fails_are_written(harness: Harness, limit: FileSize, tmp_path: Path) -> None:
    files = []
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        files.append(CaptureFile(tmp_path / name))
    harness.write(files[1], 10)
    limit.set(pcap.FILE_HEADER + 10 * len(RECORD))
    for count in (1, 2):
        harness.writer.write(writer.pieces_of([(file, RECORD * count) for file in files]), now=0.0)
    harness.wait_for("disk", active=True)
    limit.lift()
    for file in files:
        harness.close(file)
    assert [file.octets // len(RECORD) for file in files] == [3, 13, 3]
    assert [file.paths[0].stat().st_size for file in files] == [file.octets + pcap.FILE_HEADER for file in files]


def test_other_files_go_on_while_one_is_in_trouble(harness: Harness, limit: FileSize, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "short").mkdir()
    long, short = CaptureFile(tmp_path / "long"), CaptureFile(tmp_path / "short")
    harness.write(long, 10)
    limit.set(pcap.FILE_HEADER + 10 * len(RECORD))
    harness.write(long, 1)
    harness.wait_for("disk", active=True)
    harness.write(short, 2)
    harness.close(short)
    assert short.paths[0].read_bytes() == pcap.write_header() + RECORD * 2
    limit.lift()
    harness.close(long)
    assert long.paths[0].read_bytes() == pcap.write_header() + RECORD * 11


def test_what_never_fits_becomes_an_outage_with_its_packets(
    harness: Harness, limit: FileSize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CLOSE_PATIENCE", 0.0)
    file = CaptureFile(tmp_path)
    limit.set(pcap.FILE_HEADER + 10)
    harness.write(file, 3)
    harness.close(file)
    assert file.outages.all() == (Outage(5_000_000_000, 5_000_000_000, "disk", packets=3),)
    assert file.paths[0].read_bytes() == pcap.write_header()
    assert harness.writer.waiting_bytes == 0
    limit.lift()


def test_stopping_gives_up_what_cannot_be_written(limit: FileSize, tmp_path: Path) -> None:
    harness, file = Harness(), CaptureFile(tmp_path)
    done = threading.Event()
    limit.set(pcap.FILE_HEADER + 10)
    harness.write(file, 1)
    harness.writer.close(file, done.set)
    harness.writer.stop()
    assert done.is_set()
    assert [each.packets for each in file.outages.all()] == [1]
    assert harness.faults[-1].detail == "1 packets of 1 calls waited in vain, and are lost"
    limit.lift()


def test_a_new_segment_begins_when_its_time_has_come(harness: Harness, tmp_path: Path) -> None:
    file = CaptureFile(tmp_path, segment_seconds=10.0, now=100.0)
    for now in (109.9, 110.0, 119.9, 120.0):
        harness.write_at(file, now)
    harness.close(file)
    sizes = [path.stat().st_size for path in file.paths]
    assert [path.name for path in file.paths] == [f"capture-000{number}.pcap" for number in (1, 2, 3)]
    assert sizes == [pcap.FILE_HEADER + count * len(RECORD) for count in (1, 2, 1)]


def test_a_segment_that_cannot_begin_does_not_stop_the_old_one(harness: Harness, tmp_path: Path) -> None:
    file = CaptureFile(tmp_path, segment_seconds=10.0, now=100.0)
    (tmp_path / "capture-0002.pcap").write_bytes(b"in the way")
    harness.write_at(file, 110.0)
    harness.wait_for("disk", active=True)
    harness.wait_for("disk", active=False)
    harness.close(file)
    assert file.paths[0].read_bytes() == pcap.write_header() + RECORD
    assert (tmp_path / "capture-0002.pcap").read_bytes() == b"in the way"


def test_a_device_that_cannot_be_synced_is_an_outage_of_every_file_on_it(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncer, "SYNC_SECONDS", 0.02)
    files = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        files.append(CaptureFile(tmp_path / name))
    monkeypatch.setattr(harness.writer.syncer, "_syncfs", lambda _: -1)
    harness.writer.write(writer.pieces_of([(file, RECORD) for file in files]), now=0.0)
    harness.wait_for("disk", active=True)
    for file in files:
        harness.close(file)
    assert [[each.cause for each in file.outages.all()] for file in files] == [["disk"], ["disk"]]


def test_a_defect_in_one_job_is_reported_and_the_thread_lives(harness: Harness, tmp_path: Path) -> None:
    file = CaptureFile(tmp_path)
    harness.writer.write(writer.pieces_of([(file, RECORD)])._replace(data=None), now=0.0)  # type: ignore[arg-type]
    harness.wait_for("internal", active=True)
    harness.write(file, 1)
    harness.close(file)
    assert file.paths[0].stat().st_size == pcap.FILE_HEADER + len(RECORD)
