"""A session record as it lies in a store: a head that stores compare, and three bodies of bytes.

`core` holds what every step of a session changes; `sdp` and `xml` (the merged metadata) are larger and written only
when they change. Bodies are JSON, deflated, which halves the memory, here and in Redis. Every row says which schema
its bodies have. The schema before the present one is readable (`_UPGRADES`), unknown fields are passed over, and what
cannot be read is `Unreadable`: to be set aside, never a reason to stop.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from siprec.errors import StoreError
from siprec.metadata.model import RSMetadata
from siprec.session.model import CallData, DialogInfo
from siprec.sip.dialog import Dialog
from siprec.store import plain
from siprec.store.base import IndexKey, Reason, SessionRecord, dialog_key, external_key, media_key

SCHEMA = 1
"""Schema of the bodies written by this version. Raise it when a field changes its meaning, and add an upgrade."""

DEFLATE_LEVEL = 1
"""Its fastest: on records this small the higher levels gain 3 % for twice the time."""

DEFLATE_WINDOW_BITS = 12
"""4 KiB to look back in, as much as a body has: the usual 32 KiB need 256 KiB of memory, cleared for each body, which
takes longer than to deflate it.
"""

DEFLATE_MEMORY = 5
"""24 KiB of memory in all; the usual 8 takes 144 KiB and twice the time, for the same size."""

BODY_LIMIT = 4 << 20
"""Bytes of one body, inflated, that are read at all: a SIP message has 64 KiB at most, and the merge is bounded."""

Raw = dict[str, Any]


class Unreadable(StoreError):
    """A stored record that this version cannot make sense of."""


class TooNew(Unreadable):
    """A stored record with a schema from the future: a later version must find it again."""


@dataclass(frozen=True, slots=True)
class Row:
    """A record at rest. The head is what counts: it overrides what the bodies say of the same thing.

    `ended` is a `Reason`, or empty while the session lives.
    """

    session_id: str
    node: str
    boot: str
    fence: int
    version: int
    state: str
    ended: str
    schema: int
    core: bytes
    sdp: bytes = b""
    xml: bytes = b""

    @property
    def rank(self) -> tuple[int, int]:
        """What decides between two rows of one session."""
        return self.fence, self.version


_HEAD = frozenset({"session_id", "node", "fence", "version", "state"})
_SDP = frozenset({"local_sdp"})
"""Fields of `CallData` that are session descriptions, kept apart from the rest."""

_REMEMBERED = frozenset({"source", "identity", "call_id", "offered_ns", "ended_by_src", "external_ids"})
"""Fields of `CallData` that are kept of a session that is over."""

_NAMES = frozenset({"call_id", "local_tag", "remote_tag", "flow", "role", "state"})
"""Fields of `Dialog` that are kept with it: what it is found by, and whether it ever was more than early."""

_UPGRADES: dict[int, Callable[[Raw], Raw]] = {}
"""Schema -> what makes the bodies {core, sdp, xml} of that schema into those of the next.

