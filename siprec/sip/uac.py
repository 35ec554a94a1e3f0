"""The client half of an endpoint: requests of ours, and the responses that come back.

Theory of operation. A request becomes a client transaction; its responses become events. A 2xx to an INVITE is
acknowledged here: the ACK is kept in the dialog and sent again for each repetition of the 2xx (13.2.2.4). When
an INVITE forks, the first 2xx wins; a 2xx with another tag is acknowledged and its dialog ended by BYE. Reliable
provisional responses get their PRACK (RFC 3262 section 4).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from siprec.errors import LocalError, Overload, SipError
from siprec.sip.core import MAX_FORKS, RETRY_SECONDS, SILENT_T1, Core, Record, contact_uri
from siprec.sip.dialog import Dialog, next_hop, route, with_tag, without_tag
from siprec.sip.events import DialogEnded, RequestFailed, ResponseReceived
from siprec.sip.flow import Flow, Outgoing
from siprec.sip.headers import NameAddr
from siprec.sip.message import Headers, Request, Response
from siprec.sip.reply import sent_by
from siprec.sip.transaction import CLIENT, INVITE_CLIENT, Effect, Input, State, Transaction, TransactionLayer
from siprec.sip.uri import SipUri

HeaderLines = Iterable[tuple[str, str]]

MAX_FORWARDS = "70"  # RFC 3261 section 8.1.1.6
_REFRESHING = frozenset(("INVITE", "UPDATE"))
_DESCRIBING = frozenset(("INVITE", "UPDATE", "OPTIONS"))
# Methods that keep a place in the dialog while they wait: glare is judged by them (14.1, RFC 3311 5.2, RFC 3262 5).
_TRACKED = frozenset(("INVITE", "UPDATE", "PRACK"))


@dataclass(slots=True, eq=False, kw_only=True)
class ClientTransaction(Transaction):
    """A request of ours. `quiet` ones (CANCEL, PRACK, the BYE of a fork) are the endpoint's own: no events."""

    request: Request
    record: Record | None = None
    initial: bool = False  # an INVITE that makes dialogs
    auto_ack: bool = True
    quiet: bool = False
    cancelled: bool = False
    winner: Record | None = None
    forks: dict[str, Record] = field(default_factory=dict)
    rseqs: dict[str, int] = field(default_factory=dict)
    last: Response | None = None


