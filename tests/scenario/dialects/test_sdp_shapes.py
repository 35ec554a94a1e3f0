"""SDP as SRCs write it: t= before c=, blank lines between media, unknown lines, no direction, labels that are words."""

import re

import pytest

from tests.support.replay import Server


async def test_it_is_understood_and_answered_in_order(server: Server) -> None:
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.label for each in src.answer.media] == ["a_leg", "b_leg"]
    await src.speak("a_leg")
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.heard == ["Bob", "Alice"]
    assert recorded.ssrcs == [[src.ssrc("a_leg")], [src.ssrc("b_leg")]]


@pytest.mark.parametrize("line", ["", "c=IN IP4 sbc.example.com\n"])
async def test_media_without_an_address_comes_from_where_the_signalling_does(server: Server, line: str) -> None:
    src = server.src("trait-06-sdp")
    assert (await src.send("good", replace={"c=IN IP4 127.0.30.1\n": line})).status == 200
    await src.ack()
    await src.speak("a_leg")
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.ssrcs == [[src.ssrc("a_leg")], [src.ssrc("b_leg")]]
    assert recorded.manifest.refused == []


async def test_a_label_given_twice_is_two_channels(server: Server) -> None:
    src = server.src("trait-06-sdp")
    assert (await src.send("good", replace={"a=label:b_leg": "a=label:a_leg"})).status == 200
    await src.ack()
    offer = str(src.offer)
    for ports in ({"audio 12000": "audio 0", "audio 12004": "audio 0"}, {}):
        body = offer
        for old, new in ports.items():
            body = body.replace(old, new)
        assert (await src.exchange(src.build("INVITE", body=body.encode()))).status == 200
        await src.ack()
    assert [each.port > 0 for each in src.answer.media] == [True, True] if src.answer else False
    recorded = await src.bye()
    assert [each.index for each in recorded.manifest.channels] == [0, 1]


async def test_a_codec_whose_packets_are_longer_than_our_room_is_left_to_another(server: Server) -> None:
    """20 ms of L16 at 44.1 kHz stereo have 3528 octets, which no slot of the capture holds."""
    src = server.src("trait-06-sdp")
    data = src.load("good")
    assert b"RTP/AVP 0" in data
    assert (await src.exchange(data.replace(b"RTP/AVP 0", b"RTP/AVP 10 0"))).status == 200
    assert src.answer is not None
    assert all("10" not in each.formats for each in src.answer.media)
    await src.ack()
    await src.speak("a_leg")
    assert sum(each.packets or 0 for each in (await src.bye()).manifest.channels) == 5


async def test_with_no_other_codec_it_is_refused(server: Server) -> None:
    src = server.src("trait-06-sdp")
    response = await src.exchange(re.sub(rb"RTP/AVP 0[ \d]*", b"RTP/AVP 10", src.load("good")))
    assert (response.status, response.headers.get("Warning")) == (488, '399 siprec "no acceptable codec"')
