"""What RFC 7866, and the RFCs under it, ask of a recording server as a whole; a test for each requirement."""

import pytest

from siprec.sdp.model import parse as parse_sdp
from siprec.sip.message import Response
from tests.support.replay import Server, Src

DIALECT = "trait-04-content-types"


@pytest.fixture
async def src(server: Server) -> Src:
    """An SRC in a recording session of two streams."""
    found = server.src(DIALECT)
    assert (await found.send("good")).status == 200
    await found.ack()
    await found.speak("1")
    await found.speak("2")
    return found


def offer_of(src: Src, *changes: tuple[str, str]) -> bytes:
    """The offer in force, changed and one version higher."""
    assert src.offer is not None
    text = str(src.offer)
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    origin = src.offer.origin
    return text.replace(str(origin), str(origin).replace(f" {origin.version} ", f" {origin.version + 1} "), 1).encode()


async def reinvite(src: Src, body: bytes, method: str = "INVITE") -> Response:
    headers = {"Contact": "<sip:src@127.0.0.20:5060>;+sip.src", "Require": "siprec"}
    response = await src.exchange(src.build(method, headers=headers, body=body))
    if method == "INVITE" and response.status == 200:
        await src.ack()
    return response


# ---------------------------------------------------------------------- RFC 7866 section 6: who we are


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
async def test_every_answer_that_makes_or_moves_a_dialog_says_srs(src: Src, method: str) -> None:
    response = await reinvite(src, offer_of(src), method)
    assert response.contact is not None
    assert "+sip.srs" in response.contact.params


async def test_siprec_is_not_among_what_we_advertise(src: Src, server: Server) -> None:
    found = [each for each in src.received if isinstance(each, Response) and each.status == 200]
    assert found
    assert all("siprec" not in each.headers.values("Supported") for each in found)


# ---------------------------------------------------------------------- section 7 and 8: SDP


async def test_a_removed_stream_keeps_its_channel_and_its_slot(src: Src) -> None:
    """Port 0 removes it; under the same label it comes back to the same channel."""
    removed = offer_of(src, ("m=audio 12004 ", "m=audio 0 "))
    assert (await reinvite(src, removed)).status == 200
    assert src.answer is not None
    assert [bool(each.port) for each in src.answer.media] == [True, False]
    assert (await reinvite(src, offer_of(src, ("m=audio 0 ", "m=audio 12004 ")))).status == 200
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 10]


async def test_a_slot_is_reused_for_another_stream(src: Src) -> None:
    assert (await reinvite(src, offer_of(src, ("a=label:2", "a=label:other")))).status == 200
    await src.speak("other")
    recorded = await src.bye()
    assert recorded.labels == ["1", "2", "other"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 5, 5]


async def test_an_answer_keeps_all_lines_and_only_ever_grows(src: Src) -> None:
    assert src.offer is not None
    video = b"m=video 12008 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=label:3\r\na=sendonly\r\n"
    assert (await reinvite(src, offer_of(src) + video)).status == 200
    assert src.answer is not None
    assert [(each.label, bool(each.port)) for each in src.answer.media] == [("1", True), ("2", True), ("3", False)]


async def test_a_refused_reinvite_changes_nothing(src: Src) -> None:
    """RFC 6141: after 488 all is as before, and the recording goes on."""
    before = src.answer
    response = await reinvite(src, offer_of(src, ("RTP/AVP", "UDP/DTLS/SCTP")))
    assert response.status == 488
    assert response.headers.get("Warning") == '399 siprec "transport not supported"'
    await src.speak("1")
    await src.speak("2")
    assert src.answer is before
    recorded = await src.bye()
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]
    assert recorded.causes == set()


async def test_the_version_of_our_sdp_rises_only_with_a_change(src: Src) -> None:
    assert src.answer is not None
    first = src.answer.origin
    await reinvite(src, offer_of(src))
    assert src.answer.origin == first
    await reinvite(src, offer_of(src, ("a=sendonly", "a=inactive")))
    assert (src.answer.origin.session_id, src.answer.origin.version) == (first.session_id, first.version + 1)


async def test_update_carries_an_offer_too(src: Src) -> None:
    assert (await reinvite(src, offer_of(src, ("a=sendonly", "a=inactive")), "UPDATE")).status == 200
    assert src.answer is not None
    assert [each.direction for each in src.answer.media] == ["inactive", "inactive"]


async def test_a_stream_may_change_its_source_and_its_ssrc(src: Src) -> None:
    """RFC 7866 section 8.1.3."""
    assert (await reinvite(src, offer_of(src, ("m=audio 12000", "m=audio 12040")))).status == 200
    src.forget_voices()
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.manifest.channels[0].packets == 10
    assert len(recorded.manifest.channels[0].ssrcs) == 2


