"""Recording metadata: the elements of RFC 7865 as values, and the state their merging makes.

The frozen classes say what one document says, in its own words: ids and times are the text as it came, empty
when absent. `RSMetadata` and the classes it holds are what is known after all documents so far; their times are
nanoseconds since 1970 (UTC).

Ids are compared as text, never decoded: seen are base64, `urn:uuid:`, hex, phone numbers and nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import unquote

NAMESPACE = "urn:ietf:params:xml:ns:recording:1"
"""What we write (RFC 7865 section 6.11)."""
NAMESPACES = frozenset({NAMESPACE, "urn:ietf:params:xml:ns:recording", "urn:ietf:params:xml:ns:siprec"})
"""What we read: the RFC's, the drafts' (Oracle, AudioCodes, Metaswitch, Ribbon), BroadWorks'."""

DataMode = Literal["complete", "partial"]
Kind = Literal["recording", "group", "session", "participant", "stream"]


# ---- one document


@dataclass(frozen=True, slots=True)
class Extension:
    """An element that RFC 7865 does not define, and what it hangs on.

    `xml` is the element as text that stands alone. `values` are its leaves: (path of local names, text).
    """

    owner: Kind
    owner_id: str
    namespace: str
    name: str
    xml: str
    values: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class NameID:
    """An address of record and the name that goes with it (RFC 7865 section 6.5.1)."""

    aor: str
    name: str = ""
    lang: str = ""


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a session ended, from the Reason header field (RFC 7865 section 6.3.1)."""

    text: str
    cause: int | None = None
    protocol: str = "SIP"


@dataclass(frozen=True, slots=True)
class Group:
    """Communication session group (RFC 7865 section 6.2)."""

    group_id: str
    associate_time: str = ""
    disassociate_time: str = ""
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """Communication session (RFC 7865 section 6.3). The drafts' associate-time of a session is its start-time."""

    session_id: str
    sip_session_ids: tuple[str, ...] = ()
    reasons: tuple[Reason, ...] = ()
    group_ref: str = ""
    start_time: str = ""
    stop_time: str = ""
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Participant:
    """Someone in a communication session (RFC 7865 section 6.5). `name`: a name element outside of any nameID."""

    participant_id: str
    name_ids: tuple[NameID, ...] = ()
    name: str = ""
    extensions: tuple[Extension, ...] = ()

    @property
    def aor(self) -> str:
        """The first address of record, as it came."""
        return next((each.aor for each in self.name_ids if each.aor), "")

    @property
    def display_name(self) -> str:
        """What to call this participant: name, else the name of a nameID, else the user part of the address."""
        named = next((each.name for each in self.name_ids if each.name), "")
        return self.name or named or user_part(self.aor)


@dataclass(frozen=True, slots=True)
class Stream:
    """Media stream (RFC 7865 section 6.7): the m-line with this a=label. `mode` is the drafts' mixed or separate."""

    stream_id: str
    session_id: str = ""
    label: str = ""
    mode: str = ""
    associate_time: str = ""
    disassociate_time: str = ""
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionRecordingAssoc:
    """When a session was recorded (RFC 7865 section 6.4)."""

    session_id: str
    associate_time: str = ""
    disassociate_time: str = ""
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class ParticipantSessionAssoc:
    """When a participant was in a session (RFC 7865 section 6.6). `params`: capabilities as (name, value)."""

    participant_id: str
    session_id: str
    associate_time: str = ""
    disassociate_time: str = ""
    params: tuple[tuple[str, str], ...] = ()
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class ParticipantStreamAssoc:
    """Streams a participant sends and receives (RFC 7865 section 6.8); it replaces what was said before."""

    participant_id: str
    send: tuple[str, ...] = ()
    recv: tuple[str, ...] = ()
    associate_time: str = ""
    disassociate_time: str = ""
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class Recording:
    """One rs-metadata document. Inline associations of the drafts are told as RFC 7865's association elements."""

    datamode: DataMode = "complete"
    recording_id: str = ""
    groups: tuple[Group, ...] = ()
    sessions: tuple[Session, ...] = ()
    participants: tuple[Participant, ...] = ()
    streams: tuple[Stream, ...] = ()
    session_recording_assocs: tuple[SessionRecordingAssoc, ...] = ()
    participant_session_assocs: tuple[ParticipantSessionAssoc, ...] = ()
    participant_stream_assocs: tuple[ParticipantStreamAssoc, ...] = ()
    extensions: tuple[Extension, ...] = ()


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """The recorder's wish for a complete document (RFC 7865 section 7)."""

    reason: str = ""
    lang: str = ""


