"""Transactions (RFC 3261 section 17, RFC 6026): four state machines as tables, one layer that runs them.

Theory of operation. A table maps (state, input) to a cell: the next state and the effects to carry out.
Inputs are messages from the network, messages from the user and timers. The layer looks a cell up, moves the
transaction and runs its effects; effects that concern the user (deliver, timeout, ...) go to callbacks that
the endpoint gives. A missing cell is a defect of ours, since every input that a peer can cause in a state has
its cell, were it only to say that nothing happens.

The 2xx of an INVITE is not retransmitted here but by the endpoint, on every transport, until the ACK comes
(13.3.1.4, RFC 6026 7.1): see `uas`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

from siprec.sip.flow import Flow, Outgoing
from siprec.sip.timers import Timer, TimerQueue, Timings


class State(StrEnum):
    """States of all four machines."""

    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    COMPLETED = "completed"
    CONFIRMED = "confirmed"
    ACCEPTED = "accepted"
    TERMINATED = "terminated"


class Input(StrEnum):
    """What moves a transaction."""

    # Server: from the network, then from the user.
    REQUEST = "request"
    ACK = "ACK"
    SEND_1XX = "send 1xx"
    SEND_2XX = "send 2xx"
    SEND_FINAL = "send 3xx-6xx"
    # Client: from the network, then from the transport.
    GOT_1XX = "1xx"
    GOT_2XX = "2xx"
    GOT_FINAL = "3xx-6xx"
    TRANSPORT_ERROR = "transport error"
    # Timers, by their letters; answer, reply and cancel are ours (no RFC letter).
    TIMER_A = "timer A"
    TIMER_B = "timer B"
    TIMER_C = "timer C"
    TIMER_D = "timer D"
    TIMER_E = "timer E"
    TIMER_F = "timer F"
    TIMER_G = "timer G"
    TIMER_H = "timer H"
    TIMER_I = "timer I"
    TIMER_J = "timer J"
    TIMER_K = "timer K"
    TIMER_L = "timer L"
    TIMER_M = "timer M"
    TIMER_ANSWER = "timer answer"
    TIMER_REPLY = "timer reply"


class Effect(StrEnum):
    """What a cell has done, in order. `start X` restarts a running X."""

    SEND = "send"  # the last message, once more or for the first time
    SEND_ACK = "send ACK"  # of a 3xx-6xx
    DELIVER = "deliver"  # the response to the user
    USER_SILENT = "user silent"
    TIMEOUT = "timeout"
    FAILED = "failed"
    DESTROY = "destroy"
    START_A = "start A"
    START_B = "start B"
    START_C = "start C"
    START_D = "start D"
    START_E = "start E"
    START_F = "start F"
    START_G = "start G"
    START_H = "start H"
    START_I = "start I"
    START_J = "start J"
    START_K = "start K"
    START_L = "start L"
    START_M = "start M"
    START_ANSWER = "start answer"
    START_REPLY = "start reply"
    SLOW_E = "slow E"  # timer E from now on at T2 (17.1.2.2)
    STOP_ALL = "stop timers"


class Cell(NamedTuple):
    state: State
    effects: tuple[Effect, ...] = ()


class Table(NamedTuple):
    """One machine: what starts it, and its cells."""

    name: str
    start: Cell
    cells: Mapping[tuple[State, Input], Cell]


def _table(name: str, start: Cell, cells: dict[tuple[State, Input], Cell]) -> Table:
    return Table(name, start, MappingProxyType(cells))


_S, _I, _E = State, Input, Effect
_END = Cell(_S.TERMINATED, (_E.STOP_ALL, _E.DESTROY))

# RFC 6026 figure 5. PROCEEDING needs no transport error cell: a lost response is asked for again (RFC 6026 7.1).
INVITE_SERVER = _table(
    "INVITE server",
    Cell(_S.PROCEEDING, (_E.START_ANSWER,)),
    {
        (_S.PROCEEDING, _I.REQUEST): Cell(_S.PROCEEDING, (_E.SEND,)),
        (_S.PROCEEDING, _I.ACK): Cell(_S.PROCEEDING),
        (_S.PROCEEDING, _I.SEND_1XX): Cell(_S.PROCEEDING, (_E.SEND,)),
        (_S.PROCEEDING, _I.SEND_2XX): Cell(_S.ACCEPTED, (_E.STOP_ALL, _E.SEND, _E.START_L)),
        (_S.PROCEEDING, _I.SEND_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND, _E.START_G, _E.START_H)),
        (_S.PROCEEDING, _I.TIMER_ANSWER): Cell(_S.PROCEEDING, (_E.USER_SILENT,)),
        (_S.COMPLETED, _I.REQUEST): Cell(_S.COMPLETED, (_E.SEND,)),
        (_S.COMPLETED, _I.ACK): Cell(_S.CONFIRMED, (_E.STOP_ALL, _E.START_I)),
        (_S.COMPLETED, _I.TIMER_G): Cell(_S.COMPLETED, (_E.SEND, _E.START_G)),
        (_S.COMPLETED, _I.TIMER_H): _END,
        (_S.CONFIRMED, _I.REQUEST): Cell(_S.CONFIRMED),
        (_S.CONFIRMED, _I.ACK): Cell(_S.CONFIRMED),
        (_S.CONFIRMED, _I.TIMER_I): _END,
        # RFC 6026 absorbs the retransmission and leaves the 2xx to its timer; sending it at once only helps.
        (_S.ACCEPTED, _I.REQUEST): Cell(_S.ACCEPTED, (_E.SEND,)),
        # "Passed directly to the TU" (RFC 6026): the endpoint gives an ACK in this state to its dialog.
        (_S.ACCEPTED, _I.ACK): Cell(_S.ACCEPTED),
        (_S.ACCEPTED, _I.SEND_2XX): Cell(_S.ACCEPTED, (_E.SEND,)),
        (_S.ACCEPTED, _I.TIMER_L): _END,
    },
)

# RFC 3261 figure 8.
SERVER = _table(
    "non-INVITE server",
    Cell(_S.TRYING, (_E.START_REPLY,)),
    {
        (_S.TRYING, _I.REQUEST): Cell(_S.TRYING),
        (_S.TRYING, _I.SEND_1XX): Cell(_S.PROCEEDING, (_E.SEND,)),
        (_S.TRYING, _I.SEND_2XX): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND, _E.START_J)),
        (_S.TRYING, _I.SEND_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND, _E.START_J)),
        # Nothing may be sent so late: the client has timed out itself (RFC 4320 section 4.2).
        (_S.TRYING, _I.TIMER_REPLY): _END,
        (_S.PROCEEDING, _I.REQUEST): Cell(_S.PROCEEDING, (_E.SEND,)),
        (_S.PROCEEDING, _I.SEND_1XX): Cell(_S.PROCEEDING, (_E.SEND,)),
        (_S.PROCEEDING, _I.SEND_2XX): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND, _E.START_J)),
        (_S.PROCEEDING, _I.SEND_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND, _E.START_J)),
        (_S.PROCEEDING, _I.TIMER_REPLY): _END,
        (_S.COMPLETED, _I.REQUEST): Cell(_S.COMPLETED, (_E.SEND,)),
        (_S.COMPLETED, _I.TIMER_J): _END,
    },
)

# RFC 6026 figure 7.
INVITE_CLIENT = _table(
    "INVITE client",
    Cell(_S.CALLING, (_E.SEND, _E.START_A, _E.START_B)),
    {
        (_S.CALLING, _I.TIMER_A): Cell(_S.CALLING, (_E.SEND, _E.START_A)),
        (_S.CALLING, _I.TIMER_B): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.TIMEOUT, _E.DESTROY)),
        (_S.CALLING, _I.GOT_1XX): Cell(_S.PROCEEDING, (_E.STOP_ALL, _E.START_C, _E.DELIVER)),
        (_S.CALLING, _I.GOT_2XX): Cell(_S.ACCEPTED, (_E.STOP_ALL, _E.START_M, _E.DELIVER)),
        (_S.CALLING, _I.GOT_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND_ACK, _E.DELIVER, _E.START_D)),
        (_S.CALLING, _I.TRANSPORT_ERROR): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.FAILED, _E.DESTROY)),
        # Each 1xx shows that the call still lives and restarts timer C (16.7 step 2).
        (_S.PROCEEDING, _I.GOT_1XX): Cell(_S.PROCEEDING, (_E.START_C, _E.DELIVER)),
        (_S.PROCEEDING, _I.GOT_2XX): Cell(_S.ACCEPTED, (_E.STOP_ALL, _E.START_M, _E.DELIVER)),
        (_S.PROCEEDING, _I.GOT_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.SEND_ACK, _E.DELIVER, _E.START_D)),
        (_S.PROCEEDING, _I.TIMER_C): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.TIMEOUT, _E.DESTROY)),
        (_S.PROCEEDING, _I.TRANSPORT_ERROR): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.FAILED, _E.DESTROY)),
        (_S.COMPLETED, _I.GOT_1XX): Cell(_S.COMPLETED),
        (_S.COMPLETED, _I.GOT_2XX): Cell(_S.COMPLETED),
        (_S.COMPLETED, _I.GOT_FINAL): Cell(_S.COMPLETED, (_E.SEND_ACK,)),
        (_S.COMPLETED, _I.TIMER_D): _END,
        (_S.COMPLETED, _I.TRANSPORT_ERROR): _END,
        (_S.ACCEPTED, _I.GOT_1XX): Cell(_S.ACCEPTED),
        (_S.ACCEPTED, _I.GOT_2XX): Cell(_S.ACCEPTED, (_E.DELIVER,)),
        (_S.ACCEPTED, _I.GOT_FINAL): Cell(_S.ACCEPTED),
        (_S.ACCEPTED, _I.TIMER_M): _END,
        (_S.ACCEPTED, _I.TRANSPORT_ERROR): Cell(_S.ACCEPTED),
    },
)

# RFC 3261 figure 6.
CLIENT = _table(
    "non-INVITE client",
    Cell(_S.TRYING, (_E.SEND, _E.START_E, _E.START_F)),
    {
        (_S.TRYING, _I.TIMER_E): Cell(_S.TRYING, (_E.SEND, _E.START_E)),
        (_S.TRYING, _I.TIMER_F): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.TIMEOUT, _E.DESTROY)),
        (_S.TRYING, _I.GOT_1XX): Cell(_S.PROCEEDING, (_E.SLOW_E, _E.DELIVER)),
        (_S.TRYING, _I.GOT_2XX): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.DELIVER, _E.START_K)),
        (_S.TRYING, _I.GOT_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.DELIVER, _E.START_K)),
        (_S.TRYING, _I.TRANSPORT_ERROR): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.FAILED, _E.DESTROY)),
        (_S.PROCEEDING, _I.TIMER_E): Cell(_S.PROCEEDING, (_E.SEND, _E.SLOW_E)),
        (_S.PROCEEDING, _I.TIMER_F): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.TIMEOUT, _E.DESTROY)),
        (_S.PROCEEDING, _I.GOT_1XX): Cell(_S.PROCEEDING, (_E.DELIVER,)),
        (_S.PROCEEDING, _I.GOT_2XX): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.DELIVER, _E.START_K)),
        (_S.PROCEEDING, _I.GOT_FINAL): Cell(_S.COMPLETED, (_E.STOP_ALL, _E.DELIVER, _E.START_K)),
        (_S.PROCEEDING, _I.TRANSPORT_ERROR): Cell(_S.TERMINATED, (_E.STOP_ALL, _E.FAILED, _E.DESTROY)),
        (_S.COMPLETED, _I.GOT_1XX): Cell(_S.COMPLETED),
        (_S.COMPLETED, _I.GOT_2XX): Cell(_S.COMPLETED),
        (_S.COMPLETED, _I.GOT_FINAL): Cell(_S.COMPLETED),
        (_S.COMPLETED, _I.TIMER_K): _END,
        (_S.COMPLETED, _I.TRANSPORT_ERROR): _END,
    },
)

TABLES = (INVITE_SERVER, SERVER, INVITE_CLIENT, CLIENT)


class Duration(NamedTuple):
    """How long a timer runs: over UDP, over a reliable transport (None: it is not started)."""

    unreliable: Callable[[Timings], float]
    reliable: Callable[[Timings], float | None]


def _never(_: Timings) -> None:
    return None


def _at_once(_: Timings) -> float:
    return 0.0


def _t1(timings: Timings) -> float:
    return timings.t1


def _t4(timings: Timings) -> float:
    return timings.t4


def _transaction(timings: Timings) -> float:
    return timings.transaction


def _ring(timings: Timings) -> float:
    return timings.ring


def _answer(timings: Timings) -> float:
    return timings.answer


def _wait_d(timings: Timings) -> float:
    return timings.wait_d


# RFC 3261 table 4, RFC 6026 for L and M.
DURATIONS: Mapping[Input, Duration] = MappingProxyType(
    {
        Input.TIMER_A: Duration(_t1, _never),
        Input.TIMER_B: Duration(_transaction, _transaction),
        Input.TIMER_C: Duration(_ring, _ring),
        Input.TIMER_D: Duration(_wait_d, _at_once),
        Input.TIMER_E: Duration(_t1, _never),
        Input.TIMER_F: Duration(_transaction, _transaction),
        Input.TIMER_G: Duration(_t1, _never),
        Input.TIMER_H: Duration(_transaction, _transaction),
        Input.TIMER_I: Duration(_t4, _at_once),
        Input.TIMER_J: Duration(_transaction, _at_once),
        Input.TIMER_K: Duration(_t4, _at_once),
        Input.TIMER_L: Duration(_transaction, _transaction),
        Input.TIMER_M: Duration(_transaction, _transaction),
        Input.TIMER_ANSWER: Duration(_answer, _answer),
        Input.TIMER_REPLY: Duration(_transaction, _transaction),
    }
)

# Retransmission timers double each time: A without bound (timer B ends it), E and G up to T2.
_DOUBLING = frozenset((Input.TIMER_A, Input.TIMER_E, Input.TIMER_G))
_CAPPED = frozenset((Input.TIMER_E, Input.TIMER_G))

_STARTS: Mapping[Effect, Input] = {
    effect: Input("timer " + effect.removeprefix("start ")) for effect in Effect if effect.startswith("start ")
}


@dataclass(slots=True, eq=False, kw_only=True)
class Transaction:
    """A running machine. `key` is what messages find it by, `id` what the user calls it, `packet` the message of
    ours that is sent (again).
    """

    id: str
    key: tuple[str, ...]
    table: Table
    flow: Flow
    packet: bytes = b""
    state: State = State.TERMINATED
    interval: float = 0.0
    timers: "tuple[_Running, ...]" = ()

    @property
    def finished(self) -> bool:
        """Whether a final response went out or came in, or the machine is over."""
        return self.state not in _OPEN


_OPEN = frozenset((State.CALLING, State.TRYING, State.PROCEEDING))
TransactionT = TypeVar("TransactionT", bound=Transaction)


class TransactionLayer(Generic[TransactionT]):
    """Every transaction of one side (server or client), found by key and by id."""

    def __init__(
        self,
        *,
        timings: Timings,
        timers: TimerQueue,
        send: Callable[[Outgoing], None],
        callbacks: Mapping[Effect, Callable[[TransactionT, float], None]],
        on_destroyed: Callable[[TransactionT], None],
    ) -> None:
        self._timings = timings
        self._timers = timers
        self._out = send
        self._on_destroyed = on_destroyed
        self.by_key: dict[tuple[str, ...], TransactionT] = {}
        self.by_id: dict[str, TransactionT] = {}
        self._do: dict[Effect, Callable[[TransactionT, float], None]] = {
            Effect.SEND: self._send,
            Effect.SLOW_E: self._slow_e,
            Effect.STOP_ALL: self._stop_all,
            Effect.DESTROY: self._destroy,
            **{effect: partial(self._start, timer) for effect, timer in _STARTS.items()},
            **callbacks,
        }

    def __len__(self) -> int:
        return len(self.by_key)

    def add(self, transaction: TransactionT, now: float, start: Cell | None = None) -> None:
        """Start a transaction; in the state of `start` when another process began it."""
        self.by_key[transaction.key] = transaction
        self.by_id[transaction.id] = transaction
        self._enter(transaction, start or transaction.table.start, now)

    def feed(self, transaction: TransactionT, what: Input, now: float) -> None:
        """Give one input to a transaction; a missing cell is a defect and raises KeyError."""
        self._enter(transaction, transaction.table.cells[transaction.state, what], now)

    def send(self, transaction: TransactionT, what: Input, packet: bytes, now: float) -> None:
        """Give the transaction a message of the user's to send."""
        transaction.packet = packet
        self.feed(transaction, what, now)

    def retire(self, transaction: TransactionT) -> None:
        """Forget the id of a finished transaction: its user has nothing to say to it any more."""
        self.by_id.pop(transaction.id, None)

    def drop(self, transaction: TransactionT, now: float) -> None:
        """End a transaction at once: a repetition counts as a new request."""
        self._enter(transaction, _END, now)

    def fire(self, kind: Input, transaction: TransactionT, now: float) -> None:
        """A timer of a transaction is due."""
        transaction.timers = tuple(each for each in transaction.timers if each.kind is not kind)
        self.feed(transaction, kind, now)

    # --- effects -------------------------------------------------------------------------------------------

    def _enter(self, transaction: TransactionT, cell: Cell, now: float) -> None:
        transaction.state = cell.state
        for effect in cell.effects:
            self._do[effect](transaction, now)

    def _send(self, transaction: TransactionT, now: float) -> None:
        if transaction.packet:
            self._out(Outgoing(transaction.flow, transaction.packet))

    def _start(self, kind: Input, transaction: TransactionT, now: float) -> None:
        duration = DURATIONS[kind]
        choose = duration.reliable if transaction.flow.reliable else duration.unreliable
        delay = choose(self._timings)
        if delay is None:
            return
        if kind in _DOUBLING:
            delay = self._next_interval(kind, transaction, delay)
        if delay > 0:
            self._arm(kind, transaction, now + delay)
        else:
            self.feed(transaction, kind, now)

    def _next_interval(self, kind: Input, transaction: TransactionT, first: float) -> float:
        interval = transaction.interval * 2 or first
        transaction.interval = min(interval, self._timings.t2) if kind in _CAPPED else interval
        return transaction.interval

    def _slow_e(self, transaction: TransactionT, now: float) -> None:
        if not transaction.flow.reliable:
            self._arm(Input.TIMER_E, transaction, now + self._timings.t2)

    def rearm(self, kind: Input, transaction: TransactionT, at: float) -> None:
        """Have a timer fire at another time than its own."""
        self._arm(kind, transaction, at)

    def _arm(self, kind: Input, transaction: TransactionT, at: float) -> None:
        others = tuple(each for each in transaction.timers if each.kind is not kind)
        for each in transaction.timers:
            if each.kind is kind:
                self._timers.stop(each)
        timer = _Running(self, kind, transaction)
        self._timers.run(at, timer)
        transaction.timers = (*others, timer)

    def _stop_all(self, transaction: TransactionT, now: float) -> None:
        for timer in transaction.timers:
            self._timers.stop(timer)
        transaction.timers = ()
        transaction.interval = 0.0

    def _destroy(self, transaction: TransactionT, now: float) -> None:
        self.by_key.pop(transaction.key, None)
        self.by_id.pop(transaction.id, None)
        self._on_destroyed(transaction)


class _Running(Timer):
    """A timer of a transaction, which has one or two. Tens of thousands are held: no more than what they need."""

    __slots__ = ("_layer", "_transaction", "kind")

    def __init__(self, layer: TransactionLayer[Any], kind: Input, transaction: Transaction) -> None:
        super().__init__()
        self.kind = kind
        self._layer = layer
        self._transaction: Transaction | None = transaction

    def fire(self, now: float) -> None:
        if self._transaction is not None:
            self._layer.fire(self.kind, self._transaction, now)

    def let_go(self) -> None:
        self._transaction = None


def diagram(table: Table) -> str:
    """The table as Graphviz text, for the documentation."""
    edges = [
        f'  "{state}" -> "{cell.state}" [label="{what}: {", ".join(cell.effects) or "-"}"];'
        for (state, what), cell in table.cells.items()
    ]
    return "\n".join([f'digraph "{table.name}" {{', *edges, "}"])
