"""A call of our own client into a real server, and what lies in the folder afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from siprec.client.tracks import tracks
from tests.support.calls import place
from tests.support.server import serving


def correlation(heard: NDArray[np.float64], sent: NDArray[np.float64]) -> float:
    """The best normalised correlation of `sent` with `heard`, which may begin later: the machine was busy."""

    def at(shift: int) -> float:
        part = heard[shift : shift + len(sent)]
        scale = float(np.linalg.norm(part) * np.linalg.norm(sent))
        return float(part @ sent[: len(part)]) / max(1e-9, scale)

    return max(at(shift) for shift in range(max(0, len(heard) - len(sent)) + 160))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_two_voices_end_up_on_two_channels(tmp_path: Path, transport: str) -> None:
    with serving(tmp_path) as server:
        result = await place(server, transport=transport, duration=4.0)
        assert (result.status, result.bye_status) == (200, 200)
        server.wait_for("recording ready")
        (folder,) = server.recordings()
    manifest = folder.read()
    assert (manifest.state, manifest.verdict) == ("ended", "ok")
    assert [each.name for each in manifest.participants] == ["Alice", "Bob"]
    assert [each.participant for each in manifest.channels] == ["Alice", "Bob"]
    assert [each.packets for each in manifest.channels] == [each.counts.sent for each in result.streams]
    audio, rate = soundfile.read(folder.path / "audio.wav", dtype="float64")
    assert (rate, audio.shape[1]) == (8000, 2)
    assert len(audio) >= 160 * max(each.counts.sent for each in result.streams)
    for channel, track in enumerate(tracks(4.0, codec="PCMU", speakers=2, seed=1)):
        assert correlation(audio[:, channel], track.frames.ravel().astype(np.float64)) > 0.99
    assert {each.name for each in manifest.files} == {"audio.wav", "events.jsonl", "metadata/0001.xml"}
    assert not (folder.path / "parts").exists()
    events = [json.loads(line)["event"] for line in (folder.path / "events.jsonl").read_text().splitlines()]
    assert events == ["invite", "metadata", "ack", "ended"]


async def test_what_policy_does_not_name_reaches_no_file(tmp_path: Path) -> None:
    with serving(tmp_path, METADATA_KEEP="names") as server:
        await place(server, transport="udp", duration=0.5)
        server.wait_for("recording ready")
        (folder,) = server.recordings()
    assert [each.participant for each in folder.read().channels] == ["Alice", "Bob"]
    written = {each.name: each.read_bytes() for each in folder.path.rglob("*") if each.is_file()}
    assert b"Alice" in written["0001.xml"]
    assert not [name for name, data in written.items() if b"alice@example.com" in data]
