"""AudioCodes Mediant: `;src` in the Contact, ids that are numbers, pause by two inactive lines."""

import asyncio

from tests.support.replay import Server


async def test_pause_and_resume_come_as_inactive_and_sendonly(server: Server) -> None:
    src = server.src("audiocodes")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    assert (await src.send("pause")).status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.direction for each in src.answer.media] == ["inactive", "inactive"]
    await server.live("audiocodes-call@127.0.0.20", lambda found: found.manifest.state == "paused")
    await asyncio.sleep(0.05)  # how long the pause lasts
    assert (await src.send("resume")).status == 200
    await src.ack()
    assert [each.direction for each in src.answer.media] == ["recvonly", "recvonly"]
    await src.speak("1")
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.causes == {(0, "paused"), (1, "paused")}
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]
    assert recorded.manifest.external_ids["ucid"] == "00FA080070500000AABB"
    assert recorded.manifest.external_ids["genesys-uuid"] == "4GB8J0S1K95GN7R60S7Q2B9ABC000001"
    assert [each.group_id for each in recorded.manifest.sessions] == ["00000000-0000-0000-0000-a1b2c3d4e5f6"]


async def test_a_body_of_bare_line_feeds_is_taken_by_its_length(server: Server) -> None:
    src = server.src("audiocodes")
    assert (await src.send("invite", line_end=b"\n")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    assert (await src.bye()).heard == ["Alice", "Bob"]


async def test_its_call_id_header_is_an_external_id(server: Server) -> None:
    src = server.src("audiocodes")
    await src.send("invite")
    await src.ack()
    assert (await src.bye()).manifest.external_ids["x-audc-call-id"] == "f0e1d2c3b4a5"
