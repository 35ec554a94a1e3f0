"""Every direction is answered by its complement for one that only receives (RFC 3264 section 6.1), each time anew."""

from tests.support.replay import Server


async def test_inactive_never_sticks(server: Server) -> None:
    src = server.src("trait-08-direction")
    assert (await src.send("good")).status == 200
    await src.ack()
    assert src.answer is not None
    # sendonly, sendrecv, none, recvonly, inactive
    expected = ["recvonly", "recvonly", "recvonly", "inactive", "inactive"]
    assert [each.direction for each in src.answer.media] == expected
    assert (await src.send("flip")).status == 200
    await src.ack()
    # inactive, recvonly, inactive, sendonly, sendonly
    assert [each.direction for each in src.answer.media] == ["inactive", "inactive", "inactive", "recvonly", "recvonly"]
    await src.speak("4")
    await src.speak("5")
    recorded = await src.bye()
    assert [each.packets for each in recorded.manifest.channels] == [0, 0, 0, 5, 5]
