import json
import subprocess
import sys
from pathlib import Path

import pytest

from siprec.archive import folder
from siprec.archive.folder import PartFolder, RecordingFolder
from siprec.archive.manifest import ChannelEntry, FileEntry, HeardEntry, Manifest, ParticipantEntry, file_entry, verify
from siprec.errors import ArchiveError, NotOwner

AT_NS = 1_795_201_092_123_000_000  # 2026-11-20T18:58:12.123Z
ID = folder.new_session_id(AT_NS, bytes(range(10)))
HEARD: HeardEntry = {"participant_id": "p1", "name": "Alice", "from": "2026-11-20T18:58:12.000Z", "until": None}


def manifest(**changed: object) -> Manifest:
    values: dict[str, object] = {
        "id": ID,
        "state": "recording",
        "node": "a",
        "fence": 1,
        "source": "192.0.2.1",
        "call_id": "1@192.0.2.1",
    }
    return Manifest(**{**values, **changed})  # type: ignore[arg-type]


def test_a_session_id_is_a_version_7_uuid_and_carries_its_day() -> None:
    assert folder.SESSION_ID.fullmatch(ID)
    assert folder.day_of(ID) == "2026/11/20"
    assert folder.new_session_id(AT_NS + 1_000_000, b"\x00" * 10) > ID


