"""Calls recorded without SIPREC (RECORD_PLAIN_CALLS): CUBE's network based recording, CUCM's built-in bridge."""

from pathlib import Path

import pytest

from tests.support.replay import VECTORS, Server, recording_server


async def test_cube_names_participants_in_headers(tmp_path: Path) -> None:
    async with recording_server(tmp_path, RECORD_PLAIN_CALLS="true") as server:
        src = server.src("cube-plain")
        assert (await src.send("invite")).status == 200
        await src.ack()
        await src.speak()
        await server.live("cube-plain-call@127.0.0.20", lambda found: found.heard == ["alice", "bob"])
        assert (await src.send("reinvite")).status == 200
        await src.ack()
        recorded = await src.bye()
        assert recorded.heard == ["alice", "carol"]
        assert [(each.name, len(each.left)) for each in recorded.manifest.participants] == [
            ("alice", 0),
            ("bob", 1),
            ("carol", 0),
        ]
        changes = [each["changes"] for each in recorded.events if each["event"] == "metadata"]
        assert {(each["what"], each["id"]) for each in changes[-1]} >= {("ended", "1"), ("appeared", "2")}


async def test_the_built_in_bridge_makes_two_calls_without_offer(tmp_path: Path) -> None:
    async with recording_server(tmp_path, RECORD_PLAIN_CALLS="true") as server:
        heard = []
        for side in ("near", "far"):
            src = server.src("cucm-bib")
            assert (await src.send(side)).status == 200
            assert src.offer is not None
            assert [each.direction for each in src.offer.media] == ["recvonly"]
            await src.ack(body=(VECTORS / f"cucm-bib/{side}.answer.sdp").read_bytes().replace(b"\n", b"\r\n"))
            await src.speak()
            recorded = await src.bye()
            assert [each.packets for each in recorded.manifest.channels] == [5]
            heard.append(recorded.heard)
        assert heard == [["2001"], ["2002"]]


async def test_the_offer_comes_in_the_answer_and_the_answer_in_the_ack(tmp_path: Path) -> None:
    async with recording_server(tmp_path, RECORD_PLAIN_CALLS="true") as server:
        src = server.src("cucm-bib")
        assert (await src.send("near")).status == 200
        assert src.offer is not None
        await src.ack(body=(VECTORS / "cucm-bib/near.answer.sdp").read_bytes().replace(b"\n", b"\r\n"))
        await src.speak()
        recorded = await src.bye()
        assert [each.packets for each in recorded.manifest.channels] == [5]


async def test_the_verdict_tells_why_an_answer_was_refused(tmp_path: Path) -> None:
    async with recording_server(tmp_path, RECORD_PLAIN_CALLS="true") as server:
        src = server.src("cucm-bib")
        assert (await src.send("near")).status == 200
        answer = (VECTORS / "cucm-bib/near.answer.sdp").read_bytes().replace(b"\n", b"\r\n")
        await src.ack(body=answer + b"m=audio 12002 RTP/AVP 0\r\n")
        await src.request("BYE")
        assert src.invite is not None
        manifest = (await server.ended(src.invite.call_id)).manifest
    assert (manifest.verdict, manifest.verdict_reason) == (
        "no-rtp",
        "there was never a stream: the answer to our offer was refused (the answer has not as many media sections as "
        "the offer)",
    )


@pytest.mark.parametrize(("dialect", "message"), [("cube-plain", "invite"), ("cucm-bib", "near")])
async def test_without_the_setting_they_are_refused(server: Server, dialect: str, message: str) -> None:
    assert (await server.src(dialect).send(message)).status == 403
    assert server.recordings() == []
