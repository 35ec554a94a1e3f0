"""Offer and answer: what a recorder takes, and how it says so."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SdpError
from siprec.sdp import model, negotiate
from siprec.sdp.crypto import Crypto
from siprec.sdp.model import Direction, Format, Origin, SessionDescription
from siprec.sdp.negotiate import NegotiatedStream, StreamOffer

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"
CODECS = ("PCMU", "PCMA", "G722", "opus")
OURS = Origin.at("127.0.0.1", 77)
KEY = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"


def _offer(*media: str, head: str = "c=IN IP4 192.0.2.1") -> SessionDescription:
    rows = ["v=0", "o=- 1 1 IN IP4 192.0.2.1", "s=-", *filter(None, [head]), "t=0 0", *media]
    return model.parse("\r\n".join(rows))


def _ports(streams: list[NegotiatedStream]) -> dict[int, tuple[str, int]]:
    return {each.index: ("127.0.0.1", 10000 + 2 * each.index) for each in streams if each.accepted}


def _plan(*media: str) -> list[NegotiatedStream]:
    return negotiate.plan(_offer(*media), codecs=CODECS)


def _answer(offer: SessionDescription) -> SessionDescription:
    streams = negotiate.plan(offer, codecs=CODECS, undecodable=("G729",))
    return negotiate.build_answer(offer, streams, ports=_ports(streams), origin=OURS)


@pytest.mark.parametrize("path", sorted(VECTORS.glob("*.good.sdp")), ids=lambda path: path.name)
def test_answer_of_vector(path: Path) -> None:
    expected: list[str] = json.loads(path.with_suffix(".json").read_text())["answer"]
    assert str(_answer(model.parse(path.read_bytes()))).split("\r\n")[:-1] == expected


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("a=sendonly", "recvonly"),
        ("a=sendrecv", "recvonly"),
        ("a=x-nothing", "recvonly"),
        ("a=recvonly", "inactive"),
        ("a=inactive", "inactive"),
    ],
)
def test_direction(offered: str, answered: Direction) -> None:
    stream = _plan("m=audio 40000 RTP/AVP 0", offered)[0]
    assert (stream.accepted, stream.direction) == (True, answered)


def test_direction_never_sticks() -> None:
    seen = [
        _plan("m=audio 40000 RTP/AVP 0", line)[0].direction
        for line in ("a=inactive", "a=sendonly", "a=inactive", "a=sendonly")
    ]
    assert seen == ["inactive", "recvonly", "inactive", "recvonly"]


def test_not_ready_is_inactive_with_a_port() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 0", "a=sendonly", "a=label:1")
    streams = negotiate.plan(offer, codecs=CODECS, ready=False)
    answer = negotiate.build_answer(offer, streams, ports=_ports(streams), origin=OURS)
    assert (answer.media[0].port, answer.media[0].direction) == (10000, "inactive")


@pytest.mark.parametrize(
    ("media", "reason"),
    [
        ("m=audio 0 RTP/AVP 0", "the offer has port 0"),
        ("m=video 40000 RTP/AVP 34", "media type not recorded"),
        ("m=text 40000 RTP/AVP 98", "media type not recorded"),
        ("m=audio 40000 RTP/SAVP 0", "transport not supported"),
        ("m=audio 40000 UDP/TLS/RTP/SAVPF 0", "transport not supported"),
        ("m=audio 40000 RTP/AVP 96", "no acceptable codec"),
        ("m=audio 40000 RTP/AVP 13", "no acceptable codec"),
        ("m=audio 40000 RTP/AVP", "no acceptable codec"),
    ],
)
def test_refusals(media: str, reason: str) -> None:
    stream = _plan(media)[0]
    assert (stream.accepted, stream.reason, stream.formats, stream.direction) == (False, reason, (), "inactive")


def test_decodable_codecs_are_preferred_and_all_kept_in_order() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 18 8 101 9 13 0 4", "a=rtpmap:101 Telephone-Event/8000")
    stream = negotiate.plan(offer, codecs=CODECS, undecodable=("g729",))[0]
    assert [form.payload_type for form in stream.formats] == [8, 101, 9, 13, 0]


def test_undecodable_codec_is_taken_only_where_named() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 18 101", "a=rtpmap:101 telephone-event/8000")
    assert not negotiate.plan(offer, codecs=CODECS)[0].accepted
    stream = negotiate.plan(offer, codecs=CODECS, undecodable=("G729",))[0]
    assert [form.encoding for form in stream.formats] == ["G729", "telephone-event"]


def test_srtp_is_taken_where_named_and_the_key_answered() -> None:
    offer = _offer("m=audio 40000 RTP/SAVP 0", f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}", "a=label:1")
    streams = negotiate.plan(offer, codecs=CODECS, transports=negotiate.PLAIN_TRANSPORTS | negotiate.SECURE_TRANSPORTS)
    assert streams[0].secure
    assert streams[0].crypto == Crypto(1, "AES_CM_128_HMAC_SHA1_80", KEY)
    answer = negotiate.build_answer(
        offer, streams, ports=_ports(streams), origin=OURS, crypto={0: "1 AES_CM_128_HMAC_SHA1_80 inline:BB"}
    )
    assert answer.media[0].transport == "RTP/SAVP"
    assert answer.media[0].crypto == ("1 AES_CM_128_HMAC_SHA1_80 inline:BB",)


@pytest.mark.parametrize(
    ("lines", "mux", "expected"),
    [
        ((), False, ("192.0.2.1", 40001)),
        (("a=rtcp:50001",), False, ("192.0.2.1", 50001)),
        (("a=rtcp:50001 IN IP4 192.0.2.8",), False, ("192.0.2.8", 50001)),
        (("a=rtcp:50001 IN IP4 sbc.example.com",), False, None),
        (("a=rtcp-mux",), False, ("192.0.2.1", 40001)),
        (("a=rtcp-mux", "a=rtcp:40000"), True, ("192.0.2.1", 40000)),
        ((), True, ("192.0.2.1", 40001)),
        (("c=IN IP4 0.0.0.0",), False, None),
        (("c=IN IP4 sbc.example.com",), False, None),
    ],
)
def test_remote_rtcp(lines: tuple[str, ...], mux: bool, expected: tuple[str, int] | None) -> None:
    offer = _offer("m=audio 40000 RTP/AVP 0", *lines)
    stream = negotiate.plan(offer, codecs=CODECS, rtcp_mux=mux)[0]
    assert stream.remote_rtcp == expected
    assert stream.rtcp_mux == (mux and "a=rtcp-mux" in lines)


def test_rtcp_port_past_the_end_is_none() -> None:
    assert _plan("m=audio 65535 RTP/AVP 0")[0].remote_rtcp is None


def test_rtcp_mux_is_answered_only_when_offered() -> None:
    for lines in (("a=rtcp-mux",), ()):
        offer = _offer("m=audio 40000 RTP/AVP 0", *lines)
        streams = negotiate.plan(offer, codecs=CODECS, rtcp_mux=True)
        answer = negotiate.build_answer(offer, streams, ports=_ports(streams), origin=OURS)
        assert answer.media[0].rtcp_mux == bool(lines)


@pytest.mark.parametrize("address", ["IN IP4 0.0.0.0", "IN IP6 ::"])
def test_old_style_hold(address: str) -> None:
    stream = _plan("m=audio 40000 RTP/AVP 0", f"c={address}")[0]
    assert (stream.held, stream.remote_address, stream.accepted) == (True, None, True)


def test_answer_over_ipv6_and_per_media_addresses() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 0", "m=audio 40002 RTP/AVP 0")
    streams = negotiate.plan(offer, codecs=CODECS)
    ports = {0: ("2001:db8::9", 10000), 1: ("192.0.2.9", 10002)}
    answer = negotiate.build_answer(offer, streams, ports=ports, origin=Origin.at("2001:db8::9", 1))
    assert [media.address for media in answer.media] == ["2001:db8::9", "192.0.2.9"]
    assert str(answer).count("c=IN IP6 2001:db8::9") == 1


def test_accepted_stream_without_port_is_our_mistake() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 0")
    with pytest.raises(KeyError):
        negotiate.build_answer(offer, negotiate.plan(offer, codecs=CODECS), ports={}, origin=OURS)


def test_refuse_keeps_the_slot() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 0", "a=label:9")
    streams = [negotiate.refuse(each, "no port") for each in negotiate.plan(offer, codecs=CODECS)]
    answer = negotiate.build_answer(offer, streams, ports={}, origin=OURS)
    assert (answer.media[0].port, answer.media[0].label) == (0, "9")


def test_offer_without_media_is_answered_without_media() -> None:
    assert _answer(_offer()).media == ()


# ---- our own offers


def test_client_offer_and_its_answer() -> None:
    offers = [StreamOffer("127.0.0.1", 20000 + 2 * index, label=str(index + 1)) for index in range(2)]
    offer = negotiate.build_offer(offers, origin=Origin.at("127.0.0.1", 5))
    assert [(media.label, media.direction) for media in offer.media] == [("1", "sendonly"), ("2", "sendonly")]
    streams = negotiate.read_answer(offer, _answer(offer))
    assert [(each.accepted, each.direction, each.remote_port) for each in streams] == [
        (True, "sendonly", 10000),
        (True, "sendonly", 10002),
    ]
    assert streams[0].formats[0] == Format(0, "PCMU", 8000)


def test_offerless_invite_gets_the_known_slots() -> None:
    offer = _offer("m=audio 40000 RTP/AVP 8", "a=label:x", "m=video 40002 RTP/AVP 34", "a=label:y")
    streams = negotiate.plan(offer, codecs=CODECS)
    again = negotiate.offer_again(streams, ports=_ports(streams), origin=OURS)
    seen = [(media.kind, media.port, media.direction, media.label) for media in again.media]
    assert seen == [("audio", 10000, "recvonly", "x"), ("video", 0, "inactive", "y")]
    answer = model.parse(str(_offer("m=audio 41000 RTP/AVP 8", "a=sendonly", "m=video 0 RTP/AVP 34")))
    back = negotiate.read_answer(again, answer)
    assert [(each.accepted, each.direction, each.label) for each in back] == [
        (True, "recvonly", "x"),
        (False, "inactive", "y"),
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"),
    [
        ("sendonly", "recvonly", "sendonly"),
        ("sendonly", "sendrecv", "sendonly"),
        ("sendonly", "inactive", "inactive"),
        ("sendonly", "sendonly", "inactive"),
        ("recvonly", "sendonly", "recvonly"),
        ("recvonly", "recvonly", "inactive"),
        ("sendrecv", "sendonly", "recvonly"),
        ("inactive", "recvonly", "inactive"),
    ],
)
def test_agreed_direction(ours: Direction, theirs: Direction, agreed: Direction) -> None:
    offer = negotiate.build_offer([StreamOffer("127.0.0.1", 20000, direction=ours)], origin=OURS)
    answer = _offer("m=audio 40000 RTP/AVP 0", f"a={theirs}")
    assert negotiate.read_answer(offer, answer)[0].direction == agreed


def test_answer_that_names_no_codec_we_know() -> None:
    offer = negotiate.build_offer([StreamOffer("127.0.0.1", 20000)], origin=OURS)
    stream = negotiate.read_answer(offer, _offer("m=audio 40000 RTP/AVP 96"))[0]
    assert (stream.accepted, stream.reason) == (False, "no codec in the answer")


def test_answer_may_leave_out_the_rtpmap_of_what_we_offered() -> None:
    forms = (Format(96, "opus", 48000, 2, "useinbandfec=1"),)
    offer = negotiate.build_offer([StreamOffer("127.0.0.1", 20000, forms)], origin=OURS)
    stream = negotiate.read_answer(offer, _offer("m=audio 40000 RTP/AVP 96"))[0]
    assert stream.formats == forms


def test_what_was_offered_with_port_0_is_not_taken_up_by_an_answer() -> None:
    """RFC 3264 section 6: the answer's port must be 0 as well; there is no port of ours it could mean."""
    offer = negotiate.build_offer([StreamOffer("127.0.0.1", 0), StreamOffer("127.0.0.1", 20000)], origin=OURS)
    streams = negotiate.read_answer(offer, _offer(*("m=audio 40000 RTP/AVP 0",) * 2))
    assert [(each.accepted, each.reason) for each in streams] == [(False, "the offer has port 0"), (True, None)]


