"""Twilio and Telnyx: a session timer of half an hour, kept up by a re-INVITE that changes nothing."""

from tests.support.replay import Server


async def test_a_refresh_restarts_nothing(server: Server) -> None:
    src = server.src("telnyx")
    response = await src.send("invite")
    assert response.headers.get("Session-Expires") == "1800;refresher=uac"
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    first = src.answer
    server.advance(900)
    refreshed = await src.send("refresh")
    assert refreshed.headers.get("Session-Expires") == "1800;refresher=uac"
    await src.ack()
    assert str(src.answer) == str(first)
    await src.speak("1")
    await src.speak("2")
    server.advance(1000)  # past the first expiry, not past the refreshed one
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.causes == set()
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]


async def test_without_refresh_it_is_ended_before_it_expires(server: Server) -> None:
    src = server.src("telnyx")
    await src.send("invite")
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    server.advance(1769)  # 1800 s less the 32 s of RFC 4028 section 10, and one
    await src.request("BYE")
    recorded = await server.ended("telnyx-call@127.0.0.20")
    assert recorded.heard == ["Alice", "Bob"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 5]
