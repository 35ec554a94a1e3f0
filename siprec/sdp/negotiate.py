"""Offer and answer of a recorder (RFC 3264, RFC 7866 sections 7 and 8), in two steps.

`plan` says what each offered stream becomes, so that the caller opens ports for accepted streams only;
`build_answer` writes the answer. `build_offer` and `read_answer` are the other side: our own recording client,
and the answer to an INVITE that came without an offer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from siprec.errors import SdpError
from siprec.sdp import crypto as sdes
from siprec.sdp.crypto import Crypto
from siprec.sdp.model import (
    Direction,
    Format,
    Line,
    MediaDescription,
    Origin,
    SessionDescription,
    address_type,
    literal,
    of_lines,
)

PLAIN_TRANSPORTS = frozenset({"RTP/AVP", "RTP/AVPF"})
SECURE_TRANSPORTS = frozenset({"RTP/SAVP", "RTP/SAVPF"})
"""Profiles with SDES keys (RFC 7866 section 12.2); add them to `transports` when the caller can decrypt."""

NO_KEY = "no acceptable SRTP key"
"""Why a stream under one of them is refused that offers no a=crypto line we can take."""

AUXILIARY = frozenset({"telephone-event", "cn"})
"""Encodings kept beside a codec, never instead of one (RFC 4733, RFC 3389); lower case."""

DEFAULT_FORMATS = (
    Format(0, "PCMU", 8000),
    Format(8, "PCMA", 8000),
    Format(9, "G722", 8000),
    Format(101, "telephone-event", 8000, fmtp="0-16"),
)
"""What is offered when nothing is known of the other side (an INVITE without SDP)."""

DEFAULT_PTIME = 20
"""Milliseconds of audio in a packet where nothing is said of it (RFC 3551 section 4.2)."""

# RFC 3264 section 6.1, for one that only ever receives. Looked up anew for every offer: inactive never sticks.
_ANSWERED: Mapping[Direction, Direction] = {
    "sendonly": "recvonly",
    "sendrecv": "recvonly",
    "recvonly": "inactive",
    "inactive": "inactive",
}
# (offered by us, answered by the peer) that carry media; every other pair is inactive.
_AGREED: Mapping[tuple[Direction, Direction], Direction] = {
    ("sendonly", "recvonly"): "sendonly",
    ("sendonly", "sendrecv"): "sendonly",
    ("recvonly", "sendonly"): "recvonly",
    ("recvonly", "sendrecv"): "recvonly",
    ("sendrecv", "sendonly"): "recvonly",
    ("sendrecv", "recvonly"): "sendonly",
    ("sendrecv", "sendrecv"): "sendrecv",
}
_HELD = frozenset({"0.0.0.0", "::"})  # noqa: S104 (RFC 3264 section 8.4, nothing is bound)


@dataclass(frozen=True, slots=True)
class NegotiatedStream:
    """What one m-line comes to.

    `direction` is ours, `offered_direction` the peer's. `remote_address` is an IP literal, None when the peer held the
    stream the old way (c=0.0.0.0: `held`), or gave none and there is no default. `remote_rtcp` is (address, port)
    under the same rule. `formats` are what is agreed, in the peer's order; of a refused stream they are empty.
    `reason` says why a stream is refused. `ptime` in milliseconds. `crypto` is the peer's a=crypto line that was taken,
    None for a stream without SRTP.
    """

    index: int
    kind: str
    label: str | None
    accepted: bool
    reason: str | None
    direction: Direction
    offered_direction: Direction
    remote_address: str | None
    remote_port: int
    remote_rtcp: tuple[str, int] | None
    formats: tuple[Format, ...]
    held: bool
    ptime: int | None
    transport: str = "RTP/AVP"
    rtcp_mux: bool = False
    crypto: Crypto | None = None

    @property
    def secure(self) -> bool:
        """Whether its packets are SRTP."""
        return self.transport in SECURE_TRANSPORTS


@dataclass(frozen=True, slots=True)
class StreamOffer:
    """One m-line of an offer of ours; port 0 keeps the slot of a stream that is not wanted (RFC 3264 section 8.2)."""

    address: str
    port: int
    formats: tuple[Format, ...] = DEFAULT_FORMATS
    label: str | None = None
    direction: Direction = "sendonly"
    kind: str = "audio"
    transport: str = "RTP/AVP"
    ptime: int | None = 20
    rtcp_mux: bool = False
    crypto: str | None = None


# ---- the answering side


def plan(
    offer: SessionDescription,
    *,
    codecs: Collection[str],
    undecodable: Collection[str] = (),
    kinds: Collection[str] = ("audio",),
    transports: Collection[str] = PLAIN_TRANSPORTS,
    default_direction: Direction = "sendonly",
    default_address: str | None = None,
    ready: bool = True,
    rtcp_mux: bool = False,
    payload_limit: int | None = None,
) -> list[NegotiatedStream]:
    """What each m-line of `offer` becomes, in order. Opens nothing and never raises.

    `codecs`: encoding names (case does not matter) that are wanted; all of them that are offered are kept. Only
    a stream that offers none of these falls back on `undecodable`: codecs that can be captured but not decoded
    here, better kept than lost. telephone-event and CN are kept beside either. `kinds`: media types taken.
    `default_direction`: what an offer without a direction means; from an SRC it is sendonly (Metaswitch), not
    RFC 8866's sendrecv, and the answer is the same. `default_address`: where media comes from that no c= tells of, or
    only by a host name. `ready`: False answers inactive (RFC 7866 section 7.2).
    `rtcp_mux`: take a=rtcp-mux where it is offered (RFC 5761 section 5.1.1). `payload_limit`: octets of the longest
    payload that can be received; L16 that sends more in a packet (of a=ptime, else 20 ms) is not taken.
    """
    wanted = _lower(codecs)
    spare = _lower(undecodable)
    streams = []
    for index, media in enumerate(offer.media):
        formats = _choose(media, wanted, spare, payload_limit)
        reason = _refusal(media, formats, kinds, transports)
        offered = media.direction or default_direction
        outcome = _Outcome(reason, offered, _ANSWERED[offered] if ready else "inactive", formats)
        streams.append(_read(index, media, outcome, default_address, rtcp_mux=rtcp_mux))
    return streams


def refuse(stream: NegotiatedStream, reason: str) -> NegotiatedStream:
    """`stream` as one that is not taken after all (no port, no key)."""
    return replace(stream, accepted=False, reason=reason, direction="inactive", formats=())


def build_answer(
    offer: SessionDescription,
    streams: Sequence[NegotiatedStream],
    *,
    ports: Mapping[int, tuple[str, int]],
    origin: Origin,
    crypto: Mapping[int, str] | None = None,
) -> SessionDescription:
    """The answer to `offer` as planned: every m-line in its order, labels echoed (RFC 7866 figure 6).

    `ports`: local (address, RTP port) by index of each accepted stream; a missing one is a KeyError. `crypto`:
    the a=crypto value to answer, by index. Refused streams have port 0 and their offered formats.
    """
    keys = crypto or {}
    first = next((ports[stream.index][0] for stream in streams if stream.accepted), origin.address)
    lines = _session_lines(origin, first, offer.timing)
    for media, stream in zip(offer.media, streams, strict=True):
        if not stream.accepted:
            lines += _refused_lines(media)
            continue
        address, port = ports[stream.index]
        answered = StreamOffer(
            address,
            port,
            stream.formats,
            stream.label,
            direction=stream.direction,
            kind=stream.kind,
            transport=stream.transport,
            ptime=stream.ptime,
            rtcp_mux=stream.rtcp_mux,
            crypto=keys.get(stream.index),
        )
        lines += _media_lines(answered, first)
    return of_lines(lines)


# ---- the offering side


def build_offer(streams: Sequence[StreamOffer], *, origin: Origin) -> SessionDescription:
    """An offer of these m-lines, in order."""
    first = next((stream.address for stream in streams if stream.port), origin.address)
    lines = _session_lines(origin, first, "0 0")
    for stream in streams:
        lines += _media_lines(stream, first)
    return of_lines(lines)


def offer_again(
    streams: Iterable[NegotiatedStream],
    *,
    ports: Mapping[int, tuple[str, int]],
    origin: Origin,
    crypto: Mapping[int, str] | None = None,
) -> SessionDescription:
    """The offer for a re-INVITE without one: the known slots in order, recvonly (RFC 3261 section 14.2).

    `crypto`: our a=crypto value by index.
    """
    keys = crypto or {}
    slots = [replace(_slot(each, ports, origin.address), crypto=keys.get(each.index)) for each in streams]
    return build_offer(slots, origin=origin)


def read_answer(
    offer: SessionDescription,
    answer: SessionDescription,
    *,
    default_direction: Direction = "sendrecv",
    default_address: str | None = None,
) -> list[NegotiatedStream]:
    """What an answer makes of the streams of our `offer`, in order.

    `direction` is ours: what we offered, as far as the answer goes along. `default_direction`: what an answer
    without a direction means; `default_address`: as for `plan`. Raises SdpError (488) when the answer has not the
    m-lines of the offer or changes the media type of one (RFC 3264 section 6).
    """
    if len(answer.media) != len(offer.media):
        raise SdpError("the answer has not as many media sections as the offer")
    streams = []
    for index, (ours, theirs) in enumerate(zip(offer.media, answer.media, strict=True)):
        if theirs.kind != ours.kind:
            raise SdpError("the answer changes the type of a media section")
        known = {**{number: form for number, form in ours.rtpmap.items() if str(number) in theirs.formats}}
        formats = tuple({**known, **theirs.rtpmap}.values())
        reason = _disagreement(ours, theirs, formats)
        offered = theirs.direction or default_direction
        agreed = _AGREED.get((ours.direction or "sendrecv", offered), "inactive")
        outcome = _Outcome(reason, offered, agreed, formats)
        stream = _read(index, theirs, outcome, default_address, rtcp_mux=ours.rtcp_mux)
        streams.append(stream if stream.label else replace(stream, label=ours.label))
    return streams


# ---- versions


def revise(previous: SessionDescription | None, new: SessionDescription) -> SessionDescription:
    """`new` under the o= of `previous`, whose version rises only if something else changed (RFC 3264 section 8)."""
    if previous is None:
        return new
    same = previous.origin
    candidate = new.with_origin(same)
    if str(candidate) == str(previous):
        return previous
    return new.with_origin(replace(same, version=same.version + 1))


# ---- reading one m-line


class _Outcome(NamedTuple):
    """What an m-line comes to, unless there is a `reason` to refuse it."""

    reason: str | None
    offered_direction: Direction
    direction: Direction
    formats: tuple[Format, ...]


def _read(
    index: int, media: MediaDescription, outcome: _Outcome, elsewhere: str | None, *, rtcp_mux: bool
) -> NegotiatedStream:
    accepted = outcome.reason is None
    address = literal(media.address) or elsewhere
    held = address in _HELD
    remote = None if held else address
    mux = rtcp_mux and media.rtcp_mux
    return NegotiatedStream(
        index=index,
        kind=media.kind,
        label=media.label,
        accepted=accepted,
        reason=outcome.reason,
        direction=outcome.direction if accepted else "inactive",
        offered_direction=outcome.offered_direction,
        remote_address=remote,
        remote_port=media.port,
        remote_rtcp=_remote_rtcp(media, remote, mux=mux),
        formats=outcome.formats if accepted else (),
        held=held,
        ptime=media.ptime,
        transport=media.transport,
        rtcp_mux=mux,
        crypto=sdes.choose(media.crypto) if media.transport in SECURE_TRANSPORTS else None,
    )


def _remote_rtcp(media: MediaDescription, address: str | None, *, mux: bool) -> tuple[str, int] | None:
    if mux:
        port, host = media.port, address
    elif media.rtcp is not None:
        port, other = media.rtcp
        host = literal(other) if other is not None else address
    else:
        port, host = media.port + 1, address
    usable = host is not None and host not in _HELD and media.port and port <= 65535
    return (host, port) if host is not None and usable else None


def _choose(
    media: MediaDescription, wanted: frozenset[str], spare: frozenset[str], limit: int | None
) -> tuple[Format, ...]:
    """The formats to keep: with a wanted codec, else with a spare one, else none."""
    offered = [
        (form.encoding.lower(), form)
        for form in media.rtpmap.values()
        if limit is None or _l16_octets(form, media.ptime) <= limit
    ]
    names = {name for name, _ in offered} - AUXILIARY
    for codecs in (wanted, spare):
        if not names.isdisjoint(codecs):
            return tuple(form for name, form in offered if name in codecs or name in AUXILIARY)
    return ()


def _l16_octets(form: Format, ptime: int | None) -> int:
    """Octets of a packet of L16, which alone of what is taken may be too long for a datagram's room; of others 0."""
    rate = form.clock_rate * form.channels * 2 if form.encoding.upper() == "L16" else 0
    return rate * (ptime or DEFAULT_PTIME) // 1000


