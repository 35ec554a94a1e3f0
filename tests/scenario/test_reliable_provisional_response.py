"""RFC 3262: a provisional response that waits for its PRACK."""

import pytest

from siprec.sip.events import Cancelled, ProvisionalAcknowledged, RequestReceived, ResponseReceived
from tests.support.link import Link, is_request, is_response


def ringing(link: Link, *, required: bool = False) -> str:
    link.alice.invite(headers=[("Require", "100rel")] if required else [])
    link.run(0.1)
    transaction = link.bob.one(RequestReceived).transaction
    link.bob.respond(transaction, 183, reliable=not required, body=b"v=0\r\n")
    return transaction


@pytest.mark.parametrize("required", [False, True])
def test_a_183_is_acknowledged(required: bool) -> None:
    link = Link()
    ringing(link, required=required)
    link.run(10.0)
    assert link.alice.statuses("INVITE") == [100, 183]
    assert link.alice.statuses("PRACK") == [200]
    (prack,) = link.bob.requests("PRACK")
    assert (prack.headers.get("RAck") or "").endswith(" 1 INVITE")
    link.bob.one(ProvisionalAcknowledged)


def test_a_lost_183_comes_again_and_the_user_sees_one() -> None:
    link = Link()
    link.drop(is_response(183), 2)
    link.duplicate(is_response(183))
    ringing(link)
    link.run(10.0)
    assert len([event for event in link.alice.events_of(ResponseReceived) if event.response.status == 183]) == 1
    link.bob.one(ProvisionalAcknowledged)


def test_a_2xx_waits_for_the_prack() -> None:
    link = Link()
    link.drop(is_request("PRACK"), 2)
    transaction = ringing(link)
    link.bob.respond(transaction, 200)
    link.run(0.3)
    assert 200 not in link.alice.statuses("INVITE")
    link.run(10.0)
    assert link.alice.statuses("INVITE").count(200) == 1
    (dialog,) = link.bob.endpoint.dialogs.values()
    assert dialog.state == "confirmed"


def test_a_2xx_overtakes_one_without_sdp() -> None:
    """RFC 3262 section 3 lets it; the PRACK that comes late is answered all the same."""
    link = Link()
    link.hold(is_request("PRACK"))
    link.alice.invite(headers=[("Require", "100rel")])
    link.run(0.1)
    transaction = link.bob.one(RequestReceived).transaction
    link.bob.respond(transaction, 183)
    link.bob.respond(transaction, 200)
    link.run(0.3)
    assert link.alice.statuses("INVITE") == [100, 183, 200]
    link.release()
    link.run(0.3)
    assert link.alice.statuses("PRACK") == [200]


def test_a_second_one_waits_for_the_first() -> None:
    link = Link()
    link.hold(is_request("PRACK"))
    transaction = ringing(link)
    link.bob.respond(transaction, 180, reliable=True)
    link.run(0.3)
    assert 180 not in link.alice.statuses("INVITE")
    link.release()
    link.run(0.3)
    assert 180 in link.alice.statuses("INVITE")
    numbers = {message.headers.get("RAck") for message in link.bob.requests("PRACK")}
    first, second = sorted(int((number or "").split()[0]) for number in numbers)
    assert second == first + 1


def test_without_prack_the_invite_is_refused() -> None:
    link = Link()
    link.drop(is_request("PRACK"), 1000)
    ringing(link)
    link.run(33.0)
    assert link.alice.statuses("INVITE")[-1] == 504
    assert link.bob.one(Cancelled).cause == "prack"


def test_a_peer_that_knows_no_prack_gets_plain_ones() -> None:
    link = Link()
    link.alice.invite(headers=[("Supported", "timer")])
    link.run(0.1)
    link.bob.respond(link.bob.one(RequestReceived).transaction, 183, reliable=True)
    link.run(10.0)
    assert link.alice.statuses("INVITE") == [100, 183]
    assert link.bob.requests("PRACK") == []


def test_a_prack_that_fits_nothing_is_481() -> None:
    link = Link()
    ringing(link)
    link.run(0.3)
    (prack,) = link.bob.requests("PRACK")
    for rack in ("1 1 INVITE", "x y INVITE", "1 INVITE", ""):
        forged = bytes(prack).replace((prack.headers.get("RAck") or "").encode(), rack.encode())
        link.inject(link.bob, forged.replace(b"z9hG4bK", b"z9hG4bK-" + str(abs(hash(rack))).encode()), link.alice.local)
    link.run(0.3)
    link.bob.one(ProvisionalAcknowledged)
