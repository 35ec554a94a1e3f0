"""BroadWorks and Webex Calling: no Require, metadata first, its own root element, updates that are partial."""

import asyncio

from tests.support.replay import Server


async def test_a_third_party_replaces_the_second(server: Server) -> None:
    src = server.src("broadworks")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    await server.live("broadworks-call@127.0.0.20", lambda found: found.heard == ["Alice", "Bob"])
    assert (await src.send("update")).status == 200
    recorded = await src.bye()
    assert recorded.names == ["Alice", "Bob", "Carol"]
    assert recorded.heard[0] == "Alice"
    assert "Carol" in (recorded.heard[1] or "")
    ids = recorded.manifest.external_ids
    assert ids["broadworks.userid"] == "alice@example.com"
    assert ids["broadworks.calltype"] == "orig"
    assert ids["broadworks.recordingtype"] == "on"


async def test_hold_is_an_address_of_zeros_and_pause_is_inactive(server: Server) -> None:
    src = server.src("broadworks")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    for message in ("hold", "pause", "resume"):
        assert (await src.send(message)).status == 200
        await src.ack()
        await asyncio.sleep(0.03)  # how long it lasts
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.causes == {(0, "hold"), (1, "hold"), (0, "paused"), (1, "paused")}
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]


async def test_mono_is_one_channel_of_two(server: Server) -> None:
    src = server.src("broadworks")
    assert (await src.send("mono")).status == 200
    await src.ack()
    await src.speak("1")
    assert (await src.bye()).heard == ["Alice, Bob"]
