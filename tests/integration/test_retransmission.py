"""Loss on the signalling path: what is sent again is answered again, and makes no second session."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import AsyncExitStack
from pathlib import Path

from siprec import app, config
from siprec.session.transitions import State
from siprec.sip.timers import Timings
from tests.support.server import Server, serving

SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
    "m=audio 40000 RTP/AVP 0\r\na=label:1\r\na=sendonly\r\n"
)


class RawSrc:
    """A UDP socket and hand-written messages: nothing in it retransmits or matches anything by itself."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(10)
        self.port = self._socket.getsockname()[1]
        self.to = "<sip:srs@127.0.0.1>"

    def request(self, method: str, number: int, *, branch: str, body: str = "") -> bytes:
        """A request of one call; `branch` tells retransmissions from new requests."""
        content = "Content-Type: application/sdp\r\n" if body else ""
        return (
            f"{method} sip:srs@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:{self.port};branch=z9hG4bK{branch}\r\n"
            f"From: <sip:alice@example.com>;tag=a\r\nTo: {self.to}\r\nCall-ID: raw-{self.port}\r\n"
            f"CSeq: {number} {method}\r\nContact: <sip:alice@127.0.0.1:{self.port}>;+sip.src\r\nMax-Forwards: 70\r\n"
            f"{content}Content-Length: {len(body)}\r\n\r\n{body}"
        ).encode()

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    def receive(self) -> str:
        return self._socket.recv(65535).decode()

    def final(self) -> str:
        """The next final response or request."""
        while True:
            text = self.receive()
            if not text.startswith("SIP/2.0 1"):
                return text

    def learn_tag(self, response: str) -> None:
        found = re.search(r"^To: (.*)$", response, re.MULTILINE)
        assert found is not None
        self.to = found[1].strip()

    def close(self) -> None:
        self._socket.close()


def test_a_200_that_is_lost_three_times_comes_again_and_makes_one_session(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        _lose_three(server)
        server.wait_for("recording ready")
        assert len(server.recordings()) == 1
        assert sum(each["event"] == "call offered" for each in server.log) == 1


def _lose_three(server: Server) -> None:
    src = RawSrc(server.port)
    invite = src.request("INVITE", 1, branch="1", body=SDP)
    src.send(invite)
    first = src.final()
    assert first.startswith("SIP/2.0 200")
    assert [src.final() for _ in range(3)] == [first] * 3
    src.send(invite)
    assert src.final() == first
    src.learn_tag(first)
    src.send(src.request("ACK", 1, branch="1"))
    bye = src.request("BYE", 2, branch="2")
    src.send(bye)
    answer = src.final()
    while answer == first:  # one may have been on its way when the ACK came
        answer = src.final()
    assert answer.startswith("SIP/2.0 200")
    src.send(bye)
    assert src.final() == answer
    src.close()


async def test_an_ack_that_never_comes_ends_the_call_and_keeps_its_audio(tmp_path: Path) -> None:
    """With T1 shortened from 500 to 20 ms, so that 64*T1 pass within the test."""
    settings = {"SIP_HOST": "127.0.0.1", "SIP_PORT": "0", "RECORDING_DIR": str(tmp_path), "DISK_RESERVE": "0"}
    configuration = config.read(settings, tmp_path / ".env")
    ended: asyncio.Future[State] = asyncio.get_running_loop().create_future()
    async with AsyncExitStack() as stack:
        configuration.settings.state_dir.mkdir()
        running = await app.start(configuration, stack, timings=Timings(t1=0.02, t2=0.16))
        running.recorder.observe_end(lambda record: ended.set_result(record.call.state))
        src = RawSrc(running.sip_port)
        src.send(src.request("INVITE", 1, branch="1", body=SDP))
        bye = await asyncio.to_thread(_until_bye, src)
        assert bye.startswith("BYE ")
        assert await ended is State.ENDED
        src.close()
    (audio,) = tmp_path.glob("*/*/*/*/audio.wav")
    assert audio.stat().st_size > 0


def _until_bye(src: RawSrc) -> str:
    while (text := src.final()).startswith("SIP/2.0 200"):
        pass
    return text