@pytest.mark.parametrize("media", [(), ("m=video 1 RTP/AVP 34",), ("m=audio 1 RTP/AVP 0",) * 2])
def test_answer_of_another_shape_is_refused(media: tuple[str, ...]) -> None:
    offer = negotiate.build_offer([StreamOffer("127.0.0.1", 20000)], origin=OURS)
    with pytest.raises(SdpError) as caught:
        negotiate.read_answer(offer, _offer(*media))
    assert caught.value.status == 488


@pytest.mark.parametrize(
    ("formats", "attributes", "taken"),
    [
        ("10", (), []),  # L16/44100/2
        ("11", (), [11]),
        ("10 0", (), [0]),
        ("10", ("a=ptime:10",), [10]),
        ("11", ("a=ptime:30",), []),
        ("97 101", ("a=rtpmap:97 L16/48000/2", "a=rtpmap:101 telephone-event/8000"), []),
        ("97", ("a=rtpmap:97 l16/48000",), [97]),
        ("97", ("a=rtpmap:97 opus/48000/2",), [97]),
    ],
)
def test_a_format_whose_packets_are_too_long_is_not_taken(
    formats: str, attributes: tuple[str, ...], taken: list[int]
) -> None:
    offer = _offer(f"m=audio 40000 RTP/AVP {formats}", *attributes)
    (stream,) = negotiate.plan(offer, codecs=("PCMU", "L16", "opus"), payload_limit=1984)
    assert [each.payload_type for each in stream.formats] == taken
    assert stream.reason == (None if taken else "no acceptable codec")


