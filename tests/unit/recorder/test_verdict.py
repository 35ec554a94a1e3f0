import pytest

from siprec.archive.manifest import ChannelEntry, GapEntry, Manifest, RefusedEntry
from siprec.recorder.verdict import Evidence, Shortfall, judge

BOTH = frozenset({0, 1})


def manifest(*packets: int, **changed: object) -> Manifest:
    channels = [
        ChannelEntry(index, str(index + 1), participant=name, remote=f"192.0.2.{index}:4000", packets=count)
        for index, (name, count) in enumerate(zip(("Alice", "Bob", "Carol"), packets, strict=False))
    ]
    whole = Manifest("id", "ending", "a", 1, "192.0.2.1", "call", channels=channels)
    for name, value in changed.items():
        setattr(whole, name, value)
    return whole


def evidence(**changed: object) -> Evidence:
    return Evidence(**{"expected": BOTH, "silent": frozenset(), **changed})  # type: ignore[arg-type]


def test_ok_says_how_much_was_heard() -> None:
    assert judge(manifest(500, 500), evidence()) == ("ok", "2 channels, 1000 packets, 0 lost")


def test_truncated_comes_before_everything() -> None:
    assert judge(manifest(0, 0), evidence(truncated="died")) == ("truncated", "died")


def test_no_rtp_names_the_settings_to_look_at() -> None:
    verdict, reason = judge(manifest(0, 0), evidence())
    assert verdict == "no-rtp"
    assert "EXTERNAL_IP" in reason
    assert "192.0.2.1:4000" in reason


def test_no_rtp_because_none_was_due() -> None:
    assert judge(manifest(0), evidence(expected=frozenset()))[0] == "no-rtp"


def test_no_rtp_because_the_answer_was_refused() -> None:
    refused = evidence(expected=frozenset(), refused="no v=0")
    assert judge(manifest(), refused)[1] == ("there was never a stream: the answer to our offer was refused (no v=0)")


def test_one_way_names_participant_source_address_and_setting() -> None:
    refused = [RefusedEntry(1, "address", "198.51.100.9", 312)]
    verdict, reason = judge(manifest(500, 0, refused=refused), evidence())
    assert verdict == "one-way"
    for each in ("Bob", "192.0.2.1:4000", "312 came from 198.51.100.9", "RTP_SOURCE"):
        assert each in reason


def test_one_way_is_not_explained_by_packets_of_a_pause() -> None:
    paused = RefusedEntry(1, "paused", "198.51.100.9", 312)
    assert judge(manifest(500, 0, refused=[paused]), evidence()) == (
        "one-way",
        "channel 1 (Bob): 0 packets from 192.0.2.1:4000 but for 312 while it was paused",
    )
    reason = judge(manifest(500, 0, refused=[paused, RefusedEntry(1, "address", "198.51.100.9", 5)]), evidence())[1]
    assert "5 came from 198.51.100.9, refused by RTP_SOURCE (address)" in reason


def test_a_stream_that_was_never_active_does_not_make_it_one_way() -> None:
    assert judge(manifest(500, 0), evidence(expected=frozenset({0})))[0] == "ok"


def test_a_stream_that_never_came_in_a_channel_of_several_makes_it_one_way() -> None:
    verdict, reason = judge(manifest(500, 500), evidence(unheard=[(1, "7")]))
    assert (verdict, "channel 1: 0 packets of the stream labelled 7" in reason) == ("one-way", True)
    _, reason = judge(manifest(500, 0), evidence(unheard=[(1, "6"), (1, "7")]))
    assert "labelled" not in reason


def test_what_is_left_out_of_the_audio_is_a_gap() -> None:
    assert judge(manifest(500, 500), evidence(left_out=["much"])) == ("gaps", "much")


def test_silent_when_all_that_came_is_silence() -> None:
    assert judge(manifest(500, 500), evidence(silent=BOTH))[0] == "silent"
    assert judge(manifest(500, 500), evidence(silent=frozenset({0})))[0] == "ok"


@pytest.mark.parametrize("packets", [(500,), (500, 500)])
def test_a_channel_of_which_nothing_can_be_decoded_is_silent(packets: tuple[int, ...]) -> None:
    one = frozenset({0})
    verdict, reason = judge(manifest(*packets), evidence(silent=one, mute=one, undecodable=["G729"]))
    assert verdict == "silent"
    assert reason.startswith("channel 0 (Alice): nothing could be decoded; G729 cannot be decoded here")


@pytest.mark.parametrize(("lost", "verdict"), [(5, "ok"), (6, "gaps")])
def test_gaps_begin_above_half_a_percent(lost: int, verdict: str) -> None:
    whole = manifest(1000 - lost, 1000)
    whole.channels[0].lost = lost
    assert judge(whole, evidence())[0] == verdict


@pytest.mark.parametrize(
    ("length", "cause", "verdict"),
    [(0.19, "loss", "ok"), (0.2, "loss", "gaps"), (30.0, "hold", "ok"), (30.0, "paused", "ok"), (1.0, "disk", "gaps")],
)
def test_one_long_gap_is_enough_unless_the_call_wanted_it(length: float, cause: str, verdict: str) -> None:
    found, reason = judge(manifest(500, 500, gaps=[GapEntry(0, 2.0, length, cause)]), evidence())
    assert found == verdict
    assert verdict == "ok" or cause in reason


@pytest.mark.parametrize(
    ("seconds", "captured", "verdict"),
    [(0.2, 10.0, "ok"), (0.21, 10.0, "gaps"), (1.0, 200.0, "ok"), (1.01, 200.0, "gaps")],
)
def test_what_came_but_cannot_be_heard_is_a_reason(seconds: float, captured: float, verdict: str) -> None:
    short = [Shortfall(1, seconds, captured, "RTP timestamps stood still")]
    found, reason = judge(manifest(500, 500), evidence(shortfalls=short))
    assert found == verdict
    if verdict == "gaps":
        told = f"{seconds:.1f} s of {captured:.1f} s of audio cannot be heard: RTP timestamps stood still"
        assert reason == f"channel 1 (Bob): {told}"


def test_a_channel_that_fell_silent_while_its_packets_were_refused_names_source_and_setting() -> None:
    refused = [RefusedEntry(1, "port", "192.0.2.1", 300), RefusedEntry(1, "payload_type", "192.0.2.1", 900)]
    verdict, reason = judge(manifest(500, 500, refused=refused), evidence(quiet={1: 2.5}))
    assert verdict == "gaps"
    for each in ("channel 1 (Bob): silent since 2.50 s", "300 came from 192.0.2.1", "RTP_SOURCE (port)"):
        assert each in reason


@pytest.mark.parametrize(("quiet", "packets"), [({}, 300), ({0: 2.5}, 300), ({1: 2.5}, 10)])
def test_silence_alone_and_refusals_alone_are_no_gap(quiet: dict[int, float], packets: int) -> None:
    refused = [RefusedEntry(1, "port", "192.0.2.1", packets), RefusedEntry(1, "paused", "192.0.2.1", 900)]
    assert judge(manifest(500, 500, refused=refused), evidence(quiet=quiet))[0] == "ok"
