"""Which stream and which participant belong to an m-line, however little the metadata says.

The chain, from what is stated to what is likely: a=label names a stream; its senders are those of a
participantstreamassoc, or of a participant that carries send itself (the reader told these apart already and gives
both as one). What is then left over on both sides is paired in order: m-lines without a known label with streams
(Google's client writes labels that are not those of its SDP), m-lines that nobody sends with ids that participants
send but nobody declared (Oracle, RFC 8068 section 3.2.3), then with participants that send nothing known (OpenSIPS
with rtpengine names no streams at all).

Ended associations count too, behind those that last: the last document of a call says that all have left, and the
recording must still say who they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from siprec.metadata.model import ParticipantState, RSMetadata

Ground = Literal["label", "order", "none"]
"""What an assignment rests on: the label, the order for the stream or the participant (a guess), or nothing."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is known of one m-line: `stream_id` None when no stream is known for it.

    `participants` are its senders: one for a separate stream, several for a mixed one, empty when unknown.
    """

    stream_id: str | None
    participants: tuple[ParticipantState, ...]
    ground: Ground

    @property
    def participant(self) -> ParticipantState | None:
        """The sender, when it is exactly one."""
        return self.participants[0] if len(self.participants) == 1 else None


def assign(state: RSMetadata, streams: Sequence[tuple[int, str | None]]) -> dict[int, Assignment]:
    """Stream and senders for each m-line, given as (index, a=label), by index. Give all m-lines, refused ones too."""
    indexes = [index for index, _ in streams]
    labelled = {index: stream_id for index, label in streams if (stream_id := _labelled(state, label)) is not None}
    spare = [key for key, each in state.streams.items() if each.span.open and key not in labelled.values()]
    placed = dict(zip((index for index in indexes if index not in labelled), spare, strict=False))
    known = labelled | placed
    silent = [index for index in indexes if index not in known or not _sending(state, known[index])]
    undeclared = dict(zip(silent, _undeclared(state), strict=False))
    senders = {index: _senders(state, stream_id) for index, stream_id in (known | undeclared).items()}
    guessed = _guess(state, [index for index in indexes if not senders.get(index)], senders, alone=len(indexes) == 1)
    found: dict[int, Assignment] = {}
    for index in indexes:
        by_order = index in placed or index in undeclared or index in guessed
        ground: Ground = "order" if by_order else "label" if index in labelled else "none"
        people = senders.get(index) or guessed.get(index, ())
        found[index] = Assignment(known.get(index) or undeclared.get(index), people, ground)
    return found


def _labelled(state: RSMetadata, label: str | None) -> str | None:
    """The stream of that label: the last that lives, else the last that lived (labels are reused, RFC 7866 7.1.1)."""
    found = [
        (each.span.open, position, key)
        for position, (key, each) in enumerate(state.streams.items())
        if label and each.stream.label == label
    ]
    return max(found)[2] if found else None


def _undeclared(state: RSMetadata) -> list[str]:
    """Streams that only their senders name, in order.

    Those of a participant that also sends a declared stream do not count: that is its audio, the rest its video.
    """
    sent = [
        stream_id
        for person in state.participants.values()
        if not any(each in state.streams for each in person.sending)
        for stream_id in person.sending
    ]
    return list(dict.fromkeys(sent))


def _sending(state: RSMetadata, stream_id: str) -> tuple[ParticipantState, ...]:
    return tuple(person for person in state.participants.values() if stream_id in person.sending)


def _senders(state: RSMetadata, stream_id: str) -> tuple[ParticipantState, ...]:
    """Who sends that stream now; if nobody does, who sent it last."""
    now = _sending(state, stream_id)
    if now:
        return now
    past = [
        (contribution.span.end_ns, person)
        for person in state.participants.values()
        for contribution in person.sends
        if contribution.stream_id == stream_id and contribution.span.end_ns is not None
    ]
    latest = max((end for end, _ in past), default=0)
    unique = {id(person): person for end, person in past if end == latest}
    return tuple(unique.values())


def _guess(
    state: RSMetadata,
    waiting: Sequence[int],
    senders: dict[int, tuple[ParticipantState, ...]],
    *,
    alone: bool,
) -> dict[int, tuple[ParticipantState, ...]]:
    """Participants that send nothing known for the m-lines without a sender, in order; a sole m-line has them all."""
    claimed = {id(person) for found in senders.values() for person in found}
    free = [person for person in state.participants.values() if id(person) not in claimed]
    present = [person for person in free if person.left_ns is None] or free
    if alone:
        return {index: tuple(present) for index in waiting if present}
    return {index: (person,) for index, person in zip(waiting, present, strict=False)}
