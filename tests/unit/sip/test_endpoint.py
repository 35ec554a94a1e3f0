"""What the endpoint answers by itself, and what it hands to its user."""

import gc
import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from siprec.errors import LocalError, Overload, SipError
from siprec.sip.core import Limits
from siprec.sip.endpoint import Endpoint
from siprec.sip.events import (
    AckReceived,
    Cancelled,
    DialogEnded,
    Event,
    MessageRefused,
    RequestReceived,
    ResponseReceived,
    UnknownDialog,
)
from siprec.sip.flow import Flow
from siprec.sip.message import Headers, Message, Request, Response, parse
from tests.support.link import Tokens

SRC = ("192.0.2.1", 5060)
SRS = ("192.0.2.2", 5060)
UDP = Flow("udp", SRS, SRC)
COOKIE = "z9hG4bK"
SETTLED, SETTLED_BYTES = 1000, 2000


def request(
    method: str,
    *,
    branch: str = "b1",
    cseq: int = 1,
    to_tag: str = "",
    from_tag: str = "alice",
    call_id: str = "call",
    uri: str = "sip:bob@192.0.2.2",
    extra: Iterable[tuple[str, str]] = (),
    body: bytes = b"",
    via: str = "SIP/2.0/UDP 192.0.2.1:5060;rport",
) -> bytes:
    headers = [
        ("Via", f"{via};branch={COOKIE}{branch}" if branch else via),
        ("From", f"Alice <sip:alice@example.com>;tag={from_tag}"),
        ("To", f"<sip:bob@example.com>{';tag=' + to_tag if to_tag else ''}"),
        ("Call-ID", call_id),
        ("CSeq", f"{cseq} {method}"),
        ("Contact", "<sip:alice@192.0.2.1>;+sip.src"),
        *extra,
    ]
    return bytes(Request(method, uri, Headers(headers), body))


class Bob:
    """An endpoint as server: bytes in, messages and events out."""

    def __init__(self, **options: object) -> None:
        self.endpoint = Endpoint(token=Tokens(5), **options)  # type: ignore[arg-type]
        self.now = 0.0

    def get(self, data: bytes, flow: Flow = UDP) -> list[Message]:
        self.endpoint.receive(data, flow, self.now)
        return self.sent()

    def sent(self) -> list[Message]:
        return [parse(each.data) for each in self.endpoint.outgoing()]

    def statuses(self, data: bytes, flow: Flow = UDP) -> list[int]:
        return [message.status for message in self.get(data, flow) if isinstance(message, Response)]

    def only(self, data: bytes, flow: Flow = UDP) -> Response:
        (message,) = self.get(data, flow)
        assert isinstance(message, Response)
        return message

    def asked(self) -> RequestReceived:
        """The one request that waits for an answer."""
        (event,) = [event for event in self.endpoint.events() if isinstance(event, RequestReceived)]
        return event

    def respond(self, transaction: str, status: int) -> list[Message]:
        self.endpoint.respond(transaction, status, now=self.now)
        return self.sent()

    def events(self) -> list[Event]:
        return self.endpoint.events()

    def call(self) -> str:
        """A confirmed call; our tag in it."""
        self.get(request("INVITE"))
        (answer,) = self.respond(self.asked().transaction, 200)
        tag = answer.to.tag or ""
        self.get(request("ACK", branch="ack", to_tag=tag))
        self.events()
        return tag


# --- refusals without a dialog -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "status", "header"),
    [
        (request("REFER"), 405, ("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK")),
        (request("REGISTER"), 405, ("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, UPDATE, INFO, PRACK")),
        (request("RECORD"), 501, None),
        (request("INVITE", uri="http:bob"), 416, None),
        (request("INVITE", extra=[("Require", "siprec, b, a")]), 420, ("Unsupported", "a, b")),
        (request("BYE"), 481, None),
        (request("UPDATE"), 481, None),
        (request("INFO"), 481, None),
        (request("PRACK"), 481, None),
        (request("BYE", to_tag="guess"), 481, None),
        (request("INVITE", to_tag="guess"), 481, None),
        (request("OPTIONS", to_tag="guess"), 481, None),
        (request("CANCEL"), 481, None),
        (request("INVITE").replace(b"SIP/2.0\r\n", b"SIP/3.0\r\n", 1), 505, None),
        (request("INVITE", extra=[("Content-Length", "1")], body=b"xy").replace(b"Length: 2", b"Length: 3"), 400, None),
        (request("INVITE", extra=[("Record-Route", "<nonsense>")]), 400, None),
        (request("INVITE").replace(b"Contact: <sip:alice@192.0.2.1>", b"Contact: <sip:alice@192.0.2.1"), 400, None),
    ],
)  # fmt: skip
def test_what_is_refused_without_asking_the_user(data: bytes, status: int, header: tuple[str, str] | None) -> None:
    bob = Bob()
    answer = bob.only(data)
    assert answer.status == status
    if header:
        assert answer.headers.get(header[0]) == header[1]
    assert all(isinstance(event, MessageRefused) for event in bob.events())
    assert bob.endpoint.deadline() is None, "a refusal leaves no state"


