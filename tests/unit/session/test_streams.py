from dataclasses import replace

from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.session.model import Channel, Stretch
from siprec.session.streams import Change, changes, holds

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
    assert kinds(found) == [("closed", 1), ("closed", 0), ("opened", 1)]
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
