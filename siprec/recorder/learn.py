"""What a message tells of who is in the call: metadata bodies, kept and merged; headers where there are none."""

from __future__ import annotations

from siprec import clock
from siprec.errors import MetadataError
from siprec.log import Logger
from siprec.metadata import merge, xml
from siprec.metadata.model import Recording
from siprec.recorder import describe
from siprec.recorder.dossier import timestamp
from siprec.recorder.leg import Leg
from siprec.session import bodies, headers
from siprec.session.model import Channel
from siprec.sip.message import Request
from siprec.store.base import SessionRecord


async def learn(record: SessionRecord, leg: Leg, request: Request, *, body: bodies.Bodies, log: Logger) -> None:
    """Keep each metadata body of `request` and merge what it says; a bad one is a flag, never a lost call.

    Raises OSError when it cannot be kept.
    """
    at_ns = headers.received_at(request, clock.wall_ns())
    for part in body.metadata:
        name = await leg.on_disk(leg.dossier.keep_body, part.body)
        try:
            update = xml.parse(part.body, charset=part.content_type.params.get("charset"))
        except MetadataError as error:
            record.metadata.faults.append(f"{name}: {error.reason}")
            log.warning("metadata cannot be read", file=name, reason=error.reason)
            leg.note("metadata-error", file=name, reason=error.reason)
            continue
        if isinstance(update, Recording):
            changes = merge.apply(record.metadata, update, at_ns=at_ns)
            leg.note("metadata", file=name, changes=[_told(each) for each in changes])
    describe.assign_participants(record)


def learn_from_headers(record: SessionRecord, request: Request) -> None:
    """Participants of a call that came without metadata, as far as its headers name them."""
    merge.apply(record.metadata, headers.described(request), at_ns=headers.received_at(request, clock.wall_ns()))


def held(record: SessionRecord, channel: Channel) -> bool:
    """Whether the metadata says that those heard on `channel` send it no more: the call holds it."""
    people = [record.metadata.participants[key] for key in channel.participants]
    return bool(people) and not any(channel.stream_id in each.sending for each in people)


def _told(change: merge.Change) -> dict[str, str]:
    """A change of the metadata as events.jsonl has it."""
    told = {"what": change.what, "kind": change.kind, "id": change.id, "at": timestamp(change.at_ns)}
    return told | {key: value for key, value in (("before", change.before), ("after", change.after)) if value}
