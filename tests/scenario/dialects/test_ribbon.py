"""Ribbon (Sonus) SBC: a prefix on every element, a clock that starts in 1970, callData, no last boundary."""

from tests.support.replay import Server


async def test_each_party_sends_the_other_ones_label(server: Server) -> None:
    """In its documents Alice sends the stream of label 2; the document counts, not the order."""
    src = server.src("ribbon")
    response = await src.send("invite")
    assert response.status == 200
    assert response.headers.get("Session-Expires") == "1800;refresher=uac"
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["2002", "Alice"]
    assert recorded.ssrcs == [[src.ssrc("1")], [src.ssrc("2")]]
    ids = recorded.manifest.external_ids
    assert (ids["calldata.gcid"], ids["calldata.callid"]) == ("241205267", "cs-call-1@127.0.5.1")
    assert not [each for person in recorded.manifest.participants for each in person.joined if each.startswith("1970")]
