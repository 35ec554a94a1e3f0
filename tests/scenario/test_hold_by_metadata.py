"""The metadata alone says that the call holds a stream (RFC 8068 section 3.2.2), SDP lets it go on sending.

RTP that comes nevertheless (music, or somebody who was not to be heard by the other side) was sent to be recorded.
"""

import asyncio
import socket
from pathlib import Path

import numpy as np
import soundfile

from siprec.media.part import Mode, load
from siprec.rtp import packets as rtp
from siprec.rtp.codecs import LAW
from tests.support.captures import noise, payloads
from tests.support.replay import Recorded, Src, recording_server

MEDIA = {b"198.51.100.1": b"127.0.68.1"}
LABEL = "96"
FRAME, PACE = 160, 0.02


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
