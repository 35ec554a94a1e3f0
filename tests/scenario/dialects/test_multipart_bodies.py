"""Multipart as SBCs write it: no space after colons, wrong part lengths, extra parts, a padded last boundary."""

import pytest

from tests.support.replay import Server


@pytest.mark.parametrize("message", ["good", "nested"])
async def test_both_parts_are_found(server: Server, message: str) -> None:
    src = server.src("trait-05-multipart")
    assert (await src.send(message)).status == 200
    await src.ack()
    await src.speak("2")
    recorded = await src.bye()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.manifest.metadata_errors == []
    assert recorded.bodies[0].lstrip().startswith(b"<?xml")