# ---- all documents so far


@dataclass(slots=True)
class Interval:
    """From `start_ns` to `end_ns`, which is None while it lasts."""

    start_ns: int
    end_ns: int | None = None

    @property
    def open(self) -> bool:
        """Whether it lasts."""
        return self.end_ns is None


@dataclass(slots=True)
class Contribution:
    """A stream that a participant sent or received, and when."""

    stream_id: str
    span: Interval


@dataclass(slots=True)
class GroupState:
    """A group as last described."""

    group: Group
    span: Interval


@dataclass(slots=True)
class SessionState:
    """A session as last described; `span` is its life, `recorded` when it was recorded."""

    session: Session
    span: Interval
    recorded: list[Interval] = field(default_factory=list)


@dataclass(slots=True)
class StreamState:
    """A stream as last described."""

    stream: Stream
    span: Interval


@dataclass(slots=True)
class ParticipantState:
    """A participant as last described, with the history of its associations.

    `span`: how long documents named it. `sessions`: its times in each session. `params`: its capabilities there.
    `sends`, `recvs`: its streams, past and present, in the order they began.
    """

    participant: Participant
    span: Interval
    sessions: dict[str, list[Interval]] = field(default_factory=dict)
    params: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    sends: list[Contribution] = field(default_factory=list)
    recvs: list[Contribution] = field(default_factory=list)

    @property
    def intervals(self) -> list[Interval]:
        """Its times in all sessions; where no session is named, how long documents named it."""
        return [each for spans in self.sessions.values() for each in spans] or [self.span]

    @property
    def joined_ns(self) -> int:
        """When it first joined."""
        return min(each.start_ns for each in self.intervals)

    @property
    def left_ns(self) -> int | None:
        """When it left for good; None while it is there."""
        ends = [each.end_ns for each in self.intervals]
        known = [end for end in ends if end is not None]
        return max(known) if len(known) == len(ends) else None

    @property
    def sending(self) -> list[str]:
        """Ids of the streams it sends now."""
        return [each.stream_id for each in self.sends if each.span.open]

    @property
    def receiving(self) -> list[str]:
        """Ids of the streams it receives now."""
        return [each.stream_id for each in self.recvs if each.span.open]


@dataclass(slots=True)
class RSMetadata:
    """What the documents of a recording session come to, by id, in order of first mention.

    Nothing is ever erased, only ended: the archive must still tell who was there. `complete`: a complete document
    has come, so that partial ones make sense (RFC 7866 section 9.1). `extensions` are those of the recording
    itself. `faults`: sentences on what could not be used. `revision`: rises with every change, so that nobody need
    look whether there was one.
    """

    recording_id: str = ""
    complete: bool = False
    groups: dict[str, GroupState] = field(default_factory=dict)
    sessions: dict[str, SessionState] = field(default_factory=dict)
    participants: dict[str, ParticipantState] = field(default_factory=dict)
    streams: dict[str, StreamState] = field(default_factory=dict)
    extensions: tuple[Extension, ...] = ()
    faults: list[str] = field(default_factory=list)
    revision: int = field(default=0, compare=False, metadata={"stored": False})


def user_part(aor: str) -> str:
    """What a person would read in an address: `sip:alice@example.com;user=phone` is alice, a host alone is itself."""
    scheme, colon, rest = aor.strip().strip("<>").partition(":")
    bare = rest if colon and scheme.lower() in {"sip", "sips", "tel", "im", "pres", "xmpp"} else aor.strip()
    user, at, host = bare.partition("@")
    text = user if at and user else host if at else bare
    return unquote(text.partition(";")[0].partition("?")[0].strip())
