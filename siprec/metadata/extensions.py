"""What vendors add to metadata: ids that tie a recording to other systems, and all other foreign elements.

Ids are found by name at any depth, whatever the namespace: Oracle's has two spellings, AudioCodes' varies.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from siprec.metadata.model import Extension, Recording, RSMetadata

_IDS = {
    "ucid": "ucid",  # Avaya's Universal Call ID: Oracle apkt:ucid
    "avayaucid": "ucid",  # AudioCodes ac:AvayaUCID
    "cisco-guid": "cisco-guid",
    "ciscoguid": "cisco-guid",
    "x-audc-call-id": "x-audc-call-id",
    "genesysuuid": "genesys-uuid",  # AudioCodes ac:GenesysUUID
    "x-genesys-calluuid": "genesys-uuid",
    "gucid": "gucid",  # Oracle
    "x-broadworks-correlation-info": "x-broadworks-correlation-info",
}
"""Element or header name in lower case to the key in `external_ids`."""

_UCID = re.compile(r"(?:^|[0-9a-f]{2})00fa08([0-9a-f]{16})|^fa08([0-9a-f]{16})", re.IGNORECASE)

_DECIMAL_UCID = re.compile(r"([0-9]{5})([0-9]{5})([0-9]{10})")

_CALL_DATA = "callData"  # Ribbon: SIP header fields of the call that is recorded
_BROADWORKS = "broadworksrecordingmetadata"


def extensions(source: Recording | RSMetadata) -> list[Extension]:
    """All foreign elements of a document, or of the state, in the order of the elements they hang on."""
    found: list[Extension] = []
    for held in _holders(source):
        found += held
    return found


def external_ids(source: Recording | RSMetadata) -> dict[str, str]:
    """Ids under which other systems know the call, in lower-case keys; the first of each name counts.

    `session-id` (RFC 7989) is the first sipSessionID; `ucid`, `gucid`, `cisco-guid`, `x-audc-call-id`,
    `genesys-uuid`; `calldata.NAME` for each field of Ribbon's callData; `broadworks.NAME` for each of BroadWorks'
    (userid, calltype = orig, term ..., recordingtype, ...). A UCID is its 16 hexadecimal digits (see `ucid`), also
    when it was written in 20 decimal ones, or what stands in its place, in upper case without `;encoding=hex`.
    """
    found: dict[str, str] = {}
    session_id = next((each for ids in _session_ids(source) for each in ids), "")
    if session_id:
        found["session-id"] = session_id
    for extension in extensions(source):
        for key, value in _lift(extension):
            found.setdefault(key, value)
    return found


def _lift(extension: Extension) -> Iterator[tuple[str, str]]:
    for path, value in extension.values:
        element, _, attribute = path.lower().partition("@")
        steps = element.split("/")
        if extension.name == _CALL_DATA and not attribute:
            yield f"calldata.{steps[-1]}", value
        elif _BROADWORKS in (extension.name.lower(), *steps) and not attribute:
            yield from _broadworks(steps, value)
        for step in (extension.name.lower(), *steps):
            if step in _IDS and not attribute:
                yield _IDS[step], _clean(_IDS[step], value)


def _broadworks(steps: list[str], value: str) -> Iterator[tuple[str, str]]:
    """userID and the like by name; of callType also which kind it is: `callType/origCall/...` is orig."""
    if "calltype" in steps[:-1]:
        yield "broadworks.calltype", steps[steps.index("calltype") + 1].removesuffix("call")
    yield f"broadworks.{steps[-1]}", value


def _clean(key: str, value: str) -> str:
    if key != "ucid":
        return value
    text, encoding, _ = value.partition(";")
    text = text.strip()
    return ucid(text) or ("" if encoding else _ucid_in_decimal(text)) or text.upper()


def ucid(text: str) -> str:
    """The Universal Call ID in hexadecimal user-to-user data (RFC 7433), "" when there is none: upper case, without the
    tag FA and the length 08 of the field that Avaya puts it in, and the protocol discriminator 00 before those. Oracle
    quotes the data whole, AudioCodes the field.
    """
    found = _UCID.search(text)
    return (found[1] or found[2]).upper() if found else ""


def _ucid_in_decimal(text: str) -> str:
    """A UCID as Avaya's applications and call records write it: node in 5 digits, sequence number in 5, time in 10. No
    other form of one has 20 characters without a letter; on the wire they are 2, 2 and 4 octets. "" when it is none.
    """
    found = _DECIMAL_UCID.fullmatch(text)
    if found is None:
        return ""
    node, sequence, seconds = map(int, found.groups())
    return f"{node:04X}{sequence:04X}{seconds:08X}" if max(node, sequence) < 1 << 16 and seconds < 1 << 32 else ""


def _session_ids(source: Recording | RSMetadata) -> Iterator[tuple[str, ...]]:
    if isinstance(source, Recording):
        return (each.sip_session_ids for each in source.sessions)
    return (each.session.sip_session_ids for each in source.sessions.values())


def _holders(source: Recording | RSMetadata) -> Iterable[tuple[Extension, ...]]:
    yield source.extensions
    if isinstance(source, RSMetadata):
        yield from (each.group.extensions for each in source.groups.values())
        yield from (each.session.extensions for each in source.sessions.values())
        yield from (each.participant.extensions for each in source.participants.values())
        yield from (each.stream.extensions for each in source.streams.values())
        return
    yield from (each.extensions for each in source.groups)
    yield from (each.extensions for each in source.sessions)
    yield from (each.extensions for each in source.participants)
    yield from (each.extensions for each in source.streams)
    yield from (each.extensions for each in source.session_recording_assocs)
    yield from (each.extensions for each in source.participant_session_assocs)
    yield from (each.extensions for each in source.participant_stream_assocs)
