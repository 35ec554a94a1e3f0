"""The states of a recording session, in one static table: (state, event) -> next state and effects.

Every pair is decided: a `Step`, or a member of `IGNORED` (the event says nothing new in that state). A pair
that is neither is impossible, and reaching it is a defect of ours: `ImpossibleStep`.
`python -m siprec.session.transitions` prints the table for the documentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from siprec.errors import LocalError


class State(StrEnum):
    """What a recording session is doing."""

    OFFERED = "offered"  # the INVITE is being answered
    RECORDING = "recording"
    PAUSED = "paused"  # every stream is inactive
    INTERRUPTED = "interrupted"  # contact with the SRC is lost
    RECOVERING = "recovering"  # another dialog, process or node takes it over
    ENDING = "ending"  # closed, being rendered
    ENDED = "ended"  # audio, hashes and verdict are on disk
    FAILED = "failed"  # could not be rendered; what was captured stays


class Event(StrEnum):
    """What can happen to a recording session."""

    ANSWERED = "answered"  # our 200 OK is sent, at least one stream is active
    ANSWERED_INACTIVE = "answered-inactive"  # our 200 OK is sent, no stream is active yet
    REFUSED = "refused"  # the INVITE got a final error, or was cancelled
    INACTIVE = "inactive"  # the last active stream became inactive
    ACTIVE = "active"  # a stream became active
    CONTACT_LOST = "contact-lost"  # no RTP, and the SRC does not answer
    CONTACT_BACK = "contact-back"  # RTP or an authorised request returned
    TAKEN_OVER = "taken-over"  # a Replaces, a restart or another node begins to carry it on
    RECOVERED = "recovered"  # ... and has answered
    HANGUP = "hangup"  # the SRC's BYE
    STOPPED = "stopped"  # we end it: shutdown, timeout, no ACK
    RENDERED = "rendered"
    RENDER_FAILED = "render-failed"


class Effect(StrEnum):
    """What the recorder does when a step is taken, in this order."""

    SEND_BYE = "send-bye"
    CLOSE_CAPTURE = "close-capture"
    SAVE = "save"
    RENDER = "render"
    RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Step:
    """A cell of the table."""

    next: State
    effects: tuple[Effect, ...] = (Effect.SAVE,)


class ImpossibleStep(LocalError):
    """An event in a state where it cannot happen."""


_CLOSE = (Effect.CLOSE_CAPTURE, Effect.SAVE, Effect.RENDER)
_STOP = (Effect.SEND_BYE, *_CLOSE)
_DONE = (Effect.RELEASE,)

_LIVE_ENDS = {Event.HANGUP: Step(State.ENDING, _CLOSE), Event.STOPPED: Step(State.ENDING, _STOP)}

TABLE: dict[State, dict[Event, Step]] = {
    State.OFFERED: {
        Event.ANSWERED: Step(State.RECORDING),
        Event.ANSWERED_INACTIVE: Step(State.PAUSED),
        Event.REFUSED: Step(State.FAILED, (Effect.CLOSE_CAPTURE, Effect.RELEASE)),
        Event.STOPPED: Step(State.FAILED, (Effect.CLOSE_CAPTURE, Effect.RELEASE)),
    },
    State.RECORDING: {
        **_LIVE_ENDS,
        Event.INACTIVE: Step(State.PAUSED),
        Event.CONTACT_LOST: Step(State.INTERRUPTED),
        Event.TAKEN_OVER: Step(State.RECOVERING),
    },
    State.PAUSED: {
        **_LIVE_ENDS,
        Event.ACTIVE: Step(State.RECORDING),
        Event.CONTACT_LOST: Step(State.INTERRUPTED),
        Event.TAKEN_OVER: Step(State.RECOVERING),
    },
    State.INTERRUPTED: {
        **_LIVE_ENDS,
        Event.CONTACT_BACK: Step(State.RECORDING),
        Event.ACTIVE: Step(State.RECORDING),
        Event.INACTIVE: Step(State.PAUSED),
        Event.TAKEN_OVER: Step(State.RECOVERING),
    },
    State.RECOVERING: {
        **_LIVE_ENDS,
        Event.RECOVERED: Step(State.RECORDING),
        Event.INACTIVE: Step(State.PAUSED),
        Event.CONTACT_LOST: Step(State.INTERRUPTED),
    },
    State.ENDING: {
        Event.RENDERED: Step(State.ENDED, _DONE),
        Event.RENDER_FAILED: Step(State.FAILED, _DONE),
    },
    State.ENDED: {},
    State.FAILED: {Event.RENDERED: Step(State.ENDED, _DONE)},
}

_AFTER_CLOSE = frozenset(
    {
        Event.HANGUP,
        Event.STOPPED,
        Event.INACTIVE,
        Event.ACTIVE,
        Event.CONTACT_LOST,
        Event.CONTACT_BACK,
        Event.REFUSED,
        Event.RECOVERED,
    }
)

IGNORED: dict[State, frozenset[Event]] = {
    State.OFFERED: frozenset({Event.ACTIVE, Event.INACTIVE, Event.HANGUP}),
    State.RECORDING: frozenset({Event.ACTIVE, Event.CONTACT_BACK, Event.RECOVERED}),
    State.PAUSED: frozenset({Event.INACTIVE, Event.CONTACT_BACK, Event.RECOVERED}),
    State.INTERRUPTED: frozenset({Event.CONTACT_LOST, Event.RECOVERED}),
    State.RECOVERING: frozenset({Event.ACTIVE, Event.CONTACT_BACK, Event.TAKEN_OVER}),
    State.ENDING: _AFTER_CLOSE | {Event.TAKEN_OVER},
    State.ENDED: _AFTER_CLOSE | {Event.RENDERED, Event.RENDER_FAILED, Event.TAKEN_OVER},
    State.FAILED: _AFTER_CLOSE | {Event.RENDER_FAILED, Event.TAKEN_OVER},
}


def step(state: State, event: Event) -> Step | None:
    """The step to take, or None when `event` is ignored in `state`. Raises ImpossibleStep."""
    found = TABLE[state].get(event)
    if found is None and event not in IGNORED[state]:
        raise ImpossibleStep(f"{event} cannot happen to a session that is {state}")
    return found


def possible(state: State) -> tuple[Event, ...]:
    """The events that would move a session on from `state`, for the inspector."""
    return tuple(TABLE[state])


def describe() -> str:
    """The table as Markdown."""
    lines = ["| state | event | next | effects |", "|---|---|---|---|"]
    for state, row in TABLE.items():
        lines += [f"| {state} | {event} | {cell.next} | {', '.join(cell.effects)} |" for event, cell in row.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(describe())
