"""What the server and the client half of an endpoint share: dialogs, timers, what is to go out."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from siprec.errors import SipError
from siprec.sip.dialog import Dialog, DialogKey
from siprec.sip.events import Event, MessageRefused
from siprec.sip.flow import Flow, Outgoing
from siprec.sip.message import Request, Response
from siprec.sip.timers import Timer, TimerQueue, Timings
from siprec.sip.transaction import Transaction
from siprec.sip.uri import SipUri

if TYPE_CHECKING:
    from siprec.sip.uac import ClientTransaction

# A finished server transaction stays 32 s (timers H, J, L): 50 000 are two per call at 780 calls a second, and at
# under 2 kB each (the answer kept for repetition) 100 MB.
MAX_SERVER_TRANSACTIONS = 50_000
# Requests in a dialog are let in up to a quarter above the limit: a BYE refused for load would only come again.
IN_DIALOG_SHARE = 4
# Ours are fewer: an INVITE per load-test call, OPTIONS and UPDATE from a recorder.
MAX_CLIENT_TRANSACTIONS = 50_000
# More than MAX_SESSIONS ever is (RTP ports end below 16 000 pairs), early dialogs included.
MAX_DIALOGS = 40_000
# Dialogs that one INVITE of ours may fork into; a recording client meets one, a proxy's fork a handful.
MAX_FORKS = 16
# What the peer is told to wait when a limit is reached, seconds.
RETRY_SECONDS = 5
# How long our BYE waits for a peer that was silent for 64*T1 (no ACK of a 2xx), in units of T1: it goes out four times.
# As many calls as there may be can be begun and left like that, and each is held for that long.
SILENT_T1 = 8
# RFC 3261 14.2: "a randomly chosen value of between 0 and 10 seconds".
GLARE_RETRY_SECONDS = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of an endpoint's tables; the defaults and their reasons stand above."""

    server_transactions: int = MAX_SERVER_TRANSACTIONS
    client_transactions: int = MAX_CLIENT_TRANSACTIONS
    dialogs: int = MAX_DIALOGS


@dataclass(frozen=True, slots=True)
class Identity:
    """What an endpoint says about itself.

    `methods` become Allow, `advertised` Supported, `accept` Accept. `supported` are the option tags that a
    Require may name; more than are advertised, since siprec is not to be listed by a recorder (RFC 7866 11.1.1).
    """

    user_agent: str
    methods: tuple[str, ...]
    supported: tuple[str, ...]
    advertised: tuple[str, ...]
    accept: tuple[str, ...]


@dataclass(slots=True, eq=False, kw_only=True)
class ServerTransaction(Transaction):
    """A request of the peer's. `request`, `echo` and `record` are dropped with the final response, as only `packet` is
    needed then.
    """

    request: Request | None
    method: str
    cseq: int
    source: Flow  # where the request came from; `flow` is where the response goes
    echo: Sequence[tuple[str, str]]  # Via, From, To with our tag, Call-ID, CSeq
    local_tag: str
    merge_key: int  # hash of `reply.merge_key`
    record: "Record | None" = None
    rseq: int = 0
    unacknowledged: "Retransmission | None" = None  # a reliable provisional response
    described: bool = False  # it carries a session description


@dataclass(slots=True, eq=False)
class Record:
    """A dialog and what only matters while transactions run in it."""

    dialog: Dialog
    incoming: dict[str, ServerTransaction] = field(default_factory=dict)  # INVITE and UPDATE not yet answered
    outgoing: "dict[str, ClientTransaction]" = field(default_factory=dict)
    answer: "Retransmission | None" = None  # our 2xx that waits for its ACK
    answered_cseq: int = 0
    silent: bool = False  # its peer let our 2xx go unacknowledged for 64*T1
    ack: Outgoing | None = None  # our ACK of the peer's last 2xx
    ack_cseq: int = 0
    late_rack: tuple[int, int, str] | None = None  # of a provisional response that our 2xx overtook


