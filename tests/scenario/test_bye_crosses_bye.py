"""Both sides hang up at once: each BYE is answered with 200 and nothing is left."""

from siprec.sip.events import DialogEnded, RequestReceived
from tests.support.link import Link, call


def test_bye_crosses_bye() -> None:
    link = Link()
    hers, his = call(link)
    link.alice.events.clear()
    link.bob.events.clear()
    link.alice.request("BYE", hers)
    link.bob.request("BYE", his)
    link.settle()
    assert link.alice.statuses("BYE") == link.bob.statuses("BYE") == [200]
    for side in (link.alice, link.bob):
        assert side.events_of(RequestReceived) == []
        assert [event.cause for event in side.events_of(DialogEnded)] == ["local"]
        assert len(side.endpoint.dialogs) == 0
