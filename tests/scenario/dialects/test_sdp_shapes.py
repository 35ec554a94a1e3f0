"""SDP as SRCs write it: t= before c=, blank lines between media, unknown lines, no direction, labels that are words."""

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