@pytest.mark.parametrize(
    "data",
    [
        request("INVITE").replace(b"CSeq: 1 INVITE", b"CSeq: x"),
        request("INVITE").replace(b"Call-ID: call\r\n", b""),
        request("INVITE").replace(b"From: Alice <sip:alice@example.com>", b"From: <"),
        request("INVITE").replace(b"Via: ", b"Via: ,", 1).replace(b"CSeq: 1 INVITE", b"CSeq: x"),
    ],
)
def test_a_broken_request_is_answered_with_what_it_has(data: bytes) -> None:
    bob = Bob()
    bob.endpoint.receive(data, UDP, 0.0)
    (outgoing,) = bob.endpoint.outgoing()
    assert outgoing.data.startswith(b"SIP/2.0 400 Bad Request\r\n")
    assert b"Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKb1;rport=5060" in outgoing.data.replace(b": ,", b": ")


@pytest.mark.parametrize(
    "data",
    [
        request("ACK"),
        request("ACK", to_tag="guess"),
        request("ACK", uri="http:bob"),
        request("ACK", extra=[("Require", "unheard-of")]),
        request("ACK").replace(b"SIP/2.0\r\n", b"SIP/3.0\r\n", 1),
        request("ACK").replace(b"CSeq: 1 ACK", b"CSeq: x"),
        b"SIP/2.0 200 OK\r\n\r\n",
        bytes(Response(200, "OK", Headers(parse(request("INVITE")).headers))),
        b"\r\n\r\n",
        b"\x00\x00",
        b"",
        b"junk",
    ],
)
def test_what_gets_no_answer_at_all(data: bytes) -> None:
    assert Bob().get(data) == []


@pytest.mark.parametrize("tag", ["siprec", "replaces", "timer", "100rel", "SIPREC", "100relsiprec"])
def test_required_extensions_we_have(tag: str) -> None:
    bob = Bob()
    assert bob.statuses(request("INVITE", extra=[("Require", tag)])) == [100]
    assert isinstance(bob.asked(), RequestReceived)


def test_require_is_ignored_in_cancel() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    assert 200 in bob.statuses(request("CANCEL", extra=[("Require", "unheard-of")]))


def test_siprec_in_the_require_of_a_bye_is_fine() -> None:
    bob = Bob()
    tag = bob.call()
    bob.get(request("BYE", branch="b2", cseq=2, to_tag=tag, extra=[("Require", "siprec")]))
    assert bob.asked().request.method == "BYE"


# --- responses ---------------------------------------------------------------------------------------------


def test_a_response_repeats_the_requests_lines_byte_for_byte() -> None:
    bob = Bob()
    data = request("OPTIONS", extra=[("Via", "SIP/2.0/UDP  far.example.com ;branch=x , SIP/2.0/TCP third;branch=y")])
    bob.get(data)
    (answer,) = bob.respond(bob.asked().transaction, 200)
    asked = parse(data)
    assert answer.headers.all("Via") == [
        f"SIP/2.0/UDP 192.0.2.1:5060;branch={COOKIE}b1;rport=5060;received=192.0.2.1",
        *asked.headers.all("Via")[1:],
    ]
    for name in ("From", "Call-ID", "CSeq"):
        assert answer.headers.get(name) == asked.headers.get(name)
    assert (answer.headers.get("To") or "").startswith("<sip:bob@example.com>;tag=")


