"""PhrSite SipRecClient: `+sip-src`, the Call-ID of the call itself, lines of MSRP and real-time text."""

from tests.support.replay import Server


async def test_audio_is_taken_and_the_other_lines_are_refused_in_place(server: Server) -> None:
    src = server.src("phrsite")
    assert (await src.send("invite")).status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.kind for each in src.answer.media] == ["audio", "audio", "message", "text"]
    assert [bool(each.port) for each in src.answer.media] == [True, True, False, False]
    assert [each.label for each in src.answer.media] == ["1", "2", "3", "4"]
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.manifest.call_id == "cs-call-911@example.com"