@pytest.mark.parametrize("name", ["", "../../etc/passwd", ID.upper(), ID + "/..", ID.replace("-7", "-4", 1), "a" * 36])
def test_a_foreign_id_never_becomes_a_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError):
        RecordingFolder.create(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_are_private_to_owner_and_group(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    part = recording.create_part(1, "a")
    part.add_metadata(1, b"<recording/>")
    recording.write(manifest())
    assert recording.path == tmp_path / "2026" / "11" / "20" / ID
    for path in recording.path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    written = manifest(
        participants=[ParticipantEntry("p1", "sip:alice@example.com", "Alice", ["2026-11-20T18:58:12Z"])],
        channels=[ChannelEntry(0, "1", participants=[HEARD], packets=5, ssrcs=[7])],
        files=[FileEntry("audio.wav", 44, "00")],
    )
    recording.write(written)
    assert recording.read() == written
    assert json.loads(recording.manifest_path.read_text())["schema"] == "siprec.recording/1"


def test_an_unknown_key_of_a_later_version_is_passed_over(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    recording.manifest_path.write_text(json.dumps({**json.loads(manifest().dump()), "later": 1}))
    assert recording.read() == manifest()


def test_a_manifest_of_an_earlier_version_tells_of_nobody_in_a_channel(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    raw = json.loads(manifest(channels=[ChannelEntry(0, "1", participants=[HEARD])]).dump())
    del raw["channels"][0]["participants"]
    recording.manifest_path.write_text(json.dumps(raw))
    assert recording.read() == manifest(channels=[ChannelEntry(0, "1")])


def test_a_lower_fence_is_refused(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    recording.write(manifest(fence=2))
    with pytest.raises(NotOwner):
        recording.write(manifest(fence=1))
    assert recording.read().fence == 2


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema": "other/1"}', b"\xff"])
def test_a_broken_manifest_is_an_archive_error(tmp_path: Path, content: bytes) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    recording.manifest_path.write_bytes(content)
    with pytest.raises(ArchiveError):
        recording.read()


def test_parts_are_gathered_in_order(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    late, early = recording.create_part(2, "b"), recording.create_part(1, "a")
    early.add_metadata(1, b"<one/>")
    late.add_metadata(1, b"<two/>")
    late.append_events([{"at": "2026-11-20T18:58:14.000Z", "event": "bye"}])
    early.append_events([{"at": "2026-11-20T18:58:12.000Z", "event": "invite"}])
    with (early.path / "events.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-11-20T18:58:1')
    recording.gather(recording.parts())
    assert [part.fence for part in recording.parts()] == [1, 2]
    assert (recording.path / "metadata" / "0001.xml").read_bytes() == b"<one/>"
    assert (recording.path / "metadata" / "0002.xml").read_bytes() == b"<two/>"
    events = [json.loads(line)["event"] for line in (recording.path / "events.jsonl").read_text().splitlines()]
    assert events == ["invite", "bye"]


@pytest.mark.parametrize("rendered_before", [False, True])
def test_what_is_removed_anyway_is_gathered_without_a_copy(tmp_path: Path, *, rendered_before: bool) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    part = recording.create_part(1, "a")
    part.add_metadata(1, b"<one/>")
    part.append_events([{"at": "2026-11-20T18:58:12.000Z", "event": "invite"}])
    if rendered_before:
        recording.gather([part])
        part.append_events([{"at": "2026-11-20T18:58:14.000Z", "event": "bye"}])
    events, metadata = recording.gather([part], link=True)
    assert (events.name, metadata.name) == ("events.jsonl", "0001.xml")
    assert metadata.read_bytes() == b"<one/>"
    assert events.read_bytes() == (part.path / "events.jsonl").read_bytes()
    assert part.metadata()  # still: should we die now, it is gathered again
    assert (metadata.stat().st_nlink == 2) is not rendered_before


def test_text_from_the_network_stays_one_line_of_json(tmp_path: Path) -> None:
    part = RecordingFolder.create(tmp_path, ID).create_part(1, "a")
    nasty = 'a\n{"event":"forged"}\r\x00\x1b[31m\udc80'
    part.append_events([{"at": "", "event": "metadata", "name": nasty}])
    (line,) = part.events()
    assert line["event"] == "metadata"


def test_a_recording_is_found_by_either_end_of_its_id(tmp_path: Path) -> None:
    RecordingFolder.create(tmp_path, ID)
    other = folder.new_session_id(AT_NS, b"\xff" * 10)
    RecordingFolder.create(tmp_path, other)
    assert folder.find(tmp_path, ID[-8:]).session_id == ID
    assert folder.find(tmp_path, other).session_id == other
    with pytest.raises(ArchiveError, match="2 recordings match"):
        folder.find(tmp_path, ID[:8])
    with pytest.raises(ArchiveError, match="no recording"):
        folder.find(tmp_path, "zzz")


def test_a_changed_or_missing_file_is_told(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID)
    for name in ("audio.wav", "events.jsonl"):
        (recording.path / name).write_bytes(name.encode())
    entries = [file_entry(recording.path / name, recording.path) for name in ("audio.wav", "events.jsonl")]
    whole = manifest(files=entries)
    assert verify(whole, recording.path) == []
    (recording.path / "audio.wav").write_bytes(b"audio.wax")
    (recording.path / "events.jsonl").unlink()
    assert verify(whole, recording.path) == ["audio.wav was changed", "events.jsonl is missing"]


HOLD = (
    "import fcntl, sys; f = open(sys.argv[1], 'rb'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); input()"
)


def test_a_part_that_a_living_process_writes_is_known(tmp_path: Path) -> None:
    part = PartFolder(tmp_path)
    capture = tmp_path / "capture-0001.pcap"
    capture.write_bytes(b"")
    assert not part.held_elsewhere()
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(capture)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert part.held_elsewhere()
        holder.communicate("\n")
    assert not part.held_elsewhere()


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b"\xff", b'{"schema": "siprec.recording/1"}'])
def test_a_broken_recording_json_holds_no_fence(tmp_path: Path, broken: bytes) -> None:
    recording = RecordingFolder.create(tmp_path, ID, broken)
    recording.write(manifest())
    assert recording.read() == manifest()


def test_a_fence_that_is_no_number_is_none(tmp_path: Path) -> None:
    recording = RecordingFolder.create(tmp_path, ID, manifest(fence="9").dump())
    recording.write(manifest())
    assert recording.read() == manifest()
