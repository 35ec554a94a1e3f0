"""Where each target starts: the vectors of the tests, and inputs built here."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path

from siprec.media import part as parts
from siprec.media import pcap
from siprec.media.part import Outage, Part, PartStream, PayloadFormat, Phase
from siprec.metadata import xml
from siprec.rtp import packets, rtcp
from tests.support.described import Party, describe_call

VECTORS = Path(__file__).parents[1] / "vectors"
FOUND = Path(__file__).parent / "found"
SECOND = 1_000_000_000


def _files(*patterns: str) -> list[bytes]:
    return [path.read_bytes() for pattern in patterns for path in sorted(VECTORS.glob(pattern)) if path.is_file()]


def _sip() -> list[bytes]:
    return _files("sip/messages/*/*.sip")


def _multipart() -> list[bytes]:
    plain = [
        (json.loads(path.read_text())["content_type"] or "").encode() + b"\n" + path.with_suffix(".mime").read_bytes()
        for path in sorted(VECTORS.glob("sip/multipart/*/*.json"))
    ]
    documents, offers = _metadata(), _sdp()
    built = [
        b"multipart/mixed;boundary=b\n--b\r\nContent-Type: application/sdp\r\n\r\n" + offer
        + b"\r\n--b\r\nContent-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n"
        + document + b"\r\n--b--\r\n"
        for offer, document in zip(offers, documents, strict=False)
    ]  # fmt: skip
    inner = built[0].partition(b"\n")[2].replace(b"--b", b"--bb")
    nested = (
        b"multipart/mixed; boundary=b\n--b\nContent-Type: multipart/alternative;boundary=bb\n\n" + inner + b"\n--b--"
    )
    return [*plain, *built, nested, b"application/sdp\nv=0", b"\nv=0", b"text/plain\nx"]


def _sdp() -> list[bytes]:
    return _files("sdp/*.sdp")


def _metadata() -> list[bytes]:
    parties = [Party(f"p{n}", f"s{n}", str(n), f"sip:{name}@example.com", name) for n, name in enumerate(("A", "B"))]
    built = xml.build(describe_call("cs1", parties, at_ns=1_800_000_000 * SECOND, group_id="g", sip_session_id="x"))
    return [*_files("metadata/*.xml"), built, xml.build_snapshot_request("why")]


def _stream() -> list[bytes]:
    messages = _sip()
    return [*messages, *(b"\r\n\r\n".join(messages[at : at + 3]) for at in range(0, len(messages), 3))]


def _pieces(each: Iterable[bytes]) -> bytes:
    return b"".join(bytes((len(one[:255]),)) + one[:255] for one in each)


def _rtp() -> list[bytes]:
    plain = packets.build(0, 1, timestamp=160, ssrc=7, payload=bytes(20))
    csrc = b"\x82" + plain[1:12] + bytes(8) + plain[12:]
    extension = b"\x90" + plain[1:12] + b"\xbe\xde\x00\x01" + bytes(4) + plain[12:]
    padded = b"\xa0" + plain[1:] + b"\0\0\0\4"
    return [_pieces([plain, csrc]), _pieces([extension, padded, plain[:11], b""]), _pieces([plain] * 4)]


def _rtcp() -> list[bytes]:
    block = rtcp.ReportBlock(1, 2, -3, 4, 5, 6, 7)
    report = rtcp.SenderReport(1, 2 << 40, 3, 4, 5, (block,))
    name = rtcp.SourceDescription((rtcp.Chunk(1, ((rtcp.CNAME, b"a@example.com"), (2, b""))),))
    return [rtcp.compound(report, name, rtcp.Bye((1, 2), b"why")), rtcp.compound(rtcp.ReceiverReport(9, (block,) * 3))]


def _dtmf() -> list[bytes]:
    def event(at: int, code: int, lasts: int, end: bool = False) -> bytes:
        return struct.pack(">HBBH", at, code, 0x8A if end else 10, lasts)

    return [
        _pieces([event(1, 5, 160), event(1, 5, 320), event(1, 5, 480, True)]),
        _pieces([event(0, 1, 65_535), event(1, 1, 65_535, True), event(0, 1, 65_440) + struct.pack(">BBH", 2, 10, 95)]),
    ]


def _pcap() -> list[bytes]:
    def one(at: int, source: str, size: int) -> bytes:
        ours = "2001:db8::9" if ":" in source else "192.0.2.9"
        return pcap.record(at * SECOND, bytes(size), source=(source, 40_000), destination=(ours, 10_000))

    same = b"".join(one(at, "192.0.2.1", 172) for at in range(40))
    mixed = b"".join(one(at, "2001:db8::1" if at % 2 else "192.0.2.1", at) for at in range(12))
    exactly = b"".join(one(at, "192.0.2.1", 172) for at in range(32))  # as many as are compared at a time
    return [
        pcap.write_header() + same,
        pcap.write_header() + exactly,
        pcap.write_header() + mixed,
        pcap.write_header(),
        same,
    ]


def _part() -> list[bytes]:
    phases = [Phase(1, "active", (PayloadFormat(0, "PCMU", 8000),)), Phase(2, "paused")]
    streams = [PartStream(0, "1", 10_000, 10_001, phases), PartStream(1, None, 10_002, 10_003)]
    whole = Part("1", "a", 1, 1, 9, streams, [Outage(1, 2, "disk", 1, 3)], [(1, 2), (3, 4)])
    return [parts.dump(whole), parts.dump(Part("1", "a", 1, 1))]


def _endpoint() -> list[bytes]:
    return [random.Random(seed).randbytes(60 * seed) for seed in range(1, 12)]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "sip": _sip,
    "stream": _stream,
    "multipart": _multipart,
    "sdp": _sdp,
    "metadata": _metadata,
    "rtp": _rtp,
    "rtcp": _rtcp,
    "dtmf": _dtmf,
    "pcap": _pcap,
    "part": _part,
    "endpoint": _endpoint,
}


def seeds(target: str) -> list[bytes]:
    """Inputs to begin with, and those that once broke something."""
    found = [path.read_bytes() for path in sorted((FOUND / target).glob("*"))]
    return list(chain(_SEEDS[target](), found, [b""]))
