"""A SIP endpoint under a script of hostile messages, time, and an honest user."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from siprec.errors import LocalError, Overload
from siprec.sip.dialog import Dialog
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import AckMissing, Event, RequestReceived, ResponseReceived
from siprec.sip.flow import Flow
from siprec.sip.message import MessageError, Request, parse
from tests.support.mutation import PIECES

PEER = ("192.0.2.1", 5060)
FLOWS = (
    Flow("udp", ("192.0.2.2", 5060), PEER),
    Flow("udp", ("192.0.2.2", 5060), ("192.0.2.7", 5062)),
    Flow("tcp", ("192.0.2.2", 5060), PEER, 1),
    Flow("tcp", ("192.0.2.2", 5060), PEER, 2),
)
METHODS = ("INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "UPDATE", "PRACK", "INFO", "REGISTER")
STATUSES = (100, 180, 183, 200, 202, 302, 401, 481, 486, 487, 491, 500, 503, 699)
EXTRAS = (
    "", "Require: 100rel\r\n", "RAck: 1 1 INVITE\r\n", "Supported: 100rel,timer\r\nSession-Expires: 90\r\n",
    "Replaces: c1;to-tag=x;from-tag=a\r\n", "Record-Route: <sip:192.0.2.9;lr>\r\n", "Contact: *\r\n", "RSeq: 1\r\n",
)  # fmt: skip
STEPS = 200
"""Of one script; longer ones find nothing that these do not."""
LIMIT_SECONDS = 100_000.0


class Script:
    """The input as decisions; when it ends, all are 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def number(self, bound: int) -> int:
        """From 0 to `bound` - 1."""
        value = self._data[self._at] if self else 0
        self._at += 1
        return value % bound

    def pick(self, choices: Any) -> Any:
        return choices[self.number(len(choices))]


