"""INVITEs without an offer: ours is in the 200, the answer in the ACK (RFC 3261 section 13.2.1), metadata in either."""

import pytest

from siprec.sdp.model import parse as parse_sdp
from tests.support.failover import caller
from tests.support.replay import Server, Src

BOUNDARY = b"b1"


def parts(src: Src, own: dict[str, str]) -> tuple[bytes, bytes, bytes]:
    """The SRC's INVITE taken apart: its headers without those of a body, the SDP part, the metadata part."""
    head, _, body = src.load("good", replace=own).partition(b"\r\n\r\n")
    _, first, second, _ = body.split(b"--" + BOUNDARY)
    kinds = {b"application/sdp" in each: each.partition(b"\r\n\r\n")[2].strip() for each in (first, second)}
    return head.partition(b"\r\nContent-Type")[0], kinds[True], kinds[False]


async def offered(
    server: Server, metadata: bytes = b"", *, edit: tuple[bytes, bytes] = (b"", b"")
) -> tuple[Src, bytes, bytes]:
    """A call that was answered with an offer of ours; the SDP and metadata that its SRC would have sent."""
    src, own = caller(server)
    head, sdp, document = parts(src, own)
    body = document.replace(*edit) if metadata == b"all" else metadata
    kind = b"\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session" if body else b""
    invite = head + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    assert (await src.exchange(invite)).status == 200
    return src, sdp, document


async def answer(src: Src, sdp: bytes, metadata: bytes = b"") -> None:
    """The ACK with an answer, and metadata beside it."""
    src.answer, src.offer = src.offer, parse_sdp(sdp)
    body, kind = sdp, "application/sdp"
    if metadata:
        whole = (
            b"Content-Type: application/sdp\r\n\r\n" + sdp,
            b"Content-Type: application/rs-metadata+xml\r\n\r\n" + metadata,
        )
        body = b"".join(b"--b1\r\n" + each + b"\r\n" for each in whole) + b"--b1--\r\n"
        kind = "multipart/mixed;boundary=b1"
    src.post(src.build("ACK", body=body, content_type=kind, cseq=1, headers={"Contact": "<sip:src@127.0.0.20>"}))


def unlabelled(sdp: bytes) -> bytes:
    return b"\r\n".join(each for each in sdp.split(b"\r\n") if not each.startswith(b"a=label"))


async def test_metadata_beside_the_answer_is_learned(server: Server) -> None:
    src, sdp, metadata = await offered(server)
    one = sdp[: sdp.rindex(b"m=audio")]
    await answer(src, one, metadata)
    await src.speak("1")
    recorded = await src.bye()
    assert (recorded.names, recorded.heard, recorded.manifest.metadata_errors) == (["Alice", "Bob"], ["Alice"], [])
    assert len(recorded.bodies) == 1


async def test_each_stream_of_the_metadata_is_offered_under_its_label(server: Server) -> None:
    src, sdp, _ = await offered(server, b"all", edit=(b"<label>1<", b"<label>one<"))
    assert src.offer is not None
    assert [each.label for each in src.offer.media] == ["one", "2"]
    await answer(src, unlabelled(sdp))
    recorded = await src.bye()
    assert (recorded.labels, recorded.heard) == (["one", "2"], ["Alice", "Bob"])


async def test_labels_of_the_answer_count_more(server: Server) -> None:
    src, sdp, _ = await offered(server, b"all")
    await answer(
        src, sdp.replace(b"label:1", b"label:x").replace(b"label:2", b"label:1").replace(b"label:x", b"label:2")
    )
    recorded = await src.bye()
    assert (recorded.labels, recorded.heard) == (["2", "1"], ["Bob", "Alice"])


@pytest.mark.parametrize("label", [b"", b"one two", b"2"])
async def test_what_is_no_label_of_its_own_is_not_offered(server: Server, label: bytes) -> None:
    """RFC 4574: a token, one for each stream."""
    src, sdp, _ = await offered(server, b"all", edit=(b"<label>1<", b"<label>" + label + b"<"))
    assert src.offer is not None
    assert [each.label for each in src.offer.media] == [None, None if label == b"2" else "2"]
    await answer(src, unlabelled(sdp))
    assert len((await src.bye()).heard) == 2
