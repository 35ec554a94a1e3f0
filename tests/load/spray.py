"""A host that does not belong: RTP, STUN, DTLS and garbage at every port of live calls, and SIP at the server.

`python -m tests.load.spray rtp HOST SECONDS PORT...`, `... sip HOST PORT COUNT` and `... flood HOST PORT SECONDS` run
on the foreign host (see tests.support.foreign) or on any other address, and print what they sent by kind as JSON. The
RTP looks right: the payload type is negotiated, sequence numbers follow each other.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from itertools import count

PACKETS_PER_SECOND = 5_000
"""Together at all ports: five times what 20 calls receive."""
FLOOD_PER_SECOND = 20_000
UNLISTED = "127.0.0.9"
STUN = bytes.fromhex("000100002112a442") + bytes(12)
"""A binding request (RFC 8489 section 5)."""
DTLS = bytes.fromhex("16fefd0000000000000000000c") + bytes(12)
"""The head of a ClientHello (RFC 6347 section 4.1)."""


def rtp(number: int, *, ssrc: int = 0x0BAD0BAD, payload_type: int = 0) -> bytes:
    """A packet that only its source tells from a good one."""
    head = bytes((0x80, payload_type)) + (number & 0xFFFF).to_bytes(2, "big") + (number * 160 & 0xFFFFFFFF).to_bytes(4)
    return head + ssrc.to_bytes(4, "big") + number.to_bytes(4, "big") + bytes(156)


def spray(host: str, seconds: float, ports: list[int]) -> Counter[str]:
    """Send for `seconds`; counts what left, by kind."""
    sent: Counter[str] = Counter()
    begun, numbers = time.monotonic(), count()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while (spent := time.monotonic() - begun) < seconds:
            for port in ports:
                number = next(numbers)
                kind, data = _kind(number // len(ports))
                try:
                    sock.sendto(data, (host, port))
                    sent[kind] += 1
                except OSError:
                    sent["refused"] += 1
            time.sleep(max(0.0, sum(sent.values()) / PACKETS_PER_SECOND - spent))
    return sent


def _kind(number: int) -> tuple[str, bytes]:
    """Eight packets of RTP for each of what is none."""
    other = {8: ("stun", STUN), 9: ("dtls", DTLS), 10: ("garbage", b"\x47" + os.urandom(99))}.get(number % 11)
    return other or ("rtp", rtp(number))


def knock(host: str, port: int, requests: int) -> Counter[str]:
    """SIP over UDP and TCP; counts octets both ways and how connections end. Over UDP it waits 0.5 s for answers."""
    told: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        for number in range(requests):
            told["udp_out"] += sock.sendto(request(("OPTIONS", "INVITE", "BYE", "X")[number % 4], number), (host, port))
        with contextlib.suppress(OSError):
            while True:
                told["udp_in"] += len(sock.recv(65_535))
    for number in range(10):
        with socket.create_connection((host, port), 5.0) as connection:
            with contextlib.suppress(OSError):
                connection.sendall(request("OPTIONS", number))
            with contextlib.suppress(ConnectionResetError):
                told["tcp_in"] += len(connection.recv(65_535))
            told["tcp_closed"] += 1
    return told


def flood(host: str, port: int, seconds: int) -> Counter[str]:
    """INVITEs and OPTIONS from `UNLISTED`, `FLOOD_PER_SECOND` of them; counts what left and what came back."""
    told: Counter[str] = Counter()
    messages = [request(("INVITE", "OPTIONS")[number % 2], number) for number in range(200)]
    begun = time.monotonic()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((UNLISTED, 0))
        while (spent := time.monotonic() - begun) < seconds:
            for data in messages:
                told["sent"] += bool(sock.sendto(data, (host, port)))
            time.sleep(max(0.0, told["sent"] / FLOOD_PER_SECOND - spent))
        sock.settimeout(0.5)
        with contextlib.suppress(OSError):
            told["answered"] += bool(sock.recv(65_535))
    return told


def request(method: str, number: int) -> bytes:
    """A whole request with a body that a recorder would take."""
    body = (
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0\r\n"
        "a=label:1\r\na=sendonly\r\n"
    )
    return (
        f"{method} sip:srs@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;rport;branch=z9hG4bK{number}\r\n"
        f"From: <sip:mallory@example.com>;tag=m\r\nTo: <sip:srs@192.0.2.2>\r\nCall-ID: foreign-{number}\r\n"
        f"CSeq: 1 {method}\r\nContact: <sip:mallory@192.0.2.1>;+sip.src\r\nRequire: siprec\r\nMax-Forwards: 70\r\n"
        f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def main(arguments: list[str]) -> None:
    what, host, *rest = arguments
    if what == "rtp":
        told = spray(host, float(rest[0]), [int(each) for each in rest[1:]])
    else:
        told = {"sip": knock, "flood": flood}[what](host, *map(int, rest))
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
