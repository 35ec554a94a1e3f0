"""How documents become one state (RFC 7865 sections 5 and 6, RFC 7866 section 9).

A complete document says all: what it leaves out has ended (but stays known). A partial one is laid over what is
known, by id, field by field. Associations are kept as intervals, so that a participant who comes and goes three
times has three of them; a participantstreamassoc replaces the one before it. A session that stops takes its
participants and streams with it (RFC 8068 section 3.2.3).

Times are those the document states; where it states none, or one of a clock never set, when it was received.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from siprec.metadata.model import (
    Contribution,
    Group,
    GroupState,
    Interval,
    Kind,
    Participant,
    ParticipantSessionAssoc,
    ParticipantState,
    ParticipantStreamAssoc,
    Recording,
    RSMetadata,
    Session,
    SessionState,
    Stream,
    StreamState,
)
from siprec.metadata.times import stated, stated_or

MAX_KNOWN = 4_000
"""Groups, sessions, participants and streams held for one recording session, each: four full documents with
nothing in common. More are ignored and flagged."""
MAX_INTERVALS = 1_000
"""Intervals held of one participant in one session, and streams of one participant; past it the oldest goes."""
MAX_FAULTS = 100
"""Faults held; later ones are reported as changes only."""

_UUID = re.compile(r"(?:urn:uuid:)?[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}", re.IGNORECASE)

_Value = TypeVar("_Value", Group, Session, Participant, Stream)


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the event log: `what` happened to the element of `kind` and `id`, at a stated or received time.

    `what` is one of: appeared, changed, ended, resumed, joined, left, sends, receives, fault. `before` and `after`
    are summaries in text from the network.
    """

    what: str
    kind: Kind
    id: str
    at_ns: int
    before: str = ""
    after: str = ""


def apply(state: RSMetadata, update: Recording, *, at_ns: int) -> list[Change]:
    """Merge `update`, received at `at_ns`, into `state`; what changed, in order.

    Never raises: what cannot be used is ignored and told as a change `fault` and in `state.faults`. The same
    document twice changes nothing the second time, unless it contradicts itself.
    """
    state.revision += 1
    merge = _Merge(state, update, at_ns)
    merge.run()
    return merge.changes


