"""What the endpoint tells its user (the recorder, or the recording client)."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from siprec.sip.dialog import Dialog
from siprec.sip.flow import Flow as Flow
from siprec.sip.flow import Outgoing as Outgoing
from siprec.sip.message import Request, Response


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request that wants `Endpoint.respond(transaction, ...)`; never an ACK, CANCEL or PRACK.

    `dialog` is None outside a dialog. A request in a dialog from another address than `dialog.flow.remote`
    has changed nothing yet: it takes effect (target, CSeq, flow) when the user answers it with 2xx.
    """

    transaction: str
    request: Request
    flow: Flow
    dialog: Dialog | None


@dataclass(frozen=True, slots=True)
class UnknownDialog:
    """A request with a To tag that names no dialog here; only with `Endpoint(ask_unknown=True)`.

    The user looks elsewhere, then answers (481, or 500 while it cannot know), or calls `restore()` and
    `Endpoint.admit(transaction)`, after which the request comes again as `RequestReceived`. An INVITE may be
    answered with 2xx at once: it then makes a dialog that keeps the peer's idea of our tag (12.2.2).
    """

    transaction: str
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class AckReceived:
    """The ACK of a 2xx of ours, once per INVITE; its body may carry the SDP answer."""

    dialog: Dialog
    request: Request
    flow: Flow


@dataclass(frozen=True, slots=True)
class AckMissing:
    """64*T1 went by without ACK (13.3.1.4): the user sends BYE."""

    dialog: Dialog


@dataclass(frozen=True, slots=True)
class ProvisionalAcknowledged:
    """A reliable provisional response got its PRACK (RFC 3262); the endpoint has answered it with 200."""

    transaction: str
    dialog: Dialog
    request: Request


@dataclass(frozen=True, slots=True)
class Cancelled:
    """An INVITE that the user has not finally answered is over; the endpoint has answered it.

    cancel: the peer's CANCEL. prack: no PRACK for 64*T1. bye: its dialog got a BYE. silent: the user did not
    answer in time.
    """

    transaction: str
    request: Request
    cause: Literal["cancel", "prack", "bye", "silent"] = "cancel"


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """A response to a request of ours, provisional or final, each once."""

    transaction: str
    response: Response
    request: Request
    dialog: Dialog | None


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A request of ours got no final response: none came in time, or it could not be sent."""

    transaction: str
    cause: Literal["timeout", "transport"]
    request: Request
    dialog: Dialog | None


@dataclass(frozen=True, slots=True)
class DialogEnded:
    """A dialog left the endpoint's table. remote: the peer's BYE. local: ours was answered or timed out.
    refused: an early dialog whose INVITE was not accepted.
    """

    dialog: Dialog
    cause: Literal["remote", "local", "refused"]


@dataclass(frozen=True, slots=True)
class MessageRefused:
    """A message that was dropped or answered by the endpoint itself; for counting.

    `reason` is one of a small fixed set of words, never text from the network.
    """

    flow: Flow
    reason: str


Event: TypeAlias = (
    RequestReceived
    | UnknownDialog
    | AckReceived
    | AckMissing
    | ProvisionalAcknowledged
    | Cancelled
    | ResponseReceived
    | RequestFailed
    | DialogEnded
    | MessageRefused
)
