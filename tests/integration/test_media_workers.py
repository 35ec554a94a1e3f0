"""Recording with processes that capture beside the one that speaks SIP. What their deaths cost is in test_failover."""

from __future__ import annotations

import asyncio
from pathlib import Path

from siprec.archive.folder import RecordingFolder
from siprec.media.pcap import PcapReader
from tests.support.calls import place
from tests.support.server import Server, serving

CALLS = 4
SECONDS = 1.0
PACKETS = 45


async def recorded(root: Path, workers: int) -> list[RecordingFolder]:
    root.mkdir()
    with serving(root, MEDIA_WORKERS=str(workers), CAPTURE_KEEP="always") as server:
        server.wait_for("ready to record")
        assert len(server.media_workers()) == workers
        results = await asyncio.gather(*(place(server, duration=SECONDS, seed=seed) for seed in range(1, CALLS + 1)))
        assert all(each.ok for each in results)
        for _ in results:
            assert server.wait_for("recording ready")["verdict"] == "ok"
        _expect_shared(server, workers)
        left = server.media_workers()
        assert server.stop() == 0
    assert not [pid for pid in left if Path(f"/proc/{pid}").exists()]
    return server.recordings()


def _expect_shared(server: Server, workers: int) -> None:
    """Every worker has read: a process tells what it has written (proc_pid_io)."""
    for pid in server.media_workers():
        written = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        assert int(written["wchar"]) > PACKETS * 2 * 172 * CALLS / workers


def heard(folders: list[RecordingFolder]) -> list[list[bytes]]:
    """What each channel of each call has said first, in order; the SRC's timer decides about the last packet."""
    found = []
    for folder in folders:
        said: dict[int, list[bytes]] = {}
        for path in (path for part in folder.parts() for path in part.captures()):
            for batch in PcapReader(path).batches():
                for begin, length, port in zip(batch.offset, batch.length, batch.port, strict=True):
                    if port % 2 == 0:
                        said.setdefault(int(port), []).append(batch.data[begin + 12 : begin + length].tobytes())
        assert all(len(each) >= PACKETS for each in said.values())
        found += [each[:PACKETS] for each in said.values()]
    return sorted(found)


async def test_two_workers_record_the_same_as_none(tmp_path: Path) -> None:
    apart = await recorded(tmp_path / "apart", 2)
    alone = await recorded(tmp_path / "alone", 0)
    assert len(heard(apart)) == 2 * CALLS
    assert heard(apart) == heard(alone)
    for folder in (*apart, *alone):
        manifest = folder.read()
        assert (manifest.verdict, manifest.gaps, manifest.refused) == ("ok", [], [])
        assert [each.lost for each in manifest.channels] == [0, 0]
