"""Metadata documents to values and back (RFC 7865 section 9), in every dialect seen.

Elements are told by local name, attributes by any of their aliases, in any order. Dialects: RFC 7865 (CUBE, Avaya,
OpenSIPS); the drafts' inline form, in which participant carries its session, times, send and recv (Oracle,
AudioCodes); BroadWorks' `recording_metadata`, which nests ids and addresses in elements. A child that is not known
is kept as an extension of what it stands in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from xml.sax.saxutils import escape, quoteattr

from siprec.errors import MetadataError
from siprec.metadata.model import (
    NAMESPACE,
    NAMESPACES,
    DataMode,
    Extension,
    Group,
    Kind,
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Reason,
    Recording,
    Session,
    SessionRecordingAssoc,
    SnapshotRequest,
    Stream,
)
from siprec.metadata.tree import Element, is_text, leaves, serialise
from siprec.metadata.tree import parse as parse_tree

_ROOTS = frozenset({"recording", "recording_metadata"})
_GROUP_ID = ("group_id", "id")
_SESSION_ID = ("session_id", "id")
_PARTICIPANT_ID = ("participant_id", "id")
_STREAM_ID = ("stream_id", "id")
_OF_SESSION = ("session_id", "session")
_OF_PARTICIPANT = ("participant_id", "participant")


def parse(body: bytes, charset: str | None = None) -> Recording | SnapshotRequest:
    """Read an rs-metadata body.

    Raises MetadataError when it is no well-formed XML within the limits of `tree`, or has neither a recording nor
    a requestsnapshot root in one of `NAMESPACES` (or none). What is inside is never an error: a document with half
    of the elements missing is a document (RFC 7865 section 6.1.2 allows an empty one).
    """
    root = parse_tree(body, charset)
    if root.namespace and root.namespace not in NAMESPACES:
        raise MetadataError("metadata in a namespace that is not RFC 7865's")
    if root.name == "requestsnapshot":
        reason = next((child for child in root.children if child.name == "requestreason"), None)
        return SnapshotRequest(reason.text, reason.get("lang")) if reason is not None else SnapshotRequest()
    if root.name not in _ROOTS:
        raise MetadataError("metadata without a recording element")
    return _Reader(root).read()


# ---- reading


@dataclass(slots=True)
class _Reader:
    """Collects the elements of one document; `_READERS` says which method reads which."""

    root: Element
    datamode: DataMode = "complete"
    recording_id: str = ""
    groups: list[Group] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    participants: list[Participant] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    recorded: list[SessionRecordingAssoc] = field(default_factory=list)
    attended: list[ParticipantSessionAssoc] = field(default_factory=list)
    contributed: list[ParticipantStreamAssoc] = field(default_factory=list)
    inline_attended: list[ParticipantSessionAssoc] = field(default_factory=list)
    inline_contributed: list[ParticipantStreamAssoc] = field(default_factory=list)
    loose: list[Element] = field(default_factory=list)
    extensions: list[Extension] = field(default_factory=list)

    def read(self) -> Recording:
        self.recording_id = _id(self.root.get("recording_id", "id"))
        for child in self.root.children:
            ours = not child.namespace or child.namespace in NAMESPACES
            _READERS.get(child.name if ours else "", _Reader._unknown)(self, child)
        for element in self.loose:
            kind, owner_id = self._parent(element)
            self.extensions.append(_extension(element, kind, owner_id))
        attended = {(each.participant_id, each.session_id) for each in self.attended}
        contributed = {each.participant_id for each in self.contributed}
        self.attended += [
            each for each in self.inline_attended if (each.participant_id, each.session_id) not in attended
        ]
        self.contributed += [each for each in self.inline_contributed if each.participant_id not in contributed]
        return Recording(
            self.datamode,
            self.recording_id,
            tuple(self.groups),
            tuple(self.sessions),
            tuple(self.participants),
            tuple(self.streams),
            tuple(self.recorded),
            tuple(self.attended),
            tuple(self.contributed),
            tuple(self.extensions),
        )

    def _datamode(self, element: Element) -> None:
        self.datamode = "partial" if element.text.lower() == "partial" else "complete"

    def _group(self, element: Element) -> None:
        group_id = _id(element.get(*_GROUP_ID))
        extensions = _extensions(element, "group", group_id, known=_TIMES)
        self.groups.append(Group(group_id, *_times(element), extensions))

    def _session(self, element: Element) -> None:
        session_id = _id(element.get(*_SESSION_ID))
        joined, left = _times(element)
        self.sessions.append(
            Session(
                session_id,
                tuple(_id(each) for each in _texts(element, "sipSessionID")),
                tuple(_reason(each) for each in element.children if each.name == "reason"),
                _id(_first(element, "group-ref") or element.get("group", "group_id")),
                _first(element, "start-time") or joined,
                _first(element, "stop-time") or left,
                _extensions(element, "session", session_id, known=_SESSION_CHILDREN),
            )
        )

    def _participant(self, element: Element) -> None:
        participant_id = _id(element.get(*_PARTICIPANT_ID))
        name_ids = tuple(_name_id(each) for each in element.children if each.name in {"nameID", "aor"})
        extensions = _extensions(element, "participant", participant_id, known=_PARTICIPANT_CHILDREN)
        self.participants.append(Participant(participant_id, name_ids, _first(element, "name"), extensions))
        times = _participant_times(element)
        session = _id(element.get(*_OF_SESSION))
        if session:
            self.inline_attended.append(ParticipantSessionAssoc(participant_id, session, *times))
        if any(child.name in {"send", "recv"} for child in element.children):
            send, recv = _stream_ids(element, "send"), _stream_ids(element, "recv")
            self.inline_contributed.append(ParticipantStreamAssoc(participant_id, send, recv))

    def _stream(self, element: Element) -> None:
        stream_id = _id(element.get(*_STREAM_ID))
        self.streams.append(
            Stream(
                stream_id,
                _id(element.get(*_OF_SESSION)),
                _first(element, "label") or element.get("label"),
                _first(element, "mode"),
                *_times(element),
                extensions=_extensions(element, "stream", stream_id, known=_STREAM_CHILDREN),
            )
        )

    def _session_recording(self, element: Element) -> None:
        session_id = _id(element.get(*_OF_SESSION))
        extensions = _extensions(element, "session", session_id, known=_TIMES)
        self.recorded.append(SessionRecordingAssoc(session_id, *_times(element), extensions))

    def _participant_session(self, element: Element) -> None:
        participant_id = _id(element.get(*_OF_PARTICIPANT))
        params = tuple((each.get("pname"), each.get("pval")) for each in element.children if each.name == "param")
        self.attended.append(
            ParticipantSessionAssoc(
                participant_id,
                _id(element.get(*_OF_SESSION)),
                *_times(element),
                params=params,
                extensions=_extensions(element, "participant", participant_id, known=_TIMES | {"param"}),
            )
        )

    def _participant_stream(self, element: Element) -> None:
        participant_id = _id(element.get(*_OF_PARTICIPANT))
        self.contributed.append(
            ParticipantStreamAssoc(
                participant_id,
                _stream_ids(element, "send"),
                _stream_ids(element, "recv"),
                *_times(element),
                extensions=_extensions(element, "participant", participant_id, known=_TIMES | {"send", "recv"}),
            )
        )

    def _recording(self, element: Element) -> None:
        """BroadWorks' description of the recording itself, inside of recording_metadata."""
        if self.root.name != "recording_metadata":
            self._unknown(element)
            return
        self.recording_id = _id(element.get("id", "recording_id")) or self.recording_id
        self.loose += element.children

    def _unknown(self, element: Element) -> None:
        self.loose.append(element)

    def _parent(self, element: Element) -> tuple[Kind, str]:
        """What an element directly under the root belongs to: BroadWorks names it by id in `parent`."""
        wanted = _id(element.get("parent"))
        kinds: tuple[tuple[Kind, Iterable[str]], ...] = (
            ("session", (each.session_id for each in self.sessions)),
            ("participant", (each.participant_id for each in self.participants)),
            ("stream", (each.stream_id for each in self.streams)),
            ("group", (each.group_id for each in self.groups)),
        )
        found = (kind for kind, ids in kinds if wanted and wanted in ids)
        kind: Kind = next(found, "recording")
        return kind, self.recording_id if kind == "recording" else wanted


