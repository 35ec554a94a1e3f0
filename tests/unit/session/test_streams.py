from dataclasses import replace

from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.session.model import Channel, Stretch
from siprec.session.streams import CHANNELS_LIMIT, OPEN_LIMIT, Change, admitted, changes, closed, holds

CODECS = ("PCMU", "PCMA")


def plan(*media: str) -> list[negotiate.NegotiatedStream]:
    text = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n" + "".join(media)
    return negotiate.plan(sdp.parse(text), codecs=CODECS)


def line(port: int, label: str | None = None, direction: str = "sendonly", extra: str = "", codec: int = 0) -> str:
    labelled = f"a=label:{label}\r\n" if label else ""
    return f"m=audio {port} RTP/AVP {codec}\r\n{extra}{labelled}a={direction}\r\n"


def follow(channels: list[Channel], found: list[Change]) -> list[Channel]:
    known = {each.index: each for each in channels}
    known.update({each.channel.index: each.channel for each in found})
    return [known[index] for index in sorted(known)]


def kinds(found: list[Change]) -> list[tuple[str, int]]:
    return [(each.kind, each.channel.index) for each in found]


def test_the_first_offer_opens_a_channel_for_each_accepted_line() -> None:
    found = changes((), plan(line(4000, "1"), "m=video 4002 RTP/AVP 96\r\n", line(4004, "2")))
    assert kinds(found) == [("opened", 0), ("opened", 1)]
    assert [each.channel.mline for each in found] == [0, 2]
    assert found[0].channel.remote == ("192.0.2.1", 4000)


def test_a_refresh_changes_nothing() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    assert changes(channels, plan(line(4000, "1"), line(4002, "2"))) == []


def test_inactive_pauses_and_sendonly_resumes() -> None:
    channels = follow([], changes((), plan(line(4000, "1"))))
    paused = changes(channels, plan(line(4000, "1", "inactive")))
    assert [(each.kind, each.channel.mode) for each in paused] == [("changed", "paused")]
    resumed = changes(follow(channels, paused), plan(line(4000, "1")))
    assert [(each.kind, each.channel.mode) for each in resumed] == [("changed", "active")]


def test_an_old_style_hold_keeps_the_source() -> None:
    channels = follow([], changes((), plan(line(4000, "1"))))
    held = changes(channels, plan(line(4000, "1", extra="c=IN IP4 0.0.0.0\r\n")))
    assert held[0].channel.mode == "hold"
    assert held[0].channel.remote == ("192.0.2.1", 4000)


def test_a_hold_that_the_metadata_alone_tells_is_told_from_one_by_sdp() -> None:
    channels = follow([], changes((), plan(line(4000, "1"))))
    (told,) = holds(channels, lambda _: True)
    assert (told.mode, told.held_by_metadata) == ("hold", True)
    (both,) = changes([told], plan(line(4000, "1", extra="c=IN IP4 0.0.0.0\r\n")))
    assert (both.channel.mode, both.channel.held_by_metadata) == ("hold", False)
    (paused,) = changes([told], plan(line(4000, "1", "inactive")))
    assert [each.held_by_metadata for each in holds([paused.channel], lambda _: True)] == [False]


def test_port_zero_closes_and_the_label_comes_back_to_its_channel() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    closed = changes(channels, plan(line(4000, "1"), line(0, "2")))
    assert kinds(closed) == [("closed", 1)]
    channels = follow(channels, closed)
    assert not channels[1].open
    channels[1] = replace(channels[1], past=(Stretch("p1", 1, 2),), since_ns=2)
    again = changes(channels, plan(line(4000, "1"), line(4006, "2")))
    assert kinds(again) == [("opened", 1)]
    assert (again[0].channel.past, again[0].channel.since_ns) == (channels[1].past, 2)


def test_a_line_that_is_left_out_is_closed_and_comes_back_to_its_channel() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    closed = changes(channels, plan(line(4000, "1")))
    assert kinds(closed) == [("closed", 1)]
    channels = follow(channels, closed)
    assert changes(channels, plan(line(4000, "1"))) == []
    assert kinds(changes(channels, plan(line(4000, "1"), line(4006, "2")))) == [("opened", 1)]


def test_a_stream_that_moves_up_for_one_left_out_keeps_its_channel() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    found = changes(channels, plan(line(4002, "2")))
    assert kinds(found) == [("closed", 0), ("closed", 1), ("opened", 1)]
    after = follow(channels, found)
    assert [(each.open, each.mline) for each in after] == [(False, 0), (True, 0)]


def test_a_slot_reused_for_another_label_is_another_channel() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    found = changes(channels, plan(line(4000, "1"), line(4008, "3")))
    assert kinds(found) == [("closed", 1), ("opened", 2)]


def test_a_new_source_or_codec_moves_the_channel() -> None:
    channels = follow([], changes((), plan(line(4000, "1"))))
    moved = changes(channels, plan(line(4010, "1", codec=8)))
    assert moved == [
        Change(
            "changed",
            replace(
                channels[0],
                remote=("192.0.2.1", 4010),
                remote_rtcp=("192.0.2.1", 4011),
                formats=moved[0].channel.formats,
            ),
        )
    ]
    assert moved[0].channel.formats[0].encoding == "PCMA"


def test_a_later_stream_is_appended() -> None:
    channels = follow([], changes((), plan(line(4000, "1"))))
    assert kinds(changes(channels, plan(line(4000, "1"), line(4002, "2")))) == [("opened", 1)]


