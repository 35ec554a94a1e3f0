"""Participants that send streams which no document declares (Oracle; RFC 8068 section 3.2.3 itself)."""

from tests.support.replay import Server


async def test_they_are_paired_with_the_lines_in_order(server: Server) -> None:
    src = server.src("trait-07-missing-streams")
    assert (await src.send("good")).status == 200
    await src.ack()
    assert (await src.bye()).heard == ["Alice", "Bob"]
