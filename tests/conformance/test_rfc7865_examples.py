"""The metadata of RFC 7865 sections 8.1 and 8.2, sent in a recording session: complete in the INVITE, partial after."""

from pathlib import Path

import pytest

from siprec.sip.message import Request, parse
from siprec.sip.multipart import parse_body
from tests.support.replay import FIXTURES, Server, Src

EXAMPLES = FIXTURES / "siprec-rfc-examples"
MEDIA = {b"198.51.100.1": b"127.0.78.1"}
pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="the fixtures do not lie beside the checkout")


def invite_with(src: Src, metadata: Path) -> bytes:
    """An INVITE of ours with four m-lines, labels 96 to 99, and this metadata."""
    message = parse(src.load("01-basic"))
    assert isinstance(message, Request)
    ours = next(each.body for each in parse_body(message.headers, message.body) if b"<recording" in each.body)
    message.body = message.body.replace(ours, metadata.read_bytes())
    return bytes(message)


async def test_8_1_complete_then_8_2_partial(server: Server) -> None:
    src = server.src("rfc8068", transport="tcp")
    response = await src.relay(invite_with(src, EXAMPLES / "rfc7865_s8.1_complete.xml"), media=MEDIA)
    assert response.status == 200
    await src.speak("96")
    await src.speak("98")
    headers = {"Content-Disposition": "recording-session", "Contact": "<sip:src@127.0.0.20>;+sip.src"}
    body = (EXAMPLES / "rfc7865_s8.2_partial.xml").read_bytes()
    update = src.build("UPDATE", headers=headers, body=body, content_type="application/rs-metadata+xml")
    assert (await src.exchange(update)).status == 200
    recorded = await src.bye()
    assert recorded.heard == ["Bob", "Paul"]
    assert recorded.names == ["Bob", "Paul"]
    bob, paul = recorded.manifest.participants
    assert (bob.joined, bob.left) == (["2010-12-16T23:41:07.000Z"], ["2010-12-16T23:41:07.000Z"])
    assert (paul.joined, paul.left) == (["2010-12-16T23:41:07.000Z"], [])
    assert [each.group_id for each in recorded.manifest.sessions] == ["7+OTCyoxTmqmqyA/1weDAg=="]
    assert recorded.bodies[1] == body
    assert any("FOO!" in each for each in recorded.manifest.extensions)
