"""The metadata alone says that the call holds a stream (RFC 8068 section 3.2.2), SDP lets it go on sending.

RTP that comes nevertheless (music, or somebody who was not to be heard by the other side) was sent to be recorded. It
is no hold when another sends in the place of who sent before, and one goes on when the session gets another dialog.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

from siprec.media.part import Mode, load
from siprec.rtp import packets as rtp
from siprec.rtp.codecs import LAW
from siprec.sip.message import Request, parse
from tests.support.captures import noise, payloads
from tests.support.failover import call_id, named
from tests.support.replay import Recorded, Server, Src, recording_server

MEDIA = {b"198.51.100.1": b"127.0.68.1"}
LABEL = "96"
FRAME, PACE = 160, 0.02
ALICE, BOB = "cGFydGljaXBhbnQtQWxpYw==", "cGFydGljaXBhbnQtQm9iLQ=="
ALICE_SENDS = "<send>c3RyZWFtLW9mLUFsaWNlLQ==</send><send>dmlkZW8tb2YtQWxpY2UtLQ==</send>"
CAROL = {BOB: "cGFydGljaXBhbnQtQ2Fyb2w=", "Bob": "Carol"}
NEXT_CALL = CAROL | {
    ALICE: "cGFydGljaXBhbnQtRGF2ZQ==",
    "Alice": "Dave",
    "MDAwMDAwMDAwMDAwMDAwMQ==": "MDAwMDAwMDAwMDAwMDAwMg==",
    "c3RyZWFtLW9mLUFsaWNlLQ==": "c3RyZWFtLW9mLURhdmUtLQ==",
    "c3RyZWFtLW9mLUJvYi0tLQ==": "c3RyZWFtLW9mLUNhcm9sLQ==",
}
"""The same labels, but everything else anew (RFC 8068 section 3.4)."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(tmp_path) as running:
        yield running


async def tell(src: Src, name: str, mode: Mode) -> None:
    """An UPDATE with the metadata of that message and without its SDP, until it has had its effect."""
    body = (src.folder / f"{name}.sip").read_bytes().partition(b"<?xml")[2].partition(b"</recording>")
    request = src.build("UPDATE", body=b"<?xml" + body[0] + body[1], content_type="application/rs-metadata+xml")
    assert (await src.exchange(request)).status == 200
    assert src.invite is not None

    def followed(found: Recorded) -> bool:
        part = load(found.folder.parts()[-1].control.read_bytes())
        return part.streams[0].phases[-1].mode == mode

    await src.server.live(src.invite.call_id, followed)


async def test_what_comes_during_the_hold_is_in_the_audio(tmp_path: Path) -> None:
    """Once rendered it is the only copy: the capture of a recording that is `ok` need not be kept."""
    codes = noise(50)
    async with recording_server(tmp_path, CAPTURE_KEEP="issues") as server:
        src = server.src("rfc8068", transport="tcp")
        assert (await src.relay(src.load("01-basic"), media=MEDIA)).status == 200
        offered, answered = src.line(LABEL)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((str(offered.address), offered.port))
            for number, payload in enumerate(payloads(codes)):
                packet = rtp.build(0, number, timestamp=number * FRAME, ssrc=1, payload=payload)
                sender.sendto(packet, (str(answered.address), answered.port))
                await asyncio.sleep(PACE)
                if number == 10:
                    await tell(src, "02-hold", "metadata-hold")
                if number == 40:
                    await tell(src, "03-resume", "active")
        await src.speak("98")
        recorded = await src.bye()
    audio, _ = soundfile.read(recorded.folder.path / "audio.wav", dtype="int16")
    heard = LAW["PCMU"][codes].astype(np.int16).tobytes()
    assert heard in np.ascontiguousarray(audio[:, 0]).tobytes()
    assert (recorded.manifest.verdict, recorded.causes) == ("ok", set())
    assert not (recorded.folder.path / "parts").exists()


def modes(recorded: Recorded) -> list[list[Mode]]:
    """What each stream of the newest part did, one after the other."""
    part = load(recorded.folder.parts()[-1].control.read_bytes())
    return [[phase.mode for phase in each.phases] for each in part.streams]


