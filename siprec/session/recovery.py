"""When an INVITE carries an earlier session on: Replaces (RFC 3891), and ids that two INVITEs share.

Pure rules. No SRC in the field was seen sending Replaces on a recording session; those that fail over send a fresh
INVITE with a new Call-ID and the same metadata. So both ways are served, the second only where it cannot be wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from siprec.errors import SipError
from siprec.metadata import extensions
from siprec.metadata.model import Recording, RSMetadata
from siprec.session.model import CallData, DialogInfo
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.headers import parse_params
from siprec.sip.message import Request

CORRELATING_IDS = ("ucid", "cisco-guid", "session-id", "x-audc-call-id", "genesys-uuid")
"""External ids that name one call. The group id is not among them: a transfer keeps it for another call."""

PARALLEL_SECONDS = 1.0
"""A stream that sent RTP this short a time ago is alive: a second INVITE for its call wants a second recording."""

YOUNG_SECONDS = 2.0
"""A dialog younger than this cannot have failed yet: the SRC sent two INVITEs on purpose (parallel recording)."""

CSEQ_LEAP = 1000
"""Our CSeq in a dialog rises by this when another process takes it up: what was sent after the last save is not
known. A recorder sends fewer than one request a second."""


@dataclass(frozen=True, slots=True)
class Replaces:
    """A Replaces header (RFC 3891 section 6.1): the dialog it names, as its owner sees it."""

    key: DialogKey
    early_only: bool


def replaces_of(request: Request) -> Replaces | None:
    """The Replaces of a request, None without one. Raises SipError 400 for a form that section 3 forbids."""
    values = request.headers.all("Replaces")
    if not values:
        return None
    if len(values) > 1 or "," in values[0]:
        raise SipError("more than one Replaces")
    if request.method != "INVITE":
        raise SipError("Replaces in a request that is no INVITE")
    if "Join" in request.headers:
        raise SipError("Replaces contradicts Join")
    call_id, _, tail = values[0].partition(";")
    params = parse_params(tail)
    to_tag, from_tag = params.get("to-tag"), params.get("from-tag")
    if not call_id.strip() or to_tag is None or from_tag is None:
        raise SipError("Replaces without Call-ID or tags")
    # A tag of zero stands for a peer of RFC 2543 that has none (section 3).
    return Replaces(DialogKey(call_id.strip(), _tag(to_tag), _tag(from_tag)), "early-only" in params)


def _tag(text: str) -> str:
    return "" if text == "0" else text


def cs_ids(metadata: Iterable[Recording] | RSMetadata) -> set[str]:
    """Ids of the communication sessions that documents, or a session's state, name; the empty one names nothing."""
    if isinstance(metadata, RSMetadata):
        return {each for each in metadata.sessions if each}
    return {each.session_id for document in metadata for each in document.sessions if each.session_id}


def external_ids(call: CallData, metadata: RSMetadata) -> set[tuple[str, str]]:
    """The ids by which a session may be recognised, as (name, value)."""
    return correlating(call.external_ids | extensions.external_ids(metadata))


def correlating(known: Mapping[str, str]) -> set[tuple[str, str]]:
    """Those of some external ids that name one call. One of zeros names none: it is the null UUID of RFC 7989, or what
    a device sends that has no id.
    """
    named = {name: known.get(name, "") for name in CORRELATING_IDS}
    return {(name, value) for name, value in named.items() if value.partition(";")[0].strip("0- ")}


def open_dialogs(dialogs: Iterable[DialogInfo]) -> list[Dialog]:
    """Those that have not been ended."""
    return [each.dialog for each in dialogs if each.dialog.state != "terminated"]


def recalled(dialogs: list[DialogInfo]) -> DialogInfo | None:
    """The current one of a stored session's dialogs, all of them made fit to be used by another process."""
    for dialog in open_dialogs(dialogs):
        dialog.local_cseq += CSEQ_LEAP
        dialog.state = "confirmed"  # an early one was stored just before its 200 OK, which may have gone out
    return dialogs[-1] if dialogs else None
