import pytest

from siprec.session.model import HISTORY_LIMIT, CallData
from siprec.session.transitions import (
    IGNORED,
    TABLE,
    Effect,
    Event,
    ImpossibleStep,
    State,
    describe,
    possible,
    step,
)

PAIRS = [(state, event) for state in State for event in Event]


@pytest.mark.parametrize(("state", "event"), PAIRS)
def test_every_pair_is_decided(state: State, event: Event) -> None:
    assert not (event in TABLE[state] and event in IGNORED[state])
    if event in TABLE[state]:
        assert step(state, event) == TABLE[state][event]
    elif event in IGNORED[state]:
        assert step(state, event) is None
    else:
        with pytest.raises(ImpossibleStep):
            step(state, event)


def test_every_state_is_reachable() -> None:
    reached = {State.OFFERED}
    while True:
        found = {cell.next for state in reached for cell in TABLE[state].values()} | reached
        if found == reached:
            break
        reached = found
    assert reached == set(State)


def test_no_state_is_a_dead_end_but_the_ended_one() -> None:
    assert {state for state in State if not possible(state)} == {State.ENDED}


def test_whatever_ends_a_live_session_closes_its_capture_and_renders() -> None:
    for state in (State.RECORDING, State.PAUSED, State.INTERRUPTED, State.RECOVERING):
        for event in (Event.HANGUP, Event.STOPPED):
            cell = TABLE[state][event]
            assert cell.next is State.ENDING
            assert cell.effects[-3:] == (Effect.CLOSE_CAPTURE, Effect.SAVE, Effect.RENDER)
    assert Effect.SEND_BYE in TABLE[State.RECORDING][Event.STOPPED].effects
    assert Effect.SEND_BYE not in TABLE[State.RECORDING][Event.HANGUP].effects


def test_the_table_prints_as_markdown() -> None:
    lines = describe().splitlines()
    assert len(lines) == 2 + sum(len(row) for row in TABLE.values())
    assert "| offered | answered | recording | save |" in lines


def call() -> CallData:
    return CallData("id", "node", "192.0.2.1", "acme", "a@192.0.2.1", offered_ns=0)


def test_steps_are_kept_in_the_history() -> None:
    data = call()
    assert data.fire(Event.ANSWERED, at_ns=5, monotonic=1.0) == (Effect.SAVE,)
    assert data.fire(Event.ACTIVE, at_ns=6, monotonic=2.0) == ()
    assert (data.state, data.version, data.live) == (State.RECORDING, 1, True)
    entry = data.history[-1]
    assert (entry.event, entry.before, entry.after, entry.at_ns) == (Event.ANSWERED, State.OFFERED, State.RECORDING, 5)


def test_the_history_is_a_ring() -> None:
    data = call()
    data.fire(Event.ANSWERED, at_ns=0, monotonic=0.0)
    for at in range(HISTORY_LIMIT):
        data.fire(Event.INACTIVE if at % 2 == 0 else Event.ACTIVE, at_ns=at, monotonic=0.0)
    assert len(data.history) == HISTORY_LIMIT
    assert data.history[0].at_ns == 0
    assert data.history[0].event is Event.INACTIVE
