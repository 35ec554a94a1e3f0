"""Our Contact: an SRS of the right scheme, where the request came to."""

from __future__ import annotations

import ipaddress

import pytest

from siprec.recorder.facilities import contact
from siprec.sip.events import RequestReceived
from siprec.sip.flow import Flow, Transport
from siprec.sip.message import Headers, Request


def received(uri: str = "sip:srs@192.0.2.9", transport: Transport = "udp", **headers: str) -> RequestReceived:
    request = Request("INVITE", uri, Headers((name.replace("_", "-"), value) for name, value in headers.items()))
    return RequestReceived("1", request, Flow(transport, ("192.0.2.9", 5061), ("192.0.2.1", 5061)), None)


@pytest.mark.parametrize(
    ("uri", "headers"),
    [
        ("sips:srs@192.0.2.9", {}),
        ("sip:srs@192.0.2.9", {"Contact": "<sips:src@192.0.2.1>;+sip.src"}),
        (
            "sip:srs@192.0.2.9",
            {"Record_Route": "<sips:192.0.2.3;lr>, <sip:192.0.2.4;lr>", "Contact": "<sip:192.0.2.1>"},
        ),
    ],
)
def test_a_sips_request_is_answered_with_sips(uri: str, headers: dict[str, str]) -> None:
    """RFC 3261 section 12.1.1."""
    assert contact(received(uri, "tls", **headers)) == "<sips:192.0.2.9:5061>;+sip.srs"
    assert contact(received(uri, "udp", **headers)) == "<sip:192.0.2.9:5061>;+sip.srs"  # no TLS would reach us there


def test_the_topmost_record_route_decides_before_the_contact() -> None:
    headers = {"Record_Route": "<sip:192.0.2.3;lr>", "Contact": "<sips:192.0.2.1>"}
    assert contact(received(transport="tls", **headers)) == "<sip:192.0.2.9:5061;transport=tls>;+sip.srs"


def test_the_external_address_stands_for_ours() -> None:
    external = (ipaddress.ip_address("198.51.100.5"), ipaddress.ip_address("2001:db8::5"))
    assert contact(received(), external) == "<sip:198.51.100.5:5061>;+sip.srs"
