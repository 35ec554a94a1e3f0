"""Numbers that a sender counts on with, while nothing was to be recorded, are not lost; others that are missing are."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from siprec.media.part import Mode
from siprec.media.render import render
from siprec.media.render.gaps import NEAR_NS
from siprec.media.render.report import Report
from tests.support.captures import SECOND, Channel, Folder, Sender, Sent, noise, payloads

MS = 1_000_000
CAUSE = {"hold": "hold", "metadata-hold": "hold", "paused": "paused", "closed": "paused"}
MODES: list[Mode] = ["hold", "metadata-hold", "paused", "closed"]


def channels(mode: Mode, start: int, end: int) -> list[Channel]:
    """The one channel, in `mode` from `start` to `end`; once closed it is opened again on another port."""
    if mode != "closed":
        return [Channel(phases=[(0, "active"), (start, mode), (end, "active")])]
    return [Channel(phases=[(0, "active"), (start, mode)]), Channel(port=10_002, since=end, index=0)]


def reported(path: Path, sent: Sequence[Sent], told: Sequence[Channel]) -> Report:
    """Of a call in which packets go to the port that is open."""
    reopened = told[-1].since
    moved = [replace(each, port=told[-1].port) if each.at >= reopened else each for each in sent]
    return render([Folder(channels=told).write(path / "1", moved)]).report


def listed(report: Report) -> list[tuple[float, float, str]]:
    return [(round(each.start, 3), round(each.length, 3), each.cause) for each in report.gaps]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (30, 45), (-15, 45), (NEAR_NS // MS, NEAR_NS // MS)])
def test_a_sender_may_count_on(tmp_path: Path, mode: Mode, before: int, after: int) -> None:
    """It falls silent `before` we hear of that, and speaks again `after` we have agreed to it, in milliseconds."""
    sent = Sender().send(payloads(noise(500)))
    told = channels(mode, 2 * SECOND + before * MS, 6 * SECOND - after * MS)
    report = reported(tmp_path, [*sent[:100], *sent[300:]], told)
    start = 1.985 if before < 0 and mode != "metadata-hold" else 2.0
    assert listed(report) == [(start, round(6 - start, 3), CAUSE[mode])]
    assert (report.channels[0].packets, report.channels[0].lost) == (300, 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("counts", [True, False])
def test_loss_before_and_after_is_counted(tmp_path: Path, mode: Mode, counts: bool) -> None:
    """Five packets each; then it falls silent for two seconds, counting on or not."""
    sender = Sender()
    sent = sender.send(payloads(noise(80)))
    sender.skip(5)
    sent += sender.send(payloads(noise(15)))
    (sender.skip if counts else sender.pause)(100)
    sent += sender.send(payloads(noise(15)))
    sender.skip(5)
    sent += sender.send(payloads(noise(80)))
    report = reported(tmp_path, sent, channels(mode, 2 * SECOND + 10 * MS, 4 * SECOND - 10 * MS))
    assert report.channels[0].lost == 10
    gaps = [each for each in listed(report) if each[0] < 4.5]
    assert [each[2] for each in gaps] == ["loss", CAUSE[mode], "loss"]
    assert [each[:2] for each in gaps if each[2] == "loss"] == [(1.6, 0.1), (4.3, 0.1)]


@pytest.mark.parametrize("mode", MODES)
def test_loss_next_to_it_is_counted_where_the_sender_stands_still(tmp_path: Path, mode: Mode) -> None:
    sender = Sender()
    sent = sender.send(payloads(noise(95)))
    sender.skip(5)
    sender.pause(100)
    sender.skip(5)
    sent += sender.send(payloads(noise(95)))
    assert reported(tmp_path, sent, channels(mode, 2 * SECOND, 4 * SECOND)).channels[0].lost == 10


@pytest.mark.parametrize("mode", MODES)
def test_what_is_missing_for_longer_than_a_request_takes_is_lost(tmp_path: Path, mode: Mode) -> None:
    sent = Sender().send(payloads(noise(500)))
    told = channels(mode, 2 * SECOND, 6 * SECOND - NEAR_NS - 20 * MS)
    report = reported(tmp_path, [*sent[:100], *sent[300:]], told)
    assert listed(report) == [(2.0, 3.48, CAUSE[mode]), (5.48, 0.52, "loss")]
    assert report.channels[0].lost == 26


def test_a_closed_stream_is_paused_until_it_is_opened_again(tmp_path: Path) -> None:
    """The sender stood still, or is another one: no number is missing. What is closed for good is no gap."""
    sender = Sender()
    sent = sender.send(payloads(noise(100)))
    sender.pause(100)
    sent += sender.send(payloads(noise(50)))
    told = channels("closed", 2 * SECOND, 4 * SECOND)
    told[-1] = replace(told[-1], phases=[(4 * SECOND, "active"), (5 * SECOND, "closed")], since=4 * SECOND)
    assert listed(reported(tmp_path, sent, told)) == [(2.0, 2.0, "paused")]


def test_a_stream_whose_channel_another_carries_on_is_not_paused(tmp_path: Path) -> None:
    sent = Sender().send(payloads(noise(100)))
    first, second = channels("closed", 2 * SECOND, 4 * SECOND)
    assert listed(reported(tmp_path, sent, [replace(first, label="a"), replace(second, label="b")])) == []


def test_a_stream_that_moves_is_not_paused(tmp_path: Path) -> None:
    sent = Sender().send(payloads(noise(500)))
    told = channels("closed", 2 * SECOND, 2 * SECOND)
    assert listed(reported(tmp_path, sent, told)) == []


@pytest.mark.parametrize(("carried_on", "paused"), [(2 * SECOND - 100 * MS, []), (3 * SECOND, [(2.0, 1.0, "paused")])])
def test_a_stream_closed_in_one_part_may_go_on_in_another(
    tmp_path: Path, carried_on: int, paused: list[tuple[float, float, str]]
) -> None:
    sent = Sender().send(payloads(noise(500)))
    first = Folder(channels=[Channel(phases=[(0, "active"), (2 * SECOND, "closed")])], end=2 * SECOND)
    phases: list[tuple[int, Mode]] = [(carried_on, "active"), (6 * SECOND, "hold"), (8 * SECOND, "active")]
    second = Folder(channels=[Channel(phases=phases)], start=2 * SECOND - 100 * MS, fence=2)
    got = [each for each in sent if each.at >= carried_on and not 6 * SECOND <= each.at < 8 * SECOND]
    folders = [first.write(tmp_path / "1", sent[:100]), second.write(tmp_path / "2", got)]
    assert listed(render(folders).report) == [*paused, (6.0, 2.0, "hold")]


def test_what_is_missing_of_what_comes_during_a_hold_by_metadata_is_lost(tmp_path: Path) -> None:
    sent = Sender().send(payloads(noise(500)))
    report = reported(tmp_path, [*sent[:200], *sent[205:]], channels("metadata-hold", 2 * SECOND, 8 * SECOND))
    assert report.channels[0].lost == 5


def test_another_sender_may_be_heard_during_a_hold_by_metadata(tmp_path: Path) -> None:
    """Music on hold of its own; the call's own sender counts on meanwhile."""
    sent = Sender().send(payloads(noise(500)))
    music = Sender(ssrc=0x2222, clock=2 * SECOND).send(payloads(noise(200)))
    report = reported(tmp_path, [*sent[:100], *music, *sent[300:]], channels("metadata-hold", 2 * SECOND, 6 * SECOND))
    assert (listed(report), report.channels[0].lost) == ([], 0)