@dataclass(slots=True)
class _Merge:
    state: RSMetadata
    update: Recording
    at_ns: int
    changes: list[Change] = field(default_factory=list)
    named: set[tuple[Kind, str]] = field(default_factory=set)  # what this document describes

    def run(self) -> None:
        state, update = self.state, self.update
        complete = update.datamode == "complete"
        if not complete and not state.complete:
            self._fault("recording", update.recording_id, "a partial document before any complete one")
        state.complete = state.complete or complete
        state.recording_id = update.recording_id or state.recording_id
        state.extensions = update.extensions or state.extensions
        for group in update.groups:
            self._group(group)
        for session in update.sessions:
            self._session(session)
        for participant in update.participants:
            self._participant(participant)
        for stream in update.streams:
            self._stream(stream)
        for recorded in update.session_recording_assocs:
            held = state.sessions.get(recorded.session_id)
            if held is not None:
                self._interval(held.recorded, recorded.associate_time, recorded.disassociate_time)
        for attended in update.participant_session_assocs:
            self._attend(attended)
        self._contribute()
        if complete:
            self._end_missing()
        self._stop_sessions()

    # ---- elements

    def _group(self, group: Group) -> None:
        known = self.state.groups
        if not self._admit("group", group.group_id, known):
            return
        held = known.get(group.group_id)
        merged = self._overlay(held.group if held else None, group)
        span = self._span(held.span if held else None, merged.associate_time, merged.disassociate_time)
        known[group.group_id] = GroupState(merged, span)
        self._tell("group", group.group_id, (_life(held), ""), (span, ""))

    def _session(self, session: Session) -> None:
        known = self.state.sessions
        if not self._admit("session", session.session_id, known):
            return
        held = known.get(session.session_id)
        merged = self._overlay(held.session if held else None, session)
        span = self._span(held.span if held else None, merged.start_time, merged.stop_time)
        known[session.session_id] = SessionState(merged, span, held.recorded if held else [])
        before = (_life(held), _session_summary(held.session) if held else "")
        self._tell("session", session.session_id, before, (span, _session_summary(merged)))

    def _participant(self, participant: Participant) -> None:
        known = self.state.participants
        key = participant_key(participant)
        if not self._admit("participant", key, known):
            return
        held = known.get(key)
        merged = self._overlay(held.participant if held else None, participant)
        before = (_life(held), _person(held.participant) if held else "")
        span = self._span(held.span if held else None, "", "")
        if held is None:
            known[key] = ParticipantState(merged, span)
        else:
            held.participant, held.span = merged, span
        self._tell("participant", key, before, (span, _person(merged)))

    def _stream(self, stream: Stream) -> None:
        known = self.state.streams
        key = stream_key(stream)
        if not self._admit("stream", key, known):
            return
        held = known.get(key)
        merged = self._overlay(held.stream if held else None, stream)
        span = self._span(held.span if held else None, merged.associate_time, merged.disassociate_time)
        if span.open and held is not None:
            span.end_ns = self._stopped(merged.session_id)
        known[key] = StreamState(merged, span)
        before = (_life(held), _stream_summary(held.stream) if held else "")
        self._tell("stream", key, before, (span, _stream_summary(merged)))

    def _admit(self, kind: Kind, key: str, known: Mapping[str, object]) -> bool:
        """Whether an element of this kind may have this id (RFC 7865 section 6.10) and there is room for it."""
        others: tuple[tuple[Kind, Mapping[str, object]], ...] = (
            ("group", self.state.groups),
            ("session", self.state.sessions),
            ("participant", self.state.participants),
            ("stream", self.state.streams),
        )
        other = next((name for name, held in others if name != kind and key in held), None)
        if other is not None and is_unique_id(key):
            self._fault(kind, key, f"the id of a {other} on a {kind}")
            return False
        if key not in known and len(known) >= MAX_KNOWN:
            self._fault(kind, key, f"more than {MAX_KNOWN} elements of the kind {kind}")
            return False
        self.named.add((kind, key))
        return True

    def _overlay(self, held: _Value | None, new: _Value) -> _Value:
        """What a partial document leaves out stays as it was; a complete one says all, but for ids of other systems:
        SBCs send these once, and they name the call for good.
        """
        if held is None:
            return new
        if self.update.datamode == "complete":
            return replace(new, extensions=new.extensions or held.extensions)
        given: dict[str, Any] = {each.name: getattr(new, each.name) for each in fields(new)}
        return replace(held, **{name: value for name, value in given.items() if value})

    def _span(self, held: Interval | None, start: str, end: str) -> Interval:
        started = stated_or(start, held.start_ns if held else self.at_ns)
        if not end:
            return Interval(started)
        return Interval(started, stated_or(end, held.end_ns if held and held.end_ns is not None else self.at_ns))

    # ---- associations

    def _attend(self, assoc: ParticipantSessionAssoc) -> None:
        person = self._person(assoc.participant_id)
        if person is None:
            return
        if assoc.params:
            person.params[assoc.session_id] = assoc.params
        if assoc.session_id not in person.sessions and len(person.sessions) >= MAX_INTERVALS:
            self._fault("participant", assoc.participant_id, f"in more than {MAX_INTERVALS} sessions")
            return
        spans = person.sessions.setdefault(assoc.session_id, [])
        if spans and not assoc.disassociate_time and self._stopped(assoc.session_id) is not None:
            return  # a document that ends a session still lists who was in it
        known = {id(each): each.end_ns for each in spans}
        span = self._interval(spans, assoc.associate_time, assoc.disassociate_time)
        key, session_id = assoc.participant_id, assoc.session_id
        if id(span) not in known:
            self.changes.append(Change("joined", "participant", key, span.start_ns, "", session_id))
        if span.end_ns is not None and known.get(id(span)) is None:
            self.changes.append(Change("left", "participant", key, span.end_ns, session_id))

    def _interval(self, spans: list[Interval], start: str, end: str) -> Interval:
        """Enter an association in its history, and give the interval it is about.

        A start within a known interval names that one; else an interval that lasts is continued, from the earlier
        start; else a new one begins. One that had ended and is told again without an end has begun anew, now.
        """
        began = stated(start)
        span = next((each for each in spans if began is not None and _covers(each, began)), None)
        if span is not None and span.end_ns is not None and not end:
            span, began = None, None
        span = span or next((each for each in reversed(spans) if each.open), None)
        if span is None and end and began is None and spans:
            span = spans[-1]  # told again that it ended
        if span is None:
            span = Interval(stated_or(end, self.at_ns) if began is None else began)
            _append(spans, span)
        if began is not None and span.open:
            span.start_ns = min(span.start_ns, began)
        if end and span.end_ns is None:
            span.end_ns = max(span.start_ns, stated_or(end, self.at_ns))
        return span

    def _contribute(self) -> None:
        """Streams of each participant; several elements for one participant in one document add up."""
        together: dict[str, list[ParticipantStreamAssoc]] = {}
        for assoc in self.update.participant_stream_assocs:
            together.setdefault(assoc.participant_id, []).append(assoc)
        for participant_id, assocs in together.items():
            person = self._person(participant_id)
            if person is None:
                continue
            live = [each for each in assocs if not each.disassociate_time]
            start = next((each.associate_time for each in live if each.associate_time), "")
            end = next((each.disassociate_time for each in assocs if each.disassociate_time), "")
            self._replace_streams(
                person, _all(each.send for each in live), _all(each.recv for each in live), start, end
            )

    def _replace_streams(
        self, person: ParticipantState, send: list[str], recv: list[str], start: str, end: str
    ) -> None:
        key = participant_key(person.participant)
        halves = (("sends", person.sends, send), ("receives", person.recvs, recv))
        for what, history, wanted in halves:
            before = [each.stream_id for each in history if each.span.open]
            for each in history:
                if each.span.open and each.stream_id not in wanted:
                    each.span.end_ns = max(each.span.start_ns, stated_or(end, self.at_ns))
            for stream_id in wanted:
                if stream_id not in before:
                    self._take_up(person, history, stream_id, start)
            after = [each.stream_id for each in history if each.span.open]
            if set(before) != set(after):
                self._change(what, "participant", key, " ".join(before), " ".join(after))

    def _take_up(self, person: ParticipantState, history: list[Contribution], stream_id: str, start: str) -> None:
        """Begin a contribution. One to a stream that has ended, or of one who has left, is history: told once."""
        again = any(each.stream_id == stream_id for each in history)
        stream = self.state.streams.get(stream_id)
        ends = (stream.span.end_ns if stream else None, person.left_ns if _absent(person) else None)
        end = next((each for each in ends if each is not None), None)
        if end is not None and again:
            return
        # The associate-time is that of the first time: a stream taken up again begins now.
        began = self.at_ns if again else stated_or(start, self.at_ns)
        _append(history, Contribution(stream_id, Interval(began if end is None else min(began, end), end)))

    def _person(self, participant_id: str) -> ParticipantState | None:
        """The participant of that id; one that no document described is taken as described by its id alone."""
        known = self.state.participants
        if participant_id not in known:
            alone = Participant(participant_id)
            if not participant_id or not self._admit("participant", participant_id, known):
                return None
            known[participant_id] = ParticipantState(alone, Interval(self.at_ns))
            self._change("appeared", "participant", participant_id, "", _person(alone))
        self.named.add(("participant", participant_id))
        return known[participant_id]

    def _stopped(self, session_id: str) -> int | None:
        """When that session ended; None while it lasts or is not known."""
        held = self.state.sessions.get(session_id)
        return held.span.end_ns if held else None

    # ---- ends

    def _end_missing(self) -> None:
        attended = {(each.participant_id, each.session_id) for each in self.update.participant_session_assocs}
        contributed = {each.participant_id for each in self.update.participant_stream_assocs}
        for key, person in self.state.participants.items():
            for session_id in person.sessions:
                if (key, session_id) not in attended:
                    self._leave(key, person, session_id, self.at_ns)
            if key not in contributed:
                self._replace_streams(person, [], [], "", "")
            if ("participant", key) not in self.named:
                self._end("participant", key, person.span, self.at_ns)
        held: tuple[tuple[Kind, Mapping[str, GroupState | SessionState | StreamState]], ...] = (
            ("group", self.state.groups),
            ("session", self.state.sessions),
            ("stream", self.state.streams),
        )
        for kind, known in held:
            for key, each in known.items():
                if (kind, key) not in self.named:
                    self._end(kind, key, each.span, self.at_ns)

    def _stop_sessions(self) -> None:
        """What an ended session takes with it, and the streams of those who are in no session any more."""
        ended = {key: each.span.end_ns for key, each in self.state.sessions.items() if each.span.end_ns is not None}
        for key, stream in self.state.streams.items():
            stopped = ended.get(stream.stream.session_id)
            if stopped is not None:
                self._end("stream", key, stream.span, stopped)
        gone = {key for key, each in self.state.streams.items() if not each.span.open}
        for key, person in self.state.participants.items():
            for session_id in person.sessions:
                if session_id in ended:
                    self._leave(key, person, session_id, ended[session_id] or self.at_ns)
            absent = _absent(person)
            if any(absent or each in gone for each in (*person.sending, *person.receiving)):
                send = [each for each in person.sending if not absent and each not in gone]
                recv = [each for each in person.receiving if not absent and each not in gone]
                self._replace_streams(person, send, recv, "", "")

    def _leave(self, key: str, person: ParticipantState, session_id: str, at_ns: int) -> None:
        for span in person.sessions[session_id]:
            if span.open:
                span.end_ns = max(span.start_ns, at_ns)
                self.changes.append(Change("left", "participant", key, span.end_ns, session_id))

    def _end(self, kind: Kind, key: str, span: Interval, at_ns: int) -> None:
        if span.open:
            span.end_ns = max(span.start_ns, at_ns)
            self.changes.append(Change("ended", kind, key, span.end_ns))

    # ---- telling

    def _tell(self, kind: Kind, key: str, before: tuple[Interval | None, str], after: tuple[Interval, str]) -> None:
        """Tell what became of an element, from its life and summary before and after."""
        (held, old), (span, new) = before, after
        if held is None:
            self.changes.append(Change("appeared", kind, key, span.start_ns, "", new))
        elif old != new:
            self._change("changed", kind, key, old, new)
        if span.end_ns is not None and (held is None or held.open):
            self.changes.append(Change("ended", kind, key, span.end_ns, new))
        elif held is not None and span.open and not held.open:
            self._change("resumed", kind, key, "", new)

    def _change(self, what: str, kind: Kind, key: str, before: str, after: str) -> None:
        self.changes.append(Change(what, kind, key, self.at_ns, before, after))

    def _fault(self, kind: Kind, key: str, sentence: str) -> None:
        if sentence not in self.state.faults and len(self.state.faults) < MAX_FAULTS:
            self.state.faults.append(sentence)
        self._change("fault", kind, key, "", sentence)


