"""What a call's queue holds: events of the endpoint, and what the recorder itself has to say to a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from siprec.recorder.refresh import TimerDue
from siprec.session.admission import RecordingSource
from siprec.sip.events import (
    AckMissing,
    AckReceived,
    Cancelled,
    ProvisionalAcknowledged,
    RequestFailed,
    RequestReceived,
    ResponseReceived,
)


@dataclass(frozen=True, slots=True)
class Stop:
    """We end the session; `reason` is for the log and the events file."""

    reason: str


@dataclass(frozen=True, slots=True)
class Check:
    """Time to see whether the SRC is still there."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Time to have the store know what it does not know yet."""


@dataclass(frozen=True, slots=True)
class HungUp:
    """The SRC's BYE came to another node, which has answered it."""

    at_node: str


@dataclass(frozen=True, slots=True)
class Restored:
    """This session came back from the store, and it is its turn to be written about."""


How = Literal["replaces", "reinvite", "fresh-invite"]
"""How an SRC has a session carried on, as recording.json tells it."""


@dataclass(frozen=True, slots=True)
class MovedInto:
    """The dialog of this session has moved to the session it named in Replaces; this one ends."""

    session_id: str


@dataclass(frozen=True, slots=True)
class TakeOver:
    """An INVITE that carries this session on.

    `moved` is called with this session's id once it is answered with 200, when it came in another session's dialog,
    whose last SDP of ours is `local_sdp`.
    """

    event: RequestReceived
    how: How
    source: RecordingSource
    from_node: str
    moved: Callable[[str], None] | None = None
    local_sdp: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    """Another node carries this session on: no more SIP from here, but what still arrives is captured."""

    to_node: str


Item = (
    RequestReceived
    | AckReceived
    | AckMissing
    | Cancelled
    | ProvisionalAcknowledged
    | ResponseReceived
    | RequestFailed
    | TimerDue
    | TakeOver
    | MovedInto
    | Released
    | Restored
    | HungUp
    | Check
    | Keep
    | Stop
)
