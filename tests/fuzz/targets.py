"""What must hold of each parser, whatever the bytes: one function for each, its first sentence the invariant.

A target returns when all is well. What a parser raises beyond its own error, and an AssertionError here, is a defect.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from siprec.errors import MetadataError, MultipartError, PeerError, SdpError, SipError
from siprec.media import part as parts
from siprec.media import pcap
from siprec.metadata import assign, extensions, merge, minimise, xml
from siprec.metadata.model import Recording, RSMetadata
from siprec.rtp import dtmf, packets, rtcp
from siprec.sdp import model as sdp_model
from siprec.sdp import negotiate
from siprec.session import admission, bodies
from siprec.sip.framing import StreamError, StreamFramer
from siprec.sip.headers import CSeq, Disposition, MediaType, NameAddr, Via
from siprec.sip.message import Headers, Message, MessageError, Request, parse
from siprec.sip.multipart import BodyPart, format_multipart, parse_body
from siprec.sip.uri import SipUri
from siprec.store import plain
from tests.fuzz import endpoint as endpoint_target

NOW_NS = 1_800_000_000_000_000_000
CODECS = frozenset({"PCMU", "PCMA", "G722", "opus", "telephone-event"})

# ---------------------------------------------------------------------------------------------------------
# SIP
# ---------------------------------------------------------------------------------------------------------


def sip(data: bytes) -> None:
    """Bytes are a message that is written and read back as the same, or MessageError; so is each typed header."""
    try:
        message = parse(data)
    except MessageError as error:
        _final(error)
        if error.partial is not None:
            _ = error.partial.via
        return
    written = bytes(message)
    again = parse(written)
    assert _content(again) == _content(message)
    assert bytes(again) == written
    for header in (message.via, message.from_, message.to, message.cseq):
        _same(header)
    with contextlib.suppress(SipError):
        if message.contact is not None:
            _same(message.contact)
            _same(SipUri.parse(message.contact.uri))
    for name, value in message.headers:
        _values(name, value)
    if isinstance(message, Request):
        _same(message.request_uri)
        _admit(message)


def _final(error: PeerError) -> None:
    assert 400 <= error.status <= 699


def _content(message: Message) -> tuple[object, ...]:
    start = (message.method, message.uri) if isinstance(message, Request) else (message.status, message.reason)
    others = [(name, value) for name, value in message.headers if name.lower() not in ("content-length", "l")]
    return *start, others, message.body


def _same(value: NameAddr | Via | CSeq | SipUri | MediaType | Disposition) -> None:
    assert type(value).parse(str(value)) == value, value


def _values(name: str, value: str) -> None:
    """Any header may be asked for as any type."""
    elements = Headers([(name, value)]).values(name)
    for text in (value, *elements):
        for kind in (NameAddr, Via, CSeq, MediaType, Disposition, SipUri):
            try:
                found = kind.parse(text)
            except SipError:
                continue
            _same(found)


def _admit(request: Request) -> None:
    try:
        found = bodies.read(request)
        admission.recognise(request, found.parts, strict=False)
    except (SipError, MultipartError):
        return


def stream(data: bytes) -> None:
    """A stream is cut into the same messages, pongs and error whole, byte by byte and at any cut between."""
    whole = _framed([data])
    assert _framed(data[at : at + 1] for at in range(len(data))) == whole
    third = max(1, len(data) // 3)
    assert _framed(data[at : at + third] for at in range(0, len(data), third)) == whole
    for message in whole[0]:
        sip(message)


def _framed(chunks: Iterator[bytes] | list[bytes]) -> tuple[list[bytes], int, tuple[object, ...] | None]:
    framer = StreamFramer()
    found: list[bytes] = []
    for chunk in chunks:
        try:
            found += framer.feed(chunk, 0.0)
        except StreamError as error:
            found += error.messages
            return found, framer.pongs, (error.status, error.reason)
    return found, framer.pongs, None


def multipart(data: bytes) -> None:
    """A body is parts that are written and read back as the same, or MultipartError.

    The first line of the input is the Content-Type.
    """
    kind, _, body = data.partition(b"\n")
    text = kind.decode("utf-8", "surrogateescape").replace("\r", "").strip(" \t")
    headers = Headers([("Content-Type", text)]) if text else Headers()
    try:
        found = parse_body(headers, body)
    except MultipartError as error:
        _final(error)
        return
    flat = [part for part in found if part.content_type.type != "multipart"]
    if not flat:
        return
    boundary = next(each for each in _boundaries() if not any(each.encode() in part.body for part in flat))
    content_type, written = format_multipart(flat, boundary)
    again = parse_body(Headers([("Content-Type", content_type)]), written)
    assert [_part(each) for each in again] == [_part(each) for each in flat]


def _boundaries() -> Iterator[str]:
    return (f"x{number}x" for number in range(1_000_000))


def _part(part: BodyPart) -> tuple[object, ...]:
    written_by_us = ("content-type", "c", "content-disposition", "content-length", "l")
    others = [each for each in part.headers if each[0].lower() not in written_by_us]
    return part.content_type, part.disposition, others, part.body


# ---------------------------------------------------------------------------------------------------------
# SDP
# ---------------------------------------------------------------------------------------------------------


def sdp(data: bytes) -> None:
    """Bytes are a description that is written and read back as the same, and answered line by line, or SdpError."""
    try:
        found = sdp_model.parse(data)
    except SdpError:
        return
    assert sdp_model.parse(str(found)) == found
    _ = found.origin, found.address, found.attributes, found.timing
    for each in found.media:
        _ = each.address, each.direction, each.label, each.mid, each.crypto, each.rtcp_mux, each.rtcp, each.ptime
        assert all(0 <= number < 128 for number in each.rtpmap)
    other = found.with_origin(sdp_model.Origin.at("192.0.2.1", 1))
    assert [each.lines for each in other.media] == [each.lines for each in found.media]
    _answer(found)


def _answer(offer: sdp_model.SessionDescription) -> None:
    try:
        plan = negotiate.plan(offer, codecs=CODECS)
        ports = {each.index: ("192.0.2.1", 10_000 + 2 * each.index) for each in plan if each.accepted}
        answer = negotiate.build_answer(offer, plan, ports=ports, origin=sdp_model.Origin.at("192.0.2.1", 1))
    except SdpError:
        return
    assert len(plan) == len(answer.media) == len(offer.media)
    assert sdp_model.parse(str(answer)) == answer
    assert negotiate.revise(answer, answer) == answer
    for line, theirs, ours in zip(plan, offer.media, answer.media, strict=True):
        assert (ours.kind, ours.transport, bool(ours.port)) == (theirs.kind, theirs.transport, line.accepted)
        assert not line.accepted or (line.formats and _numbers(ours) <= _numbers(theirs))
        assert not line.accepted or ours.label == theirs.label


def _numbers(media: sdp_model.MediaDescription) -> set[int]:
    return {int(each) for each in media.formats if each.isascii() and each.isdigit()}


# ---------------------------------------------------------------------------------------------------------
# Metadata
# ---------------------------------------------------------------------------------------------------------


def metadata(data: bytes) -> None:
    """A body is a document that is merged, stored and written back as the same, or MetadataError."""
    try:
        found = xml.parse(data)
    except MetadataError as error:
        _final(error)
        return
    if not isinstance(found, Recording):
        return
    state = RSMetadata()
    for at_ns in (NOW_NS, NOW_NS + 1):
        merge.apply(state, found, at_ns=at_ns)
        assert plain.load(RSMetadata, json.loads(json.dumps(plain.dump(state)))) == state
    assign.assign(state, [(0, "1"), (1, None)])
    extensions.external_ids(state)
    minimise.minimise(found, keep=())
    with contextlib.suppress(MetadataError):  # what the wire said in one dialect may be too large in another
        once = xml.parse(xml.build(found))
        assert isinstance(once, Recording)
        assert xml.parse(xml.build(once)) == once


# ---------------------------------------------------------------------------------------------------------
# RTP, RTCP, telephone events
# ---------------------------------------------------------------------------------------------------------


def rtp(data: bytes) -> None:
    """A batch tells of each packet what a reader of one packet tells, and looks at nothing outside of it."""
    chunks = list(pieces(data))
    lengths = np.array([len(each) for each in chunks], np.int64)
    buffer = np.frombuffer(b"".join(chunks), np.uint8)
    offsets = np.concatenate([[0], np.cumsum(lengths)])[: len(chunks)].astype(np.int64)
    found = packets.parse(buffer, offsets, lengths)
    for index, each in enumerate(chunks):
        at = int(found.payload_offset[index])
        told = (
            bool(found.valid[index]),
            bool(found.marker[index]),
            int(found.payload_type[index]),
            int(found.sequence[index]),
            int(found.timestamp[index]),
            int(found.ssrc[index]),
            buffer[at : at + int(found.payload_length[index])].tobytes(),
        )
        assert told == _one_packet(each), (told, each)


def _one_packet(data: bytes) -> tuple[object, ...]:
    """RFC 3550 section 5.1, one packet at a time."""
    nothing = (False, False, 0, 0, 0, 0, b"")
    if len(data) < 12 or data[0] >> 6 != 2 or 192 <= data[1] <= 223:
        return nothing
    begin = 12 + 4 * (data[0] & 0x0F)
    if data[0] & 0x10:
        if begin + 4 > len(data):
            return nothing
        begin += 4 + 4 * int.from_bytes(data[begin + 2 : begin + 4], "big")
    padding = data[-1] if data[0] & 0x20 else 0
    if begin + padding > len(data) or (data[0] & 0x20 and not padding):
        return nothing
    numbers = [int.from_bytes(data[at : at + size], "big") for at, size in ((2, 2), (4, 4), (8, 4))]
    return True, data[1] >= 0x80, data[1] & 0x7F, *numbers, data[begin : len(data) - padding]


def rtcp_(data: bytes) -> None:
    """Any datagram is read without raising, and what was read is written and read back as the same."""
    found = rtcp.parse(data)
    assert rtcp.parse(rtcp.compound(*found)) == found
    for each in found:
        if isinstance(each, rtcp.SenderReport):
            assert (rtcp.ntp_from_ns(rtcp.ns_from_ntp(each.ntp)) - each.ntp + 4) % 2**64 < 8  # 1 ns is 4.3 of them


def dtmf_(data: bytes) -> None:
    """Events are the same in whatever order their packets come, and however often.

    The first two octets of each piece are the timestamp in steps of 160.
    """
    fed = [(int.from_bytes(each[:2], "big") * 160, each[2:]) for each in pieces(data)]
    straight, backwards = dtmf.Collector(), dtmf.Collector()
    numbered = list(enumerate(fed))
    for number, (timestamp, payload) in numbered:
        straight.feed(timestamp, payload, sequence=number)
    for number, (timestamp, payload) in reversed(numbered + numbered):
        backwards.feed(timestamp, payload, sequence=number)
    assert _events(straight) == _events(backwards)


def _events(collector: dtmf.Collector) -> list[tuple[object, ...]]:
    _ = [(each.key, each.masked) for each in collector.events]
    return [(each.start, each.code, each.duration, each.ended, each.sequence) for each in collector.events]


def pieces(data: bytes) -> Iterator[bytes]:
    """The input as many: each begins with an octet that tells its length."""
    while data:
        yield data[1 : 1 + data[0]]
        data = data[1 + data[0] :]


# ---------------------------------------------------------------------------------------------------------
# Files
# ---------------------------------------------------------------------------------------------------------

_SCRATCH = Path(tempfile.gettempdir()) / f"siprec-fuzz-{os.getpid()}.pcap"


def capture(data: bytes) -> None:
    """Any file is read without raising; a cut one gives what lies before the cut; what was read is written the same."""
    try:
        whole = _datagrams(data)
        half = _datagrams(data[: len(data) * 2 // 3])
        assert whole[: len(half)] == half
        usable = [each for each in whole if each[0] < 2**32 * 10**9 and len(each[4]) <= 65_507]
        assert _datagrams(pcap.write_header() + b"".join(_record(*each) for each in usable)) == usable
    finally:
        _SCRATCH.unlink(missing_ok=True)


def _datagrams(data: bytes) -> list[tuple[int, str, int, int, bytes]]:
    _SCRATCH.write_bytes(data)
    reader = pcap.PcapReader(_SCRATCH)
    found = []
    for batch in reader.batches():
        for index, at in enumerate(batch.offset.tolist()):
            payload = batch.data[at : at + int(batch.length[index])].tobytes()
            assert len(payload) == batch.length[index]
            port = int(batch.source_port[index])
            found.append((int(batch.time_ns[index]), batch.address(index), port, int(batch.port[index]), payload))
    return found


def _record(time_ns: int, address: str, source_port: int, port: int, payload: bytes) -> bytes:
    ours = "2001:db8::1" if ":" in address else "192.0.2.1"
    return pcap.record(time_ns, payload, source=(address, source_port), destination=(ours, port))


def part(data: bytes) -> None:
    """A control file is a part that is written and read back as the same, or ValueError, KeyError or TypeError."""
    try:
        found = parts.load(data)
    except (ValueError, KeyError, TypeError):
        return
    assert parts.load(parts.dump(found)) == found
    assert isinstance(found.started_ns, int)
    for each in found.streams:
        _ = (each.port + each.rtcp_port + each.channel, [phase.since_ns + 0 for phase in each.phases])
        assert all(math.isfinite(form.clock_rate) for phase in each.phases for form in phase.formats)
    for one, other in pairwise(found.clock):
        _ = other[0] - one[0]


TARGETS: dict[str, Callable[[bytes], None]] = {
    "sip": sip,
    "stream": stream,
    "multipart": multipart,
    "sdp": sdp,
    "metadata": metadata,
    "rtp": rtp,
    "rtcp": rtcp_,
    "dtmf": dtmf_,
    "pcap": capture,
    "part": part,
    "endpoint": endpoint_target.endpoint,
}