_READERS: dict[str, Callable[[_Reader, Element], None]] = {
    "datamode": _Reader._datamode,  # the schema of RFC 7865 section 9
    "dataMode": _Reader._datamode,  # its section 5.1.2
    "group": _Reader._group,
    "session": _Reader._session,
    "participant": _Reader._participant,
    "stream": _Reader._stream,
    "sessionrecordingassoc": _Reader._session_recording,
    "participantsessionassoc": _Reader._participant_session,
    "participantstreamassoc": _Reader._participant_stream,
    "recording": _Reader._recording,
}
_TIMES = frozenset({"associate-time", "disassociate-time"})
_SPAN = _TIMES | {"start-time", "stop-time"}
_SESSION_CHILDREN = _SPAN | {"sipSessionID", "reason", "group-ref"}
_PARTICIPANT_CHILDREN = _SPAN | {"nameID", "aor", "name", "send", "recv"}
_STREAM_CHILDREN = _TIMES | {"label", "mode"}


def _id(text: str) -> str:
    """An id or a Session-ID without the white space that line breaks in a document put there (RFC 7865 section 8)."""
    return "".join(text.split())


def _texts(element: Element, name: str) -> list[str]:
    return [child.text for child in element.children if child.name == name and child.text]


def _first(element: Element, name: str) -> str:
    for child in element.children:
        if child.name == name and (text := child.text):
            return text
    return ""


