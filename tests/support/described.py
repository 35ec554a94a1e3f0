"""A call as a recording client describes it in metadata."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from siprec.metadata.model import (
    Group,
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Recording,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.times import format_time


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a call: who, on which stream, under which label."""

    participant_id: str
    stream_id: str
    label: str
    aor: str
    name: str = ""


def describe_call(
    session_id: str,
    parties: Sequence[Party],
    *,
    at_ns: int,
    sip_session_id: str = "",
    group_id: str = "",
) -> Recording:
    """A complete document for a call in which each party sends its own stream and receives all others."""
    at = format_time(at_ns)
    streams = [party.stream_id for party in parties]
    return Recording(
        groups=(Group(group_id, at),) if group_id else (),
        sessions=(Session(session_id, (sip_session_id,) if sip_session_id else (), group_ref=group_id, start_time=at),),
        participants=tuple(Participant(each.participant_id, (NameID(each.aor, each.name),)) for each in parties),
        streams=tuple(Stream(each.stream_id, session_id, each.label) for each in parties),
        session_recording_assocs=(SessionRecordingAssoc(session_id, at),),
        participant_session_assocs=tuple(
            ParticipantSessionAssoc(each.participant_id, session_id, at) for each in parties
        ),
        participant_stream_assocs=tuple(
            ParticipantStreamAssoc(
                each.participant_id, (each.stream_id,), tuple(one for one in streams if one != each.stream_id), at
            )
            for each in parties
        ),
    )