class UserAgentClient:
    """Requests out, responses in."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.transactions: TransactionLayer[ClientTransaction] = TransactionLayer(
            timings=core.timings,
            timers=core.timers,
            send=core.outgoing.append,
            callbacks={
                Effect.DELIVER: self._deliver,
                Effect.SEND_ACK: self._acknowledge_failure,
                Effect.TIMEOUT: self._timed_out,
                Effect.FAILED: self._not_sent,
            },
            on_destroyed=self._released,
        )
        self._handlers: dict[str, Callable[[ClientTransaction, Response, float], None]] = {
            "INVITE": self._invite_response,
            "UPDATE": self._update_response,
            "BYE": self._bye_response,
        }

    # --- from the network ----------------------------------------------------------------------------------

    def receive(self, response: Response, flow: Flow, now: float) -> None:
        """One response. Raises SipError when it cannot be understood; a stray one is refused (RFC 6026 7.2)."""
        transaction = self.transactions.by_key.get((response.via.branch or "", response.cseq.method))
        if transaction is None or len(response.headers.all("Via")) > 1:
            self._core.refuse(flow, "stray response")
            return
        if response.cseq.number != transaction.request.cseq.number:
            raise SipError("the response is to another CSeq")
        _check_dialog_parts(response)
        if flow.connection and flow.transport == transaction.flow.transport:
            # The connection that was opened for the request; we are still to be found where Via says.
            transaction.flow = replace(flow, local=transaction.flow.local)
        transaction.last = response
        self.transactions.feed(transaction, _input(response.status), now)

    def transport_failed(self, flow: Flow, now: float) -> None:
        """A connection broke, or could not be made (`flow.connection` 0)."""
        for transaction in list(self.transactions.by_key.values()):
            path = transaction.flow
            same = (path.transport, path.remote) == (flow.transport, flow.remote)
            if same and path.connection in (0, flow.connection):
                self.transactions.feed(transaction, Input.TRANSPORT_ERROR, now)

    # --- from the user -------------------------------------------------------------------------------------

    def invite(
        self,
        uri: str,
        flow: Flow,
        *,
        from_: str,
        to: str,
        contact: str,
        headers: HeaderLines,
        body: bytes,
        now: float,
        call_id: str | None,
        auto_ack: bool,
    ) -> str:
        """See `Endpoint.invite`."""
        request = self._outside("INVITE", uri, from_, to, call_id)
        self._complete(request, contact, headers, body)
        return self._start(request, flow, now, initial=True, auto_ack=auto_ack)

    def send(
        self, method: str, uri: str, flow: Flow, *, from_: str, to: str, headers: HeaderLines, body: bytes, now: float
    ) -> str:
        """See `Endpoint.send`."""
        request = self._outside(method, uri, from_, to, None)
        self._complete(request, "", headers, body)
        return self._start(request, flow, now)

    def request(
        self,
        method: str,
        record: Record,
        *,
        headers: HeaderLines = (),
        body: bytes = b"",
        now: float,
        auto_ack: bool = True,
        quiet: bool = False,
    ) -> str:
        """See `Endpoint.request`."""
        dialog = record.dialog
        if method == "INVITE" and ("INVITE" in record.outgoing or "INVITE" in record.incoming):
            raise LocalError("an INVITE is pending in this dialog")
        dialog.local_cseq += 1
        request = self._inside(method, dialog, dialog.local_cseq)
        self._complete(request, dialog.contact if method in _REFRESHING else "", headers, body)
        if method == "BYE":
            dialog.state = "terminated"
        started = self._start(request, self._next_flow(dialog), now, record=record, auto_ack=auto_ack, quiet=quiet)
        transaction = self.transactions.by_id.get(started)
        if method == "BYE" and record.silent and transaction is not None:
            self.transactions.rearm(Input.TIMER_F, transaction, now + SILENT_T1 * self._core.timings.t1)
        return started

    def ack(self, transaction_id: str, headers: HeaderLines, body: bytes) -> None:
        """See `Endpoint.ack`."""
        transaction = self.transactions.by_id.get(transaction_id)
        if transaction is not None and transaction.winner is not None:
            self._acknowledge(transaction, transaction.winner, headers, body)

    def cancel(self, transaction_id: str, now: float) -> None:
        """See `Endpoint.cancel`."""
        transaction = self.transactions.by_id.get(transaction_id)
        if transaction is None or transaction.finished or transaction.cancelled:
            return
        transaction.cancelled = True
        if transaction.state is State.PROCEEDING:
            self._send_cancel(transaction, now)

    # --- responses -----------------------------------------------------------------------------------------

    def _deliver(self, transaction: ClientTransaction, now: float) -> None:
        response = transaction.last
        if response is None:
            return
        handler = self._handlers.get(transaction.request.method, self._plain_response)
        handler(transaction, response, now)

    def _plain_response(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        self._tell(transaction, response, transaction.record)

    def _update_response(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        if response.status // 100 == 2 and transaction.record is not None:
            self._refresh(transaction.record, response)
        self._tell(transaction, response, transaction.record)

    def _bye_response(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        self._tell(transaction, response, transaction.record)
        if response.status >= 200:
            self._ended(transaction)

    def _invite_response(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        if response.status < 200:
            self._provisional(transaction, response, now)
        elif response.status < 300:
            self._success(transaction, response, now)
        else:
            self._drop_early(transaction, None)
            self._tell(transaction, response, transaction.record)

    def _provisional(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        if transaction.cancelled:
            self._send_cancel(transaction, now)
        record = self._dialog_of(transaction, response)
        if record is not None and not self._acknowledge_provisional(transaction, record, response, now):
            return
        self._tell(transaction, response, record)

    def _success(self, transaction: ClientTransaction, response: Response, now: float) -> None:
        record = self._dialog_of(transaction, response)
        if record is None:
            return
        if transaction.winner is None:
            self._won(transaction, record, response)
        elif record is transaction.winner:
            self._repeat_ack(record, transaction)
        else:
            self._end_fork(transaction, record, now)

    def _won(self, transaction: ClientTransaction, record: Record, response: Response) -> None:
        transaction.winner = record
        transaction.packet = b""  # an INVITE that was accepted is not sent again
        self._settle(transaction, record)
        if record.dialog.state == "early":
            record.dialog.state = "confirmed"
        self._refresh(record, response)
        self._drop_early(transaction, record)
        if transaction.auto_ack:
            self._acknowledge(transaction, record, (), b"")
        self._tell(transaction, response, record)

    def _end_fork(self, transaction: ClientTransaction, record: Record, now: float) -> None:
        """Another branch of a fork answered too: one dialog is wanted (13.2.2.4)."""
        if record.ack is not None:
            self._repeat_ack(record, transaction)
            return
        record.dialog.state = "confirmed"
        self._acknowledge(transaction, record, (), b"")
        self.request("BYE", record, now=now, quiet=True)

    def _timed_out(self, transaction: ClientTransaction, now: float) -> None:
        self._failed(transaction, RequestFailed(transaction.id, "timeout", transaction.request, _dialog(transaction)))

    def _not_sent(self, transaction: ClientTransaction, now: float) -> None:
        self._failed(transaction, RequestFailed(transaction.id, "transport", transaction.request, _dialog(transaction)))

    def _failed(self, transaction: ClientTransaction, event: RequestFailed) -> None:
        self._drop_early(transaction, None)
        if not transaction.quiet:
            self._core.events.append(event)
        if transaction.request.method == "BYE":
            self._ended(transaction)

    def _tell(self, transaction: ClientTransaction, response: Response, record: Record | None) -> None:
        if response.status >= 200:
            self._settle(transaction, record)
        if not transaction.quiet:
            dialog = record.dialog if record else None
            self._core.events.append(ResponseReceived(transaction.id, response, transaction.request, dialog))

    # --- dialogs -------------------------------------------------------------------------------------------

    def _dialog_of(self, transaction: ClientTransaction, response: Response) -> Record | None:
        """The dialog a response to an INVITE belongs to (12.1.2), made when it is new."""
        if not transaction.initial:
            return transaction.record
        tag = response.to.tag
        if tag is None and response.status < 200:
            return None
        record = transaction.forks.get(tag or "")
        if (
            record is None
            and len(transaction.forks) < MAX_FORKS
            and len(self._core.dialogs) < self._core.limits.dialogs
        ):
            record = self._core.dialogs.add(_new_dialog(transaction, response))
            transaction.forks[tag or ""] = record
            record.outgoing["INVITE"] = transaction
        return record

    def _refresh(self, record: Record, response: Response) -> None:
        """12.2.1.2: a 2xx moves the target; the first one also settles the route set (13.2.2.4)."""
        record.dialog.remote_target = contact_uri(response) or record.dialog.remote_target

    def _drop_early(self, transaction: ClientTransaction, keep: Record | None) -> None:
        """Early dialogs end with the final response; a 2xx of another fork may still revive its own."""
        for tag, record in list(transaction.forks.items()):
            if record is not keep and record.dialog.state == "early":
                del transaction.forks[tag]
                record.dialog.state = "terminated"
                self._core.dialogs.remove(record)
                self._core.events.append(DialogEnded(record.dialog, "refused"))

    def _ended(self, transaction: ClientTransaction) -> None:
        record = transaction.record
        if record is None or self._core.dialogs.record(record.dialog.key) is not record:
            return
        if record.answer is not None:
            record.answer.stop()
            record.answer = None
        self._core.dialogs.remove(record)
        if not transaction.quiet:
            self._core.events.append(DialogEnded(record.dialog, "local"))

    # --- ACK, CANCEL, PRACK --------------------------------------------------------------------------------

    def _acknowledge(self, transaction: ClientTransaction, record: Record, headers: HeaderLines, body: bytes) -> None:
        """ACK of a 2xx: a request of its own, with the CSeq number of the INVITE (13.2.2.4)."""
        cseq = transaction.request.cseq.number
        request = self._inside("ACK", record.dialog, cseq)
        self._complete(request, "", headers, body)
        flow = self._next_flow(record.dialog)
        _add_via(request, flow, self._branch())
        record.ack = Outgoing(flow, bytes(request))
        record.ack_cseq = cseq
        self._core.outgoing.append(record.ack)

    def _repeat_ack(self, record: Record, transaction: ClientTransaction) -> None:
        if record.ack is not None and record.ack_cseq == transaction.request.cseq.number:
            self._core.outgoing.append(record.ack)

    def _acknowledge_failure(self, transaction: ClientTransaction, now: float) -> None:
        """ACK of a 3xx-6xx: part of the transaction (17.1.1.3)."""
        if transaction.last is not None:
            request = self._like(transaction.request, "ACK")
            request.headers.set("To", transaction.last.headers.get("To") or "")
            self._core.outgoing.append(Outgoing(transaction.flow, bytes(request)))

    def _send_cancel(self, transaction: ClientTransaction, now: float) -> None:
        """9.1. Without a final response within 64*T1 the INVITE counts as cancelled."""
        if (transaction.key[0], "CANCEL") in self.transactions.by_key:
            return
        request = self._like(transaction.request, "CANCEL")
        self._add(request, (transaction.key[0], "CANCEL"), transaction.flow, now, quiet=True)
        self.transactions.rearm(Input.TIMER_C, transaction, now + self._core.timings.transaction)

    def _acknowledge_provisional(
        self, transaction: ClientTransaction, record: Record, response: Response, now: float
    ) -> bool:
        """PRACK a reliable provisional response; False when it is a repetition or out of order (RFC 3262 4)."""
        number = _rseq(response)
        if number is None:
            return True
        tag = record.dialog.remote_tag
        known = transaction.rseqs.get(tag)
        if known is not None and number != known + 1:
            return False
        transaction.rseqs[tag] = number
        rack = f"{number} {transaction.request.cseq.number} INVITE"
        self.request("PRACK", record, headers=(("RAck", rack),), now=now, quiet=True)
        return True

    # --- making requests -----------------------------------------------------------------------------------

    def _outside(self, method: str, uri: str, from_: str, to: str, call_id: str | None) -> Request:
        tagged = from_ if NameAddr.parse(from_).tag else with_tag(from_, self._core.token())
        lines = [
            ("Max-Forwards", MAX_FORWARDS),
            ("From", tagged),
            ("To", to),
            ("Call-ID", call_id or self._core.token()),
            ("CSeq", f"1 {method}"),
        ]
        return Request(method, uri, Headers(lines))

    def _inside(self, method: str, dialog: Dialog, cseq: int) -> Request:
        routing = route(dialog)
        lines = [
            *(("Route", value) for value in routing.routes),
            ("Max-Forwards", MAX_FORWARDS),
            ("From", dialog.local()),
            ("To", dialog.remote()),
            ("Call-ID", dialog.call_id),
            ("CSeq", f"{cseq} {method}"),
        ]
        return Request(method, routing.request_uri, Headers(lines))

    def _like(self, request: Request, method: str) -> Request:
        """A request of the same transaction: ACK of a failure, CANCEL (17.1.1.3, 9.1)."""
        headers = request.headers
        lines = [("Via", headers.get("Via") or "")]
        lines += [("Route", value) for value in headers.all("Route")]
        lines += [(name, headers.get(name) or "") for name in ("Max-Forwards", "From", "To", "Call-ID")]
        lines.append(("CSeq", f"{request.cseq.number} {method}"))
        lines.append(("User-Agent", self._core.identity.user_agent))
        return Request(method, request.uri, Headers(lines))

    def _complete(self, request: Request, contact: str, headers: HeaderLines, body: bytes) -> None:
        """Contact, the user's headers, what we are able to do."""
        identity = self._core.identity
        if contact:
            request.headers.add("Contact", contact)
        for name, value in headers:
            request.headers.add(name, value)
        if request.method in _DESCRIBING:
            for name, value in (("Allow", ", ".join(identity.methods)), ("Supported", ", ".join(identity.advertised))):
                if name not in request.headers:
                    request.headers.add(name, value)
        if "User-Agent" not in request.headers:
            request.headers.add("User-Agent", identity.user_agent)
        request.body = body

    def _start(
        self,
        request: Request,
        flow: Flow,
        now: float,
        *,
        record: Record | None = None,
        initial: bool = False,
        auto_ack: bool = True,
        quiet: bool = False,
    ) -> str:
        branch = self._branch()
        _add_via(request, flow, branch)
        key = (branch, request.method)
        transaction = self._add(request, key, flow, now, record=record, initial=initial, auto_ack=auto_ack, quiet=quiet)
        if record is not None and request.method in _TRACKED:
            record.outgoing[request.method] = transaction
        return transaction.id

    def _add(
        self,
        request: Request,
        key: tuple[str, ...],
        flow: Flow,
        now: float,
        *,
        record: Record | None = None,
        initial: bool = False,
        auto_ack: bool = True,
        quiet: bool = False,
    ) -> ClientTransaction:
        if len(self.transactions) >= self._core.limits.client_transactions:
            raise Overload("too many requests of ours are unanswered", retry_after=RETRY_SECONDS)
        transaction = ClientTransaction(
            id=self._core.new_id("out-"),
            key=key,
            table=INVITE_CLIENT if request.method == "INVITE" else CLIENT,
            flow=flow,
            packet=bytes(request),
            request=request,
            record=record,
            initial=initial,
            auto_ack=auto_ack,
            quiet=quiet,
        )
        self.transactions.add(transaction, now)
        return transaction

    def _branch(self) -> str:
        return f"z9hG4bK{self._core.token()}"

    def _next_flow(self, dialog: Dialog) -> Flow:
        return next_hop(route(dialog).hop, dialog.flow, may_send_to=self._core.may_send_to)

    def _settle(self, transaction: ClientTransaction, record: Record | None) -> None:
        """The request has its final response and blocks no other any more."""
        for each in (transaction.record, record):
            if each is not None and each.outgoing.get(transaction.request.method) is transaction:
                del each.outgoing[transaction.request.method]

    def _released(self, transaction: ClientTransaction) -> None:
        self._settle(transaction, transaction.winner)


