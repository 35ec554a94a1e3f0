"""A real server on a disk that is full: what becomes of the packets that wait in its memory when it is replaced."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from tests.support.calls import live
from tests.support.disk import fill, small_disk
from tests.support.server import serving

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")


@pytest.mark.parametrize("workers", ["0", "1"])
async def test_an_upgrade_waits_for_the_disk(tmp_path: Path, workers: str) -> None:
    root = tmp_path / "recordings"
    root.mkdir()
    with small_disk(root, 32), serving(root, MEDIA_WORKERS=workers, CAPTURE_KEEP="always") as server:
        async with live(server, duration=60.0) as call:
            filler = await asyncio.to_thread(fill, root)
            await asyncio.to_thread(server.wait_for, "capture in trouble")
            worker = server.worker
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(server.wait_for, "handing over waits for the disk")
            filler.unlink()
            await asyncio.to_thread(server.wait_for, "ready to record")
            assert server.worker != worker
            assert (await call.bye()).bye_status == 200
        told = await asyncio.to_thread(server.wait_for, "recording ready")
        assert told["verdict"] == "ok", told["reason"]
        (recording,) = server.recordings()
        manifest = recording.read()
        assert [each.lost for each in manifest.channels] == [0, 0]
        assert manifest.gaps == []
        assert not [line for line in server.log if line["event"] == "worker died"]
