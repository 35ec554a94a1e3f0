"""What the headers of an INVITE tell about the call it records: ids of other systems, times, and participants where
no metadata names them.

Cisco's recorders know no rs-metadata: CUBE's network-based recording names the participant of each m-line in
X-Cisco-Recording-Participant, CUCM's built-in bridge makes a call for each side and describes both ends in parameters
of its From header.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import count

from siprec.errors import SipError
from siprec.metadata.extensions import ucid
from siprec.metadata.model import NameID, Participant, ParticipantStreamAssoc, Recording, Stream, user_part
from siprec.sip.headers import NameAddr
from siprec.sip.message import Request
from siprec.sip.uri import SipUri

EXTERNAL_ID_HEADERS = {
    "Cisco-Guid": "cisco-guid",
    "Session-ID": "session-id",
    "X-Audc-Call-Id": "x-audc-call-id",
    "X-Genesys-CallUUID": "genesys-uuid",
    "X-BroadWorks-Correlation-Info": "x-broadworks-correlation-info",
    "User-to-User": "ucid",
}
"""Headers that carry an id under which other systems know the call, and the name it gets in recording.json."""

ID_LIMIT = 256
"""Characters of such an id: the longest seen, a Session-ID pair, has 72."""

CLOCK_TRUST_NS = 24 * 3600 * 1_000_000_000
"""A Date header further from our clock than this is a clock that was never set (Ribbon starts in 1970)."""

PARTICIPANTS_LIMIT = 16
"""Participants taken from headers; CUBE sends one for each m-line."""

_MEDIA_INDEX = re.compile(r'media-index\s*=\s*"?(\d{1,3})', re.IGNORECASE)


def external_ids(request: Request) -> dict[str, str]:
    """Ids of other systems in the headers of `request`, by the names that recording.json uses."""
    found: dict[str, str] = {}
    for header, name in EXTERNAL_ID_HEADERS.items():
        value = request.headers.get(header)
        if not value:
            continue
        value = value.strip()
        if header == "User-to-User":
            value = _ucid(value)
        elif header == "Session-ID":
            value = value.partition(";")[0].strip()
        if value:
            found[name] = value[:ID_LIMIT]
    return found


def received_at(request: Request, now_ns: int) -> int:
    """When the SRC sent `request` by its Date header (RFC 7865 section 6.1.1), else `now_ns`; in ns since 1970."""
    date = request.headers.get("Date")
    if not date:
        return now_ns
    try:
        stated = datetime.strptime(date.strip(), "%a, %d %b %Y %H:%M:%S GMT")
    except ValueError:
        return now_ns
    at_ns = int(stated.replace(tzinfo=UTC).timestamp()) * 1_000_000_000
    # A Date counts whole seconds: one that agrees with our clock tells less than our clock does.
    if abs(at_ns - now_ns) > CLOCK_TRUST_NS or 0 <= now_ns - at_ns < 2_000_000_000:
        return now_ns
    return at_ns


def described(request: Request, *, plain: bool, known: Mapping[str, str]) -> Recording:
    """The participants of a call that came without metadata, as far as its headers name them.

    `plain`: it is no recording session, so that its caller is who is heard; else From names the SRC itself. `known`: by
    their addresses, ids of participants that were named before; who is new on an m-line is not who was there.
    """
    people = list(_cisco_participants(request)) or list(_near_and_far(request))
    if plain and not people:
        people = list(_ends(request))
    ids, taken = dict(known), set(known.values())
    sends: dict[NameID, tuple[str, ...]] = {}
    for index, name_id in people[:PARTICIPANTS_LIMIT]:
        if name_id.aor not in ids:
            ids[name_id.aor] = next(str(each) for each in count(index) if str(each) not in taken)
            taken.add(ids[name_id.aor])
        sends[name_id] = (*sends.get(name_id, ()), f"mline-{index}")
    return Recording(
        participants=tuple(Participant(ids[each.aor], (each,)) for each in sends),
        streams=tuple(Stream(stream) for streams in sends.values() for stream in streams),
        participant_stream_assocs=tuple(ParticipantStreamAssoc(ids[each.aor], send=sends[each]) for each in sends),
    )


def _cisco_participants(request: Request) -> Iterator[tuple[int, NameID]]:
    """CUBE: `X-Cisco-Recording-Participant: sip:1001@192.0.2.1;media-index="0"`, one for each m-line."""
    found: dict[int, NameID] = {}
    for value in request.headers.all("X-Cisco-Recording-Participant"):
        index = _MEDIA_INDEX.search(value)
        address = _name_id(value.partition(";")[0] if "<" not in value else value)
        if address is not None:
            found.setdefault(int(index[1]) if index else len(found), address)
    yield from sorted(found.items())


def _near_and_far(request: Request) -> Iterator[tuple[int, NameID]]:
    """CUCM's built-in bridge: the one stream of the call carries the end that x-nearend or x-farend marks."""
    uri = SipUri.parse(request.from_.uri)
    params = request.from_.params | uri.params
    side = next((side for side in ("nearend", "farend") if f"x-{side}" in params), None)
    address = params.get(f"x-{side}addr") if side else None
    if address:
        yield 0, NameID(f"sip:{address}@{uri.host}", address)


def _ends(request: Request) -> Iterator[tuple[int, NameID]]:
    """Any other call: its one sender is who calls."""
    caller = request.from_
    yield 0, NameID(caller.uri, caller.display or user_part(caller.uri))


def _name_id(value: str) -> NameID | None:
    try:
        parsed = NameAddr.parse(value.strip())
    except SipError:
        return None
    return NameID(parsed.uri, parsed.display or user_part(parsed.uri))


def _ucid(value: str) -> str:
    content, _, params = value.partition(";")
    if "encoding=hex" not in params.replace(" ", "").lower():
        return ""
    return ucid(content.strip())