async def test_media_may_come_before_the_ack(server: Server) -> None:
    src = server.src(DIALECT)
    assert (await src.send("good")).status == 200
    await src.speak("1")
    await src.ack()
    assert [each.packets for each in (await src.bye()).manifest.channels] == [5, 0]


async def test_an_offerless_reinvite_is_answered_with_the_known_slots(src: Src) -> None:
    offered = src.offer
    headers = {"Contact": "<sip:src@127.0.0.20:5060>;+sip.src"}
    response = await src.exchange(src.build("INVITE", headers=headers))
    assert response.status == 200
    assert src.offer is not None
    assert [(each.label, each.direction) for each in src.offer.media] == [("1", "recvonly"), ("2", "recvonly")]
    await src.ack(body=str(offered).encode())
    await src.speak("1")
    recorded = await src.bye()
    assert [each.packets for each in recorded.manifest.channels] == [10, 5]
    assert recorded.heard == ["Alice", "Bob"]


async def test_receiver_reports_are_sent(src: Src, server: Server) -> None:
    """RFC 7866 section 8.1.1, RFC 3550 section 6.4.2: to the port above the media port, with our CNAME."""
    assert await src.reports("1")


# ---------------------------------------------------------------------- section 9: metadata


async def test_a_recording_session_needs_no_metadata(server: Server) -> None:
    src = server.src("trait-01-recognition")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == [None, None]
    assert recorded.manifest.metadata_errors == []


async def test_without_update_in_allow_none_is_requested(server: Server) -> None:
    src = server.src("metaswitch")
    assert (await src.send("bad", replace={"Supported: ": "Allow: INVITE, ACK, BYE\nSupported: "})).status == 200
    await src.ack()
    await src.speak("1")
    await src.bye()
    assert not [each for each in src.received if not isinstance(each, Response) and each.method == "UPDATE"]


# ---------------------------------------------------------------------- RFC 3261 as a recorder meets it


async def test_options_outside_a_dialog_say_what_we_take(src: Src) -> None:
    text = src.build("OPTIONS").replace(f";tag={src.to_tag}".encode(), b"").replace(b"Call-ID: ", b"Call-ID: ping-")
    response = await src.exchange(text)
    assert response.status == 200
    assert {"application/sdp", "application/rs-metadata+xml", "application/rs-metadata", "multipart/mixed"} <= set(
        response.headers.values("Accept")
    )
    assert {"INVITE", "UPDATE", "BYE", "INFO"} <= set(response.headers.values("Allow"))


async def test_options_in_a_dialog_are_a_sign_of_life(src: Src) -> None:
    """Oracle's refresh: 200 in the dialog, 481 once it is gone."""
    assert (await src.exchange(src.build("OPTIONS"))).status == 200
    await src.bye()
    assert (await src.exchange(src.build("OPTIONS"))).status == 481


async def test_bye_of_an_unknown_dialog_is_481(src: Src) -> None:
    await src.bye()
    assert (await src.exchange(src.build("BYE"))).status == 481


@pytest.mark.parametrize("content_type", ["application/dtmf-relay", "application/x-unknown"])
async def test_no_info_ends_a_call(src: Src, content_type: str) -> None:
    response = await src.exchange(src.build("INFO", body=b"Signal=1\r\n", content_type=content_type))
    assert response.status in {200, 415, 469}
    await src.speak("1")
    assert (await src.bye()).manifest.channels[0].packets == 10


async def test_cancel_leaves_no_recording(server: Server) -> None:
    """Both in one breath: the INVITE is still being answered when the CANCEL comes."""
    src = server.src("avaya")
    invite = src.load("invite")
    cancel = invite.partition(b"\r\nContact")[0].replace(b"INVITE", b"CANCEL") + b"\r\nContent-Length: 0\r\n\r\n"
    src.post(invite)
    src.post(cancel)
    finals = await src.finals(2)
    assert sorted(each.status for each in finals) == [200, 487]
    assert server.recordings() == []


async def test_a_200_is_repeated_until_its_ack_and_then_the_call_ends(server: Server) -> None:
    src = server.src("avaya")
    assert (await src.send("invite")).status == 200
    await src.speak("10")
    server.advance(33)  # 64*T1 and a bit
    await src.request("BYE")
    recorded = await server.ended("avaya-call@127.0.0.20")
    assert recorded.manifest.channels[0].packets == 5


async def test_sdp_answers_are_parsable_by_ourselves(src: Src) -> None:
    assert src.answer is not None
    assert str(parse_sdp(str(src.answer))) == str(src.answer)
