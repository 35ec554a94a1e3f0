"""Metadata under another root, in another namespace, with other attribute names."""

from tests.support.replay import Server


async def test_names_are_told_by_any_of_their_aliases(server: Server) -> None:
    src = server.src("trait-02-metadata-names")
    assert (await src.send("good")).status == 200
    await src.ack()
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.manifest.metadata_errors == []


async def test_a_root_of_another_name_costs_the_names_not_the_audio(server: Server) -> None:
    src = server.src("trait-02-metadata-names")
    assert (await src.send("bad")).status == 200
    await src.ack()
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == [None, None]
    assert [each.packets for each in recorded.manifest.channels] == [5, 0]
    assert b"<recordings " in recorded.bodies[0]
