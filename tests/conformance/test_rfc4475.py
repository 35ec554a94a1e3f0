"""RFC 4475, all 49 torture messages, message by message: what the message layer makes of each.

"taken" is a message that the layers above must answer for (an unknown method, scheme or option is theirs);
otherwise the verdict is the status and whether a request can be answered with it or has to be dropped.
The messages lie beside the checkout, never in it.
"""

from pathlib import Path

import pytest

from siprec.errors import MultipartError, SipError
from siprec.sip.framing import StreamError, StreamFramer
from siprec.sip.message import MessageError, Request, Response, parse
from siprec.sip.multipart import parse_body

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "rfc4475"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the RFC 4475 messages do not lie beside the checkout")

TAKEN = "taken"
EXPECTED = {
    # 3.1.1 valid messages
    "wsinv": TAKEN,
    "intmeth": TAKEN,
    "esc01": TAKEN,
    "escnull": TAKEN,
    "esc02": TAKEN,
    "lwsdisp": TAKEN,
    "longreq": "taken",
    "dblreq": TAKEN,
    "semiuri": TAKEN,
    "transports": TAKEN,
    "mpart01": TAKEN,
    "unreason": TAKEN,
    "noreason": TAKEN,
    # 3.1.2 invalid messages
    "badinv01": "400 answered: Via: it is not protocol, host and parameters",
    "clerr": "400 answered: the body is shorter than Content-Length",
    "ncl": "400 answered: Content-Length is not a number",
    "scalar02": "400 answered: CSeq: the number is not below 2**31",
    "scalarlg": "400 dropped: CSeq: the number is not below 2**31",
    "quotbal": "400 answered: To: a display name's quote is not closed",
    "ltgtruri": "400 answered: Request-URI: a URI has no scheme",
    "lwsruri": "400 answered: Request-URI: a URI is empty or holds white space, quotes or angle brackets",
    "lwsstart": TAKEN,  # 3.1.2.9 allows to ignore the extra spaces
    "trws": TAKEN,  # 3.1.2.10 too
    "escruri": TAKEN,  # 3.1.2.11: the headers in the Request-URI are ignored
    "baddate": TAKEN,  # 3.1.2.12: a Date nobody needs is ignored (RFC 3261 section 8.2)
    "regbadct": TAKEN,  # 3.1.2.13: Contact is refused when it is read, see below
    "badaspec": TAKEN,  # 3.1.2.14 allows to ignore the spaces inside <>
    "baddn": "400 answered: there is no empty line after the headers",
    "badvers": "505 answered: the SIP version is not 2.0",
    "mismatch01": "400 answered: CSeq names another method than the request line",
    "mismatch02": "400 answered: CSeq names another method than the request line",
    "bigcode": "400 dropped: the status line is malformed",
    # 3.2 transaction layer
    "badbranch": TAKEN,
    # 3.3 application layer
    "insuf": "400 answered: From is missing",
    "unkscm": TAKEN,
    "novelsc": TAKEN,
    "unksm2": TAKEN,
    "bext01": TAKEN,
    "invut": TAKEN,
    "regaut01": TAKEN,
    "multi01": "400 answered: From is there more than once",
    "mcl01": "400 answered: Content-Length is there more than once",
    "bcast": TAKEN,
    "zeromf": TAKEN,
    "cparam01": TAKEN,
    "cparam02": TAKEN,
    "regescrt": TAKEN,
    "sdp01": TAKEN,
    # 3.4 backward compatibility
    "inv2543": TAKEN,
}


def read(name: str) -> bytes:
    return (FIXTURES / f"{name}.dat").read_bytes()


def request(name: str) -> Request:
    message = parse(read(name))
    assert isinstance(message, Request)
    return message


def test_all_are_here() -> None:
    assert {path.stem for path in FIXTURES.glob("*.dat")} == set(EXPECTED)
    assert len(EXPECTED) == 49


@pytest.mark.parametrize("name", EXPECTED)
def test_verdict(name: str) -> None:
    try:
        parse(read(name))
        verdict = TAKEN
    except MessageError as error:
        verdict = f"{error.status} {'answered' if error.partial else 'dropped'}: {error.reason}"
    assert verdict == EXPECTED[name]