@pytest.mark.parametrize(
    ("via", "source", "reply_to", "written"),
    [
        ("SIP/2.0/UDP 192.0.2.1:5070", ("192.0.2.1", 40000), ("192.0.2.1", 5070), ""),
        ("SIP/2.0/UDP 192.0.2.1", ("192.0.2.1", 40000), ("192.0.2.1", 5060), ""),
        ("SIP/2.0/UDP 192.0.2.1;rport", ("192.0.2.1", 40000), ("192.0.2.1", 40000), ";rport=40000;received=192.0.2.1"),
        ("SIP/2.0/UDP sbc.example.com:5070", ("192.0.2.1", 40000), ("192.0.2.1", 5070), ";received=192.0.2.1"),
        ("SIP/2.0/UDP 192.0.2.1;maddr=198.51.100.9", ("192.0.2.1", 40000), ("192.0.2.1", 5060), ""),
        ("SIP/2.0/UDP 192.0.2.1;received=198.51.100.9;rport=9", ("192.0.2.1", 40000), ("192.0.2.1", 40000),
         ";rport=40000;received=192.0.2.1"),
        ("SIP/2.0/UDP 192.0.2.1;received=198.51.100.9", ("192.0.2.1", 40000), ("192.0.2.1", 5060),
         ";received=192.0.2.1"),
    ],
)  # fmt: skip
def test_replies_go_to_the_source_and_nowhere_else(
    via: str, source: tuple[str, int], reply_to: tuple[str, int], written: str
) -> None:
    bob = Bob()
    bob.endpoint.receive(request("OPTIONS", via=via), Flow("udp", SRS, source), 0.0)
    bob.endpoint.respond(bob.asked().transaction, 200, now=0.0)
    (outgoing,) = bob.endpoint.outgoing()
    assert outgoing.flow == Flow("udp", SRS, reply_to)
    line = parse(outgoing.data).headers.get("Via") or ""
    assert line.endswith(written)
    assert "198.51.100.9" not in line.replace("maddr=198.51.100.9", "")
    assert line.count("received") == written.count("received")


def test_over_tcp_the_reply_takes_the_same_connection() -> None:
    bob = Bob()
    flow = Flow("tcp", SRS, ("192.0.2.1", 40000), 7)
    bob.endpoint.receive(request("INVITE", via="SIP/2.0/TCP 192.0.2.1"), flow, 0.0)
    assert [each.flow for each in bob.endpoint.outgoing()] == [flow]


def test_trying_has_no_tag_and_repeats_the_timestamp() -> None:
    answer = Bob().only(request("INVITE", extra=[("Timestamp", "54")]))
    assert answer.status == 100
    assert answer.to.tag is None
    assert answer.headers.get("Timestamp") == "54"


def test_a_2xx_makes_a_dialog_of_what_the_invite_said() -> None:
    bob = Bob(user_agent="recorder")
    routes = ["<sip:192.0.2.9;lr>", "<sip:192.0.2.10;lr>"]
    bob.get(request("INVITE", cseq=100021, extra=[("Record-Route", ", ".join(routes))]))
    dialog = bob.endpoint.respond(
        bob.asked().transaction,
        200,
        now=0.0,
        headers=[("Content-Type", "application/sdp")],
        body=b"v=0\r\n",
        contact="<sip:srs@192.0.2.2>;+sip.srs",
    )
    (answer,) = bob.sent()
    assert dialog is not None
    assert bob.endpoint.dialogs[dialog.key] is dialog
    assert (dialog.call_id, dialog.remote_tag, dialog.local_tag) == ("call", "alice", answer.to.tag)
    assert (dialog.state, dialog.role, dialog.remote_cseq) == ("confirmed", "uas", 100021)
    assert (dialog.remote_target, dialog.route_set) == ("sip:alice@192.0.2.1", routes)
    assert dialog.flow == UDP
    assert answer.headers.values("Record-Route") == routes
    assert answer.headers.get("Contact") == "<sip:srs@192.0.2.2>;+sip.srs"
    assert answer.headers.get("Server") == "recorder"
    assert answer.headers.get("Supported") == "replaces, timer, 100rel"
    assert answer.body == b"v=0\r\n"


def test_options_say_what_we_can() -> None:
    bob = Bob()
    bob.get(request("OPTIONS"))
    (answer,) = bob.respond(bob.asked().transaction, 200)
    assert answer.headers.values("Accept") == [
        "application/sdp", "application/rs-metadata+xml", "application/rs-metadata", "multipart/mixed"
    ]  # fmt: skip
    assert "UPDATE" in answer.headers.values("Allow")


def test_an_answer_to_what_is_over_does_nothing() -> None:
    bob = Bob()
    bob.get(request("OPTIONS"))
    transaction = bob.asked().transaction
    assert len(bob.respond(transaction, 200)) == 1
    assert bob.respond(transaction, 500) == []
    assert bob.respond("in-999", 200) == []


