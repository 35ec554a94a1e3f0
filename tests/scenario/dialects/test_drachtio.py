"""drachtio-siprec-recording-client: a quoted boundary, dashed UUIDs, a Contact without user."""

from tests.support.replay import Server


async def test_two_lines_two_parties(server: Server) -> None:
    src = server.src("drachtio")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.ssrcs == [[src.ssrc("1")], [src.ssrc("2")]]
