"""SIPp as the SRC of whole calls: the file holds what it sent, sample by sample, and tshark agrees."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest
from tests.interop import media
from tests.interop.media import Arrived, Voice
from tests.support.server import COMMAND, serving
from tests.support.sipp import Run, Sipp, free_ports

TSHARK = shutil.which("tshark")

ALICE = Voice(
    media.source(75, seed=1), 0, 0xA11CE, lost=frozenset({20, 21, 60}), twice=frozenset({30}), late=frozenset({40})
)
BOB = Voice(media.source(75, seed=2), 8, 0xB0B, lost=frozenset({50}))
LATE = Voice(media.source(40, seed=3), 8, 0x1A7E)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A call that SIPp made on a server of its own, after the server is gone."""

    run: Run
    folder: RecordingFolder

    @property
    def manifest(self) -> Manifest:
        return self.folder.read()

    @property
    def captures(self) -> list[Path]:
        return sorted(self.folder.path.glob("parts/*/capture-*.pcap"))

    def ports(self) -> dict[int, int]:
        """RTP port of each channel."""
        (control,) = self.folder.path.glob("parts/*/part.json")
        return {each["channel"]: each["port"] for each in json.loads(control.read_bytes())["streams"]}

    def arrived(self, channel: int) -> Arrived:
        return media.arrived(self.captures, self.ports()[channel])

    def audio(self) -> media.Samples:
        """(frames, channels)"""
        audio, rate = soundfile.read(self.folder.path / "audio.wav", dtype="int16", always_2d=True)
        assert rate == 8000
        result: media.Samples = audio
        return result

    def assert_samples(self, channel: int, law: str) -> Arrived:
        """The channel is what the packets that arrived say, each in its place, and silence everywhere else."""
        arrived, heard = self.arrived(channel), self.audio()[:, channel]
        start = media.start_of(arrived, law, heard)
        assert start > -media.SAMPLES_PER_PACKET
        np.testing.assert_array_equal(heard, arrived.expected(law, len(heard), start))
        return arrived


def record(player: Sipp, root: Path, scenario: str, *, transport: str, keys: dict[str, str], narrow: bool) -> Recorded:
    """One call on a server of its own; `narrow`: with two port pairs, as scenarios with two-ports need it."""
    low = free_ports(4) if narrow else 10_000
    ports = {"RTP_PORT_MIN": str(low), "RTP_PORT_MAX": str(low + 3), "MAX_SESSIONS": "1"} if narrow else {}
    root.mkdir()
    with serving(root, CAPTURE_KEEP="always", **ports) as server:
        run = player.run(scenario, server.port, transport=transport, keys=keys)
        assert run.code == 0, run.explain()
        server.wait_for("recording ready")
        (folder,) = server.recordings()
        server.stop()
    return Recorded(run, folder)


@pytest.fixture(scope="module")
def calls(player: Sipp, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Recorded]]:
    """All calls of this module, made at the same time."""
    root = tmp_path_factory.mktemp("audio")
    talk = root / "talk.ulaw"
    talk.write_bytes(media.source(200, seed=4).tobytes())
    plans = {f"mixed {each}": ("basic", each, {"audio": str(talk)}, False) for each in ("udp", "tcp")}
    if media.raw_sockets():
        both = captures(root, "both", ALICE.datagrams(), BOB.datagrams())
        late = captures(root, "late", [(0, media.KEEP_ALIVE)], LATE.datagrams()) | {"audio": str(talk)}
        plans |= {f"two {each}": ("two-streams", each, both, True) for each in ("udp", "tcp")}
        plans["late"] = ("late-stream", "udp", late, True)
    with ThreadPoolExecutor(len(plans)) as pool:
        futures = {
            name: pool.submit(
                record, player, root / name, scenario, transport=transport, keys=keys, narrow=narrow
            )
            for name, (scenario, transport, keys, narrow) in plans.items()
        }  # fmt: skip
        yield {name: future.result() for name, future in futures.items()}


def captures(root: Path, name: str, first: list[tuple[int, bytes]], second: list[tuple[int, bytes]]) -> dict[str, str]:
    return {
        f"{order}-capture": media.write_capture(
            root / f"{name}-{order}.pcap", first, second, falling=order == "falling"
        )
        for order in ("rising", "falling")
    }


