"""Leaving out what policy does not require (RFC 7865 section 10: it MUST NOT be recorded)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from siprec.metadata.model import Extension, Group, NameID, Participant, Recording, Session

FIELDS = frozenset({"names", "aors", "groups", "reasons", "params", "extensions", "sip_session_ids"})
"""What can be left out."""


def minimise(recording: Recording, *, keep: Collection[str]) -> Recording:
    """`recording` without those of `FIELDS` that `keep` does not name.

    Ids, times, labels and associations always stay: without them the audio cannot be told apart.
    """
    if frozenset(keep) >= FIELDS:
        return recording
    attended = recording.participant_session_assocs
    recorded = recording.session_recording_assocs
    contributed = recording.participant_stream_assocs
    return replace(
        recording,
        groups=tuple(_group(each, keep) for each in recording.groups) if "groups" in keep else (),
        sessions=tuple(_session(each, keep) for each in recording.sessions),
        participants=tuple(_participant(each, keep) for each in recording.participants),
        streams=tuple(replace(each, extensions=_kept(each.extensions, keep)) for each in recording.streams),
        session_recording_assocs=tuple(replace(each, extensions=_kept(each.extensions, keep)) for each in recorded),
        participant_session_assocs=tuple(
            replace(
                each,
                params=each.params if "params" in keep else (),
                extensions=_kept(each.extensions, keep),
            )
            for each in attended
        ),
        participant_stream_assocs=tuple(replace(each, extensions=_kept(each.extensions, keep)) for each in contributed),
        extensions=_kept(recording.extensions, keep),
    )


def _kept(extensions: tuple[Extension, ...], keep: Collection[str]) -> tuple[Extension, ...]:
    return extensions if "extensions" in keep else ()


def _group(group: Group, keep: Collection[str]) -> Group:
    return replace(group, extensions=_kept(group.extensions, keep))


def _session(session: Session, keep: Collection[str]) -> Session:
    return replace(
        session,
        reasons=session.reasons if "reasons" in keep else (),
        group_ref=session.group_ref if "groups" in keep else "",
        sip_session_ids=session.sip_session_ids if "sip_session_ids" in keep else (),
        extensions=_kept(session.extensions, keep),
    )


def _participant(participant: Participant, keep: Collection[str]) -> Participant:
    return replace(
        participant,
        name=participant.name if "names" in keep else "",
        name_ids=tuple(_name_id(each, keep) for each in participant.name_ids),
        extensions=_kept(participant.extensions, keep),
    )


def _name_id(name_id: NameID, keep: Collection[str]) -> NameID:
    named = name_id if "names" in keep else replace(name_id, name="", lang="")
    return named if "aors" in keep else replace(named, aor="")