def test_a_line_end_in_a_users_header_is_refused() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    transaction = bob.asked().transaction
    with pytest.raises(ValueError, match="line end"):
        bob.endpoint.respond(transaction, 200, now=0.0, headers=[("X", "a\r\nVia: b")])
    bob.respond(transaction, 500)
    assert len(bob.endpoint.dialogs) == 0, "nothing came of it"


# --- repetitions, merged requests, CSeq --------------------------------------------------------------------


def test_a_repeated_request_gets_the_same_answer_once_it_is_there() -> None:
    bob = Bob()
    data = request("OPTIONS")
    bob.get(data)
    assert bob.get(data) == []
    first = bob.respond(bob.asked().transaction, 200)
    assert bob.get(data) == first
    assert bob.events() == []


def test_a_repetition_from_another_address_is_dropped() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    assert bob.get(request("INVITE"), Flow("udp", SRS, ("192.0.2.66", 5060))) == []


def test_after_a_reconnect_the_repetition_is_answered_on_the_new_connection() -> None:
    bob = Bob()
    first, second = (Flow("tcp", SRS, ("192.0.2.1", 40000 + number), number) for number in (1, 2))
    data = request("INVITE", via="SIP/2.0/TCP 192.0.2.1")
    bob.endpoint.receive(data, first, 0.0)
    bob.endpoint.receive(data, second, 0.0)
    bob.endpoint.respond(bob.asked().transaction, 200, now=0.0)
    assert [each.flow.connection for each in bob.endpoint.outgoing()] == [1, 2, 2]


def test_an_rfc2543_request_is_matched_by_its_headers() -> None:
    bob = Bob()
    for via in ("SIP/2.0/UDP 192.0.2.1", f"SIP/2.0/UDP 192.0.2.1;branch={COOKIE}"):
        data = request("INVITE", branch="", via=via, call_id=via[-7:])
        assert bob.statuses(data) == [100]
        assert bob.statuses(data) == [100]
        bob.respond(bob.asked().transaction, 486)
        bob.get(request("ACK", branch="", via=via, call_id=via[-7:]))
        assert bob.get(data) == [], "the ACK was matched"


def test_the_same_request_by_another_path_is_merged() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    assert bob.statuses(request("INVITE", branch="other")) == [482]
    assert bob.statuses(request("INVITE", branch="other", from_tag="carol")) == [100]
    assert bob.statuses(request("INVITE", branch="other2", cseq=2)) == [100]


def test_a_lower_cseq_is_out_of_order_and_gaps_are_not() -> None:
    bob = Bob()
    tag = bob.call()
    bob.get(request("INFO", branch="b2", cseq=604674513, to_tag=tag))
    bob.respond(bob.asked().transaction, 200)
    assert bob.statuses(request("INFO", branch="b3", cseq=604674512, to_tag=tag)) == [500]
    assert bob.statuses(request("BYE", branch="b4", cseq=2, to_tag=tag)) == [500]


@pytest.mark.parametrize("change", [{"to_tag": "x"}, {"from_tag": "x"}, {"call_id": "x"}])
def test_a_dialog_is_found_by_all_three_ids(change: dict[str, str]) -> None:
    bob = Bob()
    tag = bob.call()
    assert bob.statuses(request("BYE", branch="b2", cseq=2, **{"to_tag": tag, **change})) == [481]  # type: ignore[arg-type]
    assert len(bob.endpoint.dialogs) == 1


def test_a_request_from_elsewhere_changes_nothing_until_it_is_accepted() -> None:
    bob = Bob()
    tag = bob.call()
    (dialog,) = bob.endpoint.dialogs.values()
    elsewhere = Flow("udp", SRS, ("192.0.2.66", 5060))
    forged = request("UPDATE", branch="b2", cseq=2**31 - 1, to_tag=tag).replace(
        b"alice@192.0.2.1", b"mallory@192.0.2.66"
    )
    bob.get(forged, elsewhere)
    event = bob.asked()
    assert event.flow == elsewhere
    bob.respond(event.transaction, 403)
    assert (dialog.remote_cseq, dialog.flow, dialog.remote_target) == (1, UDP, "sip:alice@192.0.2.1")
    bob.get(forged.replace(b"b2", b"b3"), elsewhere)
    bob.respond(bob.asked().transaction, 200)
    assert (dialog.remote_cseq, dialog.flow, dialog.remote_target) == (2**31 - 1, elsewhere, "sip:mallory@192.0.2.66")


