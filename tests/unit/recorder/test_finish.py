"""What becomes of a recording that cannot be rendered."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal, NoReturn

import pytest

from siprec.archive.audio import SUFFIX, AudioFormat
from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest, RecoveryEntry
from siprec.errors import ArchiveError
from siprec.media.part import PayloadFormat
from siprec.media.render.source import MAX_CHANNELS
from siprec.recorder.dossier import timestamp
from siprec.recorder.finish import DISK_REASON, FinishOptions, finish, mark_failed
from siprec.recorder.salvage import leftovers
from tests.support.captures import PCMU, SECOND, START, Channel, Folder, Sender, Sent, noise, payloads
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
    assert list(leftovers(tmp_path, ["a"])) == [folder]
    mark_failed(folder.path, "no capture")
    assert list(leftovers(tmp_path, ["a"])) == []


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


def capture(folder: RecordingFolder) -> None:
    """A part of 2 s."""
    Folder().write(folder.path / "parts" / "000001-a", Sender().send(payloads(noise(100))))
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))


@pytest.mark.parametrize("audio_format", ["wav", "flac", "opus"])
def test_a_full_disk_leaves_a_recording_for_the_next_start(
    folder: RecordingFolder, tmp_path: Path, audio_format: AudioFormat
) -> None:
    capture(folder)
    options = FinishOptions(audio_format)
    (folder.path / f".audio{SUFFIX[audio_format]}.partial").symlink_to("/dev/full")
    with pytest.raises(ArchiveError, match="RECORDING_DIR.*space") as full:
        finish(folder.path, options)
    mark_failed(folder.path, str(full.value))
    assert list(leftovers(tmp_path, ["a"])) == [folder]
    assert finish(folder.path, options).audio.is_file()
    assert folder.read().state == "ended"


@pytest.mark.parametrize(
    ("number", "left"),
    [*((each, True) for each in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)), (errno.EACCES, False)],
)
def test_what_the_disk_answers_tells_a_broken_disk_from_a_broken_recording(
    folder: RecordingFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, left: bool
) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    capture(folder)
    monkeypatch.setattr(RecordingFolder, "gather", refuse)
    with pytest.raises((ArchiveError, OSError)) as refused:
        finish(folder.path, FinishOptions())
    assert str(refused.value).startswith(DISK_REASON) == left
    mark_failed(folder.path, str(refused.value))
    assert list(leftovers(tmp_path, ["a"])) == ([folder] if left else [])


@pytest.mark.parametrize(("keep", "kept"), [("never", False), ("issues", True)])
def test_what_cannot_be_decoded_yet_is_kept_as_an_issue(
    folder: RecordingFolder, keep: Literal["never", "issues"], *, kept: bool
) -> None:
    sender = Sender()
    sent = sender.send(payloads(noise(100)))
    sender.payload_type = 18
    sent += sender.send([bytes(20)] * 50)
    formats = (PCMU, PayloadFormat(18, "G729", 8000))
    Folder(channels=[Channel(formats=formats)]).write(folder.path / "parts" / "000001-a", sent)
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    finish(folder.path, FinishOptions(capture_keep=keep))
    told = folder.read()
    assert (told.verdict, "G729/8000 cannot be decoded here" in (told.verdict_reason or "")) == ("ok", True)
    assert bool(folder.parts()) is kept


def test_a_call_that_ends_on_hold_after_a_restart_is_whole(folder: RecordingFolder) -> None:
    """No packet was due in the part of the successor, which is not for nothing."""
    held = Channel(phases=[(0, "active"), (2 * SECOND, "hold")])
    sent = Sender().send(payloads(noise(100)))
    Folder(channels=[held], end=None).write(folder.path / "parts" / "000001-a", sent)
    back = Channel(phases=[(6 * SECOND, "hold")])
    Folder(channels=[back], end=9 * SECOND, fence=2).write(folder.path / "parts" / "000002-a", [])
    folder.write(Manifest(folder.session_id, "ending", "a", 2, source="192.0.2.1", call_id="1"))
    done = finish(folder.path, FinishOptions())
    assert (done.verdict, done.duration) == ("ok", 9.0)
    assert [(each.start, each.length, each.cause) for each in folder.read().gaps] == [(2.0, 7.0, "hold")]


def test_what_a_recovery_cost_is_known_where_both_sides_of_it_are(folder: RecordingFolder, tmp_path: Path) -> None:
    """Node b carried on what a's disk has, and restarted later."""
    voice = Sender()
    Folder(end=None).write(folder.path / "parts" / "000001-a", voice.send(payloads(noise(100))))
    theirs = RecordingFolder.create(tmp_path / "b", folder.session_id)
    for fence, start in ((2, 4 * SECOND), (3, 8 * SECOND)):
        parted = Folder(start=start, end=start + 2 * SECOND, fence=fence, node="b")
        later = Sender(ssrc=fence, clock=start)
        parted.write(theirs.path / "parts" / f"{fence:06d}-b", later.send(payloads(noise(100))))
    recoveries = [
        RecoveryEntry(timestamp(START + 4 * SECOND), "replaces", "a", "b"),
        RecoveryEntry(timestamp(START + 8 * SECOND + SECOND // 10), "restart", "b", "b"),
    ]
    manifest = Manifest(folder.session_id, "ending", "b", 3, "192.0.2.1", "1", recoveries=recoveries)
    theirs.write(manifest)
    folder.write(Manifest(folder.session_id, "recording", "a", 1, "192.0.2.1", "1"))
    finish(theirs.path, FinishOptions(capture_keep="always"))
    assert [each.gap_ms for each in theirs.read().recoveries] == [None, 2000]
    finish(folder.path, FinishOptions(capture_keep="always"), [theirs.path])
    assert [each.gap_ms for each in folder.read().recoveries] == [2000, 2000]


def rendered(folder: RecordingFolder, channels: list[Channel], sent: list[Sent]) -> Manifest:
    Folder(channels=channels, end=2 * SECOND).write(folder.path / "parts" / "000001-a", sent)
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    finish(folder.path, FinishOptions())
    return folder.read()


def test_what_is_beyond_the_channels_of_a_file_keeps_its_capture(folder: RecordingFolder) -> None:
    sent = [
        packet
        for place in range(2)
        for packet in Sender(port=10_000 + 2 * place, ssrc=place).send(payloads(noise(100)))
    ]
    told = rendered(folder, [Channel(), Channel(port=10_002, index=MAX_CHANNELS)], sent)
    assert told.verdict == "gaps"
    assert "100 packets of channels beyond 64 are in the capture only" in (told.verdict_reason or "")
    assert folder.parts()


@pytest.mark.parametrize(("label", "verdict"), [("2", "one-way"), ("1", "ok")])
def test_every_stream_of_a_channel_that_several_have_is_to_be_heard(
    folder: RecordingFolder, label: str, verdict: str
) -> None:
    channels = [
        Channel(label="1", phases=[(0, "active"), (SECOND, "closed")]),
        Channel(label=label, port=10_002, since=SECOND, index=0),
    ]
    assert rendered(folder, channels, Sender().send(payloads(noise(50)))).verdict == verdict


def with_keys(sender: Sender, *codes: int) -> list[Sent]:
    """A second of audio before each key, one after the last."""
    sent = sender.send(payloads(noise(50)))
    for code in codes:
        start = sender.timestamp
        for number in range(1, 11):
            payload = bytes([code, 0x80 if number >= 8 else 10]) + (160 * min(number, 8)).to_bytes(2, "big")
            sent.append(Sent(sender.clock, payload, sender.sequence, start, payload_type=101))
            sender.skip()
        sent += sender.send(payloads(noise(50)))
    return sent


@pytest.mark.parametrize("keep", ["never", "always"])
def test_keys_are_told_among_the_events(folder: RecordingFolder, keep: Literal["never", "always"]) -> None:
    Folder().write(folder.path / "parts" / "000001-a", with_keys(Sender(), 5, 11))
    (part,) = folder.parts()
    part.append_events([{"at": timestamp(START + at), "event": name} for at, name in ((0, "ack"), (9 * SECOND, "bye"))])
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    for _ in range(1 if keep == "never" else 2):
        finish(folder.path, FinishOptions(capture_keep=keep))
        events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
        assert [each["event"] for each in events] == ["ack", "dtmf", "dtmf", "bye"]
        assert events[1] == {
            "at": timestamp(START + SECOND), "event": "dtmf", "channel": 0, "start": 1.0, "duration": 0.16, "key": "X",
        }  # fmt: skip
        assert (events[2]["start"], events[2]["key"]) == (2.2, "X")
        (channel,) = folder.read().channels
        assert (channel.codec, channel.keys) == ("PCMU/8000", 2)


def test_no_more_keys_than_the_limit_are_told(folder: RecordingFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siprec.media.render.scan.MAX_EVENTS", 2)
    Folder().write(folder.path / "parts" / "000001-a", with_keys(Sender(), 5, 6, 7))
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    finish(folder.path, FinishOptions())
    events = [json.loads(line) for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert [each["event"] for each in events] == ["dtmf", "dtmf", "dtmf-omitted"]
    assert events[2] == {"at": timestamp(START + 10 * SECOND), "event": "dtmf-omitted", "count": 1}


def test_audio_that_came_and_cannot_be_heard_keeps_its_capture(folder: RecordingFolder) -> None:
    burst, sender = Sender(), Sender(sequence=1550, timestamp=138_000)
    sent = [replace(each, at=index) for index, each in enumerate(burst.send(payloads(noise(550))))]
    Folder().write(folder.path / "parts" / "000001-a", [*sent, *sender.send(payloads(noise(400)))])
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    told = finish(folder.path, FinishOptions(capture_keep="issues"))
    assert told.verdict == "gaps"
    assert told.reason.startswith("channel 0: 1.0 s of 19.0 s of audio cannot be heard: it came ahead of its time")
    assert folder.parts()
