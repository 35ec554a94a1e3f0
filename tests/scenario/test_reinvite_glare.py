"""Both sides re-INVITE at once: both get 491, the call goes on, and one that tries again succeeds (14.1)."""

from siprec.sip.events import DialogEnded, ResponseReceived
from tests.support.link import Link, accept_all, call, is_request


def test_reinvites_cross() -> None:
    link = Link()
    hers, his = call(link)
    link.alice.request("INVITE", hers, body=b"v=0\r\n")
    link.bob.request("INVITE", his, body=b"v=0\r\n")
    link.run(1.0)
    assert link.alice.statuses("INVITE")[-1] == link.bob.statuses("INVITE")[-1] == 491
    link.alice.on_request = accept_all
    again = link.bob.request("INVITE", his, body=b"v=0\r\n")
    link.run(1.0)
    (final,) = [
        event.response.status
        for event in link.bob.events_of(ResponseReceived)
        if event.transaction == again and event.response.status >= 200
    ]
    assert final == 200
    link.settle()
    assert link.alice.events_of(DialogEnded) == link.bob.events_of(DialogEnded) == []


def test_bye_crosses_a_reinvite() -> None:
    link = Link()
    hers, his = call(link)
    link.alice.on_request = link.bob.on_request = None
    link.alice.request("INVITE", hers)
    link.run(0.1)
    link.hold(is_request("BYE"))
    link.bob.request("BYE", his)
    link.run(0.1)
    link.alice.on_request = accept_all
    link.release()
    link.settle()
    assert [event.cause for event in link.alice.events_of(DialogEnded)] == ["remote"]
    assert [event.cause for event in link.bob.events_of(DialogEnded)] == ["local"]


def test_a_reinvite_moves_the_targets_of_both() -> None:
    link = Link()
    hers, his = call(link)
    hers.contact = "<sip:alice@192.0.2.1:5070>"
    link.bob.on_request = lambda side, event: side.endpoint.respond(
        event.transaction, 200, now=link.now, contact="<sip:bob@192.0.2.2:5080>"
    )
    link.alice.request("UPDATE", hers)
    link.run(1.0)
    assert his.remote_target == "sip:alice@192.0.2.1:5070"
    assert hers.remote_target == "sip:bob@192.0.2.2:5080"


def test_a_refused_reinvite_moves_nothing() -> None:
    link = Link()
    hers, his = call(link)
    hers.contact = "<sip:alice@192.0.2.1:5070>"
    link.bob.on_request = lambda side, event: side.respond(event.transaction, 488)
    link.alice.request("INVITE", hers)
    link.run(1.0)
    assert his.remote_target == "sip:alice@192.0.2.1"
    assert (his.state, hers.state) == ("confirmed", "confirmed")