# --- CANCEL ------------------------------------------------------------------------------------------------


def test_cancel_ends_an_invite_that_waits() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    transaction = bob.asked().transaction
    ok, terminated = bob.get(request("CANCEL"))
    assert isinstance(ok, Response)
    assert isinstance(terminated, Response)
    assert (ok.status, ok.cseq.method, terminated.status, terminated.cseq.method) == (200, "CANCEL", 487, "INVITE")
    assert ok.to.tag == terminated.to.tag
    (event,) = bob.events()
    assert isinstance(event, Cancelled)
    assert (event.transaction, event.cause, event.request.method) == (transaction, "cancel", "INVITE")
    assert bob.respond(transaction, 200) == []
    assert len(bob.endpoint.dialogs) == 0


def test_cancel_after_the_final_response_has_no_effect() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    bob.respond(bob.asked().transaction, 200)
    assert bob.statuses(request("CANCEL")) == [200]
    assert bob.events() == []
    assert len(bob.endpoint.dialogs) == 1


def test_cancel_from_another_address_or_with_another_branch_is_unknown() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    assert bob.statuses(request("CANCEL"), Flow("udp", SRS, ("192.0.2.66", 5060))) == [481]
    assert bob.statuses(request("CANCEL", branch="other")) == [481]
    assert isinstance(bob.asked(), RequestReceived)


# --- glare -------------------------------------------------------------------------------------------------


def test_an_invite_over_a_pending_one_is_told_to_come_again() -> None:
    bob = Bob()
    tag = bob.call()
    bob.get(request("INVITE", branch="b2", cseq=2, to_tag=tag))
    waiting = bob.asked()
    answers = bob.get(request("INVITE", branch="b3", cseq=3, to_tag=tag))
    refusal = answers[-1]
    assert isinstance(refusal, Response)
    assert refusal.status == 500
    assert 0 <= int(refusal.headers.get("Retry-After") or "-1") <= 10
    assert [message.status for message in bob.respond(waiting.transaction, 200) if isinstance(message, Response)] == [
        200
    ]


def test_an_invite_while_ours_is_pending_is_491() -> None:
    bob = Bob()
    tag = bob.call()
    (dialog,) = bob.endpoint.dialogs.values()
    bob.endpoint.request("INVITE", dialog, now=0.0)
    bob.sent()
    assert bob.statuses(request("INVITE", branch="b2", cseq=2, to_tag=tag)) == [100, 491]
    assert bob.statuses(request("INVITE", branch="b2", cseq=2, to_tag=tag)) == [491], "repeated, not taken anew"
    bob.get(request("ACK", branch="b2", cseq=2, to_tag=tag))
    with pytest.raises(LocalError):
        bob.endpoint.request("INVITE", dialog, now=0.0)


SDP = [("Content-Type", "application/sdp")]


def test_update_glare() -> None:
    """RFC 3311 section 5.2."""
    bob = Bob()
    tag = bob.call()
    bob.get(request("UPDATE", branch="b2", cseq=2, to_tag=tag))
    first = bob.asked()
    again = bob.only(request("UPDATE", branch="b3", cseq=3, to_tag=tag))
    assert (again.status, "Retry-After" in again.headers) == (500, True)
    bob.respond(first.transaction, 200)

    bob.get(request("INVITE", branch="b4", cseq=4, to_tag=tag, extra=SDP, body=b"v=0\r\n"))
    invite = bob.asked()
    offer = bob.only(request("UPDATE", branch="b5", cseq=5, to_tag=tag, extra=SDP, body=b"v=0\r\n"))
    assert (offer.status, "Retry-After" in offer.headers) == (500, True)
    bob.get(request("UPDATE", branch="b6", cseq=6, to_tag=tag))
    bob.respond(bob.asked().transaction, 200)
    bob.respond(invite.transaction, 200)
    bob.get(request("ACK", branch="b7", cseq=4, to_tag=tag))

    (dialog,) = bob.endpoint.dialogs.values()
    bob.endpoint.request("INVITE", dialog, now=0.0, headers=SDP, body=b"v=0\r\n")
    bob.sent()
    mixed = [("Content-Type", "multipart/mixed;boundary=x")]
    body = b"--x\r\nContent-Type: Application/SDP\r\n\r\nv=0\r\n--x--"
    assert bob.statuses(request("UPDATE", branch="b8", cseq=8, to_tag=tag, extra=mixed, body=body)) == [491]


