"""Dialogs as data: tags, routing (RFC 3261 12.2.1.1), the next hop."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip.core import Dialogs
from siprec.sip.dialog import Dialog, DialogKey, next_hop, route, with_tag, without_tag
from siprec.sip.flow import Flow, Transport
from siprec.sip.headers import NameAddr

FLOW = Flow("udp", ("192.0.2.2", 5060), ("192.0.2.1", 5060))


def dialog(**changes: object) -> Dialog:
    made = Dialog(
        call_id="call",
        local_tag="ours",
        remote_tag="theirs",
        local_uri="<sip:bob@example.com>",
        remote_uri="Alice <sip:alice@example.com>",
        remote_target="sip:alice@192.0.2.1",
        flow=FLOW,
        role="uas",
    )
    for name, value in changes.items():
        setattr(made, name, value)
    return made


# --- tags --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "bare"),
    [
        ("<sip:a@example.com>;tag=1", "<sip:a@example.com>"),
        ("<sip:a@example.com;tag=uri>;tag=1;x=y", "<sip:a@example.com;tag=uri>;x=y"),
        ("sip:a@example.com;Tag = 1", "sip:a@example.com"),  # without <> the parameters are the header's
        ('"Bob ;tag=no" <sip:a@example.com> ; tag=1', '"Bob ;tag=no" <sip:a@example.com> '),
        ("<sip:a@example.com>", "<sip:a@example.com>"),
    ],
)
def test_a_tag_is_taken_out_and_nothing_else(value: str, bare: str) -> None:
    assert without_tag(value) == bare


@given(st.from_regex(r"[A-Za-z0-9\-.!%*_+`'~]{1,40}", fullmatch=True))
def test_a_tag_put_on_is_read_back(tag: str) -> None:
    value = with_tag("Alice <sip:alice@example.com>;x=y", tag)
    assert NameAddr.parse(value).tag == tag
    assert without_tag(value) == "Alice <sip:alice@example.com>;x=y"


def test_an_rfc2543_peer_has_no_tag() -> None:
    assert dialog(remote_tag="").remote() == "Alice <sip:alice@example.com>"
    assert dialog().remote() == "Alice <sip:alice@example.com>;tag=theirs"
    assert dialog().local() == "<sip:bob@example.com>;tag=ours"


# --- routing -----------------------------------------------------------------------------------------------


def test_without_routes_a_request_goes_to_the_target() -> None:
    assert route(dialog()) == ("sip:alice@192.0.2.1", [], "sip:alice@192.0.2.1")


def test_a_loose_router_gets_the_target_as_request_uri() -> None:
    routes = ["<sip:192.0.2.9;lr>", "<sip:192.0.2.10;lr>"]
    assert route(dialog(route_set=routes)) == ("sip:alice@192.0.2.1", routes, "sip:192.0.2.9;lr")


def test_a_strict_router_gets_itself_as_request_uri() -> None:
    routes = ["<sip:192.0.2.9?x=y>", "<sip:192.0.2.10;lr>"]
    uri, rest, hop = route(dialog(route_set=routes))
    assert uri == "sip:192.0.2.9"
    assert rest == ["<sip:192.0.2.10;lr>", "<sip:alice@192.0.2.1>"]
    assert hop == "sip:192.0.2.9?x=y"


@pytest.mark.parametrize(
    ("hop", "transport", "remote"),
    [
        ("sip:alice@192.0.2.7", "udp", ("192.0.2.7", 5060)),
        ("sip:alice@192.0.2.7:5070", "udp", ("192.0.2.7", 5070)),
        ("sip:alice@[2001:db8::1]:5070", "udp", ("2001:db8::1", 5070)),
        ("sip:alice@192.0.2.7;transport=TCP", "tcp", ("192.0.2.7", 5060)),
        ("sips:alice@192.0.2.7", "tls", ("192.0.2.7", 5061)),
        ("sip:alice@192.0.2.7;transport=tls", "tls", ("192.0.2.7", 5061)),
        ("sip:alice@192.0.2.7;maddr=192.0.2.8", "udp", ("192.0.2.7", 5060)),
        ("sip:alice@sbc.example.com:5070", "udp", FLOW.remote),
        ("tel:+15550100", "udp", FLOW.remote),
        ("nonsense", "udp", FLOW.remote),
    ],
)
def test_the_next_hop(hop: str, transport: Transport, remote: tuple[str, int]) -> None:
    assert next_hop(hop, FLOW, may_send_to=lambda _: True) == Flow(transport, FLOW.local, remote)


def test_an_unlisted_hop_is_replaced_by_where_the_peer_was_heard() -> None:
    assert next_hop("sip:x@198.51.100.1", FLOW, may_send_to=lambda ip: ip != "198.51.100.1") == FLOW


def test_a_standing_connection_is_used_whatever_the_target_says() -> None:
    flow = Flow("tcp", FLOW.local, FLOW.remote, 7)
    assert next_hop("sip:x@192.0.2.7", flow, may_send_to=lambda _: True) == flow


# --- the table ---------------------------------------------------------------------------------------------


def test_a_broken_connection_is_forgotten_by_its_dialogs_only() -> None:
    table = Dialogs()
    first = table.add(dialog(flow=Flow("tcp", FLOW.local, FLOW.remote, 7)))
    other = table.add(dialog(call_id="other", flow=Flow("tcp", FLOW.local, FLOW.remote, 8)))
    table.disconnected(Flow("tcp", FLOW.local, FLOW.remote, 7))
    assert first.dialog.flow.connection == 0
    assert other.dialog.flow.connection == 8
    table.move(other, Flow("tcp", FLOW.local, FLOW.remote, 9))
    table.disconnected(Flow("tcp", FLOW.local, FLOW.remote, 8))
    assert other.dialog.flow.connection == 9
    table.remove(other)
    table.disconnected(Flow("tcp", FLOW.local, FLOW.remote, 9))
    assert list(table) == [DialogKey("call", "ours", "theirs")]
    assert len(table) == 1