def _times(element: Element) -> tuple[str, str]:
    return _first(element, "associate-time"), _first(element, "disassociate-time")


def _participant_times(element: Element) -> tuple[str, str]:
    joined, left = _times(element)
    return joined or _first(element, "start-time"), left or _first(element, "stop-time")


def _stream_ids(element: Element, name: str) -> tuple[str, ...]:
    """Ids in send or recv: as text, or in id elements (BroadWorks)."""
    found = []
    for child in element.children:
        if child.name == name:
            found += [_id(each) for each in (child.text, *_texts(child, "id"))]
    return tuple(dict.fromkeys(each for each in found if each))


def _name_id(element: Element) -> NameID:
    """`<nameID aor="..."><name>`, `<nameID><aor>..</aor><name>`, or a bare `<aor>` (BroadWorks)."""
    if element.name == "aor":
        return NameID(element.text)
    named = next((child for child in element.children if child.name == "name"), None)
    aor = element.get("aor") or _first(element, "aor") or element.text
    return NameID(aor, named.text, named.get("lang")) if named is not None else NameID(aor)


def _reason(element: Element) -> Reason:
    cause = element.get("cause")
    number = int(cause) if cause.isascii() and cause.isdigit() and len(cause) <= 5 else None
    return Reason(element.text, number, element.get("protocol") or "SIP")


def _extensions(element: Element, owner: Kind, owner_id: str, *, known: frozenset[str]) -> tuple[Extension, ...]:
    return tuple(_extension(child, owner, owner_id) for child in element.children if child.name not in known)


def _extension(element: Element, owner: Kind, owner_id: str) -> Extension:
    return Extension(owner, owner_id, element.namespace, element.name, serialise(element), tuple(leaves(element)))


# ---- writing


def build(recording: Recording) -> bytes:
    """`recording` as an RFC 7865 document in the schema's order.

    What only the drafts know (mode and times of a stream, a name outside of nameID) is left out; extensions are
    written as their XML text. Raises MetadataError when a value holds a character that XML cannot.
    """
    body = "\n".join([f"  <datamode>{recording.datamode}</datamode>", *_body(recording)])
    return _document("recording", body)


def build_snapshot_request(reason: str = "", lang: str = "en") -> bytes:
    """The body of an UPDATE that asks the SRC for a complete document (RFC 7865 section 7, RFC 7866 section 9.2)."""
    inner = _tag("requestreason", reason, (("xml:lang", lang),)) if reason else ""
    return _document("requestsnapshot", f"  {inner}" if inner else "")


def _document(root: str, body: str) -> bytes:
    if not is_text(body):
        raise MetadataError("metadata with a character that XML cannot hold")
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f'<{root} xmlns="{NAMESPACE}">', body, f"</{root}>"]
    return "\n".join(line for line in lines if line).encode() + b"\n"


_Attributes = tuple[tuple[str, str], ...]


