"""Ids of any shape: a URN, a phone number, twenty hex digits, nothing at all."""

from tests.support.replay import Server


async def test_no_id_need_be_base64(server: Server) -> None:
    src = server.src("trait-03-ids")
    assert (await src.send("good")).status == 200
    await src.ack()
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.manifest.metadata_errors == []


async def test_one_uuid_on_two_elements_counts_for_the_first(server: Server) -> None:
    """RFC 7865 section 6.10: that portion is refused, the rest is kept."""
    src = server.src("trait-03-ids")
    assert (await src.send("bad")).status == 200
    await src.ack()
    recorded = await src.bye()
    assert recorded.names == ["Alice", "Bob"]
    assert recorded.heard[0] == "Alice"
    assert recorded.manifest.metadata_errors == ["the id of a participant on a stream"]
