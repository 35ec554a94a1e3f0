"""The server half of an endpoint: requests that come in, and the responses the user gives.

Theory of operation. A request first looks for its transaction (a repetition is answered from it). A new one
passes the checks, is refused by a response that leaves no state behind, or becomes a transaction and an event.
`respond` ends it. A 2xx to an INVITE is repeated until its ACK comes, on every transport (13.3.1.4); the ACK
finds its dialog by tags, whatever its branch is.

A request in a dialog that comes from another address than the dialog's peer changes nothing until the user has
accepted it with a 2xx: whoever knows the tags but is somebody else must not even move the CSeq.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import blake2b

from siprec.sip.checks import DIALOG_CHECKS, DIALOG_METHODS, REQUEST_CHECKS, Refusal, required
from siprec.sip.core import (
    IN_DIALOG_SHARE,
    RETRY_SECONDS,
    Core,
    Record,
    Retransmission,
    ServerTransaction,
    contact_uri,
)
from siprec.sip.dialog import Dialog, DialogKey, LastInvite, without_tag
from siprec.sip.events import (
    AckMissing,
    AckReceived,
    Cancelled,
    DialogEnded,
    ProvisionalAcknowledged,
    RequestReceived,
    UnknownDialog,
)
from siprec.sip.flow import Flow, Outgoing
from siprec.sip.grammar import format_host
from siprec.sip.message import Request
from siprec.sip.reply import echo, merge_key, own_contact, reply_flow, response, server_key
from siprec.sip.transaction import (
    INVITE_SERVER,
    SERVER,
    Cell,
    Effect,
    Input,
    State,
    TransactionLayer,
)

Admission = Callable[[Request, Flow, float], int | None]

_OVERLOAD = Refusal(503, (("Retry-After", str(RETRY_SECONDS)),))
# Methods whose 2xx moves the peer's target and ours (RFC 3261 section 6, RFC 3311), and so carries our Contact.
_REFRESHING = frozenset(("INVITE", "UPDATE"))
# Methods of which one at a time may wait for the user's answer in a dialog.
_EXCLUSIVE = _REFRESHING
_MAX_RSEQ = 2**31 - 2


@dataclass(frozen=True, slots=True)
class Reply:
    """What the user wants answered."""

    status: int
    reason: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    contact: str | None = None
    reliable: bool = False


class UserAgentServer:
    """Requests in, responses out."""

    def __init__(self, core: Core, *, admission: Admission | None, ask_unknown: bool) -> None:
        self._core = core
        self._admission = admission
        self._ask_unknown = ask_unknown
        self._tag_key = core.token().encode()[:64]
        self._merged: dict[int, ServerTransaction] = {}  # by hash: a tenth of the key, and nobody can forge one
        self._held: dict[str, Reply] = {}
        self.transactions: TransactionLayer[ServerTransaction] = TransactionLayer(
            timings=core.timings,
            timers=core.timers,
            send=core.outgoing.append,
            callbacks={Effect.USER_SILENT: self._user_silent},
            on_destroyed=self._released,
        )

    # --- from the network ----------------------------------------------------------------------------------

    def receive(self, request: Request, flow: Flow, now: float) -> None:
        """One request. Raises SipError when a header needed to answer it cannot be read."""
        transaction = self.transactions.by_key.get(server_key(request))
        if request.method == "ACK":
            self._ack(transaction, request, flow, now)
        elif transaction is not None:
            self._repeated(transaction, request, flow, now)
        elif request.method == "CANCEL":
            self._cancel(request, flow, now)
        else:
            self._fresh(request, flow, now)

    def refuse(self, request: Request, flow: Flow, refusal: Refusal) -> None:
        """Answer without keeping state (8.2.7); an ACK never."""
        self._core.refuse(flow, f"answered {refusal.status}")
        if request.method == "ACK":
            return
        lines = [*echo(request, flow, self._stateless_tag(request)), *refusal.headers]
        lines.append(("Server", self._core.identity.user_agent))
        self._core.outgoing.append(Outgoing(reply_flow(request.via, flow), response(refusal.status, lines)))

    def _stateless_tag(self, request: Request) -> str:
        """The same for each repetition of a request, as 8.2.7 wants, and not to be guessed."""
        text = (request.headers.get("Via") or "") + (request.headers.get("Call-ID") or "")
        return blake2b(text.encode("utf-8", "surrogateescape"), key=self._tag_key, digest_size=8).hexdigest()

    def _repeated(self, transaction: ServerTransaction, request: Request, flow: Flow, now: float) -> None:
        if flow.remote[0] != transaction.source.remote[0]:
            self._core.refuse(flow, "repetition from another address")
            return
        transaction.flow = reply_flow(request.via, flow)  # a peer that reconnected is answered where it is now
        self.transactions.feed(transaction, Input.REQUEST, now)

    def _fresh(self, request: Request, flow: Flow, now: float) -> None:
        refusal = self._refusal(request)
        if refusal is not None:
            self.refuse(request, flow, refusal)
        elif request.to.tag is None:
            self._outside(request, flow, now)
        else:
            self._inside(request, flow, now)

    def _refusal(self, request: Request) -> Refusal | None:
        for check in REQUEST_CHECKS:
            refusal = check(self._core, request)
            if refusal is not None:
                return refusal
        return None

    # --- requests outside a dialog -------------------------------------------------------------------------

    def _outside(self, request: Request, flow: Flow, now: float) -> None:
        if request.method in DIALOG_METHODS:
            self.refuse(request, flow, Refusal(481))
        elif hash(merge_key(request)) in self._merged:
            self.refuse(request, flow, Refusal(482))
        elif (overload := self._overload(request, flow, now)) is not None:
            self.refuse(request, flow, overload)
        else:
            transaction = self._begin(request, flow, now)
            self._core.events.append(RequestReceived(transaction.id, request, flow, None))

    def _overload(self, request: Request, flow: Flow, now: float) -> Refusal | None:
        limits = self._core.limits
        if len(self.transactions) >= limits.server_transactions:
            return _OVERLOAD
        if request.method == "INVITE" and len(self._core.dialogs) >= limits.dialogs:
            return _OVERLOAD
        wait = self._admission(request, flow, now) if self._admission else None
        return None if wait is None else Refusal(503, (("Retry-After", str(wait)),))

    def _begin(self, request: Request, flow: Flow, now: float, record: Record | None = None) -> ServerTransaction:
        tag = request.to.tag or self._core.token()
        invite = request.method == "INVITE"
        transaction = ServerTransaction(
            id=self._core.new_id("in-"),
            key=server_key(request),
            table=INVITE_SERVER if invite else SERVER,
            flow=reply_flow(request.via, flow),
            request=request,
            method=request.method,
            cseq=request.cseq.number,
            source=flow,
            echo=echo(request, flow, tag),
            local_tag=tag,
            merge_key=hash(merge_key(request)),
        )
        self.transactions.add(transaction, now)
        self._merged[transaction.merge_key] = transaction
        if record is not None:
            self._attach(transaction, record)
        if invite:
            self._trying(transaction, request, now)
        return transaction

    def _trying(self, transaction: ServerTransaction, request: Request, now: float) -> None:
        """100 at once: the peer stops repeating whatever the user does next (17.2.1). It has no To tag."""
        to = request.headers.get("To") or ""
        lines = [(name, to if name == "To" else value) for name, value in transaction.echo]
        lines += [("Timestamp", stamp) for stamp in request.headers.all("Timestamp")]
        self.transactions.send(transaction, Input.SEND_1XX, response(100, lines), now)

    # --- requests in a dialog ------------------------------------------------------------------------------

    def _inside(self, request: Request, flow: Flow, now: float) -> None:
        limit = self._core.limits.server_transactions
        record = self._core.dialogs.record(_dialog_key(request))
        if len(self.transactions) >= limit + limit // IN_DIALOG_SHARE:
            self.refuse(request, flow, _OVERLOAD)
        elif record is None:
            self._unknown(request, flow, now)
        else:
            self._in_dialog(record, request, flow, now)

    def _unknown(self, request: Request, flow: Flow, now: float) -> None:
        if self._ask_unknown:
            transaction = self._begin(request, flow, now)
            self._core.events.append(UnknownDialog(transaction.id, request, flow))
        else:
            self.refuse(request, flow, Refusal(481))

    def _in_dialog(self, record: Record, request: Request, flow: Flow, now: float) -> None:
        refusal = self._dialog_refusal(record, request)
        if refusal is not None and request.method != "INVITE":
            self.refuse(request, flow, refusal)
        elif refusal is not None:
            # With state, so that a copy of it that the network delivers later is not taken for a new one.
            transaction = self._begin(request, flow, now)
            self._core.refuse(flow, f"answered {refusal.status}")
            self._reply(transaction, Reply(refusal.status, headers=refusal.headers), now)
        else:
            self._hand_over(self._begin(request, flow, now, record), record, request, now)

    def _dialog_refusal(self, record: Record, request: Request) -> Refusal | None:
        for check in DIALOG_CHECKS:
            refusal = check(self._core, request, record)
            if refusal is not None:
                return refusal
        return None

    def _hand_over(self, transaction: ServerTransaction, record: Record, request: Request, now: float) -> None:
        if transaction.source.remote[0] == record.dialog.flow.remote[0]:
            self._heard(record, transaction)
        if request.method == "PRACK":
            self._prack(transaction, record, request, now)
        else:
            self._core.events.append(RequestReceived(transaction.id, request, transaction.source, record.dialog))

    def _heard(self, record: Record, transaction: ServerTransaction) -> None:
        record.dialog.remote_cseq = max(record.dialog.remote_cseq, transaction.cseq)
        self._core.dialogs.move(record, transaction.source)

    # --- ACK, CANCEL, PRACK --------------------------------------------------------------------------------

    def _ack(self, transaction: ServerTransaction | None, request: Request, flow: Flow, now: float) -> None:
        """ACK of a 3xx-6xx belongs to its transaction, ACK of a 2xx to its dialog, with either branch (13.2.2.4;
        some peers reuse the INVITE's).
        """
        if transaction is not None and transaction.state is not State.ACCEPTED:
            self.transactions.feed(transaction, Input.ACK, now)
            return
        record = self._core.dialogs.record(_dialog_key(request))
        if record is None or record.answer is None or record.answered_cseq != request.cseq.number:
            return
        self._stop_answer(record)
        last = record.dialog.last_invite
        if last is not None:
            record.dialog.last_invite = replace(last, acked=True, answer=b"")
        self._core.events.append(AckReceived(record.dialog, request, flow))

    def _cancel(self, request: Request, flow: Flow, now: float) -> None:
        """Hop by hop and answered without state; without effect after a final response (9.2)."""
        branch, *rest = server_key(request)
        transaction = self.transactions.by_key.get((branch, *rest[:-1], "INVITE"))
        if transaction is None or flow.remote[0] != transaction.source.remote[0]:
            self.refuse(request, flow, Refusal(481))
            return
        lines = [*echo(request, flow, transaction.local_tag), ("Server", self._core.identity.user_agent)]
        self._core.outgoing.append(Outgoing(reply_flow(request.via, flow), response(200, lines)))
        self._abandon(transaction, Cancelled(transaction.id, transaction.request or request), 487, now)

    def _abandon(self, transaction: ServerTransaction, event: Cancelled, status: int, now: float) -> None:
        if transaction.finished:
            return
        self._core.events.append(event)
        self._reply(transaction, Reply(status), now)

    def _prack(self, transaction: ServerTransaction, record: Record, request: Request, now: float) -> None:
        """RFC 3262 section 3."""
        invite, rack = record.incoming.get("INVITE"), _rack(request)
        if rack is not None and rack == record.late_rack:
            self._reply(transaction, Reply(200), now)
            return
        if invite is None or invite.unacknowledged is None or rack != (invite.rseq, invite.cseq, "INVITE"):
            self._reply(transaction, Reply(481), now)
            return
        invite.unacknowledged.stop()
        invite.unacknowledged = None
        self._reply(transaction, Reply(200), now)
        self._core.events.append(ProvisionalAcknowledged(invite.id, record.dialog, request))
        held = self._held.pop(invite.id, None)
        if held is not None:
            self._reply(invite, held, now)

    # --- from the user -------------------------------------------------------------------------------------

    def respond(self, transaction_id: str, reply: Reply, now: float) -> Dialog | None:
        """See `Endpoint.respond`."""
        if not self.pending(transaction_id):
            return None
        transaction = self.transactions.by_id[transaction_id]
        self._reply(transaction, reply, now)
        record = transaction.record
        if transaction.finished:
            transaction.record = None  # the dialog may be over long before repetitions of this are
        return record.dialog if record else None

    def pending(self, transaction_id: str) -> bool:
        """See `Endpoint.pending`."""
        return (found := self.transactions.by_id.get(transaction_id)) is not None and not found.finished

    def dialog_of(self, transaction_id: str, contact: str) -> Dialog | None:
        """See `Endpoint.dialog_of`."""
        transaction = self.transactions.by_id.get(transaction_id)
        if transaction is None or transaction.finished or transaction.request is None:
            return None
        return self._establish(transaction, Reply(200, contact=contact), transaction.request).dialog

    def admit(self, transaction_id: str, now: float) -> None:
        """See `Endpoint.admit`."""
        transaction = self.transactions.by_id.get(transaction_id)
        if transaction is None or transaction.finished or transaction.request is None:
            return
        request = transaction.request
        record = self._core.dialogs.record(_dialog_key(request))
        refusal = self._dialog_refusal(record, request) if record else Refusal(481)
        if record is None or refusal is not None:
            status, headers = refusal or Refusal(481)
            self._reply(transaction, Reply(status, headers=headers), now)
            return
        self._attach(transaction, record)
        self._hand_over(transaction, record, request, now)

    def resume(self, dialog: Dialog, now: float) -> None:
        """See `Endpoint.resume`."""
        record, last = self._core.dialogs.record(dialog.key), dialog.last_invite
        if record is None or last is None or not last.branch:
            return
        transaction = ServerTransaction(
            id=self._core.new_id("in-"),
            key=(last.branch, last.sent_by, "INVITE"),
            table=INVITE_SERVER,
            flow=dialog.flow,
            packet=last.answer,
            request=None,
            method="INVITE",
            cseq=last.cseq,
            source=dialog.flow,
            echo=(),
            local_tag=dialog.local_tag,
            merge_key=hash((last.from_tag, dialog.call_id, str(last.cseq), "INVITE")),
            record=record,
        )
        self.transactions.add(transaction, now, Cell(State.ACCEPTED, (Effect.SEND, Effect.START_L)))
        self._merged[transaction.merge_key] = transaction
        if not last.acked:
            self._await_ack(record, transaction, now)

    def forget(self, record: Record) -> None:
        """A dialog leaves the table; nothing of it is repeated any more."""
        self._stop_answer(record)
        self._core.dialogs.remove(record)

    # --- responses -----------------------------------------------------------------------------------------

    def _reply(self, transaction: ServerTransaction, reply: Reply, now: float) -> None:
        request = transaction.request
        if request is None:
            return
        if reply.status < 200:
            self._provisional(transaction, reply, request, now)
        elif reply.status < 300 and transaction.method == "INVITE":
            self._accept(transaction, reply, request, now)
        elif reply.status < 300:
            self._succeed(transaction, reply, request, now)
        else:
            self._fail(transaction, reply, request, now)

    def _provisional(self, transaction: ServerTransaction, reply: Reply, request: Request, now: float) -> None:
        if transaction.method != "INVITE" or reply.status == 100:
            return  # 100 has gone out for an INVITE; other methods have none over 100 (RFC 4320 section 4.1)
        record = self._establish(transaction, reply, request)
        if not self._reliably(reply, request):
            self._send(transaction, Input.SEND_1XX, self._lines(transaction, reply, request, record), reply, now)
        elif transaction.unacknowledged is not None:
            self._held[transaction.id] = reply
        else:
            self._send_reliably(transaction, reply, request, record, now)

    def _reliably(self, reply: Reply, request: Request) -> bool:
        """RFC 3262 section 3: always when the peer requires it, never when it does not know how."""
        if "100rel" in required(self._core, request):
            return True
        return reply.reliable and any(tag.lower() == "100rel" for tag in request.headers.values("Supported"))

    def _send_reliably(
        self, transaction: ServerTransaction, reply: Reply, request: Request, record: Record, now: float
    ) -> None:
        transaction.rseq = transaction.rseq + 1 if transaction.rseq else self._core.draw(_MAX_RSEQ - 1) + 1
        lines = self._lines(transaction, reply, request, record)
        lines += [("Require", "100rel"), ("RSeq", str(transaction.rseq))]
        self._send(transaction, Input.SEND_1XX, lines, reply, now)
        transaction.described = bool(reply.body)

        def unanswered(at: float) -> None:
            transaction.unacknowledged = None
            self._abandon(transaction, Cancelled(transaction.id, request, "prack"), 504, at)

        # The interval is not capped: PRACK does not wait for a repetition as ACK does (RFC 3262 section 3).
        retransmission = Retransmission(self._core, transaction, cap=self._core.timings.transaction, on_end=unanswered)
        transaction.unacknowledged = retransmission
        retransmission.start(now)

    def _accept(self, transaction: ServerTransaction, reply: Reply, request: Request, now: float) -> None:
        record = self._establish(transaction, reply, request)
        if transaction.unacknowledged is not None:
            if transaction.described:
                self._held[transaction.id] = reply  # RFC 3262 section 3: not before the PRACK
                return
            transaction.unacknowledged.stop()
            record.late_rack = (transaction.rseq, transaction.cseq, "INVITE")
        dialog = record.dialog
        self._send(transaction, Input.SEND_2XX, self._lines(transaction, reply, request, record), reply, now)
        self._refresh(record, transaction, request)
        dialog.state = "confirmed"
        dialog.last_invite = LastInvite(
            branch=transaction.key[0],
            sent_by=transaction.key[1],
            cseq=transaction.cseq,
            from_tag=dialog.remote_tag,
            answer=transaction.packet,
        )
        self._finish(transaction)
        self._await_ack(record, transaction, now)

    def _succeed(self, transaction: ServerTransaction, reply: Reply, request: Request, now: float) -> None:
        record = transaction.record
        if record is not None and transaction.method in _REFRESHING and reply.contact:
            record.dialog.contact = reply.contact
        self._send(transaction, Input.SEND_2XX, self._lines(transaction, reply, request, record), reply, now)
        self._finish(transaction)
        if record is not None:
            self._refresh(record, transaction, request)
        if record is not None and transaction.method == "BYE":
            self._ended_by_peer(record, now)

    def _fail(self, transaction: ServerTransaction, reply: Reply, request: Request, now: float) -> None:
        self._held.pop(transaction.id, None)
        if transaction.unacknowledged is not None:
            transaction.unacknowledged.stop()
            transaction.unacknowledged = None
        self._send(transaction, Input.SEND_FINAL, self._lines(transaction, reply, request, None), reply, now)
        self._finish(transaction)
        record = transaction.record
        if record is not None and record.dialog.state == "early" and transaction.method == "INVITE":
            self._end(record, DialogEnded(record.dialog, "refused"))
        elif record is None and transaction.method != "INVITE" and request.to.tag is not None:
            # A dialog named in vain leaves nothing behind: a repetition is judged anew, and has the same tag (8.2.7).
            self.transactions.drop(transaction, now)

    def _send(
        self, transaction: ServerTransaction, what: Input, lines: list[tuple[str, str]], reply: Reply, now: float
    ) -> None:
        message = response(reply.status, lines, reason=reply.reason, body=reply.body)
        self.transactions.send(transaction, what, message, now)

    def _lines(
        self, transaction: ServerTransaction, reply: Reply, request: Request, record: Record | None
    ) -> list[tuple[str, str]]:
        """Headers of a response; `record` for one that makes or refreshes a dialog."""
        identity = self._core.identity
        lines = list(transaction.echo)
        contact = reply.contact
        if transaction.method == "INVITE" and record is not None:
            lines += [("Record-Route", value) for value in request.headers.all("Record-Route")]
        if transaction.method in _REFRESHING and record is not None:
            contact = record.dialog.contact
        if contact:
            lines.append(("Contact", contact))
        given = {name.lower() for name, _ in reply.headers}
        if reply.status // 100 == 2:
            lines += [line for line in self._abilities(transaction.method) if line[0].lower() not in given]
        lines += reply.headers
        if "server" not in given:
            lines.append(("Server", identity.user_agent))
        return lines

    def _abilities(self, method: str) -> list[tuple[str, str]]:
        identity = self._core.identity
        if method not in ("INVITE", "UPDATE", "OPTIONS"):
            return []
        lines = [("Allow", ", ".join(identity.methods)), ("Supported", ", ".join(identity.advertised))]
        if method == "OPTIONS":
            lines.append(("Accept", ", ".join(identity.accept)))
        return lines

    # --- dialogs -------------------------------------------------------------------------------------------

    def _establish(self, transaction: ServerTransaction, reply: Reply, request: Request) -> Record:
        """The dialog of an INVITE that is being answered (12.1.1), made when it is not there yet."""
        record = transaction.record or self._core.dialogs.record(
            DialogKey(request.call_id, transaction.local_tag, request.from_.tag or "")
        )
        if record is None:
            record = self._core.dialogs.add(_dialog(transaction, request))
        if transaction.record is None:
            self._attach(transaction, record)
        if reply.contact or not record.dialog.contact:
            record.dialog.contact = reply.contact or own_contact(transaction.source)
        return record

    def _attach(self, transaction: ServerTransaction, record: Record) -> None:
        transaction.record = record
        if transaction.method in _EXCLUSIVE:
            record.incoming[transaction.method] = transaction

    def _refresh(self, record: Record, transaction: ServerTransaction, request: Request) -> None:
        """What a request changes in its dialog once it is accepted (12.2.2, RFC 6141 section 4.6)."""
        self._heard(record, transaction)
        if transaction.method in _REFRESHING:
            record.dialog.remote_target = contact_uri(request) or record.dialog.remote_target

    def _await_ack(self, record: Record, transaction: ServerTransaction, now: float) -> None:
        self._stop_answer(record)

        def missing(at: float) -> None:
            record.answer, record.silent = None, True
            self._core.events.append(AckMissing(record.dialog))

        record.answer = Retransmission(self._core, transaction, cap=self._core.timings.t2, on_end=missing)
        record.answered_cseq = transaction.cseq
        record.answer.start(now)

    def _stop_answer(self, record: Record) -> None:
        if record.answer is not None:
            record.answer.stop()
            record.answer = None

    def _ended_by_peer(self, record: Record, now: float) -> None:
        """A BYE was accepted; what is still unanswered in its dialog gets 487 (15.1.2)."""
        invite = record.incoming.get("INVITE")
        if invite is not None and invite.request is not None:
            self._abandon(invite, Cancelled(invite.id, invite.request, "bye"), 487, now)
        self._end(record, DialogEnded(record.dialog, "remote"))

    def _end(self, record: Record, event: DialogEnded) -> None:
        if record.dialog.state == "terminated":
            return
        record.dialog.state = "terminated"
        self.forget(record)
        self._core.events.append(event)

    def _finish(self, transaction: ServerTransaction) -> None:
        """The final response is out: only its bytes are needed from here on."""
        transaction.request = None
        transaction.echo = ()
        self.transactions.retire(transaction)
        record = transaction.record
        if record is not None and record.incoming.get(transaction.method) is transaction:
            del record.incoming[transaction.method]

    def _released(self, transaction: ServerTransaction) -> None:
        self._finish(transaction)
        self._held.pop(transaction.id, None)
        if self._merged.get(transaction.merge_key) is transaction:
            del self._merged[transaction.merge_key]

    def _user_silent(self, transaction: ServerTransaction, now: float) -> None:
        if transaction.request is not None:
            self._abandon(transaction, Cancelled(transaction.id, transaction.request, "silent"), 500, now)


def _dialog_key(request: Request) -> DialogKey:
    return DialogKey(request.call_id, request.to.tag or "", request.from_.tag or "")


def _dialog(transaction: ServerTransaction, request: Request) -> Dialog:
    """RFC 3261 section 12.1.1. Without a Contact the peer is reached where it came from."""
    source = transaction.source
    return Dialog(
        call_id=request.call_id,
        local_tag=transaction.local_tag,
        remote_tag=request.from_.tag or "",
        local_uri=without_tag(request.headers.get("To") or ""),
        remote_uri=without_tag(request.headers.get("From") or ""),
        remote_target=contact_uri(request) or f"sip:{format_host(source.remote[0])}:{source.remote[1]}",
        flow=source,
        role="uas",
        route_set=request.headers.values("Record-Route"),
        remote_cseq=transaction.cseq,
    )


def _rack(request: Request) -> tuple[int, int, str] | None:
    """RAck as RSeq, CSeq number, method (RFC 3262 section 7.2); None when it is not that."""
    pieces = (request.headers.get("RAck") or "").split()
    if len(pieces) != 3 or not all(piece.isascii() and piece.isdigit() and len(piece) <= 10 for piece in pieces[:2]):
        return None
    return int(pieces[0]), int(pieces[1]), pieces[2]
