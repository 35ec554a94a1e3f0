import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from siprec import view
from siprec.archive.folder import RecordingFolder, new_session_id
from siprec.archive.manifest import ChannelEntry, FileEntry, GapEntry, Manifest, ParticipantEntry
from siprec.errors import ArchiveError


def shown(renderable: object) -> str:
    out = io.StringIO()
    Console(width=120, file=out).print(renderable)
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> RecordingFolder:
    session_id = new_session_id(1_795_201_092_123_000_000, bytes(10))
    recording = RecordingFolder.create(tmp_path, session_id)
    loud = np.zeros((8000, 2))
    loud[:4000, 0] = 0.5
    soundfile.write(recording.path / "audio.wav", loud, 8000, subtype="PCM_16")
    manifest = Manifest(session_id, "ended", "a", 1, "192.0.2.1", "call@192.0.2.1", "ok", "fine", duration=3725.5)
    manifest.participants = [ParticipantEntry("1", "sip:alice@example.com", "Alice\x1b[31m")]
    manifest.channels = [
        ChannelEntry(0, "1", participant="Alice", codec="PCMU", packets=50, lost=3, keys=4),
        ChannelEntry(1, "2", participant="Bob", codec="PCMU", packets=50),
    ]
    manifest.gaps = [GapEntry(1, 61.0, 0.5, "loss")]
    manifest.files = [FileEntry("audio.wav", 1, "")]
    recording.write(manifest)
    return recording


def test_a_waveform_shows_who_speaks_when(folder: RecordingFolder) -> None:
    alice, bob = view.waveforms(folder.path / "audio.wav", 8)
    assert alice == "▇▇▇▇    "
    assert bob == " " * 8


def test_one_recording_tells_all(folder: RecordingFolder) -> None:
    text = shown(view.details(folder))
    for each in ("Alice", "Bob", "▕", "3 lost", "4 DTMF keys", "gap", "1:01.0", "1:02:05.5", "ok", "fine"):
        assert each in text
    assert "\x1b[31m" not in text


def test_the_list_survives_a_broken_recording(folder: RecordingFolder) -> None:
    assert "ended" in shown(view.listing([folder]))
    folder.manifest_path.write_text("{")
    assert "lost" in shown(view.listing([folder]))


def test_what_a_network_names_is_no_markup(folder: RecordingFolder) -> None:
    manifest = folder.read()
    manifest.participants = [ParticipantEntry("1", None, "[/x] :smile: [bold]y")]
    flow = {"call_id": "[/x]@[b]", "remote": "192.0.2.1:5060", "transport": "udp", "identity": "[/red]"}
    manifest.dialogs = [flow]
    folder.write(manifest)
    assert "[/x] :smile: [bold]y" in shown(view.listing([folder]))
    assert "[/x] :smile: [bold]y" in shown(view.details(folder))
    assert "[/x]@[b] 192.0.2.1:5060 udp as [/red]" in shown(view.inspection(folder, None, 0))


def test_a_file_that_is_no_audio_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "audio.wav").write_bytes(b"no")
    with pytest.raises(ArchiveError):
        view.waveforms(tmp_path / "audio.wav")


@pytest.mark.parametrize(("seconds", "text"), [(None, ""), (0.0, "0:00.0"), (61.25, "1:01.2"), (3600.0, "1:00:00.0")])
def test_times_read_like_a_clock(seconds: float | None, text: str) -> None:
    assert view.clock_time(seconds) == text
