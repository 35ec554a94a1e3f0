"""A re-INVITE or UPDATE that is refused or cancelled changes nothing (RFC 6141, RFC 3261 section 14.1)."""

import asyncio
import os

import pytest

from siprec.media.part import load
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
PARTIAL = (
    '<recording xmlns="urn:ietf:params:xml:ns:recording:1"><datamode>partial</datamode>'
    '<participantstreamassoc participant_id="cGFydGljaXBhbnQtQWxpYw==">{sends}'
    "<recv>c3RyZWFtLW9mLUJvYi0tLQ==</recv></participantstreamassoc></recording>"
)
"""Alice sends, or not."""


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


@pytest.mark.parametrize("way", ["inactive", "metadata"])
async def test_disk_and_journal_know_of_a_pause_and_its_end_before_they_are_agreed(server: Server, way: str) -> None:
    """Else a kill at once would leave a part that hears nothing, or a successor that records what was paused."""
    src = server.src("trait-09-failover")
    assert (await src.send("good")).status == 200
    await src.ack()
    assert src.invite is not None
    recorded = server.of(src.invite.call_id)
    receive, store = src.receive, server.store
    assert isinstance(store, SqliteSessionStore)
    known: list[tuple[str, str, int]] = []

    def look(data: bytes) -> None:
        if b"200 OK" in data[:20]:
            (part,) = recorded.folder.parts()
            written = load(part.control.read_bytes()).streams[0].phases[-1].mode
            journaled = codec.decode(store._table.get(recorded.manifest.id)).call.channels[0].mode
            known.append((written, journaled, store.health().dirty))
        receive(data)

    src.receive = look  # type: ignore[method-assign]
    held = ("paused", "paused") if way == "inactive" else ("metadata-hold", "hold")
    for number, modes in enumerate([held, ("active", "active")]):
        body, kind = change(src, way, modes[1])
        assert (await src.exchange(src.build("UPDATE", body=body, content_type=kind))).status == 200
        assert known[number] == (*modes, 0)


async def test_a_disk_that_stands_still_keeps_no_answer_back_for_long(server: Server) -> None:
    """The pause is agreed after half a second; what is written of it waits for the disk."""
    src = await begun(server)
    assert src.invite is not None
    (part,) = server.of(src.invite.call_id).folder.parts()
    os.mkfifo(stuck := part.path / ".part.json.new")  # a pipe without a reader takes as long to open as such a disk
    body, _ = change(src, "inactive", "paused")
    assert (await src.exchange(src.build("UPDATE", body=body))).status == 200
    with stuck.open("rb") as back:
        await asyncio.to_thread(back.read)
    body, _ = change(src, "inactive", "active")
    assert (await src.exchange(src.build("UPDATE", body=body))).status == 200
    await src.speak("a_leg")
    recorded = await src.bye()
    assert recorded.causes == {(1, "paused")}  # the one that said sendonly
    assert recorded.manifest.channels[0].packets == 5


def change(src: Src, way: str, mode: str) -> tuple[bytes, str]:
    """The body of a request that makes the first stream do that, and its type."""
    if way == "inactive":
        wanted = ("a=inactive", "a=sendonly") if mode == "active" else ("a=sendonly", "a=inactive")
        return str(src.offer).replace(*wanted).encode(), "application/sdp"
    sends = "" if mode == "hold" else "<send>c3RyZWFtLW9mLUFsaWNlLQ==</send>"
    return PARTIAL.format(sends=sends).encode(), "application/rs-metadata+xml"