@pytest.mark.parametrize("name", [name for name, verdict in EXPECTED.items() if verdict == TAKEN])
def test_written_again_means_the_same(name: str) -> None:
    message = parse(read(name))
    again = parse(bytes(message))
    assert (again.via, again.from_, again.to, again.cseq, again.body) == (
        message.via,
        message.from_,
        message.to,
        message.cseq,
        message.body,
    )


def test_wsinv_is_read_through_its_white_space() -> None:
    message = request("wsinv")
    assert (message.via.transport, message.via.host, message.via.branch) == ("UDP", "192.0.2.2", "390skdjuw")
    assert len(message.headers.values("Via")) == 3
    assert (message.to.uri, message.to.tag) == ("sip:vivekg@chair-dnrc.example.com", "1918181833n")
    assert (message.from_.display, message.from_.tag) == ('J Rosenberg \\"', "98asjd8")
    assert (message.cseq.number, message.cseq.method) == (9, "INVITE")
    assert message.headers.get("Subject") == ""
    assert message.headers.get("NewFangledHeader") == "newfangled value continued newfangled value"
    assert message.contact is not None
    assert (message.contact.display, message.contact.params["q"]) == ('Quoted string ""', "0.33")
    assert message.request_uri.params == {"unknownparam": None}
    assert len(message.body) == 150


def test_intmeth_is_all_tokens() -> None:
    message = request("intmeth")
    assert message.method == message.cseq.method == "!interesting-Method0123456789_*+`.%indeed'~"
    assert message.to.display == "BEL:\x07 NUL:\x00 DEL:\x7f"
    assert message.from_.params["fromparam''~+*_!.-%"] == "работающий"
    assert message.from_.tag == "_token~1'+`*%!-."
    assert message.request_uri.host == "example.com"


def test_names_and_methods_are_not_unescaped() -> None:
    assert request("esc02").method == "RE%47IST%45R"
    assert request("esc02").headers.values("Contact") == [
        "<sip:alias1@host1.example.com>",
        "<sip:alias3@host3.example.com>",
    ]
    assert request("esc01").request_uri.user == "sips%3Auser%40example.com"
    assert request("semiuri").request_uri.user == "user;par=u%40example.net"


def test_the_second_request_of_a_datagram_is_dropped() -> None:
    message = request("dblreq")
    assert (message.method, message.body) == ("REGISTER", b"")


def test_on_a_stream_both_requests_count() -> None:
    """The second one's body is longer than its Content-Length says, so what is left of it ends the stream."""
    with pytest.raises(StreamError) as caught:
        StreamFramer().feed(read("dblreq"), 0.0)
    assert [parse(data).cseq.method for data in caught.value.messages] == ["REGISTER", "INVITE"]


def test_display_names_that_are_no_tokens() -> None:
    assert request("lwsdisp").from_.display == "caller"
    assert request("badaspec").to.uri == "sip:t.watson@example.org"
    with pytest.raises(MessageError) as caught:
        parse(read("baddn"))
    assert caught.value.partial is not None
    assert caught.value.partial.from_.display == "Bell, Alexander"


def test_responses() -> None:
    message = parse(read("unreason"))
    assert isinstance(message, Response)
    assert message.reason.startswith("= 2**3 * 5**2 но сто девяносто девять")
    message = parse(read("noreason"))
    assert isinstance(message, Response)
    assert (message.status, message.reason) == (100, "")


def test_binary_parts_stay_as_they_are() -> None:
    message = request("mpart01")
    text, signature = parse_body(message.headers, message.body)
    assert (text.content_type.name, text.body) == ("text/plain", b"Hello")
    assert signature.content_type.name == "application/octet-stream"
    assert signature.body.startswith(b"0\x82")
    assert len(signature.body) > 300


def test_headers_are_refused_when_they_are_needed() -> None:
    with pytest.raises(SipError, match="Contact: an address without angle brackets is not a plain URI"):
        _ = request("regbadct").contact
    contact = request("cparam01").contact
    assert contact is not None
    assert contact.params == {"unknownparam": None}
    contact = request("cparam02").contact
    assert contact is not None
    assert contact.params == {}
    contact = request("regescrt").contact
    assert contact is not None
    assert contact.uri.endswith("?Route=%3Csip:sip.example.com%3E")


def test_bodies_of_unknown_types_are_handed_up() -> None:
    message = request("invut")
    try:
        (part,) = parse_body(message.headers, message.body)
    except MultipartError as error:
        pytest.fail(error.reason)
    assert part.content_type.name == "application/unknownformat"