`sdp` and `xml` may be empty: who looks for keys does not read them.
"""


def encode(record: SessionRecord, boot: str) -> Row:
    """A record at rest, owned by this boot of its node."""
    call = record.call
    raw = plain.dump(call)
    core: Raw = {
        "call": {name: value for name, value in raw.items() if name not in _HEAD and name not in _SDP},
        "dialogs": [plain.dump(each) for each in record.dialogs],
        "cs": [each for each in record.metadata.sessions if each],
    }
    if record.sdp_at_rest[0] != call.local_sdp:
        record.sdp_at_rest = call.local_sdp, _bytes({"local_sdp": call.local_sdp})
    if record.metadata_at_rest[0] != record.metadata.revision:
        record.metadata_at_rest = record.metadata.revision, _bytes(plain.dump(record.metadata))
    return Row(
        session_id=call.session_id,
        node=call.node,
        boot=boot,
        fence=call.fence,
        version=call.version,
        state=call.state.value,
        ended=record.ended or "",
        schema=SCHEMA,
        core=_bytes(core),
        sdp=record.sdp_at_rest[1] if call.local_sdp else b"",
        xml=record.metadata_at_rest[1],
    )


def decode(row: Row) -> SessionRecord:
    """The record of a row. Raises Unreadable."""
    bodies = _bodies(row)
    try:
        head = {"session_id": row.session_id, "node": row.node, "fence": row.fence, "version": row.version}
        call = plain.load(CallData, {**bodies["core"]["call"], **bodies["sdp"], **head, "state": row.state})
        dialogs = [plain.load(DialogInfo, each) for each in bodies["core"]["dialogs"]]
        metadata = plain.load(RSMetadata, bodies["xml"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{row.session_id}: {error}") from None
    return SessionRecord(call, dialogs, metadata, _reason(row.ended))


def keys_of(record: SessionRecord) -> frozenset[IndexKey]:
    """What `keys` finds in the row of a record, without reading it."""
    call = record.call
    found: set[IndexKey] = {("cs_id", each) for each in record.metadata.sessions if each}
    for each in record.dialogs:
        dialog = each.dialog
        found.add(("dialog", dialog_key(dialog.call_id, dialog.local_tag, dialog.remote_tag)))
        found.add(("call_id", dialog.call_id))
    found |= {("external", external_key(*each)) for each in call.external_ids.items() if each[1]}
    if record.ended is None:
        found |= {("media", media_key(call.node, each.port)) for each in call.channels if each.open and each.port}
    return frozenset(found)


def keys(row: Row) -> frozenset[IndexKey]:
    """Under what a session can be found; an ended one by all but its ports. Raises Unreadable.

    Only what it needs is looked at: at a start this is done for every session.
    """
    core = _bodies(replace(row, sdp=b"", xml=b""))["core"]
    try:
        call, dialogs = core["call"], [each["dialog"] for each in core["dialogs"]]
        found: set[IndexKey] = {("cs_id", str(each)) for each in core["cs"]}
        found |= {("dialog", dialog_key(each["call_id"], each["local_tag"], each["remote_tag"])) for each in dialogs}
        found |= {("call_id", str(each["call_id"])) for each in dialogs}
        found |= {("external", external_key(*each)) for each in call.get("external_ids", {}).items() if each[1]}
        if not row.ended:
            open_channels = [each for each in call.get("channels", ()) if each["mode"] != "closed"]
            found |= {("media", media_key(row.node, each["port"])) for each in open_channels if each.get("port")}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{row.session_id}: {error}") from None
    return frozenset(found)


def bury(row: Row, reason: Reason, newest: SessionRecord | None = None) -> Row:
    """What is left of a session that is over: whose it was, and what it is found under; of `newest` where that is
    known, else of what the row holds. Raises Unreadable.

    A third of what it was: thousands of them are held for minutes.
    """
    left = _left_of_row(row) if newest is None else _left_of(newest)
    version = max(row.version, newest.call.version if newest is not None else 0) + 1
    return replace(
        row, ended=reason, state="ended", version=version, schema=SCHEMA, core=_bytes(left), sdp=b"", xml=b""
    )


def _left_of(record: SessionRecord) -> Raw:
    call = {name: getattr(record.call, name) for name in _REMEMBERED}
    return {
        "call": {name: value for name, value in call.items() if value},
        "dialogs": [{"dialog": _named(_names_of(each.dialog)), "identity": each.identity} for each in record.dialogs],
        "cs": [each for each in record.metadata.sessions if each],
    }


def _names_of(dialog: Dialog) -> Raw:
    return {name: plain.dump(dialog.flow) if name == "flow" else getattr(dialog, name) for name in _NAMES}


def _left_of_row(row: Row) -> Raw:
    core = _bodies(replace(row, sdp=b"", xml=b""))["core"]
    try:
        return {
            "call": {name: value for name, value in core["call"].items() if name in _REMEMBERED},
            "dialogs": [{"dialog": _named(each["dialog"]), "identity": each["identity"]} for each in core["dialogs"]],
            "cs": core["cs"],
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{row.session_id}: {error}") from None


def _named(dialog: Raw) -> Raw:
    uris = {"local_uri": "", "remote_uri": "", "remote_target": ""}
    return uris | {name: value for name, value in dialog.items() if name in _NAMES}


def _bodies(row: Row) -> Raw:
    """The three bodies as parsed, in the present schema."""
    if row.schema > SCHEMA:
        raise TooNew(f"{row.session_id}: schema {row.schema} is from a later version")
    raw: Raw = {"core": _parse(row, row.core), "sdp": _parse(row, row.sdp), "xml": _parse(row, row.xml)}
    for schema in range(row.schema, SCHEMA):
        if schema not in _UPGRADES:
            raise Unreadable(f"{row.session_id}: schema {row.schema} is from a version too old")
        try:
            raw = _UPGRADES[schema](raw)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Unreadable(f"{row.session_id}: {error}") from None
    return raw


def _parse(row: Row, body: bytes) -> Raw:
    if not body:
        return {}
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(body, BODY_LIMIT)
        if not inflater.eof:
            raise Unreadable(f"{row.session_id}: cut, or over {BODY_LIMIT} bytes")
        raw = _DECODER.decode(text.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError, zlib.error):
        raise Unreadable(f"{row.session_id}: not JSON") from None
    if not isinstance(raw, dict):
        raise Unreadable(f"{row.session_id}: not an object")
    return raw


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_DECODER = json.JSONDecoder(parse_constant=_refuse)
"""One for all: making one costs as much as reading a small record."""


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _reason(text: str) -> Reason | None:
    return {"bye": "bye", "lost": "lost"}.get(text)  # type: ignore[return-value]


def _bytes(raw: Raw) -> bytes:
    text = _ENCODER.encode(raw)
    deflater = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, DEFLATE_WINDOW_BITS, DEFLATE_MEMORY)
    return deflater.compress(text.encode("utf-8", "surrogatepass")) + deflater.flush()
