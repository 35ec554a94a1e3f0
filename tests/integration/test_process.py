"""What an operator does to the process, and what may happen to it: signals, kills, wrong settings."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
import soundfile

from siprec.fdstore import AGAIN_SECONDS
from tests.support.calls import live
from tests.support.counting import captured
from tests.support.server import COMMAND, serving

FRAME_SECONDS = 0.02
"""What a kill may cost: the packets of one tick, and the time to write them."""


def siprec(root: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "RECORDING_DIR": str(root), "LOG_FORMAT": "json", **environ},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=30,
        check=False,
    )


async def test_a_killed_server_s_recording_is_rendered_at_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path, REDUNDANCY_STORAGE_TYPE="memory") as first:
        async with live(first, duration=60.0, counter=True) as call:
            (folder,) = first.recordings()
            async with asyncio.timeout(30):
                while not all(len(captured(folder).get(each.ssrc, ())) > 50 for each in call.streams):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            first.kill_all()
            kept = [len(captured(folder)[each.ssrc]) for each in call.streams]
    with serving(tmp_path, REDUNDANCY_STORAGE_TYPE="memory") as second:
        line = second.wait_for("recording salvaged")
        (folder,) = second.recordings()
    manifest = folder.read()
    assert (line["session"], manifest.state, manifest.verdict) == (folder.session_id, "ended", "truncated")
    assert manifest.started_at is not None
    assert [each.lost for each in manifest.channels] == [0, 0]
    capture = next((folder.path / "parts").glob("*/capture-0001.pcap"))
    info = soundfile.info(folder.path / "audio.wav")
    assert [each.packets for each in manifest.channels] == kept
    assert info.duration >= max(kept) * FRAME_SECONDS
    assert capture.stat().st_size > 0


async def test_a_stop_ends_live_calls_in_order(tmp_path: Path) -> None:
    with serving(tmp_path, SHUTDOWN_TIMEOUT="50s") as server:  # on a busy machine rendering may take that long
        async with live(server) as call:
            await call.run(1.0)
            assert server.stop(seconds=50) == 0
            await call.ended.wait()
            assert call.result.ended_by == "server"
        (folder,) = server.recordings()
    manifest = folder.read()
    assert (manifest.state, manifest.verdict) == ("ended", "ok")
    assert server.log[-1]["event"] == "stopped"
    assert server.log[-1]["recordings_left_for_next_start"] == 0


async def test_what_a_stop_cannot_render_is_finished_at_the_next_start(tmp_path: Path) -> None:
    with serving(tmp_path, SHUTDOWN_TIMEOUT="0") as server:
        async with live(server) as call:
            await call.run(0.5)
            assert server.stop() == 0
    assert server.log[-1]["recordings_left_for_next_start"] == 1
    with serving(tmp_path) as second:
        second.wait_for("recording salvaged")
        (folder,) = second.recordings()
    assert folder.read().state == "ended"


async def test_a_second_interrupt_stops_now(tmp_path: Path) -> None:
    with serving(tmp_path, SHUTDOWN_TIMEOUT="60s") as server:
        async with live(server) as call:
            await call.run(0.3)
            os.kill(server.worker, signal.SIGSTOP)  # it has not stopped when the second comes
            server.process.send_signal(signal.SIGINT)
            while server.process.poll() is None:
                server.process.send_signal(signal.SIGTERM)  # the first may come too soon to be a second wish
                with contextlib.suppress(subprocess.TimeoutExpired):
                    await asyncio.to_thread(server.process.wait, 2 * AGAIN_SECONDS)
            assert server.process.returncode == 1


async def test_a_stop_of_keeper_and_worker_at_once_is_one_stop(tmp_path: Path) -> None:
    """As systemd (KillMode=control-group), `timeout` and pkill do: the worker is told twice."""
    with serving(tmp_path) as server:
        async with live(server) as call:
            await call.run(0.5)
            os.kill(server.worker, signal.SIGTERM)
            assert server.stop() == 0
            await call.ended.wait()
            assert call.result.ended_by == "server"
        (folder,) = server.recordings()
    assert folder.read().state == "ended"


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    found = siprec(tmp_path, "serve", SIP_PORT="abc", RTP_TIMEOUT="soon")
    assert found.returncode == 78
    assert found.stderr.count("configuration: ") == 2
    assert "SIP_PORT" in found.stderr
    assert "RTP_TIMEOUT" in found.stderr
    assert "Traceback" not in found.stderr


def test_a_port_in_use_is_a_sentence(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        found = siprec(tmp_path, "serve", SIP_HOST="127.0.0.1", SIP_PORT=str(port))
    assert found.returncode == 1
    assert "SIP_PORT" in found.stderr
    assert str(port) in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize("variable", ["RECORDING_DIR", "STATE_DIR"])
def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").touch()
    found = siprec(tmp_path, "serve", SIP_HOST="127.0.0.1", SIP_PORT="0", **{variable: str(tmp_path / "file" / "x")})
    assert found.returncode == 78
    assert f"configuration: {variable}" in found.stderr
    assert "Traceback" not in found.stderr


def test_two_servers_do_not_share_a_state_folder(tmp_path: Path) -> None:
    with serving(tmp_path):
        found = siprec(tmp_path, "serve", SIP_HOST="127.0.0.1", SIP_PORT="0")
    assert found.returncode == 78
    assert "STATE_DIR" in found.stderr


async def test_commands_show_what_was_recorded(tmp_path: Path) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        async with live(server) as call:
            await call.run(1.0)
            await call.bye()
        server.wait_for("recording ready")
        (folder,) = server.recordings()
    before = (folder.path / "audio.wav").read_bytes()
    shown = siprec(tmp_path, "show", folder.session_id[-6:])
    assert shown.returncode == 0
    assert "Alice" in shown.stdout
    assert "▕" in shown.stdout
    assert folder.session_id[-8:] in siprec(tmp_path, "ls").stdout
    assert siprec(tmp_path, "verify", folder.session_id).returncode == 0
    assert siprec(tmp_path, "render", folder.session_id).returncode == 0
    assert (folder.path / "audio.wav").read_bytes() == before
    (folder.path / "audio.wav").write_bytes(b"x")
    assert siprec(tmp_path, "verify", folder.session_id).returncode == 1
    assert siprec(tmp_path, "show", "nothing").returncode == 1


def test_help_teaches(tmp_path: Path) -> None:
    for command in ("serve", "demo", "call", "ls", "show", "render", "verify", "check"):
        found = siprec(tmp_path, command, "--help")
        assert found.returncode == 0
        assert len(found.stdout.splitlines()) > 5


def test_check_names_values_and_origins(tmp_path: Path) -> None:
    found = siprec(tmp_path, "check", SIP_PORT="5099", HTTP_TOKEN="hunter2", COLUMNS="200")
    assert found.returncode == 0
    assert "hunter2" not in found.stdout
    (line,) = (each for each in found.stdout.splitlines() if each.startswith("SIP_PORT"))
    assert line.split() == ["SIP_PORT", "5099", "environment"]
