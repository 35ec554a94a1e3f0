"""SRTP calls (RFC 4568 keys) end to end: our own client, a real server, and what lies in the folder."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from siprec.archive.manifest import Manifest
from siprec.client import media
from siprec.client.call import LiveCall
from siprec.client.options import CallResult
from siprec.client.tracks import tracks
from siprec.media import part as media_part
from siprec.rtp import packets
from siprec.rtp.codecs import LAW
from siprec.sdp.crypto import parse as parse_crypto
from siprec.sdp.model import parse as parse_sdp
from tests.integration.test_rtcp import reported
from tests.support.calls import live
from tests.support.certificates import Authority
from tests.support.server import Server, serving

SECONDS = 1.5


async def whole(call: LiveCall, seconds: float = SECONDS) -> CallResult:
    await call.run(seconds)
    return await call.bye()


def keys_of(call: LiveCall) -> list[str]:
    """All keys of a call as they were in SDP, the client's and the server's."""
    ours = [each.crypto or "" for each in call.scene.channels]
    theirs = [line for each in parse_sdp(call.result.answer or "").media for line in each.crypto]
    return [parse_crypto(line).key for line in ours + theirs]


def finished(server: Server) -> tuple[Path, Manifest]:
    server.wait_for("recording ready")
    (folder,) = server.recordings()
    return folder.path, folder.read()


def assert_bit_exact(folder: Path, call: LiveCall, seconds: float) -> None:
    """Each channel holds, sample for sample, what its speaker's payloads decode to."""
    audio, rate = soundfile.read(folder / "audio.wav", dtype="int16")
    assert rate == 8000
    for channel, track in enumerate(tracks(call.options.duration, codec="PCMU", speakers=2, seed=1)):
        payload = b"".join(track.payloads[: int(seconds / 0.02)])
        expected = LAW["PCMU"][np.frombuffer(payload, np.uint8)]
        heard = np.ascontiguousarray(audio[:, channel])
        assert expected.tobytes() in heard.tobytes()


@pytest.mark.parametrize("suite", ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_256_GCM"])
async def test_the_audio_comes_through_to_the_bit(tmp_path: Path, suite: str) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always") as server:
        async with live(server, srtp=suite, duration=10.0) as call:
            result = await whole(call)
        folder, manifest = finished(server)
        assert manifest.verdict == "ok", manifest.verdict_reason
        assert [each.packets for each in manifest.channels] == [each.counts.sent for each in result.streams]
        assert manifest.refused == []
        assert_bit_exact(folder, call, SECONDS - 0.2)
        (control,) = folder.glob("parts/*/part.json")
        assert media_part.load(control.read_bytes()).decrypted


async def test_over_tls_nobody_is_warned(tmp_path: Path) -> None:
    ours = Authority(tmp_path / "ca").issue("recorder")
    tls = {"SIP_TLS_PORT": "0", "SIP_TLS_CERT": str(ours.certificate), "SIP_TLS_KEY": str(ours.key)}
    with serving(tmp_path, **tls) as server:
        target = server.wait_for("listening", where=lambda line: line["transport"] == "tls")["sip"]
        async with live(server, target=target, transport="tls", srtp="AEAD_AES_256_GCM") as call:
            assert (await whole(call, 0.5)).bye_status == 200
        folder, manifest = finished(server)
        assert manifest.verdict == "ok"
        assert not [each for each in server.log if each["event"] == "SRTP keys come without TLS"]
        assert "srtp-keys-in-clear" not in (folder / "events.jsonl").read_text()


async def test_no_key_is_written_anywhere(tmp_path: Path) -> None:
    with serving(tmp_path, CAPTURE_KEEP="always", LOG_LEVEL="debug") as server:
        keys: list[str] = []
        for _ in range(2):
            async with live(server, srtp="AES_CM_128_HMAC_SHA1_80") as call:
                await whole(call, 0.3)
                keys += keys_of(call)
            server.wait_for("recording ready")
        assert len(set(keys)) == 8
        warned = [each for each in server.log if each["event"] == "SRTP keys come without TLS"]
        assert len(warned) == 1, "once for each source"
        for folder in server.recordings():
            assert (folder.path / "events.jsonl").read_text().count("srtp-keys-in-clear") == 1
        log = "\n".join(map(str, server.log)).encode()
    found = [log, *(each.read_bytes() for each in tmp_path.rglob("*") if each.is_file())]
    for key in keys:
        clear = base64.b64decode(key)
        for form in (key.encode(), clear, clear.hex().encode(), clear[:16], clear[:16].hex().encode()):
            assert not [each for each in found if form in each]
    assert (tmp_path / ".state" / "secret").stat().st_mode & 0o777 == 0o600


async def test_a_worker_that_dies_takes_no_key_with_it(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        async with live(server, srtp="AES_CM_128_HMAC_SHA1_80", duration=10.0) as call:
            server.wait_for("ready to record")
            await call.run(0.6)
            server.kill_worker()
            await call.run(2.0)
            result = await call.bye()
        folder, manifest = finished(server)
        assert [each.packets for each in manifest.channels] == [each.counts.sent for each in result.streams]
        assert manifest.refused == []
        assert_bit_exact(folder, call, 2.0)


async def test_forged_packets_are_counted_and_the_call_lives(tmp_path: Path) -> None:
    forged = [
        packets.build(0, number, timestamp=160 * number, ssrc=7, payload=os.urandom(170)) for number in range(1000)
    ]
    with serving(tmp_path) as server:
        async with live(server, srtp="AES_CM_128_HMAC_SHA1_80", duration=10.0) as call:
            await call.run(0.4)
            for each in forged:
                call.streams[0].ports.rtp.send(each)
            result = await whole(call, 0.8)
        folder, manifest = finished(server)
        assert (result.bye_status, result.ended_by) == (200, "us")
        assert [each.packets for each in manifest.channels] == [each.counts.sent for each in result.streams]
        assert [(each.channel, each.reason, each.packets) for each in manifest.refused] == [(0, "srtp_auth", 1000)]
        assert_bit_exact(folder, call, 1.0)


async def test_reports_are_srtcp_both_ways(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "REPORT_INTERVAL", 0.25)
    with serving(tmp_path) as server:
        async with live(server, srtp="AEAD_AES_128_GCM", duration=60.0) as call:
            await call.answer()
            block = await reported(call.streams[0])
            assert block.ssrc == call.streams[0].ssrc
            assert block.last_sr > 0, "the server has read our sender reports"
            await call.bye()
        _, manifest = finished(server)
        assert [each.sent for each in manifest.channels] == [each.packets for each in manifest.channels]


async def test_streams_go_on_under_their_keys_in_a_new_dialog(tmp_path: Path) -> None:
    """An SRC that comes back keeps its keys and its packet numbers: the new leg joins late."""
    with serving(tmp_path) as server:
        async with live(server, srtp="AES_CM_128_HMAC_SHA1_80", duration=10.0) as call:
            for stream in call.streams:
                stream.sequence = 65_500  # rolls over before the new leg joins
            await call.run(1.2)
            heir = call.client.take_over(call, call.options, replaces=True)
            await heir.answer()
            result = await whole(heir, 1.0)
        _, manifest = finished(server)
        assert [each.how for each in manifest.recoveries] == ["replaces"]
        assert manifest.refused == []
        assert [each.packets for each in manifest.channels] == [each.counts.sent for each in result.streams]
