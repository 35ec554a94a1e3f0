"""Metaswitch Perimeta: one mixed line without a direction, and a BYE that requires siprec."""

from tests.support.replay import Server


async def test_all_are_heard_on_the_one_channel(server: Server) -> None:
    src = server.src("metaswitch")
    assert (await src.send("invite")).status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.direction for each in src.answer.media] == ["recvonly"]
    await src.speak("1")
    assert (await src.send("reinvite")).status == 200
    await src.ack()
    await src.speak("1")
    recorded = await src.bye("bye")
    assert recorded.heard == ["Alice, Bob, Carol"]
    assert [each.packets for each in recorded.manifest.channels] == [10]
