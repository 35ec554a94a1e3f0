"""Multipart as SBCs write it: no space after colons, wrong part lengths, extra parts, a padded last boundary."""

import base64
import binascii
from collections.abc import Callable

import pytest

from siprec.session.bodies import ACCEPT
from tests.support.failover import caller
from tests.support.replay import Server, Src


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


Encode = Callable[[bytes], bytes]
ENCODINGS: dict[str, Encode] = {
    "base64": base64.encodebytes,
    "quoted-printable": lambda data: binascii.b2a_qp(data, istext=False),
    "8bit": bytes,
}


def reencoded(server: Server, kind: bytes, header: str, encode: Encode) -> tuple[Src, bytes]:
    """An SRC, and its INVITE with the part of that type under another header line, encoded."""
    src, own = caller(server)
    head, _, body = src.load("good", replace=own).partition(b"\r\n\r\n")
    parts = body.split(b"--b1")
    for at, part in enumerate(parts):
        if kind in part:
            about, _, text = part.partition(b"\r\n\r\n")
            parts[at] = about + b"\r\n" + header.encode() + b"\r\n\r\n" + encode(text) + b"\r\n"
    body = b"--b1".join(parts)
    head = head.partition(b"\r\nContent-Length")[0]
    return src, head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", [b"application/sdp", b"application/rs-metadata"])
async def test_transfer_encodings_are_undone(server: Server, kind: bytes, encoding: str) -> None:
    header = f"Content-Transfer-Encoding: {encoding}"
    src, invite = reencoded(server, kind, header, ENCODINGS[encoding])
    assert (await src.exchange(invite)).status == 200
    await src.ack()
    recorded = await src.bye()
    assert (recorded.labels, recorded.heard) == (["1", "2"], ["Alice", "Bob"])
    assert recorded.manifest.metadata_errors == []
    assert recorded.bodies[0].lstrip().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Content-Transfer-Encoding: x-yenc", "the transfer encoding of a body part is unknown"),
        ("Content-Transfer-Encoding: base64", "the base64 of a body part is damaged"),
        ("Content-Encoding: gzip", "content coding is not supported"),
    ],
)
async def test_metadata_that_cannot_be_decoded_is_a_fault_of_it(server: Server, header: str, reason: str) -> None:
    src, invite = reencoded(server, b"application/rs-metadata", header, lambda _: b"abcde")
    assert (await src.exchange(invite)).status == 200
    await src.ack()
    await src.speak("1")
    recorded = await src.bye()
    assert recorded.manifest.metadata_errors == [f"metadata/0001.xml: {reason}"]
    assert recorded.manifest.channels[0].packets == 5


@pytest.mark.parametrize(
    ("header", "status", "accepted"),
    [
        ("Content-Transfer-Encoding: x-yenc", 415, ("Accept", list(ACCEPT))),
        ("Content-Transfer-Encoding: base64", 400, ("Accept", [])),
        ("Content-Encoding: gzip", 415, ("Accept-Encoding", ["identity"])),
    ],
)
async def test_an_offer_that_cannot_be_decoded_is_refused(
    server: Server, header: str, status: int, accepted: tuple[str, list[str]]
) -> None:
    src, invite = reencoded(server, b"application/sdp", header, lambda _: b"abcde")
    response = await src.exchange(invite)
    assert (response.status, response.headers.values(accepted[0])) == (status, accepted[1])
