"""Oracle (Acme Packet) ESBC: INVITE before the call is answered, one m-line, the second by re-INVITE."""

from tests.support.replay import Server


async def test_the_second_party_comes_by_reinvite(server: Server) -> None:
    src = server.src("oracle")
    response = await src.send("invite")
    assert response.status == 200
    await src.ack()
    await src.speak("16777227")
    assert (await src.send("reinvite")).status == 200
    await src.ack()
    await src.speak("16777227")
    await src.speak("16777228")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.labels == ["16777227", "16777228"]
    assert recorded.ssrcs == [[src.ssrc("16777227")], [src.ssrc("16777228")]]
    assert [each.packets for each in recorded.manifest.channels] == [10, 5]
    assert recorded.manifest.external_ids["ucid"] == "00FA08000705D4C5DC"
    assert any("X-Department" in each for each in recorded.manifest.extensions)