def test_streams_that_change_places_keep_their_channels() -> None:
    channels = follow([], changes((), plan(line(4000, "1"), line(4002, "2"))))
    channels[0] = replace(channels[0], stream_id="s1")
    found = changes(channels, plan(line(4002, "2"), line(4000, "1")))
    assert kinds(found) == [("closed", 0), ("closed", 1), ("opened", 1), ("opened", 0)]
    assert not any(each.another for each in found)
    after = follow(channels, found)
    assert [(each.label, each.mline, each.stream_id) for each in after] == [("1", 1, "s1"), ("2", 0, None)]
    assert changes(after, plan(line(4002, "2"), line(4000, "1"))) == []


# ---- limits


def lines(*labels: str | int) -> list[negotiate.NegotiatedStream]:
    return plan(*(line(4000, str(label)) if label else line(0) for label in labels))


def carried(channels: list[Channel], found: list[Change]) -> list[Channel]:
    """All channels after `found`, of which those that another had before are `another`, and no other."""
    before = {each.index: each.label for each in channels}
    opened = [each for each in found if each.kind == "opened"]
    assert [each.another for each in opened] == [
        before.get(each.channel.index, each.channel.label) != each.channel.label for each in opened
    ]
    return follow(channels, found)


def full() -> list[Channel]:
    """As many channels as there can be, of streams that came one after the other in two slots; all are closed but the
    last two.
    """
    channels: list[Channel] = []
    for number in range(1, CHANNELS_LIMIT, 2):
        channels = carried(channels, changes(channels, lines(number, number + 1)))
    return channels


def test_as_many_streams_are_open_as_the_limit_and_the_others_are_refused() -> None:
    labels = range(1, OPEN_LIMIT + 1)
    assert [each.accepted for each in admitted((), lines(*labels, 0))] == [True] * OPEN_LIMIT + [False]
    (*taken, refused) = admitted((), lines(*labels, 0, "more"))
    assert [each.accepted for each in taken] == [True] * OPEN_LIMIT + [False]
    assert (refused.accepted, refused.reason) == (False, "more than 32 streams at a time")


def test_a_stream_that_runs_is_not_refused_for_another() -> None:
    labels = range(2, OPEN_LIMIT + 1)
    channels = follow([], changes((), lines(0, *labels, "last")))
    assert [each.index for each in admitted(channels, lines("new", *labels, "last")) if not each.accepted] == [0]


def test_one_call_after_the_other_has_channels_of_its_own_up_to_the_limit() -> None:
    channels = full()
    assert [each.label for each in channels] == [str(each + 1) for each in range(CHANNELS_LIMIT)]
    assert [each.index for each in channels if each.open] == [CHANNELS_LIMIT - 2, CHANNELS_LIMIT - 1]


def test_from_then_on_each_slot_has_the_same_channel() -> None:
    before = channels = full()
    for number in range(100, 120, 2):
        channels = carried(channels, changes(channels, lines(number, number + 1)))
        assert [(each.index, each.label) for each in channels if each.open] == [
            (30, str(number)),
            (31, str(number + 1)),
        ]
    assert channels[:-2] == before[:-2]


def test_a_channel_that_is_carried_on_says_who_was_heard_in_it() -> None:
    channels = full()
    channels[-1] = replace(channels[-1], stream_id="s", participants=("p",), past=(Stretch("q", 1, 2),), since_ns=2)
    (_, _, _, opened) = changes(channels, lines("new", "newer"))
    assert opened.another
    told = opened.channel
    assert (told.stream_id, told.participants, told.past, told.since_ns) == ("s", ("p",), channels[-1].past, 2)


def test_a_slot_without_a_channel_has_the_one_that_is_closed_longest() -> None:
    channels = full()
    channels = carried(channels, changes(channels, lines(31, 32, "new")))
    assert [(each.index, each.label) for each in channels if each.open] == [(0, "new"), (30, "31"), (31, "32")]
    channels = carried(channels, changes(channels, lines(31, 32, "newer", "newest")))
    assert [(each.index, each.label) for each in channels if each.open][:2] == [(0, "newer"), (1, "newest")]


def test_a_stream_that_comes_back_has_its_channel_before_any_other() -> None:
    channels = full()
    found = changes(channels, lines("new", 31))
    assert [(each.index, each.label) for each in carried(channels, found) if each.open] == [(28, "new"), (30, "31")]


def test_no_stream_is_without_a_channel_when_all_are_new() -> None:
    channels = full()
    opened = carried(channels, changes(channels, lines(*range(100, 100 + OPEN_LIMIT))))
    assert [each.open for each in opened] == [True] * CHANNELS_LIMIT
    assert sorted(each.mline for each in opened) == list(range(OPEN_LIMIT))


def test_streams_without_labels_are_others_in_other_slots() -> None:
    channels = closed(follow([], changes((), plan(*[line(4000)] * OPEN_LIMIT))), range(1, OPEN_LIMIT))
    (again,) = changes(channels, plan(line(4000), line(4002)))
    assert (again.channel.index, again.another) == (1, False)
    (other,) = changes(channels, plan(line(4000), *[line(0)] * (OPEN_LIMIT - 1), line(4002)))
    assert (other.channel.index, other.another) == (1, True)


def test_a_session_of_an_earlier_version_has_more_channels_and_gets_no_further_one() -> None:
    channels = [replace(each, closing=0) for each in full()]
    more = [replace(channels[0], index=CHANNELS_LIMIT + each, label=f"x{each}") for each in range(2)]
    found = changes([*channels, *more], lines("new", "newer"))
    assert kinds(found)[2:] == [("opened", 30), ("opened", 31)]
