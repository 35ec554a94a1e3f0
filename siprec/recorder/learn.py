"""What a message tells of who is in the call: metadata bodies, kept and merged; headers where there are none."""

from __future__ import annotations

import contextlib
from copy import deepcopy
from dataclasses import replace

from siprec import clock
from siprec.errors import MetadataError
from siprec.log import Logger
from siprec.metadata import merge, xml
from siprec.metadata.minimise import FIELDS, minimise
from siprec.metadata.model import Recording, SnapshotRequest
from siprec.recorder import describe
from siprec.recorder.dossier import timestamp
from siprec.recorder.leg import Leg
from siprec.recorder.negotiation import Prepared
from siprec.session import bodies, headers, streams
from siprec.session.model import Channel
from siprec.sip.message import Request
from siprec.store.base import SessionRecord


def learn(record: SessionRecord, leg: Leg, request: Request, *, body: bodies.Bodies, log: Logger) -> bool:
    """Keep each metadata body of `request` and merge what it says; a bad one is a flag, never a lost call.

    Returns whether a complete document was among them.
    """
    complete, keep = False, leg.metadata_keep
    at_ns = received_at(request)
    for part, told in zip(body.metadata, body.documents, strict=True):
        update = minimise(told, keep=keep) if isinstance(told, Recording) else told
        name = leg.keep_body(part.body if keep >= FIELDS else _least(update))
        if isinstance(update, MetadataError):
            leg.note("metadata-error", file=name, reason=update.reason)
            if len(record.metadata.faults) < merge.MAX_FAULTS:  # as there: later ones are in events.jsonl only
                record.metadata.faults.append(f"{name}: {update.reason}")
                record.metadata.revision += 1
                log.warning("metadata cannot be read", file=name, reason=update.reason)
        elif isinstance(update, Recording):
            complete = complete or update.datamode == "complete"
            changes = merge.apply(record.metadata, update, at_ns=at_ns)
            leg.note("metadata", file=name, changes=[_told(each) for each in changes])
    if body.metadata:
        describe.assign_participants(record, at_ns=at_ns)
    else:
        _learn_from_headers(record, leg, request)
    return complete


def received_at(request: Request) -> int:
    """When a message took effect, however often that is asked: by its Date, else when it was first looked at (ns)."""
    return request.once("received_at", lambda message: headers.received_at(message, clock.wall_ns()))


def _learn_from_headers(record: SessionRecord, leg: Leg, request: Request) -> None:
    """Participants of a call that comes without metadata, as far as its headers name them."""
    before = record.metadata.participants
    known = {each.participant.aor: key for key, each in before.items() if each.participant.aor}
    told = headers.described(request, plain=record.call.plain and not before, known=known)
    named = minimise(told, keep=leg.metadata_keep)
    if named.participants:
        changes = merge.apply(record.metadata, named, at_ns=received_at(request))
        leg.note("metadata", changes=[_told(each) for each in changes])
        describe.assign_participants(record, at_ns=received_at(request))


def _least(update: Recording | SnapshotRequest | MetadataError) -> bytes:
    """What is kept of a body of which not all may be: nothing of one that cannot be read."""
    if isinstance(update, Recording):
        with contextlib.suppress(MetadataError):  # what one dialect says may be too long in another
            return xml.build(update)
    return b""


def foreseen(
    record: SessionRecord, request: Request, prepared: Prepared | None, *, keep: frozenset[str]
) -> SessionRecord:
    """A copy of `record` as `request` will leave it, whose offer comes to `prepared`: what `learn` and `settle` do to
    it, foreseen, since until the request is answered nothing may change.
    """
    copy = replace(record, call=replace(record.call, channels=list(record.call.channels)))
    documents = [each for each in bodies.read(request).documents if isinstance(each, Recording)]
    if documents:
        copy.metadata = deepcopy(record.metadata)
        for each in documents:
            merge.apply(copy.metadata, minimise(each, keep=keep), at_ns=received_at(request))
    settle(copy, request, prepared)
    return copy


def settle(record: SessionRecord, request: Request, prepared: Prepared | None) -> frozenset[int]:
    """Make the channels of `record` what `prepared` comes to, and what the metadata, learned before, says of them: who
    is heard in each, and then whether the call holds it, which another who sends in their place does not. Returns the
    channels that a hold of the call began or ended on.
    """
    channels = record.call.channels
    on = {each.index for each in channels if each.open}
    if prepared is not None:
        channels[:] = prepared.channels
        record.call.local_sdp = prepared.text
    anew = prepared.anew if prepared else frozenset()
    describe.assign_participants(record, at_ns=received_at(request), anew=anew)
    # What was closed comes back to send: who sent it before its end tells of no hold. A session that is carried on by
    # another leg opens all of its channels, but none of those was closed.
    turned = streams.holds([each for each in channels if each.index in on], lambda each: _held(record, each))
    for changed in turned:
        channels[changed.index] = changed
    return frozenset(each.index for each in turned)


def _held(record: SessionRecord, channel: Channel) -> bool:
    """Whether the metadata says that those heard on `channel` sent it once and send it no more: the call holds it."""
    spans = [
        sent.span
        for key in channel.participants
        if key in record.metadata.participants  # a damaged journal may have lost it
        for sent in record.metadata.participants[key].sends
        if sent.stream_id == channel.stream_id
    ]
    return bool(spans) and not any(each.open for each in spans)


def _told(change: merge.Change) -> dict[str, str]:
    """A change of the metadata as events.jsonl has it."""
    told = {"what": change.what, "kind": change.kind, "id": change.id, "at": timestamp(change.at_ns)}
    return told | {key: value for key, value in (("before", change.before), ("after", change.after)) if value}