def _body(recording: Recording) -> Iterator[str]:
    for writer in _WRITERS:
        yield from writer(recording)
    yield from (f"  {extension.xml}" for extension in recording.extensions)


def _groups(recording: Recording) -> Iterator[str]:
    for each in recording.groups:
        yield _element("group", (("group_id", each.group_id),), _written_times(each), each.extensions)


def _sessions(recording: Recording) -> Iterator[str]:
    for each in recording.sessions:
        yield _element("session", (("session_id", each.session_id),), _session_children(each), each.extensions)


def _participants(recording: Recording) -> Iterator[str]:
    for each in recording.participants:
        children = [_name_id_tag(name_id) for name_id in each.name_ids]
        yield _element("participant", (("participant_id", each.participant_id),), children, each.extensions)


def _streams(recording: Recording) -> Iterator[str]:
    for each in recording.streams:
        attributes = (("stream_id", each.stream_id), *_optional("session_id", each.session_id))
        yield _element("stream", attributes, [_tag("label", each.label)] if each.label else [], each.extensions)


def _session_recordings(recording: Recording) -> Iterator[str]:
    for each in recording.session_recording_assocs:
        attributes = (("session_id", each.session_id),)
        yield _element("sessionrecordingassoc", attributes, _written_times(each), each.extensions)


def _participant_sessions(recording: Recording) -> Iterator[str]:
    for each in recording.participant_session_assocs:
        attributes = (("participant_id", each.participant_id), ("session_id", each.session_id))
        params = [_tag("param", "", (("pname", name), ("pval", value))) for name, value in each.params]
        children = [*_written_times(each), *params]
        yield _element("participantsessionassoc", attributes, children, each.extensions)


def _participant_streams(recording: Recording) -> Iterator[str]:
    for each in recording.participant_stream_assocs:
        children = [_tag("send", one) for one in each.send] + [_tag("recv", one) for one in each.recv]
        children += _written_times(each)
        attributes = (("participant_id", each.participant_id),)
        yield _element("participantstreamassoc", attributes, children, each.extensions)


# The sequence of the schema (RFC 7865 section 9).
_WRITERS: tuple[Callable[[Recording], Iterator[str]], ...] = (
    _groups,
    _sessions,
    _participants,
    _streams,
    _session_recordings,
    _participant_sessions,
    _participant_streams,
)


def _session_children(session: Session) -> list[str]:
    children = [_tag("sipSessionID", each) for each in session.sip_session_ids]
    for reason in session.reasons:
        cause = _optional("cause", "" if reason.cause is None else str(reason.cause))
        children.append(_tag("reason", reason.text, (*cause, ("protocol", reason.protocol))))
    optional = (("group-ref", session.group_ref), ("start-time", session.start_time), ("stop-time", session.stop_time))
    return children + [_tag(name, text) for name, text in optional if text]


def _written_times(
    timed: Group | SessionRecordingAssoc | ParticipantSessionAssoc | ParticipantStreamAssoc,
) -> list[str]:
    both = (("associate-time", timed.associate_time), ("disassociate-time", timed.disassociate_time))
    return [_tag(name, text) for name, text in both if text]


def _name_id_tag(name_id: NameID) -> str:
    if not name_id.name:
        return f"<nameID aor={_quote(name_id.aor)}/>"
    name = _tag("name", name_id.name, _optional("xml:lang", name_id.lang))
    return f"<nameID aor={_quote(name_id.aor)}>{name}</nameID>"


def _optional(name: str, value: str) -> _Attributes:
    return ((name, value),) if value else ()


def _element(name: str, attributes: _Attributes, children: list[str], extensions: tuple[Extension, ...]) -> str:
    inner = "\n".join(f"    {child}" for child in [*children, *(each.xml for each in extensions)])
    start = f"  <{name}{_format(attributes)}"
    return f"{start}>\n{inner}\n  </{name}>" if inner else f"{start}/>"


def _tag(name: str, text: str, attributes: _Attributes = ()) -> str:
    start = f"<{name}{_format(attributes)}"
    return f"{start}>{escape(text)}</{name}>" if text else f"{start}/>"


def _format(attributes: _Attributes) -> str:
    return "".join(f" {name}={_quote(value)}" for name, value in attributes)


def _quote(text: str) -> str:
    return quoteattr(text, {"\t": "&#9;"})