# --- BYE and what it ends ----------------------------------------------------------------------------------


def test_bye_ends_the_dialog_and_what_waits_in_it() -> None:
    bob = Bob()
    tag = bob.call()
    bob.get(request("INVITE", branch="b2", cseq=2, to_tag=tag))
    bob.events()
    bob.get(request("BYE", branch="b3", cseq=3, to_tag=tag))
    statuses = {
        (message.status, message.cseq.method)
        for message in bob.respond(bob.asked().transaction, 200)
        if isinstance(message, Response)
    }
    assert statuses == {(200, "BYE"), (487, "INVITE")}
    cancelled, ended = bob.events()
    assert isinstance(cancelled, Cancelled)
    assert cancelled.cause == "bye"
    assert isinstance(ended, DialogEnded)
    assert (ended.cause, ended.dialog.state) == ("remote", "terminated")
    assert len(bob.endpoint.dialogs) == 0
    assert bob.statuses(request("INFO", branch="b4", cseq=4, to_tag=tag)) == [481]


def test_a_refused_bye_leaves_the_dialog() -> None:
    bob = Bob()
    tag = bob.call()
    bob.get(request("BYE", branch="b2", cseq=2, to_tag=tag))
    bob.respond(bob.asked().transaction, 403)
    assert len(bob.endpoint.dialogs) == 1


def test_a_bye_that_crosses_ours_is_answered_and_other_requests_are_not_taken() -> None:
    bob = Bob()
    tag = bob.call()
    (dialog,) = bob.endpoint.dialogs.values()
    bob.endpoint.request("BYE", dialog, now=0.0)
    bob.sent()
    assert bob.statuses(request("INFO", branch="b2", cseq=2, to_tag=tag)) == [481]
    assert bob.statuses(request("BYE", branch="b3", cseq=3, to_tag=tag)) == [200]


# --- ACK ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["b1", "fresh"], ids=["the INVITE's branch", "a branch of its own"])
def test_an_ack_is_matched_by_its_dialog(branch: str) -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    (answer,) = bob.respond(bob.asked().transaction, 200)
    ack = request("ACK", branch=branch, to_tag=answer.to.tag or "", extra=SDP, body=b"v=0\r\n")
    bob.get(ack)
    bob.get(ack)
    (event,) = bob.events()
    assert isinstance(event, AckReceived)
    assert event.request.body == b"v=0\r\n"
    bob.endpoint.tick(10.0)
    assert bob.sent() == [], "the 2xx is not repeated any more"


@pytest.mark.parametrize("change", [{"to_tag": "x"}, {"cseq": 2}, {"from_tag": "x"}])
def test_a_wrong_ack_stops_nothing(change: dict[str, str | int]) -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    (answer,) = bob.respond(bob.asked().transaction, 200)
    bob.get(request("ACK", **{"branch": "b1", "to_tag": answer.to.tag, **change}))  # type: ignore[arg-type]
    assert bob.events() == []
    bob.endpoint.tick(0.6)
    assert bob.sent() == [answer]


# --- limits ------------------------------------------------------------------------------------------------


def test_above_the_transaction_limit_new_requests_get_503_and_dialogs_go_on() -> None:
    bob = Bob(limits=Limits(server_transactions=4))
    tag = bob.call()
    for number in range(3):
        assert bob.statuses(request("INVITE", branch=f"x{number}", call_id=f"x{number}")) == [100]
    refused = bob.only(request("INVITE", branch="y", call_id="y"))
    assert (refused.status, refused.headers.get("Retry-After")) == (503, "5")
    bob.events()
    bob.get(request("INFO", branch="b2", cseq=2, to_tag=tag))
    assert bob.asked().request.method == "INFO"
    assert bob.statuses(request("INFO", branch="b3", cseq=3, to_tag=tag)) == [503], "a quarter more, not without end"


def test_above_the_dialog_limit_new_invites_get_503() -> None:
    bob = Bob(limits=Limits(dialogs=1))
    bob.call()
    assert bob.statuses(request("INVITE", branch="y", call_id="y")) == [503]
    bob.get(request("OPTIONS", branch="z", call_id="z"))
    assert bob.asked().request.method == "OPTIONS"


