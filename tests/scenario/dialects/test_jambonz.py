"""jambonz: no +sip.src, elements in any order, pause and resume by SDP alone and without Require."""

import asyncio

from tests.support.replay import Server


async def test_pause_and_resume_without_metadata_keep_the_names(server: Server) -> None:
    src = server.src("jambonz")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    for message in ("pause", "resume"):
        assert (await src.send(message)).status == 200
        await src.ack()
        await asyncio.sleep(0.03)  # how long it lasts
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.causes == {(0, "paused"), (1, "paused")}
    assert len(recorded.bodies) == 1
    assert any("c0ffee00" in each for each in recorded.manifest.extensions)
