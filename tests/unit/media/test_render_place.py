"""Every packet that was delivered lies at its place, bit-exact, and all else is silence of the exact length."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.media.part import Mode, PayloadFormat
from siprec.media.render import Rendering, render
from siprec.media.render.report import MAX_PEAKS
from siprec.media.render.source import MAX_CHANNELS
from siprec.rtp.codecs import LAW
from tests.support.captures import (
    EVENTS,
    PCMA,
    PCMU,
    SECOND,
    Channel,
    Folder,
    Sender,
    Sent,
    network,
    noise,
    outage,
    payloads,
)

PACKET_NS = 20_000_000
MU, A = LAW["PCMU"], LAW["PCMA"]


def audio(rendering: Rendering) -> NDArray[np.int16]:
    """All blocks as one (frames, channels) array."""
    blocks = list(rendering.blocks())
    whole: NDArray[np.int16] = np.concatenate(blocks) if blocks else np.zeros((0, rendering.channels), np.int16)
    assert whole.shape == (rendering.frames, rendering.channels)
    return whole


def rendered(path: Path, packets: list[Sent | bytes] | list[Sent], folder: Folder | None = None) -> Rendering:
    return render([(folder or Folder()).write(path / "part", packets)])


def rounded(rendering: Rendering) -> list[tuple[float, float, str]]:
    return [(round(gap.start, 6), round(gap.length, 6), gap.cause) for gap in rendering.report.gaps]


@pytest.mark.parametrize("native", [False, True])
def test_what_fills_a_block_can_be_laid_over(tmp_path: Path, native: bool) -> None:
    sender = Sender()
    sent = []
    for size in (160, 80) * 850:  # 25 s: the second ten of them in one piece, of packets that are not of one length
        sender.ticks, sender.pace_ns = size, size * 125_000
        sent += sender.send([b"\x10" * size])
    back = next(index for index, each in enumerate(sent) if each.at > 20 * SECOND)
    sent[back] = replace(sent[back], timestamp=sent[back].timestamp - 3200, payload=b"\x90" * len(sent[back].payload))
    rendering = rendered(tmp_path, sent, Folder(end=25 * SECOND))
    heard = np.concatenate(list(rendering.blocks(native=native)))[:, 0]
    there = round((sent[back].at - 400_000_000) / 125_000)
    wanted = np.full(25 * 8000, 0x10, np.uint8)
    wanted[there : there + len(sent[back].payload)] = 0x90
    wanted[there + 3200 : there + 3200 + len(sent[back].payload)] = 0xFF
    assert (heard == (wanted if native else np.where(wanted == 0xFF, 0, MU[wanted]))).all()


def test_an_undisturbed_call_is_copied(tmp_path: Path) -> None:
    codes = noise(500)
    rendering = rendered(tmp_path, Sender().send(payloads(codes)))
    assert (rendering.rate, rendering.channels, rendering.frames, rendering.native) == (8000, 1, 80_000, "PCMU")
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert (np.concatenate(list(rendering.blocks(native=True)))[:, 0] == codes).all()
    (channel,) = rendering.report.channels
    assert (channel.packets, channel.lost, channel.duplicate, channel.reordered) == (500, 0, 0, 0)
    assert channel.codecs == ("PCMU/8000",)
    assert not rendering.report.gaps


def test_the_same_folder_gives_the_same_bytes(tmp_path: Path) -> None:
    arriving, _ = network(Sender().send(payloads(noise(500))), seed=2, loss=0.1, depth=5, jitter_ns=90_000_000)
    path = Folder().write(tmp_path / "part", arriving)
    first, second = render([path]), render([path])
    assert (audio(first) == audio(second)).all()
    assert (audio(first) == audio(first)).all()
    assert first.report == second.report


@pytest.mark.parametrize("seed", range(4))
def test_loss_duplicates_reordering_and_jitter(tmp_path: Path, seed: int) -> None:
    count = 1000
    codes = noise(count, seed=seed)
    sent = Sender(sequence=65_000, timestamp=2**32 - 40_000).send(payloads(codes))
    arriving, lost = network(sent, seed=seed, loss=0.05, duplicates=0.05, depth=10, jitter_ns=200_000_000)
    rendering = rendered(tmp_path, arriving, Folder(end=count * PACKET_NS + SECOND))
    samples = audio(rendering)[:, 0]
    expected = MU[codes].reshape(count, 160).copy()
    expected[sorted(lost)] = 0
    # the least delayed packet decides where the stream begins: at most a few ms of jitter remain in 20 s
    begin = int(np.flatnonzero(samples)[0])
    assert begin <= 160
    assert (samples[begin : begin + count * 160] == expected.reshape(-1)).all()
    assert not samples[begin + count * 160 :].any()
    assert abs(rendering.frames / 8000 - (count * 0.02 + 1)) <= 0.02
    (channel,) = rendering.report.channels
    assert (channel.packets, channel.lost) == (count - len(lost), len(lost))
    assert channel.duplicate == len(arriving) - (count - len(lost))
    tops, reordered, seen = -1, 0, set[int]()
    for each in arriving:
        number = (each.sequence - 65_000) % 65_536
        reordered += number < tops and number not in seen
        seen.add(number)
        tops = max(tops, number)
    assert channel.reordered == reordered
    missing = sum(gap.length for gap in rendering.report.gaps)
    assert missing == pytest.approx(len(lost) * 0.02)
    assert {gap.cause for gap in rendering.report.gaps} == {"loss"}
    assert 20 < channel.jitter_ms < 150


@pytest.mark.parametrize(("sequence", "timestamp"), [(65_500, 1000), (0, 2**32 - 8000), (65_535, 2**32 - 1)])
def test_both_counters_wrap(tmp_path: Path, sequence: int, timestamp: int) -> None:
    codes = noise(500)
    rendering = rendered(tmp_path, Sender(sequence=sequence, timestamp=timestamp).send(payloads(codes)))
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert rendering.report.channels[0].lost == 0


def test_a_new_ssrc_goes_on_in_the_same_channel(tmp_path: Path) -> None:
    codes = noise(500)
    first = Sender(ssrc=1)
    sent = first.send(payloads(codes)[:250])
    second = Sender(ssrc=2, sequence=7, timestamp=99, clock=first.clock)
    rendering = rendered(tmp_path, [*sent, *second.send(payloads(codes)[250:])])
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert rendering.report.channels[0].ssrcs == (1, 2)
    assert rendering.report.channels[0].packets == 500


@pytest.mark.parametrize("jump", [3600 * 8000, -3600 * 8000, 10_000, 2**31 - 1000])
def test_a_timestamp_that_jumps_alone_moves_nothing(tmp_path: Path, jump: int) -> None:
    codes = noise(500)
    sender = Sender(timestamp=2**30)
    sent = sender.send(payloads(codes)[:250])
    sender.timestamp += jump
    rendering = rendered(tmp_path, [*sent, *sender.send(payloads(codes)[250:])])
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert not rendering.report.gaps


def test_a_timestamp_that_jumps_there_and_back(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [
        replace(each, timestamp=each.timestamp + 28_800_000) if 200 <= index < 210 else each
        for index, each in enumerate(Sender().send(payloads(codes)))
    ]
    assert (audio(rendered(tmp_path, sent))[:, 0] == MU[codes]).all()


def test_a_sender_that_stood_still_on_hold_is_found_again(tmp_path: Path) -> None:
    codes = noise(400)
    sender = Sender()
    sent = sender.send(payloads(codes)[:200])
    sender.clock += 2 * SECOND  # time passes, timestamp and sequence number do not
    samples = audio(rendered(tmp_path, [*sent, *sender.send(payloads(codes)[200:])]))[:, 0]
    assert (samples[:32_000] == MU[codes[:32_000]]).all()
    assert not samples[32_000:48_000].any()
    assert (samples[48_000:] == MU[codes[32_000:]]).all()


def test_a_stall_with_a_burst_behind_it_moves_nothing(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [
        replace(each, at=max(each.at, 7 * SECOND)) if each.at > 4 * SECOND else each
        for each in Sender().send(payloads(codes))
    ]
    rendering = rendered(tmp_path, sent)
    assert (audio(rendering)[:, 0] == MU[codes]).all()


@pytest.mark.parametrize(("first", "last"), [(0, 500), (100, 150), (100, 110), (100, 103), (400, 500)])
@pytest.mark.parametrize("stood", [False, True])
def test_a_timestamp_that_stands_still_loses_no_audio(tmp_path: Path, first: int, last: int, *, stood: bool) -> None:
    codes = noise(500)
    sent = []
    for index, each in enumerate(Sender().send(payloads(codes))):
        if index >= last and stood:  # the sender's clock goes on from where it stood
            sent.append(replace(each, timestamp=each.timestamp - (last - first - 1) * 160))
        else:
            sent.append(replace(each, timestamp=50_000 + first * 160) if first <= index < last else each)
    rendering = rendered(tmp_path, sent)
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert not rendering.report.gaps


def test_packets_missing_where_a_timestamp_stands_still_are_a_gap(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [replace(each, timestamp=5) for each in Sender().send(payloads(codes))]
    rendering = rendered(tmp_path, [*sent[:100], *sent[110:]])
    expected = MU[codes].copy()
    expected[16_000:17_600] = 0
    assert (audio(rendering)[:, 0] == expected).all()
    assert rounded(rendering) == [(2.0, 0.2, "loss")]


def test_packets_that_are_said_twice_lie_once(tmp_path: Path) -> None:
    codes = noise(250)
    sent = [
        replace(each, sequence=2 * index + again, at=each.at + again)
        for index, each in enumerate(Sender().send(payloads(codes)))
        for again in range(2)
    ]
    samples = audio(rendered(tmp_path, sent))[:, 0]
    assert (samples[:40_000] == MU[codes]).all()
    assert not samples[40_000:].any()


def test_a_sequence_number_that_stands_still_loses_no_audio(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [replace(each, sequence=7) for each in Sender().send(payloads(codes))]
    twice = [replace(each, at=each.at + again) for each in sent for again in range(2)]
    rendering = rendered(tmp_path, twice)
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    (channel,) = rendering.report.channels
    assert (channel.packets, channel.lost, channel.duplicate) == (500, 0, 500)


def test_a_sequence_that_starts_anew_loses_nothing(tmp_path: Path) -> None:
    codes = noise(500)
    sender = Sender(sequence=30_000)
    sent = sender.send(payloads(codes)[:250])
    sender.sequence = 29_800  # 450 back: the numbers overlap with what was sent before
    rendering = rendered(tmp_path, [*sent, *sender.send(payloads(codes)[250:])])
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert (rendering.report.channels[0].lost, rendering.report.channels[0].duplicate) == (0, 0)


def test_the_law_may_change_packet_by_packet(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [replace(each, payload_type=8 * (index % 2)) for index, each in enumerate(Sender().send(payloads(codes)))]
    folder = Folder(channels=[Channel(formats=(PCMU, PCMA))])
    rendering = rendered(tmp_path, sent, folder)
    rows = codes.reshape(500, 160)
    expected = np.where(np.arange(500)[:, None] % 2, A[rows], MU[rows])
    assert (audio(rendering)[:, 0] == expected.reshape(-1)).all()
    assert rendering.native is None
    with pytest.raises(ValueError, match="one G.711 law"):
        next(rendering.blocks(native=True))


def test_a_stream_added_later_begins_with_silence(tmp_path: Path) -> None:
    early, late = noise(500, seed=1), noise(250, seed=2)
    folder = Folder(channels=[Channel(), Channel(port=10_002, since=5 * SECOND, label="2")])
    sent = Sender().send(payloads(early))
    added = Sender(ssrc=9, port=10_002, clock=5 * SECOND).send(payloads(late))
    rendering = rendered(tmp_path, [*sent, *added], folder)
    samples = audio(rendering)
    assert (samples[:, 0] == MU[early]).all()
    assert not samples[:40_000, 1].any()
    assert (samples[40_000:, 1] == MU[late]).all()
    assert not rendering.report.gaps
    assert rendering.report.channels[1].label == "2"


@pytest.mark.parametrize("mode", ["hold", "paused"])
def test_hold_by_sdp_and_pause_are_silence_and_gaps(tmp_path: Path, mode: str) -> None:
    codes = noise(500)
    phases = [(0, "active"), (4 * SECOND, mode), (6 * SECOND, "active"), (9 * SECOND, "closed")]
    folder = Folder(channels=[Channel(phases=phases)])  # type: ignore[arg-type]
    rendering = rendered(tmp_path, Sender().send(payloads(codes)), folder)
    expected = MU[codes].copy()
    expected[32_000:48_000] = 0
    expected[72_000:] = 0
    assert (audio(rendering)[:, 0] == expected).all()
    assert [(gap.start, gap.length, gap.cause) for gap in rendering.report.gaps] == [(4.0, 2.0, mode)]


def test_what_comes_while_the_metadata_alone_holds_is_heard(tmp_path: Path) -> None:
    codes = noise(250)
    phases: list[tuple[int, Mode]] = [(0, "active"), (2 * SECOND, "metadata-hold"), (8 * SECOND, "active")]
    sender = Sender()
    sent = sender.send(payloads(codes)[:150])  # a second of it after the hold began
    sender.pause(100)  # two in which nothing comes
    sent += sender.send(payloads(codes)[150:])  # a second before it ends, none after it
    rendering = rendered(tmp_path, sent, Folder(channels=[Channel(phases=phases)]))
    samples = audio(rendering)[:, 0]
    assert (samples[:24_000] == MU[codes[:24_000]]).all()
    assert not samples[24_000:40_000].any()
    assert (samples[40_000:56_000] == MU[codes[24_000:]]).all()
    assert rounded(rendering) == [(3.0, 2.0, "hold"), (7.0, 1.0, "hold")]


def test_silence_of_a_hold_by_metadata_has_its_whole_length(tmp_path: Path) -> None:
    phases: list[tuple[int, Mode]] = [(0, "active"), (4 * SECOND + 1, "metadata-hold"), (6 * SECOND + 2, "active")]
    sender = Sender()
    sent = sender.send(payloads(noise(150)))
    sender.pause(200)
    sent += sender.send(payloads(noise(150)))
    rendering = rendered(tmp_path, sent, Folder(channels=[Channel(phases=phases), Channel(port=10_002)]))
    assert [(gap.channel, gap.start, gap.length, gap.cause) for gap in rendering.report.gaps] == [
        (0, 4.000000001, 2.000000001, "hold")
    ]


def test_silence_suppression_is_no_gap_but_loss_is(tmp_path: Path) -> None:
    codes = noise(150)
    sender = Sender()
    sent = sender.send(payloads(codes)[:50])
    noise_packet = replace(Sender(sequence=sender.sequence, timestamp=sender.timestamp).send([b"\x40"])[0],
                           payload_type=13, at=sender.clock)  # fmt: skip
    sender.sequence += 1
    sender.pause(100)
    sent += [noise_packet, *sender.send(payloads(codes)[50:100])]
    sender.skip(3)
    sent += sender.send(payloads(codes)[100:])
    rendering = rendered(tmp_path, sent)
    samples = audio(rendering)[:, 0]
    assert (samples[:8000] == MU[codes[:8000]]).all()
    assert not samples[8000:24_000].any()
    assert (samples[24_000:32_000] == MU[codes[8000:16_000]]).all()
    assert (samples[32_480:40_480] == MU[codes[16_000:]]).all()
    assert rounded(rendering) == [(4.0, 0.06, "loss")]
    assert rendering.report.channels[0].lost == 3


def test_what_is_lost_before_a_silence_is_no_longer_than_its_packets(tmp_path: Path) -> None:
    sender = Sender()
    sent = sender.send(payloads(noise(50)))
    sender.skip(2)
    sender.pause(100)
    rendering = rendered(tmp_path, [*sent, *sender.send(payloads(noise(50)))])
    assert rounded(rendering) == [(1.0, 0.04, "loss")]


def test_keys_are_events_and_never_noise(tmp_path: Path) -> None:
    codes = noise(100)
    sender = Sender()
    sent = sender.send(payloads(codes)[:50])
    start = sender.timestamp
    for number in range(1, 11):
        payload = bytes([7, 0x80 if number >= 8 else 10]) + (160 * min(number, 8)).to_bytes(2, "big")
        sent.append(Sent(sender.clock, payload, sender.sequence, start, payload_type=101))
        sender.skip()
    sent += sender.send(payloads(codes)[50:])
    path = Folder(channels=[Channel(formats=(PCMU, EVENTS))]).write(tmp_path / "part", sent)
    samples = audio(render([path]))[:, 0]
    assert (samples[:8000] == MU[codes[:8000]]).all()
    assert not samples[8000:9600].any()
    assert (samples[9600:17_600] == MU[codes[8000:]]).all()
    (key,) = render([path]).report.keys
    assert (key.channel, round(key.start, 6), key.duration, key.key) == (0, 1.0, 0.16, "X")
    assert [each.key for each in render([path], mask_keys=False).report.keys] == ["7"]
    assert not render([path]).report.gaps


def test_a_codec_that_cannot_be_decoded_is_counted_and_named(tmp_path: Path) -> None:
    channel = Channel(formats=(PayloadFormat(18, "G729", 8000),))
    sent = Sender(payload_type=18).send([bytes(20)] * 500)
    rendering = rendered(tmp_path, sent, Folder(channels=[channel]))
    (report,) = rendering.report.channels
    assert (report.packets, report.undecodable, report.silent) == (500, ("G729/8000",), True)
    assert not audio(rendering).any()
    assert rendering.native is None


def test_a_silent_channel_is_told_from_one_that_speaks(tmp_path: Path) -> None:
    folder = Folder(channels=[Channel(), Channel(port=10_002)])
    quiet = Sender().send([b"\xff" * 160] * 500)
    loud = Sender(ssrc=2, port=10_002).send(payloads(noise(500)))
    report = rendered(tmp_path, [*quiet, *loud], folder).report
    assert [each.silent for each in report.channels] == [True, False]
    assert report.channels[0].peak_dbfs is None
    assert report.channels[1].peak_dbfs == pytest.approx(-0.2)
    assert len(report.channels[1].peaks) == 50
    assert max(report.channels[1].peaks) == 32_124


def test_losses_take_the_cause_of_the_outage_beside_them(tmp_path: Path) -> None:
    sender = Sender()
    sent = sender.send(payloads(noise(100)))
    sender.skip(10)
    sent += sender.send(payloads(noise(100)))
    sender.skip(5)
    sent += sender.send(payloads(noise(100)))
    folder = Folder(outages=[outage(2 * SECOND, 2 * SECOND + 1, "kernel_drop")])
    rendering = rendered(tmp_path, sent, folder)
    assert rounded(rendering) == [(2.0, 0.2, "kernel_drop"), (4.2, 0.1, "loss")]


def test_a_call_without_packets_is_silence_of_its_length(tmp_path: Path) -> None:
    rendering = rendered(tmp_path, [])
    assert not audio(rendering).any()
    assert rendering.frames == 80_000
    assert rendering.report.channels[0].first_packet_ns is None


def test_packets_before_the_start_and_after_the_end_are_cut(tmp_path: Path) -> None:
    codes = noise(500)
    sent = Sender(clock=-SECOND).send(payloads(codes))
    rendering = rendered(tmp_path, sent, Folder(end=5 * SECOND))
    assert (audio(rendering)[:, 0] == MU[codes[8000:48_000]]).all()


@pytest.mark.parametrize(("index", "channels"), [(MAX_CHANNELS - 1, MAX_CHANNELS), (MAX_CHANNELS, MAX_CHANNELS)])
def test_no_more_channels_than_the_limit(tmp_path: Path, index: int, channels: int) -> None:
    described = [Channel(port=10_000 + 2 * number) for number in range(index + 1)]
    sent = Sender(port=10_000 + 2 * index).send(payloads(noise(50)))
    rendering = rendered(tmp_path, sent, Folder(channels=described, end=SECOND))
    assert rendering.channels == channels
    assert [each.packets for each in rendering.report.channels].count(50) == (index < MAX_CHANNELS)
    assert audio(rendering).any() == (index < MAX_CHANNELS)
    sentence = "50 packets of channels beyond 64 are in the capture only"
    assert rendering.report.left_out == (() if index < MAX_CHANNELS else (sentence,))


@pytest.mark.parametrize(("seconds", "peaks"), [(200, MAX_PEAKS), (201, 503)])
def test_no_more_peaks_than_the_limit(tmp_path: Path, seconds: int, peaks: int) -> None:
    sent = Sender(clock=(seconds - 1) * SECOND).send(payloads(noise(50)))
    (channel,) = rendered(tmp_path, sent, Folder(end=seconds * SECOND)).report.channels
    assert len(channel.peaks) == peaks
    assert (channel.peaks[0], channel.peaks[-1]) == (0, 32_124)


@pytest.mark.parametrize("payload_type", [13, 19])
def test_comfort_noise_is_silence_and_no_gap(tmp_path: Path, payload_type: int) -> None:
    codes = noise(500)
    sent = [replace(each, payload_type=payload_type, payload=b"\x40") if 100 <= index < 200 else each
            for index, each in enumerate(Sender().send(payloads(codes)))]  # fmt: skip
    rendering = rendered(tmp_path, sent)
    expected = MU[codes].copy()
    expected[16_000:32_000] = 0
    assert (audio(rendering)[:, 0] == expected).all()
    assert not rendering.report.gaps
    assert rendering.report.channels[0].codecs == ("PCMU/8000",)
    assert not rendering.report.channels[0].undecodable
