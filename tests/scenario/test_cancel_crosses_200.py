"""CANCEL before, during and after the answer (RFC 3261 9)."""

from siprec.sip.events import Cancelled, DialogEnded, RequestFailed, RequestReceived, ResponseReceived
from tests.support.link import Link, accept_all, is_request, is_response


def test_cancel_while_it_rings() -> None:
    link = Link()
    transaction = link.alice.invite()
    link.run(0.5)
    link.bob.respond(link.bob.one(RequestReceived).transaction, 180)
    link.run(0.5)
    assert len(link.alice.endpoint.dialogs) == len(link.bob.endpoint.dialogs) == 1
    link.alice.endpoint.cancel(transaction, now=link.now)
    link.settle()
    link.bob.one(Cancelled)
    assert link.alice.statuses("INVITE") == [100, 180, 487]
    assert link.alice.statuses("CANCEL") == [200]
    for side in (link.alice, link.bob):
        assert [event.cause for event in side.events_of(DialogEnded)] == ["refused"]
        assert len(side.endpoint.dialogs) == 0


def test_cancel_waits_for_the_first_provisional_response() -> None:
    link = Link()
    link.hold(is_response(100))
    transaction = link.alice.invite()
    link.alice.endpoint.cancel(transaction, now=link.now)
    link.run(0.4)
    assert link.bob.requests("CANCEL") == []
    link.release()
    link.settle()
    assert len(link.bob.requests("CANCEL")) == 1
    assert link.alice.statuses("INVITE")[-1] == 487


def test_cancel_crosses_the_200() -> None:
    link = Link()
    transaction = link.alice.invite()
    link.run(0.5)
    link.hold(is_response(200, "INVITE"))
    link.bob.respond(link.bob.one(RequestReceived).transaction, 200)
    link.run(0.01)
    link.alice.endpoint.cancel(transaction, now=link.now)
    link.run(0.1)
    link.release()
    link.run(1.0)
    assert link.bob.events_of(Cancelled) == []
    assert link.alice.statuses("CANCEL") == [200]
    final = link.alice.events_of(ResponseReceived)[-1]
    assert final.response.status == 200
    assert final.dialog is not None
    link.bob.on_request = accept_all
    link.alice.request("BYE", final.dialog)
    link.settle()
    assert len(link.alice.endpoint.dialogs) == len(link.bob.endpoint.dialogs) == 0


def test_a_cancel_that_nobody_answers_ends_the_invite_all_the_same() -> None:
    link = Link()
    transaction = link.alice.invite()
    link.run(0.5)
    link.drop(is_request("CANCEL"), 1000)
    link.alice.endpoint.cancel(transaction, now=link.now)
    link.alice.endpoint.cancel(transaction, now=link.now)
    link.run(33.0)
    assert link.alice.one(RequestFailed).cause == "timeout"


def test_an_invite_that_the_user_forgets_is_answered_with_500() -> None:
    link = Link()
    link.alice.invite()
    link.settle()
    assert link.alice.statuses("INVITE") == [100, 500]
    assert link.bob.one(Cancelled).cause == "silent"