def told(recorded: Recorded) -> set[str]:
    """All that events.jsonl says of what the streams did."""
    return {each for event in recorded.events for each in event.get("channels", ())}


@pytest.mark.parametrize("replace", [CAROL, NEXT_CALL], ids=["transfer", "next call"])
async def test_no_hold_when_another_sends(server: Server, replace: dict[str, str]) -> None:
    """The labels stay; a re-INVITE brings SDP and complete metadata, as AudioCodes and OpenSIPS send it."""
    src = server.src("rfc8068", transport="tcp")
    await src.relay(src.load("01-basic"), media=MEDIA)
    await src.speak("98")
    assert (await src.relay(src.load("01-basic", replace=replace), media=MEDIA)).status == 200
    await src.speak("98")
    recorded = await src.bye()
    assert recorded.heard[1] == "Carol"
    assert modes(recorded) == [["active"], ["active"]]
    assert told(recorded) == {"96:active", "98:active"}


async def carried_on(src: Src, replace: Mapping[str, str], *, metadata: bool = True) -> Recorded:
    """The recording, after another dialog took it over by Replaces and ended it; without `metadata` by SDP alone."""
    successor = src.server.src("rfc8068", transport="tcp")
    again = {"rfc8068@": "again@", "Require:": f"{named(src)}Require:", "198.51.100.1": "127.0.68.1"}
    invite = parse(successor.load("01-basic", replace=again | dict(replace)))
    assert isinstance(invite, Request)
    if not metadata:
        invite.body = invite.body.partition(b"application/sdp\r\n\r\n")[2].partition(b"\r\n--foobar")[0]
        invite.headers.set("Content-Type", "application/sdp")
    assert (await successor.exchange(bytes(invite))).status == 200
    await successor.ack()
    assert (await successor.exchange(successor.build("BYE"))).status == 200
    return await src.server.ended(call_id(src))


@pytest.mark.parametrize("replace", [{}, {ALICE_SENDS: ""}], ids=["resumed", "on hold"])
async def test_another_dialog_carries_a_hold_on_as_the_metadata_says(server: Server, replace: dict[str, str]) -> None:
    src = server.src("rfc8068", transport="tcp")
    await src.relay(src.load("01-basic"), media=MEDIA)
    await tell(src, "02-hold", "metadata-hold")
    recorded = await carried_on(src, replace)
    assert modes(recorded) == [["metadata-hold" if replace else "active"], ["active"]]


async def test_a_hold_goes_on_when_nothing_is_said_of_it(server: Server) -> None:
    src = server.src("rfc8068", transport="tcp")
    await src.relay(src.load("01-basic"), media=MEDIA)
    await tell(src, "02-hold", "metadata-hold")
    assert modes(await carried_on(src, {}, metadata=False)) == [["metadata-hold"], ["active"]]


async def test_a_stream_that_comes_back_is_on_hold_only_when_it_is_stopped_again(server: Server) -> None:
    """Who sent it before it was closed says nothing of now: its metadata may follow."""
    src = server.src("rfc8068", transport="tcp")
    await src.relay(src.load("01-basic"), media=MEDIA)
    over = {"m=audio 12000": "m=audio 0", ALICE_SENDS: ""}
    assert (await src.relay(src.load("01-basic", replace=over), media=MEDIA)).status == 200
    assert (await src.relay(src.load("01-basic", replace={ALICE_SENDS: ""}), media=MEDIA)).status == 200
    assert modes(await src.bye()) == [["active", "closed"], ["active"], ["active"]]


async def test_a_stream_that_nobody_sends_yet_is_not_on_hold(server: Server) -> None:
    src = server.src("rfc8068", transport="tcp")
    await src.relay(src.load("01-basic", replace={ALICE_SENDS: ""}), media=MEDIA)
    await src.relay(src.load("01-basic", replace={ALICE_SENDS: ""}), media=MEDIA)
    assert modes(await src.bye()) == [["active"], ["active"]]
