"""Cisco CUBE as SRC: inactive until the call is answered, a third part in the body, names that come by UPDATE."""

from tests.support.replay import Server


async def test_an_early_call_becomes_active_and_renamed(server: Server) -> None:
    src = server.src("cube")
    assert (await src.send("invite")).status == 200
    await src.ack()
    assert src.answer is not None
    assert [each.direction for each in src.answer.media] == ["inactive", "inactive"]
    assert (await src.send("reinvite")).status == 200
    await src.ack()
    assert [each.direction for each in src.answer.media] == ["recvonly", "recvonly"]
    await src.speak("1")
    await src.speak("2")
    # Without a name the user part of the address speaks.
    await server.live("cube-call@127.0.0.20", lambda found: found.heard == ["Alice", "bob"])
    assert (await src.send("update")).status == 200
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Carol"]
    assert recorded.names == ["Alice", "bob", "Carol"]
    assert len(recorded.bodies) == 3
    assert recorded.manifest.sessions[0].sip_session_ids == [
        "00000000000000000000000000000001;remote=00000000000000000000000000000002"
    ]


async def test_without_its_third_part_and_with_the_last_boundary_it_is_the_same(server: Server) -> None:
    src = server.src("cube")
    gtd = "--uniqueBoundary\nContent-Disposition: signal;handling=optional"
    assert (await src.send("invite", replace={gtd: "--uniqueBoundary--\n" + gtd})).status == 200
    await src.ack()
    assert (await src.bye()).manifest.metadata_errors == []


async def test_its_timer_of_half_an_hour_is_granted(server: Server) -> None:
    response = await server.src("cube").send("invite")
    assert response.headers.get("Session-Expires") == "1800;refresher=uac"
    assert "timer" in response.headers.values("Require")


async def test_its_guid_is_an_external_id(server: Server) -> None:
    src = server.src("cube")
    await src.send("invite")
    await src.ack()
    guid = "1234567890-0987654321-1122334455-0011223344"
    assert (await src.bye()).manifest.external_ids["cisco-guid"] == guid