def _dialog(transaction: ClientTransaction) -> Dialog | None:
    return transaction.record.dialog if transaction.record else None


def _input(status: int) -> Input:
    if status < 200:
        return Input.GOT_1XX
    return Input.GOT_2XX if status < 300 else Input.GOT_FINAL


def _add_via(request: Request, flow: Flow, branch: str) -> None:
    """Our Via on top; `rport` asks for the reply to come to the port that we send from (RFC 3581)."""
    via = f"SIP/2.0/{flow.transport.upper()} {sent_by(flow)};branch={branch};rport"
    request.headers = Headers([("Via", via), *request.headers])


def _check_dialog_parts(response: Response) -> None:
    """What a dialog would be built from. Raises SipError."""
    if 101 <= response.status < 300 and response.cseq.method in _REFRESHING:
        _ = response.contact
        for value in response.headers.values("Record-Route"):
            SipUri.parse(NameAddr.parse(value).uri)


def _rseq(response: Response) -> int | None:
    """RSeq of a reliable provisional response, None for another."""
    text = response.headers.get("RSeq") or ""
    if response.status == 100 or not text.isascii() or not text.isdigit() or len(text) > 10:
        return None
    return int(text) if any(tag.lower() == "100rel" for tag in response.headers.values("Require")) else None


def _new_dialog(transaction: ClientTransaction, response: Response) -> Dialog:
    """RFC 3261 section 12.1.2."""
    request = transaction.request
    return Dialog(
        call_id=request.call_id,
        local_tag=request.from_.tag or "",
        remote_tag=response.to.tag or "",
        local_uri=without_tag(request.headers.get("From") or ""),
        remote_uri=without_tag(response.headers.get("To") or ""),
        remote_target=contact_uri(response) or request.uri,
        flow=transaction.flow,
        role="uac",
        route_set=response.headers.values("Record-Route")[::-1],
        local_cseq=request.cseq.number,
        contact=request.headers.get("Contact") or "",
    )
