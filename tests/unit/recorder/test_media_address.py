"""Which address our SDP names: one that packets reach the sockets at (RFC 3264 section 6.1)."""

import ipaddress
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from siprec.errors import SdpError
from siprec.media.ports import PortPool
from siprec.recorder.intake import Ports, local_address_towards
from siprec.recorder.negotiation import IpAddress, Negotiation
from siprec.sdp import model
from siprec.session.keyring import SECRET_BYTES, Keyring
from siprec.session.model import CallData

ANY, ANY6 = "0.0.0.0", "::"
SOURCE, LOCAL = "127.0.0.20", "127.0.0.60"
REMOTE = "m=audio 40000 RTP/AVP 0\r\na=sendonly\r\n"

Make = Callable[..., Negotiation]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def negotiation(*bound: str, external: tuple[str, ...] = (), source: str = SOURCE) -> Negotiation:
            families = {version: [each for each in bound if (":" in each) == (version == 6)] for version in (4, 6)}
            pools = {
                version: PortPool(hosts[0], 42_200, 42_399, also=hosts[1:])
                for version, hosts in families.items()
                if hosts
            }
            ports = Ports(pools)
            stack.callback(ports.close)
            named: list[IpAddress] = [ipaddress.ip_address(each) for each in external]
            data = CallData("0198", "here", source, "trunk", "a@example.com", 1)
            return Negotiation(
                data,
                ports=ports,
                external=named,
                source=source,
                entropy=os.urandom,
                keyring=Keyring(bytes(SECRET_BYTES)),
            )

        yield negotiation


def offer(*addresses: str) -> bytes:
    """One m-line at each address."""
    lines = "".join(f"{REMOTE}c=IN {model.address_type(each)} {each}\r\n" for each in addresses)
    return f"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nt=0 0\r\n{lines}".encode()


def named(text: str) -> set[str | None]:
    """Every address in our SDP, that of o= too."""
    description = model.parse(text)
    return {description.origin.address, *(each.address for each in description.media)}


def answered(negotiation: Negotiation, *addresses: str, local: str = LOCAL) -> set[str | None]:
    prepared = negotiation.prepare(offer(*addresses), local)
    shown = {each.address for each in prepared.channels}
    negotiation.release(prepared)
    assert shown == {each.address for each in model.parse(prepared.text).media}
    return named(prepared.text)


@pytest.mark.parametrize("remote", [SOURCE, "127.0.0.1", "10.0.0.7", "0.0.0.0"])
def test_what_is_bound_to_one_address_is_reached_there(make: Make, remote: str) -> None:
    assert answered(make("127.0.0.50"), remote) == {"127.0.0.50"}


@pytest.mark.parametrize("bound", ["127.0.0.50", ANY])
def test_external_ip_comes_first(make: Make, bound: str) -> None:
    assert answered(make(bound, external=("198.51.100.5", "2001:db8::5")), SOURCE) == {"198.51.100.5"}


def test_external_ip_of_the_other_family_does_not_count(make: Make) -> None:
    assert answered(make("127.0.0.50", external=("2001:db8::5",)), SOURCE) == {"127.0.0.50"}


def test_a_wildcard_is_reached_where_the_request_came(make: Make) -> None:
    assert answered(make(ANY), SOURCE) == {LOCAL}


def test_a_wildcard_of_another_family_is_reached_by_the_route(make: Make) -> None:
    """The signalling is IPv4; the host's own IPv6 address is the one that the kernel would send from."""
    assert answered(make(ANY, ANY6), "::1") == {"::1"}


@pytest.mark.parametrize("local", [ANY, "127.0.0.1"])
def test_a_proxy_beside_us_does_not_tell_where_others_reach_us(make: Make, local: str) -> None:
    try:
        route = local_address_towards("192.0.2.77")
    except SdpError:
        pytest.skip("this machine has no route")
    assert answered(make(ANY), "192.0.2.77", local=local) == {route}


def test_each_family_has_its_address(make: Make) -> None:
    assert answered(make("127.0.0.50", "::1"), "127.0.0.1", "::1") == {"127.0.0.50", "::1"}
    assert answered(make("127.0.0.50", "::1"), "::1") == {"::1"}


def test_of_several_it_is_the_one_that_the_request_came_to(make: Make) -> None:
    negotiation = make("127.0.0.50", LOCAL, "::1")
    assert answered(negotiation, SOURCE) == {LOCAL}
    assert answered(negotiation, SOURCE, local="127.0.0.50") == {"127.0.0.50"}
    assert answered(negotiation, SOURCE, local="::1") == {"127.0.0.50"}
    assert answered(negotiation, "::1") == {"::1"}
    assert named(negotiation.propose([None], LOCAL)) == {LOCAL}
    negotiation.withdraw()


@pytest.mark.parametrize(("bound", "shown"), [("127.0.0.50", "127.0.0.50"), (ANY, LOCAL)])
def test_our_offer_names_it_too(make: Make, bound: str, shown: str) -> None:
    negotiation = make(bound)
    ours = negotiation.propose([None, "2"], LOCAL)
    assert named(ours) == {shown}
    prepared = negotiation.conclude(offer("127.0.0.1", "10.0.0.7"))
    assert [each.address for each in prepared.channels] == [shown, shown]
    negotiation.release(prepared)
