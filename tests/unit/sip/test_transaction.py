"""The four transaction tables: walked whole, then timed."""

import weakref
from collections.abc import Callable
from itertools import product

import pytest

from siprec.sip.flow import Flow, Outgoing
from siprec.sip.timers import COMPACT_FROM, TimerQueue, Timings
from siprec.sip.transaction import (
    CLIENT,
    DURATIONS,
    INVITE_CLIENT,
    INVITE_SERVER,
    SERVER,
    TABLES,
    Cell,
    Effect,
    Input,
    State,
    Table,
    Transaction,
    TransactionLayer,
    diagram,
)

UDP = Flow("udp", ("192.0.2.1", 5060), ("192.0.2.2", 5060))
TCP = Flow("tcp", ("192.0.2.1", 5060), ("192.0.2.2", 5060), 1)
TO_USER = (Effect.DELIVER, Effect.SEND_ACK, Effect.USER_SILENT, Effect.TIMEOUT, Effect.FAILED)
FROM_NETWORK = {
    INVITE_SERVER.name: (Input.REQUEST, Input.ACK),
    SERVER.name: (Input.REQUEST,),
    INVITE_CLIENT.name: (Input.GOT_1XX, Input.GOT_2XX, Input.GOT_FINAL, Input.TRANSPORT_ERROR),
    CLIENT.name: (Input.GOT_1XX, Input.GOT_2XX, Input.GOT_FINAL, Input.TRANSPORT_ERROR),
}
CELLS = [(table, state, what) for table in TABLES for state, what in table.cells]
_ids = [f"{table.name}: {state} {what}" for table, state, what in CELLS]


class Bench:
    """One transaction on a layer whose every act is written down with its time."""

    def __init__(self, table: Table, flow: Flow) -> None:
        self.now = 0.0
        self.acts: list[tuple[float, str]] = []
        self.timers = TimerQueue()
        self.layer: TransactionLayer[Transaction] = TransactionLayer(
            timings=Timings(),
            timers=self.timers,
            send=self._sent,
            callbacks={effect: self._note(effect) for effect in TO_USER},
            on_destroyed=lambda _: self.acts.append((self.now, "destroyed")),
        )
        self.transaction = Transaction(id="t", key=("b", "INVITE"), table=table, flow=flow, packet=b"x")

    def _sent(self, outgoing: Outgoing) -> None:
        assert outgoing.data == b"x"
        self.acts.append((self.now, "send"))

    def _note(self, effect: Effect) -> Callable[[Transaction, float], None]:
        return lambda transaction, now: self.acts.append((now, str(effect)))

    def start(self, state: State | None = None) -> None:
        self.layer.add(self.transaction, self.now, Cell(state) if state else None)

    def feed(self, what: Input) -> None:
        self.layer.feed(self.transaction, what, self.now)

    def run(self, seconds: float = 1000.0) -> None:
        end = self.now + seconds
        while (at := self.timers.deadline()) is not None and at <= end:
            self.now = at
            for timer in self.timers.due(at):
                timer.fire(at)
        self.now = end

    def times(self, act: str) -> list[float]:
        return [at for at, what in self.acts if what == act]


# --- the tables as data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "state", "what"), CELLS, ids=_ids)
@pytest.mark.parametrize("flow", [UDP, TCP], ids=["udp", "tcp"])
def test_every_cell_does_what_it_says(table: Table, state: State, what: Input, flow: Flow) -> None:
    bench = Bench(table, flow)
    bench.start(state)
    bench.feed(what)
    cell = table.cells[state, what]
    wanted = ["send" if effect is Effect.SEND else str(effect) for effect in cell.effects]
    acts = [act for _, act in bench.acts]
    assert [act for act in wanted if act == "send" or act in TO_USER] == [act for act in acts if act != "destroyed"]
    at_once = any(_delay(effect, flow) == 0 for effect in cell.effects)
    assert bench.transaction.state is (State.TERMINATED if at_once else cell.state)
    assert ("destroyed" in acts) == (bench.transaction.state is State.TERMINATED) == (len(bench.layer) == 0)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_state_is_reached_and_left(table: Table) -> None:
    reached = {table.start.state}
    for _ in State:
        reached |= {cell.state for (state, _), cell in table.cells.items() if state in reached}
    assert reached == {state for state, _ in table.cells} | {State.TERMINATED}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_whatever_the_network_brings_has_a_cell_in_each_state(table: Table) -> None:
    states = {state for state, _ in table.cells}
    missing = [
        (state, what) for state, what in product(states, FROM_NETWORK[table.name]) if (state, what) not in table.cells
    ]
    assert missing == []


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_timer_that_may_run_has_a_cell(table: Table) -> None:
    """All (state, running timers) that inputs can lead to; a timer without a cell would be a defect in the field."""
    seen: set[tuple[State, frozenset[Input]]] = set()
    todo = [_after(table.start, frozenset())]
    while todo:
        state, running = todo.pop()
        if (state, running) in seen or state is State.TERMINATED:
            continue
        seen.add((state, running))
        assert all((state, timer) in table.cells for timer in running), (state, running)
        for (where, what), cell in table.cells.items():
            if where is state and (what in running or what not in DURATIONS):
                todo.append(_after(cell, running - {what}))
    assert {state for state, _ in seen} == {state for state, _ in table.cells}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_no_terminated_transaction_leaves_a_timer(table: Table) -> None:
    for cell in table.cells.values():
        if cell.state is State.TERMINATED:
            assert cell.effects[0] is Effect.STOP_ALL
            assert cell.effects[-1] is Effect.DESTROY


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_diagram_shows_every_cell(table: Table) -> None:
    assert diagram(table).count("->") == len(table.cells)


