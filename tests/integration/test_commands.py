"""The commands beside a server that is recording, and on folders that they may not read."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from siprec.archive.folder import RecordingFolder, new_session_id, walk
from siprec.archive.manifest import Manifest
from tests.support.calls import live
from tests.support.server import COMMAND, serving


def siprec(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """A command in `root`, on a terminal of 80 columns. It may end as it likes, but never by a traceback."""
    found = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "RECORDING_DIR": str(root), "COLUMNS": "80", **environ},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in found.stderr
    return found


async def test_a_live_recording_is_told_and_left_alone(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with live(server) as call:
            await call.run(0.5)
            (folder,) = server.recordings()
            before = folder.manifest_path.read_bytes()
            rendered, verified, shown, listed = [
                await asyncio.to_thread(siprec, tmp_path, *command)
                for command in (("render", folder.session_id), ("verify", folder.session_id),
                                ("show", folder.session_id), ("ls",))
            ]  # fmt: skip
            assert folder.manifest_path.read_bytes() == before
            await call.bye()
        server.wait_for("recording ready")
        assert folder.read().verdict == "ok"
    assert (rendered.returncode, rendered.stdout) == (1, "")
    assert rendered.stderr == f"{folder.session_id} is being recorded: its server renders it when it ends\n"
    assert (verified.returncode, verified.stdout) == (1, "")
    assert "has not ended (it is recording)" in verified.stderr
    assert shown.returncode == 0
    assert "Alice" in shown.stdout
    assert "packets" not in shown.stdout
    assert "▕" not in shown.stdout
    assert len(listed.stdout.splitlines()) == 2, "one line for the head, one for each recording"


@pytest.mark.parametrize("command", ["ls", "show", "inspect", "verify", "render"])
def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path, command: str) -> None:
    (tmp_path / "2026" / "11").mkdir(parents=True)
    day = tmp_path / "2026" / "11" / "20"
    day.touch()  # not even root may list it
    arguments = () if command == "ls" else ("019a",)
    found = siprec(tmp_path, command, *arguments)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr == f"{day}: Not a directory\n"
    found = siprec(tmp_path, command, *arguments, RECORDING_DIR=str(day))
    assert (found.returncode, found.stderr) == (1, f"{day}: Not a directory\n")


def test_a_state_folder_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    session_id = new_session_id(1_795_201_092_123_000_000, bytes(10))
    recording = RecordingFolder.create(tmp_path, session_id)
    recording.write(Manifest(session_id, "ended", "a", 1, "192.0.2.1", "call@192.0.2.1"))
    found = siprec(tmp_path, "inspect", session_id, STATE_DIR=str(tmp_path / ("x" * 300)))
    assert found.returncode == 1
    assert found.stderr.endswith("File name too long\n")


def test_a_file_of_settings_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"LOG_LEVEL=\xff\n")
    found = siprec(tmp_path, "check")
    assert found.returncode == 78
    assert found.stderr == "configuration: .env: cannot be read (UnicodeDecodeError)\n"


def test_a_check_ends_as_serve_would(tmp_path: Path) -> None:
    settings = {"SIP_HOST": "127.0.0.1", "SIP_PORT": "0"}
    assert siprec(tmp_path, "check", **settings).returncode == 0
    wrong = settings | {"MAX_SESSIONS": "1000000"}
    assert siprec(tmp_path, "serve", **wrong).returncode == 78
    assert siprec(tmp_path, "check", **wrong).returncode == 78
    assert siprec(tmp_path, "check", DISK_RESERVE="1000TiB", **settings).returncode == 1


def test_a_duration_is_written_as_in_a_setting(tmp_path: Path) -> None:
    refused = siprec(tmp_path, "call", "--duration", "soon")
    assert refused.returncode == 2
    assert "soon is not a duration such as 30s" in " ".join(refused.stderr.split())


def test_an_interrupted_demo_ends_its_call(tmp_path: Path) -> None:
    settings = {"SIP_HOST": "127.0.0.1", "SIP_PORT": "0", "RECORDING_DIR": str(tmp_path), "DISK_RESERVE": "0"}
    with subprocess.Popen(
        [*COMMAND, "demo", "--duration", "5m"],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=tmp_path,
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "200 OK" in line:
                break
        demo.send_signal(signal.SIGINT)
        try:
            told, _ = demo.communicate(timeout=30)
        finally:
            demo.kill()
    assert demo.returncode == 0
    assert "BYE answered 200" in told
    assert [folder.read().state for folder in walk(tmp_path)] == ["ended"]
