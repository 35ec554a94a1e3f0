"""The SRC pauses the recording (RFC 7866 section 7.1.1.1): what it sends on meanwhile, a card number perhaps, is kept
nowhere, and all that follows our 200 OK to its resume is.
"""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from siprec.archive.manifest import RefusedEntry
from siprec.media.pcap import PcapReader
from siprec.rtp import packets as rtp
from siprec.sdp.model import parse as parse_sdp
from tests.support.replay import Recorded, Server, Src, recording_server

LABEL = "b_leg"
SENDING = "c=IN IP4 127.0.30.1\r\na=label:b_leg\r\na=sendonly"
PAUSED = {
    "inactive": SENDING.replace("sendonly", "inactive"),
    "recvonly": SENDING.replace("sendonly", "recvonly"),
    "zero": SENDING.replace("127.0.30.1", "0.0.0.0"),
}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    async with recording_server(tmp_path) as running:
        yield running


async def offer(src: Src, wanted: str, method: str) -> None:
    """Change what the SRC offers for `LABEL`, and have it agreed."""
    body = str(src.offer).replace(next(each for each in (SENDING, *PAUSED.values()) if each in str(src.offer)), wanted)
    assert (await src.exchange(src.build(method, body=body.encode()))).status == 200
    if method == "INVITE":
        await src.ack()


async def speak_paused(src: Src) -> None:
    """From where it would send, were it not paused."""
    kept, src.offer = src.offer, parse_sdp(str(src.offer).replace("0.0.0.0", "127.0.30.1").encode())
    await src.speak(LABEL, packets=7, taken=False)
    src.offer = kept


def records(recorded: Recorded) -> int:
    """What the captures hold."""
    captures = recorded.folder.path.rglob("capture-*.pcap")
    return sum(batch.port.size for path in captures for batch in PcapReader(path).batches())


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
@pytest.mark.parametrize("way", PAUSED)
async def test_what_comes_during_a_pause_is_kept_nowhere(server: Server, way: str, method: str) -> None:
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("a_leg")
    await src.speak(LABEL)
    await offer(src, PAUSED[way], method)
    await speak_paused(src)
    await offer(src, SENDING, method)
    await src.speak(LABEL)
    recorded = await src.bye()
    manifest = recorded.manifest
    assert [each.packets for each in manifest.channels] == [5, 10]
    assert records(recorded) == 15
    assert manifest.refused == [RefusedEntry(1, "paused", "127.0.30.1", 7)]
    assert recorded.causes == {(1, "hold" if way == "zero" else "paused")}


@pytest.mark.parametrize("way", PAUSED)
async def test_a_call_may_begin_with_a_pause(server: Server, way: str) -> None:
    """Without an address in the SDP packets wait for it, those of the pause in vain."""
    src = server.src("trait-06-sdp")
    old, new = (each.replace("\r\n", "\n") for each in (SENDING, PAUSED[way]))
    assert (await src.send("good", replace={old: new})).status == 200
    await src.ack()
    await speak_paused(src)
    await offer(src, SENDING, "INVITE")
    await src.speak(LABEL)
    await src.speak("a_leg")
    recorded = await src.bye()
    assert [each.packets for each in recorded.manifest.channels] == [5, 5]
    assert records(recorded) == 10
    assert sum(each.packets for each in recorded.manifest.refused) == 7


@pytest.mark.parametrize("way", ["resumed", "inactive", "closed"])
async def test_the_first_packet_after_the_answer_is_treated_as_agreed(server: Server, way: str) -> None:
    """Here it comes before anything else can be done."""
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    if way == "resumed":
        await offer(src, PAUSED["inactive"], "UPDATE")
    _, answered = src.line(LABEL)
    receive = src.receive

    def at_once(data: bytes) -> None:
        receive(data)
        packet = rtp.build(0, 1, timestamp=160, ssrc=7, payload=bytes(160))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("127.0.30.1", 12004))
            sender.sendto(packet, (str(answered.address), answered.port))

    src.receive = at_once  # type: ignore[method-assign]
    if way == "closed":
        assert (
            await src.exchange(src.build("UPDATE", body=str(src.offer).replace("12004", "0").encode()))
        ).status == 200
    else:
        await offer(src, SENDING if way == "resumed" else PAUSED["inactive"], "UPDATE")
    src.receive = receive  # type: ignore[method-assign]
    await src.speak("a_leg")
    recorded = await src.bye()
    assert records(recorded) == (6 if way == "resumed" else 5)
    assert recorded.manifest.channels[1].packets == (way == "resumed")
    assert sum(each.packets for each in recorded.manifest.refused) == (way != "resumed")


@pytest.mark.parametrize("reached", ["before", "after"])
async def test_a_pause_outlives_the_process(tmp_path: Path, reached: str) -> None:
    async with recording_server(tmp_path, dies=True) as first:
        src = first.src("trait-06-sdp")
        assert (await src.send("good")).status == 200
        await src.ack()
        await src.speak("a_leg")
        await src.speak(LABEL)
        await offer(src, PAUSED["inactive"], "INVITE")
        if reached == "before":
            await speak_paused(src)
    async with recording_server(tmp_path) as second:
        second.attach(src)
        if reached == "after":
            await speak_paused(src)
        await offer(src, SENDING, "INVITE")
        await src.speak(LABEL)
        await src.speak("a_leg")
        recorded = await src.bye()
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]
    assert records(recorded) == 20
