"""recording.json out of the live records: who, when, which channel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from siprec.archive.manifest import (
    ChannelEntry,
    HeardEntry,
    Manifest,
    ParticipantEntry,
    RecoveryEntry,
    RefusedEntry,
    SessionEntry,
)
from siprec.metadata import assign, extensions
from siprec.metadata.model import ParticipantState, RSMetadata
from siprec.recorder import heard
from siprec.recorder.dossier import timestamp
from siprec.session.model import Channel, DialogInfo, Stretch
from siprec.store.base import SessionRecord


def manifest(
    record: SessionRecord, *, refused: Sequence[RefusedEntry] = (), sent: Mapping[int, int] | None = None
) -> Manifest:
    """What recording.json says while a session lives; rendering adds what only the capture can tell.

    `sent`: packets that the SRC says it has sent, by channel.
    """
    call, metadata = record.call, record.metadata
    told = sent or {}
    return Manifest(
        id=call.session_id,
        state=str(call.state),
        node=call.node,
        fence=call.fence,
        source=call.source,
        call_id=call.call_id,
        started_at=_time(call.started_ns),
        ended_at=_time(call.ended_ns),
        dialogs=[_dialog(each) for each in record.dialogs],
        sessions=[
            SessionEntry(key, list(each.session.sip_session_ids), each.session.group_ref or None)
            for key, each in metadata.sessions.items()
        ],
        participants=[_participant(key, each) for key, each in metadata.participants.items()],
        channels=[
            _channel(each, metadata, sent=told.get(each.index), spoken=spoken)
            for each, spoken in zip(call.channels, heard.stretches(record), strict=True)
        ],
        external_ids=call.external_ids | extensions.external_ids(metadata),
        extensions=[each.xml for each in extensions.extensions(metadata)],
        metadata_errors=list(metadata.faults),
        recoveries=[
            RecoveryEntry(timestamp(each.at_ns), each.how, each.from_node, each.to_node) for each in call.recoveries
        ],
        refused=list(refused),
        continues=call.continues,
        replica_of=call.replica_of,
        merged_into=call.merged_into,
        unjournaled=call.unjournaled,
    )


def assign_participants(record: SessionRecord, *, at_ns: int, anew: Collection[int] = ()) -> None:
    """Note on each channel which stream of the metadata it is, and who is heard in it from `at_ns` on.

    `anew`: channels of which nothing that was known counts any more, since they carry another stream.
    """
    metadata, channels = record.metadata, record.call.channels
    if not channels:
        return
    keys = {id(state): key for key, state in metadata.participants.items()}
    for index, found in assign.assign(metadata, [(each.index, each.label) for each in channels]).items():
        channel = channels[index]
        stream_id, people = (None, ()) if index in anew else (channel.stream_id, channel.participants)
        now = replace(
            channel,
            stream_id=found.stream_id or stream_id,
            participants=tuple(keys[id(each)] for each in found.participants) or people,
        )
        channels[index] = heard.follow(record, now, at_ns=at_ns)


def modes(channels: Sequence[Channel]) -> list[str]:
    """What each stream does, for the events file."""
    return [f"{each.label or each.index}:{each.mode}" for each in channels]


def names(record: SessionRecord) -> list[str]:
    """The participants as a person would call them."""
    return [_name(each) for each in record.metadata.participants.values()]


def _name(state: ParticipantState) -> str:
    return state.participant.display_name or state.participant.participant_id


def _time(at_ns: int | None) -> str | None:
    return None if at_ns is None else timestamp(at_ns)


def _dialog(info: DialogInfo) -> dict[str, Any]:
    dialog = info.dialog
    return {
        "call_id": dialog.call_id,
        "local_tag": dialog.local_tag,
        "remote_tag": dialog.remote_tag,
        "transport": dialog.flow.transport,
        "remote": "{}:{}".format(*dialog.flow.remote),
        "identity": info.identity,
    }


def _participant(key: str, state: ParticipantState) -> ParticipantEntry:
    return ParticipantEntry(
        participant_id=key,
        aor=state.participant.aor or None,
        name=state.participant.display_name or None,
        joined=[timestamp(each.start_ns) for each in state.intervals],
        left=[timestamp(each.end_ns) for each in state.intervals if each.end_ns is not None],
    )


def _channel(channel: Channel, metadata: RSMetadata, *, sent: int | None, spoken: Sequence[Stretch]) -> ChannelEntry:
    known = (metadata.participants.get(key) for key in channel.participants)  # a damaged journal may have lost some
    people = [_name(each) for each in known if each is not None]
    return ChannelEntry(
        index=channel.index,
        label=channel.label,
        stream_id=channel.stream_id,
        participant=", ".join(people) or None,
        participants=[_stretch(each, metadata) for each in spoken],
        codec=next((each.encoding for each in channel.formats), None),
        remote="{}:{}".format(*channel.remote) if channel.remote else None,
        sent=sent,
    )


def _stretch(stretch: Stretch, metadata: RSMetadata) -> HeardEntry:
    person = metadata.participants.get(stretch.participant)
    return {
        "participant_id": stretch.participant,
        "name": (person and person.participant.display_name) or None,
        "from": timestamp(stretch.start_ns),
        "until": _time(stretch.end_ns),
    }
