"""A re-INVITE or UPDATE that is refused or cancelled changes nothing (RFC 6141, RFC 3261 section 14.1)."""

import pytest

from siprec.sdp.model import SessionDescription
from siprec.sip.message import Request, parse
from siprec.store import codec
from siprec.store.sqlite import SqliteSessionStore
from tests.support.replay import Server, Src

MIXED = "multipart/mixed;boundary=b"
SNAPSHOT = (
    '<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>complete</datamode>'
    '<session session_id="MDAwMDAwMDAwMDAwMDAwMQ=="/><participant participant_id="Y2Fyb2w=">'
    '<nameID aor="sip:carol@example.com"><name>Carol</name></nameID></participant></recording>'
)


def with_metadata(offer: SessionDescription | str) -> bytes:
    """An offer and a snapshot that names Carol alone."""
    parts = (("application/sdp", str(offer)), ("application/rs-metadata+xml", SNAPSHOT))
    return "".join(f"--b\r\nContent-Type: {kind}\r\n\r\n{text}\r\n" for kind, text in parts).encode() + b"--b--\r\n"


async def begun(server: Server) -> Src:
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    return src


async def test_a_refused_offer_brings_no_metadata(server: Server) -> None:
    src = await begun(server)
    offer = str(src.offer).replace("RTP/AVP 0", "RTP/AVP 31")
    refused = await src.exchange(src.build("INVITE", body=with_metadata(offer), content_type=MIXED))
    assert refused.status == 488
    assert (await src.exchange(src.build("UPDATE"))).status == 200
    await src.speak("a_leg")
    recorded = await src.bye()
    assert recorded.names == ["Alice", "Bob"]
    assert all(not each.left for each in recorded.manifest.participants)
    assert recorded.causes == set()


@pytest.mark.parametrize("gone", ["a=inactive\r\n", ""])
async def test_a_cancelled_one_leaves_the_streams_as_they_were(server: Server, gone: str) -> None:
    src = await begun(server)
    offer = str(src.offer).replace("t=0 0\r\n", f"t=0 0\r\n{gone}")
    if not gone:
        offer = offer.replace("audio 12000", "audio 0").replace("audio 12004", "audio 0")
    invite = src.build("INVITE", body=with_metadata(offer), content_type=MIXED, branch="z9hG4bK-cancelled")
    number = src.cseq
    src.post(invite)
    src.post(src.build("CANCEL", branch="z9hG4bK-cancelled", cseq=number))
    request = parse(invite)
    assert isinstance(request, Request)
    assert (await src.response(request)).status == 487
    src.post(src.build("ACK", branch="z9hG4bK-cancelled", cseq=number))
    await src.speak("a_leg")
    await src.speak("b_leg")
    recorded = await src.bye()
    assert recorded.names == ["Alice", "Bob"]
    assert recorded.ssrcs == [[src.ssrc("a_leg")], [src.ssrc("b_leg")]]
    assert recorded.causes == set()


@pytest.mark.parametrize("method", ["UPDATE", "INVITE"])
async def test_an_offer_of_ours_has_its_answer_before_there_is_another(server: Server, method: str) -> None:
    src = await begun(server)
    answer = str(src.offer).encode()
    assert (await src.exchange(src.build("INVITE"))).status == 200
    body = answer if method == "UPDATE" else b""
    crossing = src.build(method, body=body)
    assert (await src.exchange(crossing)).status == 491
    await src.ack(body=answer)
    await src.speak("a_leg")
    assert (await src.bye()).ssrcs[0] == [src.ssrc("a_leg")]


async def test_the_journal_knows_of_a_new_stream_before_it_is_promised(server: Server) -> None:
    """Else a successor would let go of its ports."""
    src = await begun(server)
    known: list[tuple[int, int]] = []
    receive, store = src.receive, server.store
    assert isinstance(store, SqliteSessionStore)
    (session_id,) = await store.owned("test")

    def look(data: bytes) -> None:
        channels = codec.decode(store._table.get(session_id)).call.channels
        known.append((len(channels), store.health().dirty))
        receive(data)

    src.receive = look  # type: ignore[method-assign]
    offer = f"{src.offer}m=audio 12008 RTP/AVP 0\r\nc=IN IP4 127.0.30.1\r\na=label:c_leg\r\na=sendonly\r\n"
    assert (await src.exchange(src.build("INVITE", body=offer.encode()))).status == 200
    assert known[-1] == (3, 0)
    await src.ack()
    await src.speak("c_leg")
    assert (await src.bye()).ssrcs[2] == [src.ssrc("c_leg")]
