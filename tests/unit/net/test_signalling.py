"""The pump: order, the one catch-all, the one timer."""

import time

import pytest

from siprec.net.signalling import Pump
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import AckMissing, Event, MessageRefused, RequestFailed, RequestReceived
from siprec.sip.flow import Flow, Transport
from siprec.sip.message import Response, parse
from siprec.sip.timers import Timings
from tests.support.shell import Shell, token
from tests.unit.net.test_udp import options

FLOW = Flow("udp", ("127.0.0.1", 5060), ("127.0.0.1", 5070))


class Wire:
    """A sender that keeps what it is given."""

    def __init__(self) -> None:
        self.transport: Transport = "udp"
        self.sent: list[tuple[Flow, bytes]] = []

    def serves(self, flow: Flow) -> int:
        return 1

    def send(self, flow: Flow, data: bytes) -> None:
        self.sent.append((flow, data))

    def statuses(self) -> list[int]:
        messages = [parse(data) for _, data in self.sent]
        return [message.status for message in messages if isinstance(message, Response)]


def wired(shell: Shell) -> Wire:
    wire = Wire()
    shell.pump.attach(wire)
    return wire


async def test_a_handler_that_fails_costs_its_own_request_only() -> None:
    shell = Shell()
    wire = wired(shell)
    failure = RuntimeError("a defect")

    def fail(event: Event) -> None:
        if isinstance(event, RequestReceived) and event.request.call_id == "z9hG4bK1":
            raise failure

    shell.on_event = fail
    for number in range(3):
        shell.pump.receive(options(5070, f"z9hG4bK{number}"), FLOW)
    assert wire.statuses() == [200, 500, 200]
    ((error, event),) = shell.defects
    assert error is failure
    assert isinstance(event, RequestReceived)
    shell.pump.close()


async def test_a_failing_handler_of_another_event_is_told_without_event_answer() -> None:
    shell = Shell()
    wire = wired(shell)

    def fail(event: Event) -> None:
        assert not isinstance(event, MessageRefused)

    shell.on_event = fail
    shell.pump.receive(b"junk", FLOW)
    assert isinstance(shell.defects[0][1], MessageRefused)
    assert wire.sent == []


async def test_an_input_from_within_a_handler_waits_its_turn() -> None:
    shell = Shell()
    wire = wired(shell)
    seen: list[str] = []

    def reenter(event: Event) -> None:
        if isinstance(event, RequestReceived):
            seen.append(event.request.call_id)
            if len(seen) == 1:
                shell.pump.receive(options(5070, "z9hG4bKsecond"), FLOW)
                shell.pump.flush()
                assert seen == ["z9hG4bKfirst"]

    shell.on_event = reenter
    shell.pump.receive(options(5070, "z9hG4bKfirst"), FLOW)
    assert seen == ["z9hG4bKfirst", "z9hG4bKsecond"]
    assert [parse(data).call_id for _, data in wire.sent] == seen
    shell.pump.close()


async def test_a_late_answer_is_flushed() -> None:
    shell = Shell(status=None)
    wire = wired(shell)
    shell.pump.receive(options(5070), FLOW)
    event = await shell.event(RequestReceived)
    assert wire.sent == []
    shell.endpoint.respond(event.transaction, 200, now=time.monotonic())
    shell.pump.flush()
    assert wire.statuses() == [200]
    shell.pump.close()


async def test_timers_fire_by_themselves() -> None:
    shell = Shell()
    shell.endpoint = Endpoint(token=token, timings=Timings(t1=0.002, t2=0.01))
    shell.pump = Pump(shell.endpoint, shell._handle, clock=time.monotonic, on_defect=shell._defect)
    wire = wired(shell)
    request = options(5070).replace(b"OPTIONS", b"INVITE")
    shell.pump.receive(request, FLOW)
    missing = await shell.event(AckMissing)
    assert missing.dialog.state == "confirmed"
    assert wire.statuses().count(200) > 3
    assert shell.defects == []
    shell.pump.close()


async def test_without_a_sender_a_request_fails() -> None:
    shell = Shell()
    shell.endpoint.send("OPTIONS", "sip:a@b", FLOW, from_="<sip:a@b>", to="<sip:a@b>", now=time.monotonic())
    shell.pump.flush()
    assert (await shell.event(RequestFailed)).cause == "transport"
    shell.pump.close()


@pytest.mark.parametrize("local", [("127.0.0.1", 5060), ("127.0.0.2", 5060)])
async def test_the_sender_that_fits_best_is_taken(local: tuple[str, int]) -> None:
    class Picky(Wire):
        def __init__(self, host: str) -> None:
            super().__init__()
            self.host = host

        def serves(self, flow: Flow) -> int:
            return 2 if flow.local[0] == self.host else 1

    shell = Shell()
    senders = [Picky("127.0.0.1"), Picky("127.0.0.2")]
    for sender in senders:
        shell.pump.attach(sender)
    shell.pump.receive(options(5070), Flow("udp", local, ("127.0.0.1", 5070)))
    assert [bool(sender.sent) for sender in senders] == [sender.host == local[0] for sender in senders]
    shell.pump.close()


async def test_a_closed_pump_takes_nothing() -> None:
    shell = Shell()
    wire = wired(shell)
    shell.pump.close()
    shell.pump.receive(options(5070), FLOW)
    assert wire.sent == []