def test_a_missing_cell_is_our_defect() -> None:
    bench = Bench(SERVER, UDP)
    bench.start()
    with pytest.raises(KeyError):
        bench.feed(Input.GOT_2XX)


def _after(cell: Cell, running: frozenset[Input]) -> tuple[State, frozenset[Input]]:
    for effect in cell.effects:
        if effect is Effect.STOP_ALL:
            running = frozenset()
        elif effect.startswith(("start ", "slow ")):
            running |= {Input("timer " + effect.split(" ")[1])}
    return cell.state, running


def _delay(effect: Effect, flow: Flow) -> float | None:
    if not effect.startswith("start "):
        return None
    duration = DURATIONS[Input("timer " + effect.removeprefix("start "))]
    return duration.reliable(Timings()) if flow.reliable else duration.unreliable(Timings())


# --- the timers of RFC 3261 table 4 ------------------------------------------------------------------------


def test_invite_goes_out_again_at_doubling_intervals_until_timer_b() -> None:
    bench = Bench(INVITE_CLIENT, UDP)
    bench.start()
    bench.run()
    assert bench.times("send") == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5]
    assert bench.times("timeout") == [32]


def test_invite_over_tcp_goes_out_once() -> None:
    bench = Bench(INVITE_CLIENT, TCP)
    bench.start()
    bench.run()
    assert bench.times("send") == [0]
    assert bench.times("timeout") == [32]


def test_other_requests_go_out_again_with_intervals_up_to_t2() -> None:
    bench = Bench(CLIENT, UDP)
    bench.start()
    bench.run()
    assert bench.times("send") == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5]
    assert bench.times("timeout") == [32]


def test_a_provisional_response_slows_repetition_to_t2() -> None:
    bench = Bench(CLIENT, UDP)
    bench.start()
    bench.run(0.6)
    bench.feed(Input.GOT_1XX)
    bench.run(10)
    assert bench.times("send") == [0, 0.5, 4.6, 8.6]


def test_a_refusal_is_repeated_until_its_ack() -> None:
    bench = Bench(INVITE_SERVER, UDP)
    bench.start()
    bench.feed(Input.SEND_FINAL)
    bench.run(8)
    bench.feed(Input.ACK)
    bench.run()
    assert bench.times("send") == [0, 0.5, 1.5, 3.5, 7.5]
    assert bench.times("destroyed") == [13]  # timer I: T4 after the ACK


def test_a_refusal_without_ack_ends_with_timer_h() -> None:
    bench = Bench(INVITE_SERVER, UDP)
    bench.start()
    bench.feed(Input.SEND_FINAL)
    bench.run()
    assert bench.times("send")[-2:] == [27.5, 31.5]
    assert bench.times("destroyed") == [32]


@pytest.mark.parametrize(
    ("table", "inputs", "udp", "tcp"),
    [
        (INVITE_SERVER, [Input.SEND_2XX], 32, 32),  # L
        (INVITE_SERVER, [Input.SEND_FINAL, Input.ACK], 5, 0),  # I
        (SERVER, [Input.SEND_2XX], 32, 0),  # J
        (SERVER, [], 32, 32),  # the user never answers
        (INVITE_CLIENT, [Input.GOT_2XX], 32, 32),  # M
        (INVITE_CLIENT, [Input.GOT_FINAL], 32, 0),  # D
        (INVITE_CLIENT, [Input.GOT_1XX], 181, 181),  # C
        (CLIENT, [Input.GOT_FINAL], 5, 0),  # K
    ],
    ids=["L", "I", "J", "reply", "M", "D", "C", "K"],
)
def test_how_long_a_transaction_lingers(table: Table, inputs: list[Input], udp: float, tcp: float) -> None:
    for flow, lifetime in ((UDP, udp), (TCP, tcp)):
        bench = Bench(table, flow)
        bench.start()
        for what in inputs:
            bench.feed(what)
        bench.run()
        assert bench.times("destroyed") == [lifetime]


def test_an_invite_that_the_user_leaves_unanswered_comes_to_notice() -> None:
    bench = Bench(INVITE_SERVER, UDP)
    bench.start()
    bench.run()
    assert bench.times("user silent") == [170]


# --- the heap ----------------------------------------------------------------------------------------------


def test_timers_fire_in_order_and_stopped_ones_never() -> None:
    queue, fired = TimerQueue(), list[str]()
    queue.start(2.0, lambda now: fired.append("b"))
    queue.start(1.0, lambda now: fired.append("a"))
    stopped = queue.start(1.5, lambda now: fired.append("never"))
    queue.stop(stopped)
    queue.stop(stopped)
    assert queue.deadline() == 1.0
    for timer in queue.due(2.0):
        timer.fire(2.0)
    assert fired == ["a", "b"]
    assert queue.deadline() is None
    assert len(queue) == 0


@pytest.mark.parametrize("stopped", [COMPACT_FROM, COMPACT_FROM + 1])
def test_stopped_timers_do_not_pile_up(stopped: int) -> None:
    queue = TimerQueue()
    kept = [queue.start(9.0, lambda now: None) for _ in range(3)]
    for timer in [queue.start(1.0, lambda now: None) for _ in range(stopped)]:
        queue.stop(timer)
    assert len(queue) == len(kept)
    assert len(queue._heap) == (len(kept) if stopped > COMPACT_FROM else len(kept) + stopped)
    assert queue.deadline() == 9.0


def test_a_stopped_timer_holds_on_to_nothing() -> None:
    """It may stay in the heap for minutes, and what it would have acted on is over."""
    queue, fired = TimerQueue(), []

    def act(now: float) -> None:
        fired.append(now)

    held = weakref.ref(act)
    timer = queue.start(170.0, act)
    del act
    queue.stop(timer)
    assert held() is None
    assert queue.deadline() is None
    assert not fired
