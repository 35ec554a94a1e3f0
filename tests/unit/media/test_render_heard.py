"""All that came is heard, or it is told how much is not, and why."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from siprec.media.render import Rendering, render
from siprec.media.render.report import ChannelReport
from siprec.media.render.scan import MAX_LAYERS
from siprec.rtp.codecs import LAW, encode_law
from tests.support.captures import OPUS, SECOND, START, Channel, Folder, Sender, Sent, noise, payloads

MU = LAW["PCMU"]


def rendered(path: Path, packets: list[Sent], folder: Folder | None = None) -> Rendering:
    arriving = sorted(packets, key=lambda each: each.at)
    return render([(folder or Folder()).write(path / "part", arriving)])


def channel(rendering: Rendering) -> ChannelReport:
    (found,) = rendering.report.channels
    return found


def samples(rendering: Rendering) -> NDArray[np.int16]:
    whole: NDArray[np.int16] = np.concatenate(list(rendering.blocks()))[:, 0]
    return whole


def test_all_of_an_undisturbed_call_is_heard(tmp_path: Path) -> None:
    found = channel(rendered(tmp_path, Sender().send(payloads(noise(500)))))
    assert (found.captured, found.unheard) == (10.0, 0.0)


@pytest.mark.parametrize("step", [-1, 1, 80])
def test_timestamps_that_hardly_move_are_told(tmp_path: Path, step: int) -> None:
    sent = [
        replace(each, timestamp=100_000 + index * step)
        for index, each in enumerate(Sender().send(payloads(noise(500))))
    ]
    found = channel(rendered(tmp_path, sent))
    assert found.captured == 10.0
    assert found.unheard > 4.0
    assert found.unheard_cause == ("RTP timestamps stood still" if step < 0 else "by their timestamps packets overlap")


def test_numbers_that_come_round_too_early_are_told(tmp_path: Path) -> None:
    sent = [replace(each, sequence=index % 20) for index, each in enumerate(Sender().send(payloads(noise(500))))]
    found = channel(rendered(tmp_path, sent))
    assert found.captured == 10.0
    assert found.unheard > 4.0
    assert found.unheard_cause == "sequence numbers came again"


def test_true_duplicates_are_not_missed(tmp_path: Path) -> None:
    sent = Sender().send(payloads(noise(400)))
    late = [replace(each, at=each.at + 100_000_000) for each in sent]
    found = channel(rendered(tmp_path, [*sent, *late]))
    assert (found.captured, found.unheard, found.duplicate) == (8.0, 0.0, 400)


def bursting(packets: int) -> list[Sent]:
    """So many packets at once, then 8 s of them at their pace."""
    sender = Sender()
    sent = [replace(each, at=index) for index, each in enumerate(sender.send(payloads(noise(packets))))]
    sender.clock = 0
    return [*sent, *sender.send(payloads(noise(400, seed=2)))]


def test_a_burst_begins_the_file_earlier(tmp_path: Path) -> None:
    rendering = rendered(tmp_path, bursting(25))
    found = channel(rendering)
    assert (found.captured, found.unheard) == (8.5, 0.0)
    assert rendering.start_ns == START - 500_000_000
    assert (samples(rendering)[:4000] == MU[noise(25)]).all()


def test_a_call_of_one_burst_is_whole(tmp_path: Path) -> None:
    sent = [replace(each, at=index) for index, each in enumerate(Sender().send(payloads(noise(400))))]
    found = channel(rendered(tmp_path, sent, Folder(end=SECOND)))
    assert (found.captured, found.unheard) == (8.0, 0.0)


def test_what_lies_even_further_back_is_told(tmp_path: Path) -> None:
    found = channel(rendered(tmp_path, bursting(550)))
    assert found.unheard == pytest.approx(1.0, abs=0.04)
    assert found.unheard_cause == "it came ahead of its time and lies outside of the file"


def test_what_came_before_the_answer_is_not_missed(tmp_path: Path) -> None:
    sent = Sender(clock=-2 * SECOND).send(payloads(noise(400)))
    found = channel(rendered(tmp_path, sent))
    assert (found.captured, found.unheard) == (6.0, 0.0)


def test_what_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    good, broken = b"\xf8\xff\xfe", b"\xfb\x3f\x00"
    sent = Sender(payload_type=111, ticks=960).send([good] * 100 + [broken] * 100)
    found = channel(rendered(tmp_path, sent, Folder(channels=[Channel(formats=(OPUS,))])))
    assert found.captured == pytest.approx(4.0)
    assert found.unheard == pytest.approx(2.0, abs=0.1)
    assert found.unheard_cause == "it could not be decoded"


# ---- several SSRCs on one channel --------------------------------------------------------------------------------


def speakers(count: int, packets: int = 200) -> tuple[list[Sent], list[NDArray[np.int16]]]:
    """Packets of `count` SSRCs at once, and their samples, soft enough for a sum."""
    waves = [np.random.default_rng(seed).integers(-4000, 4000, packets * 160).astype(np.int16) for seed in range(count)]
    codes = [encode_law(wave, "PCMU") for wave in waves]
    sent = [each for number, code in enumerate(codes) for each in Sender(ssrc=number + 1).send(payloads(code))]
    return sent, [MU[code] for code in codes]


def test_two_that_speak_at_once_are_both_heard(tmp_path: Path) -> None:
    sent, waves = speakers(2)
    rendering = rendered(tmp_path, sent)
    assert (samples(rendering)[:32_000] == waves[0] + waves[1]).all()
    assert rendering.native is None
    assert (channel(rendering).captured, channel(rendering).unheard) == (8.0, 0.0)


@pytest.mark.parametrize(("count", "missing"), [(MAX_LAYERS, 0.0), (MAX_LAYERS + 1, 4.0)])
def test_no_more_are_mixed_than_the_limit_and_that_is_told(tmp_path: Path, count: int, missing: float) -> None:
    sent, _ = speakers(count)
    assert channel(rendered(tmp_path, sent)).unheard == missing


def test_those_who_speak_in_turn_are_copied(tmp_path: Path) -> None:
    codes = noise(500)
    sent = [replace(each, ssrc=1 + index // 50 % 5) for index, each in enumerate(Sender().send(payloads(codes)))]
    rendering = rendered(tmp_path, sent)
    assert (samples(rendering) == MU[codes]).all()
    assert channel(rendering).unheard == 0.0


def test_what_another_part_heard_under_another_ssrc_is_not_mixed(tmp_path: Path) -> None:
    codes = noise(500)
    sent = Sender().send(payloads(codes))
    parts = [
        Folder(fence=number).write(tmp_path / str(number), [replace(each, ssrc=number) for each in sent])
        for number in (1, 2)
    ]
    rendering = render(parts)
    assert (samples(rendering) == MU[codes]).all()
    assert channel(rendering).unheard == 0.0