def test_admission_refuses_before_there_is_any_state() -> None:
    bob = Bob(admission=lambda request, flow, now: 7 if request.method == "INVITE" else None)
    refused = bob.only(request("INVITE"))
    assert (refused.status, refused.headers.get("Retry-After")) == (503, "7")
    assert bob.endpoint.deadline() is None
    bob.get(request("OPTIONS"))
    assert bob.asked().request.method == "OPTIONS"


def test_the_same_refusal_has_the_same_tag() -> None:
    bob = Bob()
    assert bob.only(request("BYE")).to.tag == bob.only(request("BYE")).to.tag
    assert bob.only(request("BYE")).to.tag != bob.only(request("BYE", branch="b2")).to.tag


def test_our_own_requests_are_limited_too() -> None:
    bob = Bob(limits=Limits(client_transactions=1))

    def send() -> str:
        here, there = "<sip:bob@example.com>", "<sip:alice@example.com>"
        return bob.endpoint.send("OPTIONS", "sip:192.0.2.1", UDP, from_=here, to=there, now=0.0)

    send()
    with pytest.raises(Overload):
        send()


# --- restored dialogs --------------------------------------------------------------------------------------


def test_a_restored_dialog_goes_on() -> None:
    first = Bob()
    tag = first.call()
    (dialog,) = first.endpoint.dialogs.values()
    second = Bob()
    second.endpoint.restore(dialog)
    second.get(request("BYE", branch="b2", cseq=2, to_tag=tag))
    assert second.asked().dialog is dialog


def test_an_unacknowledged_answer_goes_on_in_another_process() -> None:
    first = Bob()
    first.get(request("INVITE"))
    (answer,) = first.respond(first.asked().transaction, 200)
    (dialog,) = first.endpoint.dialogs.values()
    second = Bob()
    second.endpoint.restore(dialog)
    second.endpoint.resume(dialog, now=0.0)
    assert second.sent() == [answer]
    assert second.get(request("INVITE")) == [answer], "the INVITE again is not a new call"
    assert second.statuses(request("INVITE", branch="other")) == [482]
    second.events()
    second.get(request("ACK", branch="ack", to_tag=answer.to.tag or ""))
    (event,) = second.events()
    assert isinstance(event, AckReceived)
    assert dialog.last_invite is not None
    assert (dialog.last_invite.acked, dialog.last_invite.answer) == (True, b"")


def test_resuming_an_acknowledged_answer_sends_nothing() -> None:
    first = Bob()
    first.call()
    (dialog,) = first.endpoint.dialogs.values()
    second = Bob()
    second.endpoint.restore(dialog)
    second.endpoint.resume(dialog, now=0.0)
    assert second.get(request("INVITE")) == []
    assert second.events() == []


def test_an_unknown_dialog_may_be_asked_for() -> None:
    first = Bob()
    tag = first.call()
    (dialog,) = first.endpoint.dialogs.values()
    second = Bob(ask_unknown=True)
    second.get(request("INFO", branch="b2", cseq=2, to_tag=tag))
    (event,) = second.events()
    assert isinstance(event, UnknownDialog)
    second.endpoint.restore(dialog)
    second.endpoint.admit(event.transaction, now=0.0)
    assert second.asked().dialog is dialog

    second.get(request("INFO", branch="b3", cseq=3, to_tag="nobody"))
    (event,) = second.events()
    assert isinstance(event, UnknownDialog)
    second.endpoint.admit(event.transaction, now=0.0)
    assert [message.status for message in second.sent() if isinstance(message, Response)] == [481]


def test_a_guessed_dialog_leaves_no_state_and_is_judged_anew() -> None:
    bob = Bob(ask_unknown=True)
    for _ in range(2):
        assert bob.get(request("BYE", to_tag="guess")) == []
        (event,) = bob.events()
        assert isinstance(event, UnknownDialog)
        (answer,) = bob.respond(event.transaction, 481)
        assert isinstance(answer, Response)
        assert (answer.status, answer.to.tag) == (481, "guess")
        assert bob.endpoint.running() == 0


def test_an_answered_request_is_kept_as_the_bytes_of_its_answer() -> None:
    """A repetition needs no more, and tens of thousands are kept for 32 s."""
    bob = Bob()
    body = b"x" * 10_000
    for number in range(SETTLED):
        bob.get(request("OPTIONS", branch=f"b{number}", call_id=str(number), body=body))
        bob.respond(bob.asked().transaction, 200)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(SETTLED, 2 * SETTLED):
            bob.get(request("OPTIONS", branch=f"b{number}", call_id=str(number), body=body))
            bob.respond(bob.asked().transaction, 200)
        gc.collect()
        each = tracemalloc.get_traced_memory()[0] / SETTLED
    finally:
        tracemalloc.stop()
    assert bob.endpoint.running() == 2 * SETTLED
    assert each < SETTLED_BYTES


