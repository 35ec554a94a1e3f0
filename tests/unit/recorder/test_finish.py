"""What becomes of a recording that cannot be rendered."""

from __future__ import annotations

from pathlib import Path

import pytest

from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest
from siprec.errors import ArchiveError
from siprec.recorder.finish import FinishOptions, finish, mark_failed
from siprec.recorder.salvage import leftovers
from tests.support.sessions import session_id


@pytest.fixture
def folder(tmp_path: Path) -> RecordingFolder:
    return RecordingFolder.create(tmp_path, session_id(1))


@pytest.mark.parametrize("manifest", [None, b"", b"{"])
@pytest.mark.parametrize("parts", [0, 2])
def test_a_failure_is_told_whatever_recording_json_holds(
    folder: RecordingFolder, manifest: bytes | None, parts: int
) -> None:
    if manifest is not None:
        folder.manifest_path.write_bytes(manifest)
    for fence in range(1, parts + 1):
        folder.create_part(fence, "a")
    mark_failed(folder.path, "no capture")
    told = folder.read()
    assert (told.state, told.verdict_reason, told.fence) == ("failed", "no capture", parts)


def test_a_leftover_with_a_broken_recording_json_is_failed_once(folder: RecordingFolder, tmp_path: Path) -> None:
    folder.manifest_path.touch()
    folder.create_part(1, "a")
    assert list(leftovers(tmp_path, "a")) == [folder]
    mark_failed(folder.path, "no capture")
    assert list(leftovers(tmp_path, "a")) == []


def test_of_what_another_node_carries_on_nothing_is_said(
    folder: RecordingFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = Manifest(folder.session_id, "recording", "b", 2, source="192.0.2.1", call_id="1")
    folder.write(theirs)
    ours = Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1")
    monkeypatch.setattr("siprec.recorder.finish._manifest", lambda _: ours)  # as it was a moment before
    mark_failed(folder.path, "no capture")
    assert folder.read() == theirs


def test_a_recording_without_any_part_is_a_sentence(folder: RecordingFolder) -> None:
    with pytest.raises(ArchiveError, match="no capture"):
        finish(folder.path, FinishOptions())