# ---- keys


def participant_key(participant: Participant) -> str:
    """Its id; for the empty id, which several may share, its address."""
    return participant.participant_id or f"aor:{participant.aor}"


def stream_key(stream: Stream) -> str:
    """Its id; for the empty id, which several may share (Avaya), its label."""
    return stream.stream_id or f"label:{stream.label}"


def is_unique_id(text: str) -> bool:
    """Whether `text` is a UUID in base64, dashed or hex form: only these are meant to be unique across elements."""
    if _UUID.fullmatch(text):
        return True
    try:
        return len(text) == 24 and len(b64decode(text, validate=True)) == 16
    except (Base64Error, ValueError):
        return False


# ---- small parts


def _life(held: GroupState | SessionState | ParticipantState | StreamState | None) -> Interval | None:
    return Interval(held.span.start_ns, held.span.end_ns) if held is not None else None


def _covers(span: Interval, at_ns: int) -> bool:
    return span.start_ns == at_ns or (span.start_ns < at_ns and (span.end_ns is None or at_ns < span.end_ns))


def _absent(person: ParticipantState) -> bool:
    """Whether it has left all its sessions."""
    return bool(person.sessions) and not any(_lasts(spans) for spans in person.sessions.values())


def _lasts(spans: Iterable[Interval]) -> bool:
    return any(span.open for span in spans)


def _all(parts: Iterator[tuple[str, ...]]) -> list[str]:
    return list(dict.fromkeys(each for part in parts for each in part))


_Item = TypeVar("_Item", Interval, Contribution)


def _append(history: list[_Item], item: _Item) -> None:
    if len(history) >= MAX_INTERVALS:
        del history[0]
    history.append(item)


def _person(participant: Participant) -> str:
    name = participant.display_name
    return f"{name} <{participant.aor}>" if name and participant.aor else name or participant.aor


def _stream_summary(stream: Stream) -> str:
    return f"label {stream.label}" if stream.label else ""


def _session_summary(session: Session) -> str:
    group = f"group {session.group_ref}" if session.group_ref else ""
    reasons = (f"{each.protocol} {each.cause or ''} {each.text}".strip() for each in session.reasons)
    return " ".join(filter(None, (*session.sip_session_ids, group, *reasons)))
