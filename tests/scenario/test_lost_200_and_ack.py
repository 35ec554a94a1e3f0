"""The 2xx of an INVITE is repeated until its ACK comes, on every transport (RFC 3261 13.3.1.4)."""

import pytest

from siprec.sip.events import AckMissing, AckReceived, DialogEnded, RequestFailed, RequestReceived, ResponseReceived
from siprec.sip.flow import Transport
from tests.support.link import Link, accept_all, call, is_request, is_response

EVERY = 1000


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_without_ack_the_2xx_comes_eleven_times_then_the_user_hears_of_it(transport: Transport) -> None:
    link = Link(transport=transport)
    link.bob.on_request = accept_all
    link.drop(is_request("ACK"), EVERY)
    link.alice.invite()
    start = link.now
    link.run(31.9)
    assert link.alice.statuses("INVITE").count(200) == 11  # T1 doubling to T2 within 64*T1
    assert link.bob.events_of(AckMissing) == []
    link.run(0.2)
    dialog = link.bob.one(AckMissing).dialog
    assert link.now - start == pytest.approx(32.1)
    link.alice.on_request = accept_all
    link.bob.request("BYE", dialog)
    link.settle()
    assert [event.cause for event in link.bob.events_of(DialogEnded)] == ["local"]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_peer_that_acknowledged_nothing_is_not_waited_for_again(transport: Transport) -> None:
    link = Link(transport=transport)
    link.bob.on_request = accept_all
    link.drop(is_request("ACK"), EVERY)
    link.alice.invite()
    link.run(32.1)
    link.drop(is_request("BYE"), EVERY)
    link.bob.request("BYE", link.bob.one(AckMissing).dialog)
    link.run(3.9)
    assert link.bob.events_of(RequestFailed) == []
    link.run(0.2)
    assert link.bob.one(RequestFailed).cause == "timeout"
    assert not link.bob.endpoint.dialogs


def test_a_lost_200_comes_again_and_the_user_sees_one() -> None:
    link = Link()
    link.drop(is_response(200, "INVITE"), 3)
    call_made_at = link.now
    link.bob.on_request = accept_all
    link.alice.invite()
    link.run(10.0)
    finals = [event for event in link.alice.events_of(ResponseReceived) if event.response.status == 200]
    assert len(finals) == 1
    link.bob.one(AckReceived)
    assert call_made_at + 10.0 == link.now


def test_a_lost_ack_is_sent_again_for_the_repeated_200() -> None:
    link = Link()
    link.drop(is_request("ACK"), 2)
    call(link)
    link.run(5.0)
    link.bob.one(AckReceived)
    assert link.alice.statuses("INVITE").count(200) == 3


def test_an_invite_that_is_repeated_after_the_2xx_gets_that_2xx() -> None:
    link = Link()
    link.hold(is_request("INVITE"))
    link.bob.on_request = accept_all
    link.alice.invite()
    link.run(1.0)
    link.release()
    link.run(5.0)
    link.bob.one(RequestReceived)
    link.bob.one(AckReceived)
    assert len(link.alice.endpoint.dialogs) == len(link.bob.endpoint.dialogs) == 1


def test_the_answer_may_come_in_the_ack() -> None:
    """An INVITE without offer: the 2xx brings it, the ACK the answer (RFC 3261 13.2.1)."""
    link = Link()
    link.bob.on_request = accept_all
    transaction = link.alice.invite(auto_ack=False)
    link.drop(is_request("ACK"))
    link.run(0.1)
    assert link.bob.requests("ACK") == []
    link.alice.endpoint.ack(transaction, now=link.now, headers=[("Content-Type", "application/sdp")], body=b"v=0\r\n")
    link.run(5.0)
    assert link.bob.one(AckReceived).request.body == b"v=0\r\n", "repeated whole"
