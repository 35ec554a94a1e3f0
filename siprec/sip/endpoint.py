"""A SIP user agent without IO (RFC 3261): bytes and `now` in; bytes, events and a deadline out.

    network -> receive(data, flow, now) -> events()   -> user
    network <- outgoing()               <- respond(), invite(), request(), ... <- user
    clock   -> tick(now), not before deadline()

The endpoint answers by itself what needs no decision: 100 Trying at once for an INVITE; CANCEL (200 and 487, or
481); 400, 405, 416, 420, 481, 482, 491, 500, 501, 503, 505 where RFC 3261 section 8.2 or 12.2 demands them; PRACK.
It never answers an ACK or a response. Everything else is an event, see `events`. The network shell hands a message
in, takes all events and all outgoing messages, and only then hands in the next.
"""

from collections.abc import Callable, Iterable, Mapping

from siprec.errors import LocalError, SipError
from siprec.sip.checks import Refusal
from siprec.sip.core import Core, Identity, Limits, Record
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.events import Event
from siprec.sip.flow import Flow, Outgoing
from siprec.sip.message import MessageError, Request, parse
from siprec.sip.timers import Timings
from siprec.sip.uac import UserAgentClient
from siprec.sip.uas import Admission, Reply, UserAgentServer

METHODS = ("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "UPDATE", "INFO", "PRACK")
# Option tags that a peer may require (RFC 7866, 3891, 4028, 3262).
SUPPORTED = ("siprec", "replaces", "timer", "100rel")
# Not told to peers: RFC 7866 11.1.1 has a recorder not list siprec in Supported.
UNADVERTISED = frozenset(("siprec",))
# PROTOCOL G48: both names of the metadata type, RFC 7866's and RFC 9806's.
ACCEPT = ("application/sdp", "application/rs-metadata+xml", "application/rs-metadata", "multipart/mixed")

_KEEP_ALIVE = b"\r\n\x00 "


def everywhere(_: str) -> bool:
    """Any address may be sent to."""
    return True


class Endpoint:
    """See the module. `token` gives a fresh token (RFC 3261 grammar) of at least 64 random bits each time.

    `admission(request, flow, now)` is asked before a request outside a dialog gets any state: None lets it in, a
    number refuses it with 503 and that Retry-After. `may_send_to(ip)` is asked before a request of ours goes to an
    address that a peer named. `ask_unknown` gives `UnknownDialog` events instead of 481.
    """

    def __init__(
        self,
        *,
        token: Callable[[], str],
        user_agent: str = "siprec",
        methods: tuple[str, ...] = METHODS,
        supported: tuple[str, ...] = SUPPORTED,
        advertised: tuple[str, ...] | None = None,
        accept: tuple[str, ...] = ACCEPT,
        limits: Limits | None = None,
        timings: Timings | None = None,
        admission: Admission | None = None,
        may_send_to: Callable[[str], bool] = everywhere,
        ask_unknown: bool = False,
    ) -> None:
        shown = tuple(tag for tag in supported if tag not in UNADVERTISED) if advertised is None else advertised
        self._core = Core(
            token=token,
            identity=Identity(user_agent, methods, tuple(tag.lower() for tag in supported), shown, accept),
            limits=limits or Limits(),
            timings=timings or Timings(),
            may_send_to=may_send_to,
        )
        self._uas = UserAgentServer(self._core, admission=admission, ask_unknown=ask_unknown)
        self._uac = UserAgentClient(self._core)

    # --- called by the network shell -----------------------------------------------------------------------

    def receive(self, data: bytes, flow: Flow, now: float) -> None:
        """One message: a datagram, or what `framing` cut from a stream. Raises nothing, whatever the bytes."""
        if not data.strip(_KEEP_ALIVE):
            return
        try:
            message = parse(data)
        except MessageError as error:
            self.receive_broken(error, flow)
            return
        try:
            if isinstance(message, Request):
                self._uas.receive(message, flow, now)
            else:
                self._uac.receive(message, flow, now)
        except SipError as error:
            self._malformed(message if isinstance(message, Request) else None, flow, error.status)

    def receive_broken(self, error: MessageError, flow: Flow) -> None:
        """What `parse` or `framing` could not take; answered with the error's status where that is possible."""
        self._malformed(error.partial, flow, error.status)

    def transport_failed(self, flow: Flow, now: float) -> None:
        """A connection is gone, or (`flow.connection` 0) could not be made: what waits for an answer on it has
        failed; dialogs stay and use a new one.
        """
        self._uac.transport_failed(flow, now)
        if flow.connection:
            self._core.dialogs.disconnected(flow)

    def tick(self, now: float) -> None:
        """Run all timers that are due."""
        for timer in self._core.timers.due(now):
            timer.fire(now)

    def deadline(self) -> float | None:
        """When `tick` is wanted next; None while nothing runs."""
        return self._core.timers.deadline()

    def events(self) -> list[Event]:
        """What happened since the last call, in order."""
        events, self._core.events[:] = list(self._core.events), []
        return events

    def outgoing(self) -> list[Outgoing]:
        """What is to be sent since the last call, in order."""
        outgoing, self._core.outgoing[:] = list(self._core.outgoing), []
        return outgoing

    def running(self) -> int:
        """Transactions in the tables, finished ones that linger included; for metrics and limits."""
        return len(self._uas.transactions) + len(self._uac.transactions)

    # --- called by the user: as server ---------------------------------------------------------------------

    def respond(
        self,
        transaction: str,
        status: int,
        *,
        now: float,
        reason: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        contact: str | None = None,
        reliable: bool = False,
    ) -> Dialog | None:
        """Answer a request; returns its dialog, if it has or now makes one.

        Does nothing and returns None when the transaction is over: the peer may have cancelled meanwhile.
        `headers` come on top of what the endpoint writes (Via to CSeq, Record-Route, Allow, Supported, Server);
        Content-Type is among them. `contact` is a whole Contact value; the dialog keeps it for later messages. With
        `reliable`, a provisional response waits for its PRACK, and a later 2xx for that (RFC 3262).
        """
        lines = tuple((name, value) for name, value in headers if name.lower() != "content-length")
        reply = Reply(status, reason, lines, body, contact, reliable)
        return self._uas.respond(transaction, reply, now)

    def pending(self, transaction: str) -> bool:
        """Whether a request still waits for its final answer."""
        return self._uas.pending(transaction)

    def dialog_of(self, transaction: str, *, contact: str) -> Dialog | None:
        """The dialog that a 2xx to this INVITE will confirm, so that it can be stored before the 2xx goes out.

        None when the transaction is over.
        """
        return self._uas.dialog_of(transaction, contact)

    def admit(self, transaction: str, *, now: float) -> None:
        """After `UnknownDialog` and `restore`: treat the request as one of its dialog; 481 without it."""
        self._uas.admit(transaction, now)

    # --- called by the user: as client ---------------------------------------------------------------------

    def invite(
        self,
        uri: str,
        flow: Flow,
        *,
        from_: str,
        to: str,
        contact: str,
        now: float,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        call_id: str | None = None,
        auto_ack: bool = True,
    ) -> str:
        """Send an INVITE outside a dialog; returns the transaction's id, found again in the events.

        `from_`, `to` and `contact` are whole header values; From gets a tag unless it has one. `flow.local` is shown
        in Via. The first 2xx is acknowledged at once unless `auto_ack` is False (an INVITE without offer: call
        `ack`); repeated ones always. Raises Overload at the limit, SipError for a `from_` that is no address.
        """
        return self._uac.invite(
            uri,
            flow,
            from_=from_,
            to=to,
            contact=contact,
            headers=headers,
            body=body,
            now=now,
            call_id=call_id,
            auto_ack=auto_ack,
        )

    def send(
        self,
        method: str,
        uri: str,
        flow: Flow,
        *,
        from_: str,
        to: str,
        now: float,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> str:
        """Send another request outside a dialog (OPTIONS); as `invite`."""
        return self._uac.send(method, uri, flow, from_=from_, to=to, headers=headers, body=body, now=now)

    def request(
        self,
        method: str,
        dialog: Dialog,
        *,
        now: float,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        auto_ack: bool = True,
    ) -> str:
        """Send a request in a dialog: re-INVITE, UPDATE, INFO, OPTIONS, BYE. BYE ends the dialog at once; its
        `DialogEnded` follows the answer. Raises LocalError when the dialog is not in the table (the peer's BYE may
        have come first), or for an INVITE while another is pending in either direction (14.1).
        """
        return self._uac.request(method, self._record(dialog), headers=headers, body=body, now=now, auto_ack=auto_ack)

    def ack(self, transaction: str, *, now: float, headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        """Acknowledge the 2xx of an INVITE that was sent with `auto_ack=False`."""
        self._uac.ack(transaction, headers, body)

    def cancel(self, transaction: str, *, now: float) -> None:
        """Give an INVITE up: CANCEL goes out once a provisional response has come (9.1). A 2xx may cross it: the
        user then sends BYE. Does nothing after a final response.
        """
        self._uac.cancel(transaction, now)

    # --- dialogs -------------------------------------------------------------------------------------------

    @property
    def dialogs(self) -> Mapping[DialogKey, Dialog]:
        """All dialogs, early ones too."""
        return self._core.dialogs

    def invite_in(self, dialog: Dialog) -> str | None:
        """The transaction of the peer's INVITE that waits for its final response in `dialog`, None without one."""
        record = self._core.dialogs.record(dialog.key)
        invite = record.incoming.get("INVITE") if record else None
        return invite.id if invite else None

    def restore(self, dialog: Dialog) -> None:
        """Put a stored dialog back into the table. Its flow's connection, another process's, is not kept."""
        dialog.flow = Flow(dialog.flow.transport, dialog.flow.local, dialog.flow.remote)
        self._core.dialogs.add(dialog)

    def resume(self, dialog: Dialog, *, now: float) -> None:
        """Go on answering the last INVITE of a restored dialog: repetitions get the same 2xx, and unless it was
        acknowledged it is sent until the ACK comes.
        """
        self._uas.resume(dialog, now)

    def forget(self, dialog: Dialog) -> None:
        """Take a dialog out of the table without telling its peer (another node has taken it over)."""
        record = self._core.dialogs.record(dialog.key)
        if record is not None:
            self._uas.forget(record)

    # --- private -------------------------------------------------------------------------------------------

    def _record(self, dialog: Dialog) -> Record:
        record = self._core.dialogs.record(dialog.key)
        if record is None:
            raise LocalError("the dialog is over")
        return record

    def _malformed(self, request: Request | None, flow: Flow, status: int) -> None:
        """Answer what can be answered; a topmost Via and headers fit to be echoed are all that takes."""
        if request is None:
            self._core.refuse(flow, "malformed")
            return
        try:
            self._uas.refuse(request, flow, Refusal(status))
        except ValueError:
            self._core.refuse(flow, "malformed")
