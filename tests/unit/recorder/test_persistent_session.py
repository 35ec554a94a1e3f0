"""One recording session for 40 calls (RFC 7866 section 10): all of them are to be heard, in a file of bounded size."""

import wave
from pathlib import Path

import numpy as np

from siprec.archive.folder import RecordingFolder
from siprec.archive.manifest import Manifest
from siprec.recorder.finish import FinishOptions, finish
from siprec.rtp.codecs import LAW
from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.session import model
from siprec.session.streams import CHANNELS_LIMIT, changes
from tests.support.captures import SECOND, Channel, Folder, Sender, Sent, law_payloads, tone
from tests.support.sessions import session_id

CALLS, SLOTS = 40, 2
CALL_NS = SECOND // 5
FRAMES = 1600


def offer(call: int) -> list[negotiate.NegotiatedStream]:
    lines = "".join(f"m=audio {4000 + 2 * slot} RTP/AVP 0\r\na=label:{call}-{slot}\r\n" for slot in range(SLOTS))
    text = f"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{lines}"
    return negotiate.plan(sdp.parse(text), codecs=["PCMU"])


def voice(call: int, slot: int) -> list[bytes]:
    return law_payloads(tone(FRAMES / 8000, hertz=200 + 20 * call + 1000 * slot))


def test_all_calls_are_heard(tmp_path: Path) -> None:
    channels: dict[int, model.Channel] = {}
    streams: list[Channel] = []
    sent: list[Sent] = []
    places: list[tuple[int, int, int]] = []
    for call in range(CALLS):
        start = call * CALL_NS
        for change in changes(list(channels.values()), offer(call)):
            channels[change.channel.index] = change.channel
            if change.kind == "opened":
                number, slot = len(streams), change.channel.mline
                phases = [(start, "active"), (start + CALL_NS, "closed")]
                port = 10_000 + 2 * number
                label, index = change.channel.label, change.channel.index
                streams.append(Channel(label=label, port=port, index=index, phases=phases))  # type: ignore[arg-type]
                sender = Sender(ssrc=number, port=port, sequence=977 * number, timestamp=91 * number, clock=start)
                sent += sender.send(voice(call, slot))
                places.append((call, slot, index))
    folder = RecordingFolder.create(tmp_path, session_id(1))
    part = folder.path / "parts" / "000001-a"
    sent.sort(key=lambda each: each.at)
    Folder(channels=streams, end=CALLS * CALL_NS).write(part, sent)
    folder.write(Manifest(folder.session_id, "ending", "a", 1, source="192.0.2.1", call_id="1"))
    finished = finish(folder.path, FinishOptions())
    told = folder.read()
    assert (finished.verdict, told.gaps) == ("ok", [])
    assert [each.label for each in told.channels][-2:] == ["39-0", "39-1"]
    assert sum(each.packets for each in told.channels) == len(sent)
    assert sum(each.lost for each in told.channels) == 0
    with wave.open(str(finished.audio)) as file:
        assert file.getnchannels() == CHANNELS_LIMIT
        audio = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, CHANNELS_LIMIT)
    assert len(places) == CALLS * SLOTS
    for call, slot, index in places:
        heard = audio[call * FRAMES : (call + 1) * FRAMES, index]
        assert (heard == LAW["PCMU"][np.frombuffer(b"".join(voice(call, slot)), np.uint8)]).all()