def call(calls: dict[str, Recorded], name: str) -> Recorded:
    if name not in calls:
        pytest.skip("play_pcap_audio of SIPp needs raw sockets (CAP_NET_RAW)")
    return calls[name]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_one_mixed_stream_is_recorded_sample_by_sample(calls: dict[str, Recorded], transport: str) -> None:
    found = call(calls, f"mixed {transport}")
    manifest = found.manifest
    assert (manifest.state, manifest.verdict, manifest.gaps) == ("ended", "ok", [])
    assert [each.name for each in manifest.participants] == ["Alice", "Bob"]
    assert [(each.label, each.participant, each.codec) for each in manifest.channels] == [
        ("96", "Alice, Bob", "PCMU/8000")
    ]
    assert manifest.dialogs[0]["transport"] == transport
    arrived = found.assert_samples(0, "PCMU")
    assert b"".join(arrived.payloads) == media.source(200, seed=4).tobytes()[: 160 * len(arrived.payloads)]
    assert manifest.channels[0].packets == len(arrived.payloads) > 40
    assert manifest.channels[0].ssrcs == [arrived.ssrc]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_two_streams_with_loss_are_recorded_sample_by_sample(calls: dict[str, Recorded], transport: str) -> None:
    found = call(calls, f"two {transport}")
    manifest = found.manifest
    assert (manifest.state, manifest.verdict) == ("ended", "gaps")
    assert [(each.label, each.participant, each.ssrcs) for each in manifest.channels] == [
        ("96", "Alice", [ALICE.ssrc]),
        ("97", "Bob", [BOB.ssrc]),
    ]
    assert [(each.packets, each.lost, each.duplicate) for each in manifest.channels] == [(72, 3, 1), (74, 1, 0)]
    assert manifest.channels[0].reordered == 1
    for channel, (voice, law) in enumerate([(ALICE, "PCMU"), (BOB, "PCMA")]):
        arrived = found.assert_samples(channel, law)
        numbers = [int(place) // media.SAMPLES_PER_PACKET for place in arrived.places]
        assert numbers == [each for each in range(75) if each not in voice.lost]
        said = media.decode(voice.octets.tobytes(), law)
        heard = np.concatenate([media.decode(each, law) for each in arrived.payloads])
        np.testing.assert_array_equal(heard, said.reshape(75, -1)[numbers].ravel())
    assert [(each.channel, each.length, each.cause) for each in manifest.gaps] == [
        (0, 0.04, "loss"),
        (1, 0.02, "loss"),
        (0, 0.02, "loss"),
    ]


def test_a_stream_that_joins_late_begins_late_on_a_channel_of_its_own(calls: dict[str, Recorded]) -> None:
    found = call(calls, "late")
    manifest = found.manifest
    assert (manifest.state, manifest.verdict, manifest.gaps) == ("ended", "ok", [])
    assert [(each.label, each.participant) for each in manifest.channels] == [("96", "Alice"), ("97", "Bob")]
    assert [each.lost for each in manifest.channels] == [0, 0]
    assert manifest.channels[1].packets == 40
    arrived, heard = found.arrived(1), found.audio()[:, 1]
    found.assert_samples(1, "PCMA")
    assert b"".join(arrived.payloads) == LATE.octets.tobytes()
    assert 0.75 <= media.start_of(arrived, "PCMA", heard) / 8000 < 2.0
    found.assert_samples(0, "PCMU")


def tshark(*arguments: str | Path) -> str:
    if TSHARK is None:
        pytest.skip("tshark is not installed (Debian: apt install tshark)")
    found = subprocess.run([TSHARK, "-n", *map(str, arguments)], capture_output=True, text=True, timeout=50, check=True)
    return found.stdout


def test_tshark_reads_the_kept_capture(calls: dict[str, Recorded]) -> None:
    found = call(calls, "two udp")
    (capture,) = found.captures
    ports = found.ports()
    as_rtp = [part for port in ports.values() for part in ("-d", f"udp.port=={port},rtp")]
    table = tshark("-r", capture, *as_rtp, "-q", "-z", "rtp,streams")
    rows = [line.split() for line in table.splitlines() if "0x" in line]
    streams = {int(row[row.index(ssrc)], 16): row for row in rows for ssrc in row if ssrc.startswith("0x")}
    for channel, voice in enumerate((ALICE, BOB)):
        row = streams[voice.ssrc]
        assert str(ports[channel]) in row
        assert str(len(voice.datagrams())) in row
    assert len(streams) == 2
    checked = ["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    wrong = "_ws.malformed || ip.checksum.status == 0 || udp.checksum.status == 0"
    assert tshark("-r", capture, *as_rtp, *checked, "-Y", wrong) == ""
    every = tshark("-r", capture, *as_rtp, *checked, "-T", "fields", "-e", "ip.checksum.status", "-e", "rtp.version")
    assert set(every.split("\n")) == {"1\t2", ""}


@pytest.mark.parametrize("name", ["mixed udp", "two udp", "late"])
def test_a_second_rendering_of_the_kept_capture_gives_the_same_bytes(calls: dict[str, Recorded], name: str) -> None:
    found = call(calls, name)
    audio = found.folder.path / "audio.wav"
    before, judged = audio.read_bytes(), found.manifest.verdict
    audio.unlink()
    again = subprocess.run(
        [*COMMAND, "render", str(found.folder.path)], capture_output=True, text=True, timeout=50, check=False
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert audio.read_bytes() == before
    assert found.manifest.verdict == judged
