"""A call is made and ended whatever the network loses, delays, doubles or reorders."""

import pytest

from siprec.sip.events import AckReceived, DialogEnded, MessageRefused, RequestFailed, RequestReceived
from siprec.sip.flow import Transport
from tests.support.link import Link, Side, accept_all, call


@pytest.mark.parametrize("seed", range(40))
def test_every_call_comes_to_the_same_end(seed: int) -> None:
    link = Link(seed=seed, loss=0.25, jitter=0.6, copies=0.25)
    link.bob.on_request = accept_all
    link.alice.invite(body=b"v=0\r\n")
    link.run(40.0)
    assert link.alice.events_of(RequestFailed) == []
    (dialog,) = link.alice.endpoint.dialogs.values()
    assert len(link.bob.events_of(RequestReceived)) == 1, "one INVITE, however often it came"
    assert len(link.bob.events_of(AckReceived)) == 1
    link.alice.request("BYE", dialog)
    link.settle()
    assert len(link.bob.events_of(RequestReceived)) == 2
    assert [event.cause for event in link.bob.events_of(DialogEnded)] == ["remote"]
    assert [event.cause for event in link.alice.events_of(DialogEnded)] == ["local"]
    _nothing_is_left(link)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_clean_call_takes_no_message_twice(transport: Transport) -> None:
    link = Link(transport=transport)
    hers, his = call(link)
    assert (hers.call_id, hers.local_tag, hers.remote_tag) == (his.call_id, his.remote_tag, his.local_tag)
    link.run(1.0)
    link.bob.request("BYE", his)
    link.alice.on_request = accept_all
    link.settle()
    assert [len(link.bob.requests(method)) for method in ("INVITE", "ACK")] == [1, 1]
    assert link.alice.statuses("INVITE") == [100, 200]
    assert link.bob.statuses("BYE") == [200]
    assert [event.cause for event in link.alice.events_of(DialogEnded)] == ["remote"]
    assert link.alice.events_of(MessageRefused) == link.bob.events_of(MessageRefused) == []
    _nothing_is_left(link)


def test_a_peer_that_is_not_there() -> None:
    link = Link(loss=1.0)
    transaction = link.alice.invite()
    link.settle()
    failed = link.alice.one(RequestFailed)
    assert (failed.transaction, failed.cause) == (transaction, "timeout")
    _nothing_is_left(link)


def _nothing_is_left(link: Link) -> None:
    link.settle()
    for side in (link.alice, link.bob):
        assert len(side.endpoint.dialogs) == 0
        assert _transactions(side) == 0
        assert side.endpoint.deadline() is None


def _transactions(side: Side) -> int:
    return side.endpoint.running()
