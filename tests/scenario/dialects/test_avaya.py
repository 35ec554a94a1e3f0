"""Avaya SBCE: `+sip.src` inside the angle brackets, a dummy participant first, then an UPDATE without SDP."""

from tests.support.replay import Server


async def test_the_real_party_comes_in_a_bare_update(server: Server) -> None:
    src = server.src("avaya")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("10")
    await src.speak("20")
    response = await src.send("update")
    assert (response.status, response.body) == (200, b"")
    await src.speak("20")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.labels == ["10", "20"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 10]
    alone, corrected = ([each["name"] for each in one.participants] for one in recorded.manifest.channels)
    assert (alone, corrected) == (["Alice"], ["ASBCE", "Bob"])  # as in `participants`: who was told is never taken back
    assert recorded.manifest.metadata_errors == []
    assert [each.session_id for each in recorded.manifest.sessions] == ["00FA0800705D4C5DCAAC41"]
