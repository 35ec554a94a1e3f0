"""Several parts, crashes, clocks that step and drift, sender reports, captures that end anywhere."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from siprec.errors import RenderError
from siprec.media.part import Mode
from siprec.media.render import Rendering, render, source
from siprec.media.render.clock import StepUndo
from siprec.media.render.gaps import Missing, gaps
from siprec.media.render.order import MAX_LINES, REORDER_NS
from siprec.media.render.report import MAX_GAPS
from siprec.media.render.scan import EARLY_LIMIT_NS, Scan
from siprec.rtp.codecs import LAW
from tests.support.captures import (
    SECOND,
    START,
    Channel,
    Folder,
    Sender,
    Sent,
    network,
    noise,
    outage,
    payloads,
    raw_record,
    sender_report,
)

MU = LAW["PCMU"]


def audio(rendering: Rendering) -> NDArray[np.int16]:
    return np.concatenate(list(rendering.blocks()))


# ---- several parts -----------------------------------------------------------------------------------------------


def test_a_part_taken_over_after_a_crash(tmp_path: Path) -> None:
    codes = noise(500)
    sent = Sender().send(payloads(codes))
    first = Folder(end=None).write(tmp_path / "1", sent[:200])
    second = Folder(start=6 * SECOND, fence=2, node="b").write(
        tmp_path / "2", [each for each in sent if each.at >= 6 * SECOND]
    )
    rendering = render([second, first])
    expected = MU[codes].copy()
    expected[32_000:48_000] = 0
    assert (audio(rendering)[:, 0] == expected).all()
    assert [(each.start, each.length, each.cause) for each in rendering.report.gaps] == [(4.0, 2.0, "interrupted")]


def test_two_recorders_of_one_call_complete_each_other(tmp_path: Path) -> None:
    codes = noise(500)
    sent = Sender().send(payloads(codes))
    one, lost_one = network(sent, seed=1, loss=0.2, duplicates=0.1)
    two, lost_two = network([replace(each, at=each.at + 300_000_000) for each in sent], seed=2, loss=0.2)
    folders = [Folder(node=node).write(tmp_path / node, got) for node, got in (("a", one), ("b", two))]
    rendering = render(folders)
    expected = MU[codes].reshape(500, 160).copy()
    missing = lost_one & lost_two
    expected[sorted(missing)] = 0
    assert (audio(rendering)[:, 0] == expected.reshape(-1)).all()
    (channel,) = rendering.report.channels
    assert (channel.packets, channel.lost) == (500 - len(missing), len(missing))
    assert channel.duplicate == len(one) - (500 - len(lost_one))
    assert channel.reordered == 0


def test_a_part_cut_short_ends_with_its_last_packet(tmp_path: Path) -> None:
    rendering = render([Folder(end=None).write(tmp_path / "1", Sender().send(payloads(noise(123))))])
    assert rendering.frames == 123 * 160


def test_the_time_after_a_crash_is_interrupted_up_to_the_given_end(tmp_path: Path) -> None:
    path = Folder(end=None).write(tmp_path / "1", Sender().send(payloads(noise(100))))
    report = render([path], end_ns=START + 5 * SECOND).report
    assert [(each.start, each.length, each.cause) for each in report.gaps] == [(2.0, 3.0, "interrupted")]


def test_a_channel_that_was_closed_is_not_interrupted(tmp_path: Path) -> None:
    channels = [Channel(), Channel(port=10_002, phases=[(0, "active"), (SECOND, "closed")])]
    path = Folder(channels=channels, end=2 * SECOND).write(tmp_path / "1", [])
    report = render([path], end_ns=START + 3 * SECOND).report
    assert [(each.channel, each.cause) for each in report.gaps] == [(0, "interrupted")]


@pytest.mark.parametrize("mode", ["hold", "paused"])
@pytest.mark.parametrize("kept", [True, False])
def test_a_hold_lasts_over_a_restart(tmp_path: Path, mode: Mode, kept: bool) -> None:
    """Killed at 5 s, back at 6 s, its sockets `kept` or not; on hold from 2 s to 8 s, while the sender counts on."""
    sent = Sender().send(payloads(noise(500)))
    held = Channel(phases=[(0, "active"), (2 * SECOND, mode)])
    first = Folder(channels=[held], end=None).write(tmp_path / "1", sent[:100])
    back = Channel(phases=[(6 * SECOND, mode), (8 * SECOND, "active")])
    down = outage(5 * SECOND, 6 * SECOND, "interrupted")
    start = 0 if kept else 6 * SECOND
    second = Folder(channels=[back], start=start, fence=2, outages=[down]).write(tmp_path / "2", sent[400:])
    report = render([first, second]).report
    assert [(each.start, each.length, each.cause) for each in report.gaps] == [(2.0, 6.0, mode)]
    assert report.channels[0].lost == 0


def test_a_part_cut_short_was_there_until_what_it_told_last(tmp_path: Path) -> None:
    """A second before it was held, its stream fell silent: nobody knows of a packet that is missing."""
    held = Channel(phases=[(0, "active"), (3 * SECOND, "hold")])
    sent = Sender().send(payloads(noise(100)))
    first = Folder(channels=[held], end=None).write(tmp_path / "1", sent)
    second = Folder(channels=[Channel(since=6 * SECOND)], start=6 * SECOND, fence=2).write(tmp_path / "2", [])
    assert [(each.start, each.length, each.cause) for each in render([first, second]).report.gaps] == [
        (3.0, 3.0, "hold")
    ]


def test_a_hold_lasts_until_its_src_comes_again(tmp_path: Path) -> None:
    """With Replaces: the part before was closed with the last packet it had."""
    sent = Sender().send(payloads(noise(500)))
    held = Channel(phases=[(0, "active"), (2 * SECOND, "hold")])
    first = Folder(channels=[held], end=2 * SECOND).write(tmp_path / "1", sent[:100])
    second = Folder(channels=[Channel(since=6 * SECOND)], start=6 * SECOND, fence=2).write(tmp_path / "2", sent[300:])
    assert [(each.start, each.length, each.cause) for each in render([first, second]).report.gaps] == [
        (2.0, 4.0, "hold")
    ]


def test_packets_missing_beside_a_pause_are_lost(tmp_path: Path) -> None:
    """From 4 s to 8 s no packet comes, and from 4 s to 7 s none was due."""
    sent = Sender().send(payloads(noise(500)))
    paused = Channel(phases=[(0, "active"), (4 * SECOND, "paused"), (7 * SECOND, "active")])
    report = render([Folder(channels=[paused]).write(tmp_path / "1", [*sent[:200], *sent[400:]])]).report
    assert [(each.start, each.length, each.cause) for each in report.gaps] == [(4.0, 3.0, "paused"), (7.0, 1.0, "loss")]
    assert report.channels[0].lost == 50


def test_what_waited_in_vain_for_the_disk_is_a_gap_though_no_packet_came_after_it(tmp_path: Path) -> None:
    lost = replace(outage(3 * SECOND, 4 * SECOND, "disk"), packets=50)
    path = Folder(end=5 * SECOND, outages=[lost]).write(tmp_path / "1", Sender().send(payloads(noise(150))))
    assert [(each.start, each.length, each.cause) for each in render([path]).report.gaps] == [(3.0, 1.0, "disk")]


def test_what_a_socket_dropped_meanwhile_is_no_longer_than_what_is_missing(tmp_path: Path) -> None:
    sent = Sender().send(payloads(noise(250)))
    dropped = replace(outage(2 * SECOND, 4 * SECOND, "disk", 0), packets=50)
    path = Folder(end=5 * SECOND, outages=[dropped]).write(tmp_path / "1", [*sent[:140], *sent[190:]])
    assert [(each.start, each.length, each.cause) for each in render([path]).report.gaps] == [(2.8, 1.0, "disk")]


def one_after_the_other(path: Path, *, end: int | None = 4 * SECOND) -> tuple[Path, NDArray[np.uint8]]:
    """A part in which two streams have one channel, 2 s each, with counters of their own; and its audio."""
    codes = noise(200)
    first, second = Sender(sequence=65_000), Sender(ssrc=0x2222, port=10_002, timestamp=7, clock=2 * SECOND)
    sent = [*first.send(payloads(codes[:16_000])), *second.send(payloads(codes[16_000:]))]
    channels = [
        Channel(label="1", phases=[(0, "active"), (2 * SECOND, "closed")]),
        Channel(label="2", port=10_002, since=2 * SECOND, index=0),
    ]
    return Folder(channels=channels, end=end).write(path, sent), codes


def test_streams_one_after_the_other_in_one_channel(tmp_path: Path) -> None:
    path, codes = one_after_the_other(tmp_path / "1")
    rendering = render([path])
    assert (audio(rendering) == MU[codes][:, None]).all()
    (channel,) = rendering.report.channels
    assert (channel.label, channel.packets, channel.lost) == ("2", 200, 0)
    assert rendering.report.gaps == ()


def test_a_channel_whose_next_stream_was_cut_is_interrupted(tmp_path: Path) -> None:
    path, _ = one_after_the_other(tmp_path / "1", end=None)
    report = render([path], end_ns=START + 5 * SECOND).report
    assert [(each.start, each.length, each.cause) for each in report.gaps] == [(4.0, 1.0, "interrupted")]


def test_files_of_one_part_continue_each_other(tmp_path: Path) -> None:
    codes = noise(500)
    path = Folder().write(tmp_path / "1", Sender().send(payloads(codes)))
    data = (path / "capture-0001.pcap").read_bytes()
    cut = 24 + 250 * (16 + 28 + 172)
    (path / "capture-0001.pcap").write_bytes(data[:cut])
    (path / "capture-0002.pcap").write_bytes(data[:24] + data[cut:])
    assert (audio(render([path]))[:, 0] == MU[codes]).all()


# ---- bounded memory ----------------------------------------------------------------------------------------------


def test_small_blocks_give_what_one_large_block_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sides = [Sender(ssrc=side, port=10_000 + 2 * side).send(payloads(noise(6000, seed=side))) for side in range(2)]
    arriving = [network(side, seed=7, loss=0.02, duplicates=0.02, depth=10, jitter_ns=100_000_000)[0] for side in sides]
    folder = Folder(channels=[Channel(), Channel(port=10_002)], end=120 * SECOND)
    merged = sorted([*arriving[0], *arriving[1]], key=lambda each: each.at)
    # the second sender forgets to count for a while, and goes on from where it stood
    still = [
        replace(each, timestamp=min(each.timestamp, max(850_000, each.timestamp - 200_000)))
        if each.port > 10_000
        else each
        for each in merged
    ]
    path = folder.write(tmp_path / "1", still)
    whole = render([path])
    samples, report = audio(whole), whole.report
    monkeypatch.setattr(source, "BLOCK_BYTES", 100_000)
    monkeypatch.setattr(source, "STEP_NS", 7 * SECOND)
    monkeypatch.setattr("siprec.media.render.scan.KEEP_BYTES", 0)
    blockwise = render([path])
    assert blockwise._scan.steps() is None
    assert (audio(blockwise) == samples).all()
    assert blockwise.report == report


def test_an_hour_needs_no_more_memory_than_its_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr("siprec.media.render.scan.KEEP_BYTES", 1 << 20)
    count = 180_000  # one hour; one packet repeated with its counters set, since making each would take long
    one = Sender().send([b"\x80" * 160])[0].record()
    rows = np.tile(np.frombuffer(one, np.uint8), (count, 1))
    number = np.arange(count, dtype=np.int64)
    at = START + number * 20_000_000
    rows[:, 0:4] = (at // SECOND).astype("<u4").view(np.uint8).reshape(-1, 4)
    rows[:, 4:8] = (at % SECOND).astype("<u4").view(np.uint8).reshape(-1, 4)
    rows[:, 46:48] = number.astype(">u2").view(np.uint8).reshape(-1, 2)
    rows[:, 48:52] = (number * 160).astype(">u4").view(np.uint8).reshape(-1, 4)
    path = Folder(end=3600 * SECOND).write(tmp_path / "1", [])
    with (path / "capture-0001.pcap").open("ab") as file:
        file.write(rows.tobytes())
    del rows
    import tracemalloc

    tracemalloc.start()
    rendering = render([path])
    frames = sum(int((block == MU[0x80]).sum()) for block in rendering.blocks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert frames == rendering.frames == 3600 * 8000
    assert rendering.report.channels[0].packets == count
    assert peak < 24 << 20  # the hour is 39 MB of capture and 58 MB of audio


def test_a_day_between_two_packets_needs_no_memory(tmp_path: Path) -> None:
    sent = [replace(Sender().send([b"\x80" * 160])[0], at=at, timestamp=at // 125_000, sequence=number)
            for number, at in enumerate((0, 86_399 * SECOND))]  # fmt: skip
    rendering = render([Folder(end=86_400 * SECOND).write(tmp_path / "1", sent)])
    loud = sum(int(np.count_nonzero(block)) for block in rendering.blocks())
    assert (rendering.frames, loud) == (86_400 * 8000, 320)


# ---- clocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3600 * SECOND, 200_000_000, -200_000_000, -3600 * SECOND, 60_000_000, -60_000_000])
def test_steps_of_the_wall_clock_are_undone(tmp_path: Path, step: int) -> None:
    codes = noise(500)
    stepped = [replace(each, at=each.at + step) if each.at >= 5 * SECOND else each
               for each in Sender().send(payloads(codes))]  # fmt: skip
    # noticed 0.4 s after it happened
    clock = [(10 * SECOND, START - 10 * SECOND), (15 * SECOND + 400_000_000, START - 10 * SECOND + step)]
    rendering = render([Folder(end=10 * SECOND + step, clock=clock).write(tmp_path / "1", stepped)])
    assert rendering.frames == 80_000
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    assert rendering.report.channels[0].jitter_ms == pytest.approx(0, abs=0.01)


def test_several_steps_while_a_socket_is_silent() -> None:
    offsets = [0, 10 * SECOND, 4 * SECOND]
    clock = [(0, 0), (100 * SECOND, offsets[1]), (200 * SECOND, offsets[2])]
    truth = np.array([50, 150, 250], np.int64) * SECOND
    undo = StepUndo(clock)
    assert undo.undo(truth + offsets, "socket").tolist() == truth.tolist()
    assert [undo.at(int(stamp)) for stamp in truth + offsets] == truth.tolist()
    assert undo.final(250 * SECOND + offsets[2]) == 250 * SECOND


def test_drift_is_reported_and_corrected_between_talk_spurts(tmp_path: Path) -> None:
    seconds, ppm = 200, 400.0
    codes = noise(seconds * 50).reshape(-1, 160)
    codes[::25] = 0xFF  # each half second a quiet packet
    sender = Sender(pace_ns=20_000_000 + round(20_000_000 * ppm / 1e6))  # a slow sender: each packet a little late
    path = Folder(end=(seconds + 1) * SECOND).write(tmp_path / "1", sender.send(payloads(codes.reshape(-1))))
    rendering = render([path])
    assert rendering.report.channels[0].drift_ppm == pytest.approx(-ppm, abs=1)
    samples = audio(rendering)[:, 0]
    for index in (1, 4001, 9951):
        true = index * sender.pace_ns * 8 // 1_000_000
        row = MU[codes[index]]
        found = [at for at in range(max(true - 800, 0), true + 800) if (samples[at : at + 160] == row).all()]
        assert len(found) == 1
        assert abs(found[0] - true) <= 0.06 * 8000
    assert not rendering.report.gaps


def test_drift_that_nobody_hears_moves_nothing(tmp_path: Path) -> None:
    codes = noise(2500)
    sender = Sender(pace_ns=20_002_000)
    rendering = render([Folder(end=51 * SECOND).write(tmp_path / "1", sender.send(payloads(codes)))])
    assert rendering.report.channels[0].drift_ppm == pytest.approx(-100, abs=1)
    samples = audio(rendering)[:, 0]
    assert (samples[: 2500 * 160] == MU[codes]).all()


def test_sender_reports_align_streams_that_arrive_unalike(tmp_path: Path) -> None:
    codes = noise(500)
    # the second stream takes 120 ms longer to arrive, but its sender says it was sampled at the same time
    one = Sender(ssrc=1).send(payloads(codes))
    two = Sender(ssrc=2, port=10_002, clock=120_000_000, timestamp=7).send(payloads(codes))
    folder = Folder(channels=[Channel(), Channel(port=10_002)], end=11 * SECOND)
    apart = audio(render([folder.write(tmp_path / "1", [*one, *two])]))
    assert (apart[:79_000, 0] == apart[960:79_960, 1]).all()
    ntp = 1_700_000_000 * SECOND
    reports = [
        sender_report(5 * SECOND, ssrc=1, ntp_ns=ntp, timestamp=one[250].timestamp),
        sender_report(5 * SECOND + 9, ssrc=2, ntp_ns=ntp, timestamp=two[250].timestamp, port=10_003),
    ]
    joined = audio(render([folder.write(tmp_path / "2", [*one, *two, *reports])]))
    assert (joined[:, 0] == joined[:, 1]).all()
    assert (joined[:80_000, 0] == MU[codes]).all()


def test_sender_reports_of_unlike_clocks_are_not_believed(tmp_path: Path) -> None:
    codes = noise(500)
    one, two = Sender(ssrc=1).send(payloads(codes)), Sender(ssrc=2, port=10_002).send(payloads(codes))
    reports = [
        sender_report(SECOND, ssrc=1, ntp_ns=10**18, timestamp=one[50].timestamp),
        sender_report(SECOND, ssrc=2, ntp_ns=10**18 + 3 * SECOND, timestamp=two[50].timestamp, port=10_003),
    ]
    folder = Folder(channels=[Channel(), Channel(port=10_002)])
    joined = audio(render([folder.write(tmp_path / "2", [*one, *two, *reports])]))
    assert (joined[:, 0] == MU[codes]).all()
    assert (joined[:, 0] == joined[:, 1]).all()


# ---- hostile and broken ------------------------------------------------------------------------------------------


def test_a_capture_cut_anywhere_still_renders(tmp_path: Path) -> None:
    codes = noise(20)
    path = Folder(end=SECOND).write(tmp_path / "1", Sender().send(payloads(codes)))
    capture = path / "capture-0001.pcap"
    data = capture.read_bytes()
    for size in (*range(30), len(data) - 100, len(data) - 1):
        capture.write_bytes(data[:size])
        rendering = render([path])
        whole = max(size - 24, 0) // 216
        assert (audio(rendering)[: whole * 160, 0] == MU[codes[: whole * 160]]).all()
        assert rendering.report.channels[0].packets == whole


def test_garbage_in_a_capture_is_a_problem_in_the_report(tmp_path: Path) -> None:
    path = Folder(end=SECOND).write(tmp_path / "1", [*Sender().send(payloads(noise(5))), b"\xff" * 100])
    report = render([path]).report
    assert report.channels[0].packets == 5
    assert len(report.problems) == 1


def test_a_part_without_control_file(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match=r"part\.json"):
        render([tmp_path])
    (tmp_path / "part.json").write_text('{"schema": "another"}')
    with pytest.raises(RenderError, match="control file"):
        render([tmp_path])


@given(st.lists(st.tuples(st.integers(0, 2 * SECOND), st.binary(max_size=60), st.sampled_from([10_000, 10_001]))))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_came_the_file_has_its_length(tmp_path_factory: pytest.TempPathFactory,
                                               datagrams: list[tuple[int, bytes, int]]) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "1"
    rtp_like = [raw_record(at, b"\x80" + data, port) for at, data, port in datagrams]
    rendering = render([Folder(end=SECOND).write(path, rtp_like)])
    assert len(audio(rendering)) == rendering.frames == rendering.rate
    assert rendering.report.duration == 1.0


@given(
    st.lists(
        st.builds(
            Sent,
            at=st.integers(-SECOND, 3 * SECOND),
            payload=st.binary(max_size=20),
            sequence=st.integers(0, 65_535),
            timestamp=st.integers(0, 2**32 - 1),
            ssrc=st.sampled_from([1, 2]),
            payload_type=st.sampled_from([0, 8, 9, 10, 13, 18, 19, 101, 111]),
        ),
        max_size=30,
    )
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_the_counters_say_the_file_has_its_length(tmp_path_factory: pytest.TempPathFactory,
                                                           sent: list[Sent]) -> None:  # fmt: skip
    """It begins earlier where timestamps say that audio came ahead of its time."""
    path = tmp_path_factory.mktemp("any") / "1"
    rendering = render([Folder(end=SECOND).write(path, sent)])
    early_ns = START - rendering.start_ns
    assert 0 <= early_ns <= EARLY_LIMIT_NS
    assert len(audio(rendering)) == rendering.frames == round((SECOND + early_ns) * rendering.rate / SECOND)
    counted = rendering.report.channels[0]
    assert counted.packets + counted.duplicate == len(sent)
    assert counted.lost >= 0


@pytest.mark.parametrize("count", [MAX_LINES, MAX_LINES + 1])
def test_no_more_ssrcs_than_the_limit(tmp_path: Path, count: int) -> None:
    sent = [Sent(number * 1000, b"\x80" * 8, 1, 1, ssrc=number) for number in range(count)]
    report = render([Folder(end=SECOND).write(tmp_path / "1", sent)]).report
    assert report.channels[0].packets == MAX_LINES
    more = count - MAX_LINES
    assert report.left_out == ("1 packets of SSRCs beyond 1000 in a channel are in the capture only",) * more


@pytest.mark.parametrize(("budget", "pieces"), [(10, 10), (9, 9), (1, 1)])
def test_no_more_pieces_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: int, pieces: int
) -> None:
    monkeypatch.setattr("siprec.media.render.scan.MAX_PIECES", budget)
    sent = [
        replace(each, timestamp=each.timestamp + index // 10 * 10**6)
        for index, each in enumerate(Sender().send(payloads(noise(100))))
    ]
    path = Folder().write(tmp_path / "1", sent)
    scan = Scan(source.Source([source.load_part(path)]), START)
    assert sum(len(each) for each in scan.anchors.values()) == pieces


def test_a_packet_later_than_the_horizon_is_placed_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "STEP_NS", SECOND)
    codes = noise(500)
    sent = Sender().send(payloads(codes))
    late = replace(sent[50], at=sent[50].at + REORDER_NS + 2 * SECOND)
    again = replace(sent[60], at=late.at)
    arriving = sorted([*sent[:50], *sent[51:], late, again], key=lambda each: each.at)
    rendering = render([Folder().write(tmp_path / "1", arriving)])
    assert (audio(rendering)[:, 0] == MU[codes]).all()
    (channel,) = rendering.report.channels
    assert (channel.packets, channel.lost, channel.duplicate, channel.reordered) == (500, 0, 1, 1)


# ---- gaps --------------------------------------------------------------------------------------------------------


def missing(channel: int, start: float, end: float, cause: str) -> Missing:
    """From microseconds."""
    return Missing(channel, round(start * 1000), round(end * 1000), cause)


def test_gaps_do_not_overlap_and_neighbours_join() -> None:
    losses = [
        missing(0, 0, 10, "loss"),
        missing(0, 10, 20, "loss"),
        missing(0, 35, 60, "loss"),
        missing(1, 5, 6, "loss"),
    ]
    known = [missing(0, 30, 50, "hold"), missing(0, 40, 45, "paused"), missing(0, 90, 200, "hold")]
    found, omitted = gaps(losses, known, [], 100_000)
    assert omitted == 0
    assert [(each.channel, round(each.start * 1e6), round(each.length * 1e6), each.cause) for each in found] == [
        (0, 0, 20, "loss"),
        (1, 5, 1, "loss"),
        (0, 30, 10, "hold"),
        (0, 40, 5, "paused"),
        (0, 45, 5, "hold"),
        (0, 50, 10, "loss"),
        (0, 90, 10, "hold"),
    ]


@pytest.mark.parametrize("count", [MAX_GAPS, MAX_GAPS + 1])
def test_no_more_gaps_than_the_limit_and_the_longest_stay(count: int) -> None:
    losses = [missing(0, number * 100, number * 100 + 20 + number / 1000, "loss") for number in range(count)]
    found, omitted = gaps(losses, [], [], 10**12)
    assert (len(found), omitted) == (MAX_GAPS, count - MAX_GAPS)
    assert found[0].length == pytest.approx((20 + omitted / 1000) / 1e6)