_Check = tuple[str, Callable[[MediaDescription, tuple[Format, ...], Collection[str], Collection[str]], bool]]
_REFUSALS: tuple[_Check, ...] = (
    ("the offer has port 0", lambda media, formats, kinds, transports: media.port == 0),
    ("media type not recorded", lambda media, formats, kinds, transports: media.kind not in kinds),
    ("transport not supported", lambda media, formats, kinds, transports: media.transport not in transports),
    ("no acceptable codec", lambda media, formats, kinds, transports: not formats),
    (NO_KEY, lambda media, formats, kinds, transports: _lacks_key(media)),
)


def _refusal(
    media: MediaDescription, formats: tuple[Format, ...], kinds: Collection[str], transports: Collection[str]
) -> str | None:
    return next((reason for reason, holds in _REFUSALS if holds(media, formats, kinds, transports)), None)


def _disagreement(ours: MediaDescription, theirs: MediaDescription, formats: tuple[Format, ...]) -> str | None:
    """Why an answered m-line comes to nothing. What was offered with port 0 stays so, whatever the answer says."""
    if not ours.port:
        return "the offer has port 0"
    if not theirs.port:
        return "refused by the peer"
    if _lacks_key(theirs):
        return NO_KEY
    return None if formats else "no codec in the answer"