# ---- versions


def test_version_rises_only_with_a_change() -> None:
    first = negotiate.revise(None, _answer(_offer("m=audio 40000 RTP/AVP 0", "a=sendonly")))
    same = negotiate.revise(first, _answer(_offer("m=audio 41000 RTP/AVP 0", "a=sendonly")))
    assert same == first
    held = negotiate.revise(same, _answer(_offer("m=audio 40000 RTP/AVP 0", "a=inactive")))
    assert held.origin == replace(first.origin, version=2)
    back = negotiate.revise(held, _answer(_offer("m=audio 40000 RTP/AVP 0", "a=sendonly")))
    assert back.origin == replace(first.origin, version=3)


def test_the_origin_of_a_session_stays_where_its_media_moves() -> None:
    first = negotiate.revise(None, _answer(_offer("m=audio 40000 RTP/AVP 0")))
    elsewhere = Origin.at("198.51.100.1", 77)
    moved = negotiate.revise(first, negotiate.build_offer([StreamOffer("198.51.100.1", 20000)], origin=elsewhere))
    assert moved.origin == replace(first.origin, version=2)


# ---- property: whatever is offered, the answer keeps its shape

_media = st.builds(
    lambda kind, port, transport, formats, attributes: "\r\n".join(
        [f"m={kind} {port} {transport} {' '.join(map(str, formats))}", *attributes]
    ),
    st.sampled_from(["audio", "video", "message"]),
    st.integers(0, 65535),
    st.sampled_from(["RTP/AVP", "RTP/SAVP", "rtp/avpf", "udp"]),
    st.lists(st.integers(0, 140), min_size=1, max_size=4),
    st.lists(
        st.sampled_from(
            ["a=sendonly", "a=inactive", "a=label:1", "a=ptime:30", "a=rtpmap:96 opus/48000/2", "c=IN IP4 0.0.0.0"]
        ),
        max_size=4,
    ),
)


@given(st.lists(_media, max_size=6))
def test_answer_has_the_shape_of_the_offer(media: list[str]) -> None:
    offer = _offer(*media)
    answer = model.parse(str(_answer(offer)))
    assert [each.kind for each in answer.media] == [each.kind for each in offer.media]
    assert [each.transport for each in answer.media] == [each.transport for each in offer.media]
    assert [each.label for each in answer.media] == [each.label for each in offer.media]
    for ours, theirs in zip(answer.media, offer.media, strict=True):
        assert set(ours.formats) <= set(theirs.formats)
        assert ours.formats
        if ours.port:
            assert ours.direction == ("inactive" if theirs.direction == "inactive" else "recvonly")