def test_an_invite_of_an_unknown_dialog_may_make_one_with_the_peers_tags() -> None:
    bob = Bob(ask_unknown=True)
    bob.get(request("INVITE", cseq=9, to_tag="lost"))
    (event,) = bob.events()
    assert isinstance(event, UnknownDialog)
    dialog = bob.endpoint.respond(event.transaction, 200, now=0.0)
    (answer,) = bob.sent()
    assert dialog is not None
    assert (dialog.local_tag, dialog.local_uri, answer.to.tag) == ("lost", "<sip:bob@example.com>", "lost")
    bob.get(request("BYE", branch="b2", cseq=10, to_tag="lost"))
    assert bob.asked().dialog is dialog


def test_forgetting_a_dialog_is_silent() -> None:
    bob = Bob()
    bob.get(request("INVITE"))
    dialog = bob.endpoint.respond(bob.asked().transaction, 200, now=0.0)
    bob.sent()
    assert dialog is not None
    bob.endpoint.forget(dialog)
    bob.endpoint.tick(100.0)
    assert (bob.sent(), bob.events(), len(bob.endpoint.dialogs)) == ([], [], 0)
    with pytest.raises(LocalError):
        bob.endpoint.request("BYE", dialog, now=100.0)


# --- responses to us ---------------------------------------------------------------------------------------


def test_a_from_that_is_no_address_is_the_users_fault() -> None:
    with pytest.raises(SipError):
        Bob().endpoint.invite("sip:x@192.0.2.1", UDP, from_="<", to="<sip:a@b>", contact="", now=0.0)


def test_a_response_of_a_broken_kind_ends_nothing() -> None:
    bob = Bob()
    transaction = bob.endpoint.invite(
        "sip:alice@192.0.2.1", UDP, from_="<sip:bob@example.com>", to="<sip:alice@example.com>", contact="<sip:b@c>",
        now=0.0,
    )  # fmt: skip
    (invite,) = bob.sent()
    lines = [(name, value) for name, value in invite.headers if name in ("Via", "From", "To", "Call-ID", "CSeq")]

    def response(*extra: tuple[str, str]) -> bytes:
        return bytes(Response(200, "OK", Headers([*lines, *extra])))

    bob.get(response(("Contact", "<sip:broken")))
    bob.get(response(("Record-Route", "<>")))
    bob.get(response(("Via", "SIP/2.0/UDP 192.0.2.9")))
    bob.get(response().replace(b"CSeq: 1", b"CSeq: 2"))
    assert {type(event) for event in bob.events()} == {MessageRefused}
    bob.get(response())
    (event,) = bob.events()
    assert isinstance(event, ResponseReceived)
    assert event.transaction == transaction


# --- hostile bytes -----------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [b"SIP/2.0", b"INVITE", b"ACK", b"BYE", b"CANCEL", b"PRACK", b"\r\n", b"\r", b";tag=", b"Via:", b"To:", b",", b'"',
     b"<", b">", b"CSeq: 1 ", b"branch=z9hG4bK", b"Require: 100rel", b"RAck: 1 1 INVITE", b"Record-Route:", b"\xff"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_comes_in_nothing_is_raised(data: st.DataObject) -> None:
    bob = Bob()
    tag = bob.call()
    method = data.draw(st.sampled_from(["INVITE", "BYE", "ACK", "CANCEL", "PRACK", "UPDATE", "OPTIONS", "X"]))
    good = request(method, branch="b2", cseq=2, to_tag=data.draw(st.sampled_from([tag, "", "x"])))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(good)))
        good = good[:at] + data.draw(_PIECES | st.binary(max_size=4)) + good[at + data.draw(st.integers(0, 3)) :]
    bob.endpoint.receive(good, UDP, 0.0)
    for event in bob.events():
        if isinstance(event, RequestReceived):
            bob.endpoint.respond(event.transaction, 200, now=0.0)
    for outgoing in bob.endpoint.outgoing():
        assert outgoing.flow.remote[0] == SRC[0]
        assert outgoing.data.startswith(b"SIP/2.0 ")
    bob.endpoint.tick(1000.0)