def _lacks_key(media: MediaDescription) -> bool:
    return media.transport in SECURE_TRANSPORTS and sdes.choose(media.crypto) is None


def _lower(names: Collection[str]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


# ---- writing


def _session_lines(origin: Origin, address: str, timing: str) -> list[Line]:
    return [
        Line("v", "0"),
        Line("o", str(origin)),
        Line("s", "-"),
        Line("c", f"IN {address_type(address)} {address}"),
        Line("t", timing),
    ]


def _media_lines(stream: StreamOffer, session_address: str) -> list[Line]:
    numbers = " ".join(str(form.payload_type) for form in stream.formats)
    lines = [Line("m", f"{stream.kind} {stream.port} {stream.transport} {numbers}")]
    if stream.address != session_address:
        lines.append(Line("c", f"IN {address_type(stream.address)} {stream.address}"))
    for form in stream.formats:
        lines.append(Line("a", f"rtpmap:{form.rtpmap}"))
        if form.fmtp:
            lines.append(Line("a", f"fmtp:{form.payload_type} {form.fmtp}"))
    optional = (
        ("ptime", stream.ptime),
        ("crypto", stream.crypto),
        ("label", stream.label),
    )
    lines += [Line("a", f"{name}:{value}") for name, value in optional if value is not None]
    if stream.rtcp_mux:
        lines.append(Line("a", "rtcp-mux"))
    lines.append(Line("a", stream.direction))
    return lines


def _refused_lines(media: MediaDescription) -> list[Line]:
    """Port 0, otherwise as offered (RFC 3264 section 6); the transport verbatim from the m= line."""
    transport = media.lines[0].value.split()[2]
    formats = " ".join(media.formats) or "0"
    lines = [Line("m", f"{media.kind} 0 {transport} {formats}")]
    if media.label is not None:
        lines.append(Line("a", f"label:{media.label}"))
    return lines


def _slot(stream: NegotiatedStream, ports: Mapping[int, tuple[str, int]], address: str) -> StreamOffer:
    host, port = ports[stream.index] if stream.accepted else (address, 0)
    formats = stream.formats or DEFAULT_FORMATS[:1]
    return StreamOffer(
        host,
        port,
        formats,
        stream.label,
        direction="recvonly" if stream.accepted else "inactive",
        kind=stream.kind,
        transport=stream.transport,
        ptime=stream.ptime,
    )
