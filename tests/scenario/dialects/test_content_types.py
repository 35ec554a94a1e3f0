"""Media types in any case, parts in any order, metadata alone in an UPDATE (RFC 7866 section 9.1)."""

import pytest

from tests.support.replay import Server


async def test_a_bare_metadata_body_is_not_taken_for_sdp(server: Server) -> None:
    src = server.src("trait-04-content-types")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("1")
    response = await src.send("update")
    assert (response.status, response.body) == (200, b"")
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Carol"]
    assert recorded.manifest.metadata_errors == []
    assert [each.packets for each in recorded.manifest.channels] == [10, 0]


async def test_a_bare_metadata_body_comes_in_a_reinvite_too(server: Server) -> None:
    """Without an offer the recorder makes one; the ACK answers it."""
    src = server.src("trait-04-content-types")
    assert (await src.send("good")).status == 200
    await src.ack()
    offered = src.offer
    response = await src.send("update", replace={"UPDATE": "INVITE"})
    assert response.status == 200
    assert src.offer is not None
    assert [each.direction for each in src.offer.media] == ["recvonly", "recvonly"]
    await src.ack(body=str(offered).encode())
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Carol"]
    assert [each.packets for each in recorded.manifest.channels] == [5, 0]


@pytest.mark.parametrize("status", [415])
async def test_a_required_part_of_an_unknown_type_is_refused_with_what_we_take(server: Server, status: int) -> None:
    """RFC 5621 section 8.4; optional ones are ignored, see CUBE's GTD."""
    response = await server.src("trait-04-content-types").send("bad")
    assert response.status == status
    assert {"application/sdp", "application/rs-metadata+xml", "multipart/mixed"} <= set(
        response.headers.values("Accept")
    )