class Dialogs(Mapping[DialogKey, Dialog]):
    """All dialogs, found by key, and by connection when that breaks."""

    def __init__(self) -> None:
        self._records: dict[DialogKey, Record] = {}
        self._on_connection: dict[int, set[DialogKey]] = {}

    def __getitem__(self, key: DialogKey) -> Dialog:
        return self._records[key].dialog

    def __iter__(self) -> Iterator[DialogKey]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def record(self, key: DialogKey) -> Record | None:
        return self._records.get(key)

    def add(self, dialog: Dialog) -> Record:
        record = self._records[dialog.key] = Record(dialog)
        self._index(dialog.key, dialog.flow)
        return record

    def remove(self, record: Record) -> None:
        key = record.dialog.key
        if self._records.get(key) is record:
            del self._records[key]
            self._unindex(key, record.dialog.flow)

    def move(self, record: Record, flow: Flow) -> None:
        """The peer was heard on `flow`: what we send goes there from now on."""
        dialog = record.dialog
        if dialog.flow == flow:
            return
        self._unindex(dialog.key, dialog.flow)
        dialog.flow = flow
        if self._records.get(dialog.key) is record:
            self._index(dialog.key, flow)

    def disconnected(self, flow: Flow) -> None:
        """A connection is gone: its dialogs open a new one for the next request."""
        for key in self._on_connection.pop(flow.connection, ()):
            dialog = self._records[key].dialog
            dialog.flow = Flow(dialog.flow.transport, dialog.flow.local, dialog.flow.remote)

    def _index(self, key: DialogKey, flow: Flow) -> None:
        if flow.connection:
            self._on_connection.setdefault(flow.connection, set()).add(key)

    def _unindex(self, key: DialogKey, flow: Flow) -> None:
        keys = self._on_connection.get(flow.connection)
        if keys is not None:
            keys.discard(key)
            if not keys:
                del self._on_connection[flow.connection]


class Core:
    """State that both halves work on."""

    def __init__(
        self,
        *,
        token: Callable[[], str],
        identity: Identity,
        limits: Limits,
        timings: Timings,
        may_send_to: Callable[[str], bool],
    ) -> None:
        self.token = token
        self.identity = identity
        self.limits = limits
        self.timings = timings
        self.may_send_to = may_send_to
        self.timers = TimerQueue()
        self.dialogs = Dialogs()
        self.events: list[Event] = []
        self.outgoing: list[Outgoing] = []
        self._ids = 0

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}{self._ids}"

    def draw(self, bound: int) -> int:
        """A number from 0 to `bound`, from the token source."""
        return zlib.crc32(self.token().encode()) % (bound + 1)

    def refuse(self, flow: Flow, reason: str) -> None:
        self.events.append(MessageRefused(flow, reason))


class Retransmission:
    """A message sent again at growing intervals until somebody stops it, or 64*T1 have gone by."""

    def __init__(self, core: Core, transaction: Transaction, *, cap: float, on_end: Callable[[float], None]) -> None:
        self.transaction = transaction
        self._packet = transaction.packet
        self._core = core
        self._cap = cap
        self._on_end = on_end
        self._interval = 0.0
        self._timers: list[Timer] = []

    def start(self, now: float) -> None:
        """The first transmission has just been made."""
        timings = self._core.timings
        self._interval = timings.t1
        self._timers = [
            self._core.timers.start(now + timings.transaction, self._end),
            self._core.timers.start(now + self._interval, self._again),
        ]

    def stop(self) -> None:
        for timer in self._timers:
            self._core.timers.stop(timer)
        self._timers = []

    def _again(self, now: float) -> None:
        self._core.outgoing.append(Outgoing(self.transaction.flow, self._packet))
        self._interval = min(self._interval * 2, self._cap)
        self._timers[1] = self._core.timers.start(now + self._interval, self._again)

    def _end(self, now: float) -> None:
        self.stop()
        self._on_end(now)


def contact_uri(message: Request | Response) -> str | None:
    """URI of the Contact, without angle brackets; None also where it is none that a request could be sent to. Raises
    SipError when the header is malformed.
    """
    contact = message.contact
    if contact is None:
        return None
    try:
        SipUri.parse(contact.uri)
    except SipError:
        return None
    return contact.uri
