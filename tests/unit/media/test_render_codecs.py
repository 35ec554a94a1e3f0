"""Codecs other than G.711, and several rates in one recording."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
from G722 import G722
from numpy.typing import NDArray

from siprec.media.part import PayloadFormat
from siprec.media.render import render
from siprec.media.render.plane import HALF_TAPS, upsample
from siprec.rtp.codecs import opus_samples
from tests.support import captures
from tests.support.captures import OPUS, PCMU, SECOND, Channel, Folder, Sender, Sent, law_payloads, payloads, tone


def speech(seconds: float, rate: int) -> NDArray[np.int16]:
    """Sound that correlates with itself at one place only: a chirp that swells."""
    time = np.arange(round(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * (200 * time + 60 * time**2)) * (0.4 + 0.3 * np.sin(2 * np.pi * 1.3 * time))
    samples: NDArray[np.int16] = np.rint(wave * 20_000).astype(np.int16)
    return samples


def correlation(decoded: NDArray[np.int16], source: NDArray[np.int16], *, most: int) -> tuple[float, int]:
    """The best correlation of the two over delays of up to `most` samples, and that delay."""
    best = (-1.0, 0)
    for delay in range(most):
        size = min(len(source), len(decoded) - delay)
        value = float(np.corrcoef(decoded[delay : delay + size], source[:size])[0, 1])
        best = max(best, (value, delay))
    return best


def opus_packets(samples: NDArray[np.int16], rate: int) -> list[bytes]:
    """Encoded by libsndfile, taken out of the Ogg pages it makes."""
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="OGG", subtype="OPUS")
    data, place, found, open_packet = file.getvalue(), 0, list[bytes](), b""
    while place < len(data):
        count = data[place + 26]
        lacing = data[place + 27 : place + 27 + count]
        body = place + 27 + count
        for size in lacing:
            open_packet += data[body : body + size]
            body += size
            if size < 255:
                found.append(open_packet)
                open_packet = b""
        place = body
    return found[2:]  # without OpusHead and OpusTags


def opus_sent(packets: list[bytes], **sender: int) -> list[Sent]:
    heads = np.array([list(packet[:2].ljust(2, b"\0")) for packet in packets], np.uint8)
    ticks = opus_samples(heads[:, 0], heads[:, 1], np.array([len(packet) for packet in packets]))
    source = Sender(payload_type=111, **sender)
    sent = []
    for packet, samples in zip(packets, ticks.tolist(), strict=True):
        source.ticks, source.pace_ns = samples, samples * SECOND // 48_000
        sent += source.send([packet])
    return sent


def test_g722_keeps_its_state_over_the_stream(tmp_path: Path) -> None:
    source = speech(10, 16_000)
    encoded = np.frombuffer(G722(16_000, 64_000).encode(source), np.uint8)
    channel = Channel(formats=(captures.G722,))
    rendering = render(
        [Folder(channels=[channel]).write(tmp_path / "p", Sender(payload_type=9).send(payloads(encoded)))]
    )
    decoded = np.concatenate(list(rendering.blocks()))[:, 0]
    assert (rendering.rate, decoded.size) == (16_000, 160_000)
    assert (decoded == np.array(G722(16_000, 64_000).decode(encoded.tobytes()), np.int16)).all()
    value, delay = correlation(decoded, source, most=60)
    assert value > 0.99
    assert delay < 40


def test_opus_lies_where_its_timestamps_say(tmp_path: Path) -> None:
    source = speech(10, 48_000)
    sent = opus_sent(opus_packets(source, 48_000))
    folder = Folder(channels=[Channel(formats=(OPUS,))], end=11 * SECOND)
    rendering = render([folder.write(tmp_path / "p", sent)])
    decoded = np.concatenate(list(rendering.blocks()))[:, 0]
    assert (rendering.rate, decoded.size) == (48_000, 11 * 48_000)
    value, delay = correlation(decoded[:480_000], source, most=1000)
    assert value > 0.99
    assert delay == 312  # the pre-skip of libopus, which RTP does not take off


def test_lost_opus_is_silence_and_moves_nothing(tmp_path: Path) -> None:
    source = speech(10, 48_000)
    sent = opus_sent(opus_packets(source, 48_000))
    folder = Folder(channels=[Channel(formats=(OPUS,))], end=11 * SECOND)
    whole = np.concatenate(list(render([folder.write(tmp_path / "whole", sent)]).blocks()))[:, 0]
    rendering = render([folder.write(tmp_path / "holed", [*sent[:200], *sent[220:]])])
    holed = np.concatenate(list(rendering.blocks()))[:, 0]
    begin = (sent[200].timestamp - sent[0].timestamp, sent[220].timestamp - sent[0].timestamp)
    assert (holed[: begin[0]] == whole[: begin[0]]).all()
    assert not holed[begin[0] : begin[1]].any()
    settled = begin[1] + 9600
    assert np.corrcoef(holed[settled:480_000], whole[settled:480_000])[0, 1] > 0.999
    assert rendering.report.channels[0].lost == 20


def test_broken_opus_packets_cost_only_themselves(tmp_path: Path) -> None:
    packets = opus_packets(speech(5, 48_000), 48_000)
    sent = opus_sent(packets)
    broken = {10: b"", 20: bytes([0xFF, 0x00]), 30: b"\xff\x7f" * 20, 40: bytes([0x02, 0xFF])}
    damaged = [
        Sent(each.at, broken.get(index, each.payload), each.sequence, each.timestamp, payload_type=111)
        for index, each in enumerate(sent)
    ]
    rendering = render([Folder(channels=[Channel(formats=(OPUS,))], end=5 * SECOND).write(tmp_path / "p", damaged)])
    decoded = np.concatenate(list(rendering.blocks()))[:, 0].reshape(-1, 960)
    silent = set(np.flatnonzero(~decoded[: len(packets) - 1].any(axis=1)).tolist())
    assert silent >= set(broken)
    assert silent - set(broken) <= {0}


@pytest.mark.parametrize(("rate", "payload_type"), [(8000, 97), (16_000, 98), (44_100, 11)])
def test_l16_is_exact(tmp_path: Path, rate: int, payload_type: int) -> None:
    ticks = rate // 50
    source = np.random.default_rng(3).integers(-32768, 32767, ticks * 500, dtype=np.int16, endpoint=True)
    encoded = source.astype(">i2").view(np.uint8)
    channel = Channel(formats=(PayloadFormat(payload_type, "L16", rate),))
    sent = Sender(payload_type=payload_type, ticks=ticks).send(payloads(encoded, 2 * ticks))
    rendering = render([Folder(channels=[channel]).write(tmp_path / "p", sent)])
    assert rendering.rate == rate
    assert (np.concatenate(list(rendering.blocks()))[:, 0] == source).all()


def test_stereo_l16_becomes_one_channel(tmp_path: Path) -> None:
    pair = np.tile(np.array([1000, 3000], ">i2"), 160 * 500).view(np.uint8)
    channel = Channel(formats=(PayloadFormat(97, "L16", 8000, 2),))
    sent = Sender(payload_type=97).send(payloads(pair, 640))
    samples = np.concatenate(list(render([Folder(channels=[channel]).write(tmp_path / "p", sent)]).blocks()))
    assert (samples == 2000).all()


def test_the_file_has_the_highest_rate_that_came(tmp_path: Path) -> None:
    narrow, wide = tone(10, rate=8000, hertz=600), speech(10, 16_000)
    encoded = np.frombuffer(G722(16_000, 64_000).encode(wide), np.uint8)
    folder = Folder(channels=[Channel(formats=(PCMU, OPUS)), Channel(formats=(captures.G722,), port=10_002)])
    sent = Sender().send(law_payloads(narrow)) + Sender(ssrc=2, port=10_002, payload_type=9).send(payloads(encoded))
    rendering = render([folder.write(tmp_path / "p", sent)])
    samples = np.concatenate(list(rendering.blocks()))
    assert (rendering.rate, samples.shape) == (16_000, (160_000, 2))  # Opus was negotiated, but never came
    expected = tone(10, rate=16_000, hertz=600)
    inside = slice(100, -100)
    error = samples[inside, 0].astype(np.float64) - expected[inside]
    assert 10 * np.log10((expected[inside].astype(np.float64) ** 2).mean() / (error**2).mean()) > 35


def test_one_channel_may_change_its_rate(tmp_path: Path) -> None:
    narrow, wide = tone(5, rate=8000, hertz=600), tone(5, rate=16_000, hertz=600)
    encoded = np.frombuffer(G722(16_000, 64_000).encode(wide), np.uint8)
    sender = Sender()
    sent = sender.send(law_payloads(narrow))
    sender.payload_type = 9
    sent += sender.send(payloads(encoded))
    channel = Channel(formats=(PCMU, captures.G722))
    samples = np.concatenate(list(render([Folder(channels=[channel]).write(tmp_path / "p", sent)]).blocks()))[:, 0]
    assert samples.size == 160_000
    for part in (samples[1000:79_000], samples[81_000:159_000]):
        assert np.abs(part).max() == pytest.approx(8000, rel=0.05)
        spectrum = np.abs(np.fft.rfft(part.astype(np.float64)))
        assert int(spectrum.argmax()) * 16_000 / part.size == pytest.approx(600, abs=1)


@pytest.mark.parametrize(("source", "target"), [(8000, 16_000), (8000, 48_000), (16_000, 48_000), (44_100, 48_000)])
def test_a_resampled_sine_stays_a_sine(source: int, target: int) -> None:
    time = (np.arange(source + 2 * HALF_TAPS) - HALF_TAPS) / source
    raised = upsample(np.sin(2 * np.pi * 1000 * time).astype(np.float32), source, target)
    assert raised.size == target
    error = raised - np.sin(2 * np.pi * 1000 * np.arange(target) / target)
    assert np.abs(error).max() < 1e-3
