"""Genesys: metadata as the RFC has it, its own id of the call in a header."""

from tests.support.replay import Server


async def test_two_lines_two_parties(server: Server) -> None:
    src = server.src("genesys")
    assert (await src.send("invite")).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    assert (await src.bye()).heard == ["Alice", "Bob"]


async def test_its_uuid_header_is_an_external_id(server: Server) -> None:
    src = server.src("genesys")
    await src.send("invite")
    await src.ack()
    uuid = "4GB8J0S1K95GN7R60S7Q2B9ABC000001"
    assert (await src.bye()).manifest.external_ids["genesys-uuid"] == uuid
