"""How an INVITE or UPDATE is answered: all that it brings, SDP, metadata and session timer, or nothing of it.

Whatever can fail comes before the 200 OK; then the session is changed, and that cannot fail. A request that is refused,
or whose INVITE is cancelled meanwhile, leaves the session as it was (RFC 6141) and gives back what was reserved for it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from siprec import clock
from siprec.errors import ArchiveError, OfferPending, Overload, PeerError, SdpError
from siprec.log import tame
from siprec.recorder import describe
from siprec.recorder.contact import agree_timer
from siprec.recorder.dossier import ANSWER_REFUSED
from siprec.recorder.learn import foreseen, learn, settle
from siprec.recorder.leg import HeaderList, Leg
from siprec.recorder.negotiation import STREAMS_LIMIT, Prepared
from siprec.session import bodies
from siprec.session.transitions import Event
from siprec.sip.events import AckReceived, RequestReceived
from siprec.sip.flow import Flow
from siprec.sip.grammar import TOKEN

if TYPE_CHECKING:
    from siprec.recorder.call import Call

REASON_LIMIT = 200
"""Characters of why an answer was refused that are kept: all of ours, and of the peer's words what tells."""


async def accept(call: Call, event: RequestReceived, leg: Leg) -> bool:
    """Answer an INVITE with 200 on `leg`, one of its own; False when it was cancelled meanwhile."""
    timer = agree_timer(event.request)
    body = bodies.read(event.request)
    prepared = leg.negotiation.prepare(body.sdp, event.flow.local[0]) if body.sdp is not None else None
    try:
        leg.open(call.folder, started_ns=clock.wall_ns())
        leg.note("invite", source=event.flow.remote[0], identity=call.source.name)
        complete = learn(call.record, leg, event.request, body=body, log=call.log)
        text = prepared.text if prepared else _offer(call, leg, event.flow)
        await leg.provide_prack(event, call.prack_over, offered=prepared is not None)
    except (OSError, ArchiveError, PeerError, Overload):
        if prepared is not None:
            leg.negotiation.release(prepared)
        raise
    if not leg.identify(event, body):
        if prepared is not None:
            leg.negotiation.release(prepared)
        return False
    if not await _stand(call, event, leg, prepared, text=text, extra=timer.headers):
        return False
    leg.run_timer(timer.timer(clock.monotonic()))
    call.contact.begins(snapshot_wanted="Replaces" in event.request.headers and not complete)
    return True


async def _stand(
    call: Call, event: RequestReceived, leg: Leg, prepared: Prepared | None, *, text: str, extra: HeaderList
) -> bool:
    """Let the session stand on `leg`, on disk and in the journal too, and answer 200. What fails changes nothing
    but the fence, under which recording.json may have been written.
    """
    info, data, dialogs = leg.current, call.data, call.record.dialogs
    before = (list(data.channels), data.local_sdp, data.started_ns, list(dialogs))
    leg.part.started_ns = clock.wall_ns()
    data.started_ns = data.started_ns or leg.part.started_ns
    data.fence = leg.fence
    answered = False
    try:
        dialogs[:] = [each for each in dialogs if each.dialog is not info.dialog] + [info]
        turned = settle(call.record, event.request, prepared)
        if prepared is not None:
            leg.negotiation.commit(prepared, leg.intake, turned=turned, at_ns=clock.wall_ns())
        await call.books.put_down(leg)
        answered = leg.respond(event, 200, extra=extra, body=text) is not None
    finally:
        if not answered:
            data.channels[:], data.local_sdp, data.started_ns, dialogs[:] = before
    if answered:
        leg.answered_at = clock.monotonic()
        call.on_dialog(call, info.dialog.key)
    return answered


async def change(call: Call, event: RequestReceived) -> bool:
    """Answer a re-INVITE or UPDATE in the dialog of the current leg: metadata, a new offer, both, or nothing but a
    refresh. False when it was cancelled.
    """
    leg, inviting = call.leg, event.request.method == "INVITE"
    timer = agree_timer(event.request)
    body = bodies.read(event.request)
    if leg.negotiation.proposing and (inviting or body.sdp is not None):
        raise OfferPending("an offer of ours waits for its answer")
    prepared = leg.negotiation.prepare(body.sdp, event.flow.local[0]) if body.sdp is not None else None
    text = prepared.text if prepared else _offer(call, leg, event.flow) if inviting else ""
    at_ns = clock.wall_ns()
    await call.books.announce(foreseen(call.record, event.request, prepared, keep=leg.metadata_keep), at_ns)
    if prepared is not None and leg.pending(event):
        await leg.intake.foresee(prepared.channels)
    if leg.respond(event, 200, extra=timer.headers, body=text) is None:
        if prepared is None:
            leg.negotiation.withdraw()
        else:
            leg.negotiation.release(prepared)
            await leg.intake.foresee(call.data.channels)
        await call.books.save()
        return False
    with contextlib.suppress(PeerError):  # of headers that nobody understands; what they offer was taken
        learn(call.record, leg, event.request, body=body, log=call.log)
    turned = settle(call.record, event.request, prepared)
    if prepared is not None:
        leg.negotiation.commit(prepared, leg.intake, turned=turned, at_ns=at_ns)
    elif leg.opened:  # metadata without SDP may hold a stream, or take it off hold; it is captured all the while
        for index in turned:
            leg.intake.change(call.data.channels[index], at_ns)
    leg.run_timer(timer.timer(clock.monotonic()))
    leg.note(event.request.method.lower(), channels=describe.modes(call.data.channels))
    await call.contact.heard()
    await call.follow_activity()
    return True


async def conclude(call: Call, event: AckReceived) -> None:
    """Take the answer to our offer, which the ACK carries when the INVITE came without one (RFC 3261 13.2.1), and the
    metadata beside it.
    """
    leg = call.leg
    try:
        body = bodies.read(event.request)
        with contextlib.suppress(PeerError):  # as in `change`
            learn(call.record, leg, event.request, body=body, log=call.log)
        if body.sdp is None:
            raise SdpError("the ACK brings no answer to our offer")
        prepared = leg.negotiation.conclude(body.sdp)
    except PeerError as error:
        call.log.warning("answer refused", reason=error.reason)
        leg.note(ANSWER_REFUSED, reason=tame(error.reason, REASON_LIMIT))
        leg.negotiation.withdraw()
        if not call.data.channels:
            await call.end(Event.STOPPED, error.reason)
        return
    turned = settle(call.record, event.request, prepared)
    leg.negotiation.commit(prepared, leg.intake, turned=turned, at_ns=clock.wall_ns())
    leg.note("ack", channels=describe.modes(call.data.channels))
    await call.follow_activity()


def _offer(call: Call, leg: Leg, flow: Flow) -> str:
    """An m-line for each stream that the metadata knows, under its label, so that who is heard where is no guess."""
    names = [each.stream.label for each in call.record.metadata.streams.values() if each.span.open][:STREAMS_LIMIT]
    labels = [name if name and names.count(name) == 1 and TOKEN.fullmatch(name) else None for name in names]
    return leg.negotiation.propose(labels or [None], flow.local[0])
