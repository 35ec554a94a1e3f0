"""FreeSWITCH mod_siprec: one mixed line, ids of random letters."""

from tests.support.replay import Server


async def test_both_are_heard_on_the_one_channel(server: Server) -> None:
    src = server.src("freeswitch")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == ["Alice, Bob"]
    assert [each.packets for each in recorded.manifest.channels] == [5]
