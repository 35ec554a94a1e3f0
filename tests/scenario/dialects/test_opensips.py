"""OpenSIPS: labels counted from 0 and not in order, From, To and target alike, versions that name no streams."""

import asyncio

from tests.support.replay import Server


async def test_labels_count_not_the_order_of_lines(server: Server) -> None:
    src = server.src("opensips")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("0")
    await src.speak("1")
    for message in ("pause", "resume"):
        assert (await src.send(message)).status == 200
        await src.ack()
        await asyncio.sleep(0.03)  # how long it lasts
    recorded = await src.bye()
    assert recorded.labels == ["1", "0"]
    assert recorded.heard == ["Bob", "Alice"]
    assert recorded.ssrcs == [[src.ssrc("1")], [src.ssrc("0")]]
    assert recorded.causes == {(0, "paused"), (1, "paused")}
    assert recorded.manifest.sessions[0].group_id == "queue7"
    assert recorded.manifest.external_ids["session-id"] == "cs-call-1@example.com"


async def test_where_no_streams_are_named_the_order_decides(server: Server) -> None:
    """Version 3.4 with rtpengine; like 2.4 also without c= and t= of the session, and without +sip.src."""
    src = server.src("opensips")
    assert (await src.send("no-streams")).status == 200
    await src.ack()
    await src.speak("a_leg")
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.labels == ["a_leg", "b_leg"]
