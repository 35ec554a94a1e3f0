"""Damaged SIP messages into a running server, over UDP and TCP, from a process of their own.

`python -m tests.load.mutations PORT COUNT SEED TRANSPORT [CALL_ID...]` sends COUNT messages and prints what came back
as JSON. After each batch one whole OPTIONS must be answered, so that every message has been read when it ends. INVITEs
that the server accepts in spite of their damage are acknowledged and ended. CALL_IDs are those of live calls: requests
with their Call-ID and guessed tags are among what is sent.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from siprec.sip.framing import StreamFramer
from tests.support.mutation import Mutator

VECTORS = Path(__file__).parents[1] / "vectors"
BATCH = 48
"""Messages between two OPTIONS over UDP: all of them fit into the smallest receive buffer."""
TCP_BATCH = 4
"""Messages on one connection: after damage to a length nothing behind it is read."""
TCP_SILENCE = 0.05
"""Seconds without an answer on a connection: the server waits for the rest of a message whose length was damaged."""
RESET = b"\1\0\0\0\0\0\0\0"
"""struct linger: closed by a reset, so that no port rests in TIME-WAIT that a server of another test may draw."""
PATIENCE = 10.0
"""Seconds that a server may take for one batch before it counts as dead."""
INVITE_EVERY = 16
"""One message in so many is an INVITE: each that is accepted makes a recording."""
OTHERS = ("OPTIONS", "BYE", "ACK", "CANCEL", "UPDATE", "INFO", "PRACK", "REGISTER", "RESPONSE", "LIVE")
SDP = (
    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8\r\n"
    "a=rtpmap:0 PCMU/8000\r\na=label:1\r\na=sendonly\r\n"
)


@dataclass(slots=True)
class Outcome:
    """What was sent and what came back: responses by status, times in seconds."""

    sent: int = 0
    accepted: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)


class Messages:
    """Valid messages, each with a branch and Call-ID of its own, and their damaged forms."""

    def __init__(self, seed: int, *, transport: str, port: int, live: Sequence[str] = ()) -> None:
        self._transport, self._port, self._live = transport.upper(), port, live or ("nobody",)
        self._seed, self._count = seed, 0
        self._documents = [_text(path.read_bytes()) for path in sorted(VECTORS.glob("metadata/*.good.xml"))]
        whole = [_bytes(self._message(kind)) for kind in ("INVITE", *OTHERS)]
        self._damage = Mutator(seed, others=whole)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            kind = OTHERS[self._count % len(OTHERS)] if self._count % INVITE_EVERY else "INVITE"
            yield self._damage(_bytes(self._message(kind)))

    def options(self, name: str) -> bytes:
        """A whole OPTIONS, told from all others by `name`."""
        return self.request("OPTIONS", call_id=name, branch=name).encode()

    def request(
        self, method: str, *, call_id: str, branch: str, to_tag: str = "", cseq: int = 1, content: str = "",
        body: str = "",
    ) -> str:  # fmt: skip
        to = f";tag={to_tag}" if to_tag else ""
        return (
            f"{method} sip:srs@127.0.0.1 SIP/2.0\r\n"
            f"Via: SIP/2.0/{self._transport} 127.0.0.1:{self._port};rport;branch=z9hG4bK{branch}\r\n"
            f"From: <sip:src@example.com>;tag=a\r\nTo: <sip:srs@127.0.0.1>{to}\r\nCall-ID: {call_id}\r\n"
            f"CSeq: {cseq} {method}\r\nContact: <sip:src@127.0.0.1:{self._port}>;+sip.src\r\nMax-Forwards: 70\r\n"
            f"{content}Content-Length: {len(_bytes(body))}\r\n\r\n{body}"
        )

    def _message(self, kind: str) -> str:
        self._count += 1
        name = f"{self._seed}-{self._count}-{self._port}"
        if kind == "INVITE":
            return self._invite(name)
        if kind == "RESPONSE":
            return self.request("OPTIONS", call_id=name, branch=name).replace(
                "OPTIONS sip:srs@127.0.0.1 SIP/2.0", "SIP/2.0 200 OK"
            )
        if kind == "LIVE":
            method = ("BYE", "INVITE", "UPDATE", "CANCEL")[self._count % 4]
            call_id = self._live[self._count % len(self._live)]
            return self.request(method, call_id=call_id, branch=name, to_tag=f"{self._count:020x}", cseq=99, body=SDP)
        return self.request(kind, call_id=name, branch=name, to_tag="b" if self._count % 2 else "")

    def _invite(self, name: str) -> str:
        document = self._documents[self._count % len(self._documents)]
        body = (
            f"--b\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\n"
            f"Content-Disposition: recording-session\r\n\r\n{document}\r\n--b--\r\n"
        )
        content = "Require: siprec\r\nContent-Type: multipart/mixed;boundary=b\r\n"
        return self.request("INVITE", call_id=name, branch=name, content=content, body=body)

    def farewell(self, response: str) -> Iterator[bytes]:
        """ACK and BYE of a dialog that a 200 to an INVITE opened, as far as what it echoes can be read."""
        call_id, to = _header(response, "Call-ID"), _header(response, "To")
        source, cseq = _header(response, "From"), _header(response, "CSeq").split()[0]
        for method, number in (("ACK", cseq), ("BYE", str(int(cseq) + 1))):
            self._count += 1
            yield _bytes(
                f"{method} sip:srs@127.0.0.1 SIP/2.0\r\n"
                f"Via: SIP/2.0/{self._transport} 127.0.0.1:{self._port};rport;branch=z9hG4bKend{self._count}\r\n"
                f"From: {source}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {number} {method}\r\nMax-Forwards: 70\r\n"
                "Content-Length: 0\r\n\r\n"
            )


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _header(message: str, name: str) -> str:
    found = re.search(rf"^{name}: *(.*?)\r$", message, re.MULTILINE | re.IGNORECASE)
    return found[1] if found else ""


def over_udp(port: int, count: int, seed: int, live: Sequence[str] = ()) -> Outcome:
    """All from one socket of the loopback."""
    outcome, begun = Outcome(), time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(PATIENCE)
        messages = Messages(seed, transport="udp", port=sock.getsockname()[1], live=live)
        damaged = iter(messages)
        while outcome.sent < count:
            for data in islice(damaged, min(BATCH, count - outcome.sent)):
                sock.send(data[:65_507])
                outcome.sent += 1
            _settle(sock, messages, outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _settle(sock: socket.socket, messages: Messages, outcome: Outcome) -> None:
    """Wait for the answer to an OPTIONS of our own; end what the server accepted meanwhile."""
    name, asked = f"sync{outcome.sent}-{sock.getsockname()[1]}", time.monotonic()
    sock.send(messages.options(name))
    while True:
        text = _text(sock.recv(65_535))
        _take(text, messages, outcome, sock.send)
        if text.startswith("SIP/2.0 ") and _header(text, "Call-ID") == name:
            outcome.slowest = max(outcome.slowest, time.monotonic() - asked)
            return


def _take(text: str, messages: Messages, outcome: Outcome, send: Callable[[bytes], object]) -> None:
    """Count a response; leave the call that it accepts."""
    if not text.startswith("SIP/2.0 "):
        outcome.statuses[text.split(" ", 1)[0]] += 1
        return
    outcome.statuses[text[8:11]] += 1
    if text.startswith("SIP/2.0 200") and _header(text, "CSeq").endswith("INVITE"):
        outcome.accepted += 1
        for data in messages.farewell(text):
            send(data)


def over_tcp(port: int, count: int, seed: int, live: Sequence[str] = ()) -> Outcome:
    """A few messages and an OPTIONS on each connection, until that is answered, the server hangs up or waits."""
    outcome, begun = Outcome(), time.monotonic()
    messages = Messages(seed, transport="tcp", port=40_000, live=live)
    damaged = iter(messages)
    while outcome.sent < count:
        batch = list(islice(damaged, min(TCP_BATCH, count - outcome.sent)))
        outcome.sent += len(batch)
        with contextlib.suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
            sock.settimeout(TCP_SILENCE)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            name = f"sync{outcome.sent}-{seed}"
            sock.sendall(b"".join(batch) + messages.options(name))
            _read_answers(sock, name, messages, outcome)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _read_answers(sock: socket.socket, name: str, messages: Messages, outcome: Outcome) -> None:
    framer, asked, answered, ringing = StreamFramer(), time.monotonic(), False, 0
    with contextlib.suppress(TimeoutError):
        while (not answered or ringing > 0) and (chunk := sock.recv(65_535)):
            for message in framer.feed(chunk, 0.0):
                text = _text(message)
                _take(text, messages, outcome, sock.sendall)
                if _header(text, "CSeq").endswith("INVITE"):
                    ringing += 1 if text.startswith("SIP/2.0 1") else -1
                answered = answered or (text.startswith("SIP/2.0 ") and _header(text, "Call-ID") == name)
    if answered:
        outcome.slowest = max(outcome.slowest, time.monotonic() - asked)


OVER = {"udp": over_udp, "tcp": over_tcp}


def main(arguments: list[str]) -> None:
    port, count, seed, transport, *live = arguments
    outcome = OVER[transport](int(port), int(count), int(seed), live)
    print(json.dumps({"sent": outcome.sent, "accepted": outcome.accepted, "slowest": round(outcome.slowest, 4),
                      "seconds": round(outcome.seconds, 2), "statuses": dict(outcome.statuses)}))  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
