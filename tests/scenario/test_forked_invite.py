"""Our INVITE reaches two: the first answer wins, the other is acknowledged and ended (RFC 3261 13.2.2.4)."""

from siprec.sip.core import MAX_FORKS
from siprec.sip.events import RequestReceived, ResponseReceived
from siprec.sip.message import Headers, Request, Response
from tests.support.link import Link


def answer(invite: Request, tag: str, status: int = 200) -> bytes:
    lines = [(name, value) for name, value in invite.headers if name in ("Via", "From", "Call-ID", "CSeq")]
    lines += [("To", f"<sip:bob@example.com>;tag={tag}"), ("Contact", "<sip:bob@192.0.2.2>")]
    return bytes(Response(status, "OK", Headers(lines)))


def test_the_second_answer_gets_ack_and_bye() -> None:
    link = Link()
    link.alice.invite()
    link.run(0.5)
    (invite,) = link.bob.requests("INVITE")
    for tag in ("first", "second", "second", "first"):
        link.inject(link.alice, answer(invite, tag), link.bob.local)
    link.run(0.5)
    finals = [event for event in link.alice.events_of(ResponseReceived) if event.response.status == 200]
    assert [event.response.to.tag for event in finals] == ["first"]
    assert [message.to.tag for message in link.bob.requests("ACK")] == ["first", "second", "second", "first"]
    assert [message.to.tag for message in link.bob.requests("BYE")] == ["second"]


def test_early_dialogs_of_the_other_branches_end_with_the_answer() -> None:
    link = Link()
    link.alice.invite()
    link.run(0.5)
    (invite,) = link.bob.requests("INVITE")
    for number in range(MAX_FORKS + 1):
        link.inject(link.alice, answer(invite, f"t{number}", 180), link.bob.local)
    assert len(link.alice.endpoint.dialogs) == MAX_FORKS
    link.inject(link.alice, answer(invite, "t0"), link.bob.local)
    assert [key.remote_tag for key in link.alice.endpoint.dialogs] == ["t0"]
    link.bob.one(RequestReceived)