class Stage:
    """The endpoint, what it said, and what its user still has to do."""

    def __init__(self, data: bytes) -> None:
        self.script = Script(data)
        self._tokens = 0
        self.endpoint = Endpoint(token=self._token)
        self.now = 0.0
        self.open: list[str] = []
        self.mine: list[str] = []
        self.dialogs: list[Dialog] = []
        self.tags = ["", "x"]
        self.branches = ["z9hG4bK1"]

    def _token(self) -> str:
        self._tokens += 1
        return f"t{self._tokens:019d}"

    def play(self) -> None:
        for _ in range(STEPS):
            if not self.script:
                break
            self.script.pick(_ACTIONS)(self)
            self.take()

    def take(self) -> None:
        for event in self.endpoint.events():
            self._note(event)
        for outgoing in self.endpoint.outgoing():
            assert outgoing.flow.remote[1]
            if outgoing.data.startswith((b"SIP/2.0 4", b"SIP/2.0 5")):
                continue  # the answer to what is malformed echoes it
            message = parse(outgoing.data)
            if isinstance(message, Request):
                self.branches.append(message.via.branch or "")
            self.tags += [tag for tag in (message.to.tag, message.from_.tag) if tag]
        del self.tags[2:-8], self.branches[1:-8]

    def _note(self, event: Event) -> None:
        dialog = getattr(event, "dialog", None)
        if isinstance(event, RequestReceived):
            self.open.append(event.transaction)
        if isinstance(event, ResponseReceived | AckMissing) and dialog is not None:
            self.dialogs.append(dialog)

    # --- what may happen ---------------------------------------------------------------------------------

    def receive_request(self) -> None:
        script = self.script
        method, tag = script.pick(METHODS), script.pick(self.tags)
        to_tag = f";tag={tag}" if tag else ""
        text = (
            f"{method} sip:srs@192.0.2.2 SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 192.0.2.1;rport;branch={script.pick((*self.branches, f'z9hG4bK{script.number(6)}'))}\r\n"
            f"From: <sip:alice@example.com>;tag={script.pick(('a', 'b', *self.tags[-1:]))}\r\n"
            f"To: <sip:srs@192.0.2.2>{to_tag}\r\n"
            f"Call-ID: c{script.number(3)}\r\nCSeq: {script.number(5)} {method}\r\n"
            f"Contact: <sip:alice@192.0.2.1>\r\nMax-Forwards: 70\r\n{script.pick(EXTRAS)}"
        )
        self._deliver(text)

    def receive_response(self) -> None:
        script = self.script
        status, method = script.pick(STATUSES), script.pick(METHODS)
        text = (
            f"SIP/2.0 {status} x\r\nVia: SIP/2.0/UDP 192.0.2.2:5060;branch={script.pick(self.branches)}\r\n"
            f"From: <sip:srs@192.0.2.2>;tag={script.pick(self.tags)}\r\n"
            f"To: <sip:alice@example.com>;tag={script.pick(('a', 'b'))}\r\nCall-ID: c{script.number(3)}\r\n"
            f"CSeq: {script.number(4)} {method}\r\nContact: <sip:alice@192.0.2.1>\r\n{script.pick(EXTRAS)}"
        )
        self._deliver(text)

    def _deliver(self, text: str) -> None:
        data = text.encode("utf-8", "surrogateescape") + b"Content-Length: 0\r\n\r\n"
        if self.script.number(4) == 0:
            at = self.script.number(256) * len(data) // 256
            data = data[:at] + self.script.pick(PIECES) + data[at + self.script.number(4) :]
        self.endpoint.receive(data, self.script.pick(FLOWS), self.now)

    def answer(self) -> None:
        """To a request that waits, or one that is long over."""
        if self.open:
            transaction = self.script.pick(self.open[-8:])
            dialog = self.endpoint.respond(
                transaction, self.script.pick(STATUSES), now=self.now, reliable=bool(self.script.number(2))
            )
            if dialog is not None:
                self.dialogs.append(dialog)

    def wait(self) -> None:
        self.now += (0.0, 0.1, 0.5, 4.0, 33.0, 200.0)[self.script.number(6)]
        self.endpoint.tick(self.now)

    def ask(self) -> None:
        """A request of ours in a dialog that may be over."""
        if self.dialogs:
            dialog, method = self.script.pick(self.dialogs[-8:]), self.script.pick(("BYE", "INVITE", "UPDATE", "INFO"))
            with contextlib.suppress(LocalError, Overload):
                self.mine.append(
                    self.endpoint.request(method, dialog, now=self.now, auto_ack=bool(self.script.number(2)))
                )

    def call(self) -> None:
        self.mine.append(
            self.endpoint.invite(
                "sip:alice@192.0.2.1", self.script.pick(FLOWS), from_="<sip:srs@192.0.2.2>", to="<sip:a@example.com>",
                contact="<sip:srs@192.0.2.2>", now=self.now, call_id=f"c{self.script.number(3)}",
                auto_ack=bool(self.script.number(2)),
            )
        )  # fmt: skip

    def go_on(self) -> None:
        """CANCEL or ACK of something of ours."""
        if self.mine:
            transaction = self.script.pick(self.mine[-8:])
            if self.script.number(2):
                self.endpoint.cancel(transaction, now=self.now)
            else:
                self.endpoint.ack(transaction, now=self.now)

    def disconnect(self) -> None:
        self.endpoint.transport_failed(self.script.pick(FLOWS), self.now)

    def restore(self) -> None:
        """As after a restart: the dialog is taken out and put back."""
        if self.dialogs:
            dialog = self.script.pick(self.dialogs[-8:])
            self.endpoint.forget(dialog)
            if self.script.number(2) and dialog.state == "confirmed":
                self.endpoint.restore(dialog)
                self.endpoint.resume(dialog, now=self.now)

    def garbage(self) -> None:
        length = self.script.number(64)
        self.endpoint.receive(bytes(self.script.number(256) for _ in range(length)), self.script.pick(FLOWS), self.now)

    # --- the end -----------------------------------------------------------------------------------------

    def come_to_rest(self) -> None:
        """All timers run out; then the user ends the dialogs that are left."""
        for _ in range(2):
            self._run_down()
            for dialog in list(self.endpoint.dialogs.values()):
                assert dialog.state != "early", "an early dialog outlived its transaction"
                self.endpoint.forget(dialog)
        assert self.endpoint.running() == 0
        assert not self.endpoint.dialogs
        left = {path: len(each) for path, each in containers(self.endpoint) if len(each)}
        assert not left, left

    def _run_down(self) -> None:
        while (deadline := self.endpoint.deadline()) is not None:
            assert deadline < LIMIT_SECONDS + self.now, "timers go on for ever"
            self.now = max(self.now, deadline)
            self.endpoint.tick(self.now)
            self.take()


_ACTIONS: tuple[Callable[[Stage], None], ...] = (
    *(Stage.receive_request,) * 6,
    *(Stage.answer,) * 3,
    *(Stage.receive_response,) * 2,
    *(Stage.wait,) * 2,
    Stage.ask,
    Stage.call,
    Stage.go_on,
    Stage.disconnect,
    Stage.restore,
    Stage.garbage,
)

_CONSTANT = frozenset({"_HANDLERS", "_handlers", "_do", "identity"})


def containers(root: object) -> list[tuple[str, Any]]:
    """Every dict, list and set that hangs on `root` by attributes of this package's objects, with its path."""
    found: list[tuple[str, Any]] = []
    seen: set[int] = set()
    waiting: list[tuple[str, object]] = [("", root)]
    while waiting:
        path, each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict | list | set):
            found.append((path, each))
        elif type(each).__module__.startswith("siprec.sip"):
            waiting += [(f"{path}.{name}", value) for name, value in _attributes(each) if name not in _CONSTANT]
    return found


def _attributes(each: object) -> list[tuple[str, object]]:
    slots = [name for kind in type(each).__mro__ for name in getattr(kind, "__slots__", ())]
    own = {name: getattr(each, name) for name in slots if hasattr(each, name)}
    return [*own.items(), *getattr(each, "__dict__", {}).items()]


def endpoint(data: bytes) -> None:
    """Nothing is raised for anything a peer sends in any order, and when all timers have run nothing is left.

    MessageError of `parse` here would mean that the endpoint sent what it could not read itself.
    """
    stage = Stage(data)
    try:
        stage.play()
        stage.come_to_rest()
    except MessageError as error:
        raise AssertionError(f"the endpoint sent what is no message: {error.reason}") from error
