"""RFC 5118, all 12 IPv6 torture messages, message by message: what the message layer makes of each.

The messages lie beside the checkout, never in it.
"""

from pathlib import Path

import pytest

from siprec.sip.headers import Via
from siprec.sip.message import MessageError, Request, parse
from siprec.sip.uri import SipUri

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "rfc5118"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the RFC 5118 messages do not lie beside the checkout")

# Request-URI host and port, topmost Via host and port; None for the one message that is refused.
EXPECTED = {
    "ipv6-good": ("2001:db8::10", None, "2001:db8::9:1", None),  # 4.1
    "ipv6-bad": None,  # 4.2: without brackets it is no address
    "port-ambiguous": ("2001:db8::10:5070", None, "2001:db8::9:1", None),  # 4.3: legal, and all of it is the address
    "port-unambiguous": ("2001:db8::10", 5070, "2001:db8::9:1", None),  # 4.4
    "via-received-param-with-delim": ("2001:db8::10", None, "2001:db8::9:1", None),  # 4.5
    "via-received-param-no-delim": ("2001:db8::10", None, "2001:db8::9:1", None),  # 4.5
    "ipv6-in-sdp": ("2001:db8::10", None, "2001:db8::20", None),  # 4.6
    "mult-ip-in-header": ("host.example.net", None, "2001:db8::9:1", 6050),  # 4.7
    "mult-ip-in-sdp": ("2001:db8::10", None, "2001:db8::9:1", None),  # 4.8
    "ipv4-mapped-ipv6": ("example.com", None, "::ffff:192.0.2.10", 19823),  # 4.9
    "ipv6-bug-abnf-3-colons": ("2001:db8:::192.0.2.1", None, "lab1.east.example.com", None),  # 4.10: be liberal
    "ipv6-correct-abnf-2-colons": ("2001:db8::192.0.2.1", None, "lab1.east.example.com", None),  # 4.10
}


def request(name: str) -> Request:
    message = parse((FIXTURES / f"{name}.dat").read_bytes())
    assert isinstance(message, Request)
    return message


def test_all_are_here() -> None:
    assert {path.stem for path in FIXTURES.glob("*.dat")} == set(EXPECTED)
    assert len(EXPECTED) == 12


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if expected])
def test_taken(name: str) -> None:
    message = request(name)
    uri, via = message.request_uri, message.via
    assert (uri.host, uri.port, via.host, via.port) == EXPECTED[name]
    assert str(uri) == message.uri
    assert parse(bytes(message)).via == via


def test_an_address_without_brackets_is_refused_and_answered() -> None:
    with pytest.raises(MessageError) as caught:
        request("ipv6-bad")
    assert (caught.value.status, caught.value.reason) == (400, "Request-URI: a URI has no valid host")
    assert caught.value.partial is not None


@pytest.mark.parametrize("name", ["via-received-param-with-delim", "via-received-param-no-delim"])
def test_received_with_and_without_brackets(name: str) -> None:
    assert request(name).via.received == "2001:db8::9:255"


def test_mixed_hops() -> None:
    hops = [Via.parse(value) for value in request("mult-ip-in-header").headers.values("Via")]
    assert [(hop.transport, hop.host) for hop in hops] == [
        ("UDP", "2001:db8::9:1"),
        ("UDP", "192.0.2.1"),
        ("TCP", "2001:db8::9:255"),
    ]
    assert hops[2].received == "192.0.2.200"


def test_contact_with_a_mapped_address() -> None:
    contact = request("ipv4-mapped-ipv6").contact
    assert contact is not None
    assert SipUri.parse(contact.uri).host == "::ffff:192.0.2.2"
