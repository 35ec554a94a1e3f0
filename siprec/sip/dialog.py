"""Dialogs (RFC 3261 section 12): the state two user agents share, and what it says about the next request.

A `Dialog` is plain data, to be stored and restored by another process. What only matters while a
transaction runs is kept beside it by the endpoint.
"""

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from siprec.errors import SipError
from siprec.sip.flow import Flow, Transport
from siprec.sip.grammar import format_parameters
from siprec.sip.headers import NameAddr
from siprec.sip.uri import SipUri

DEFAULT_PORT = 5060
DEFAULT_TLS_PORT = 5061


class DialogKey(NamedTuple):
    """What names a dialog at our side (RFC 3261 section 12)."""

    call_id: str
    local_tag: str
    remote_tag: str


@dataclass(frozen=True, slots=True)
class LastInvite:
    """The last INVITE that we answered with a 2xx, so that another process can repeat that answer.

    `answer` is the 2xx as sent; it is dropped (empty) once `acked`, since nobody needs it any more.
    """

    branch: str
    sent_by: str
    cseq: int
    from_tag: str
    answer: bytes
    acked: bool = False


@dataclass(slots=True)
class Dialog:
    """One dialog. `local_uri` and `remote_uri` are From and To values as first seen, without their tags.

    `remote_cseq` is 0 until the peer has sent a request. `contact` is the Contact value we give in it.
    """

    call_id: str
    local_tag: str
    remote_tag: str
    local_uri: str
    remote_uri: str
    remote_target: str
    flow: Flow
    role: Literal["uas", "uac"]
    route_set: list[str] = field(default_factory=list)
    local_cseq: int = 0
    remote_cseq: int = 0
    state: Literal["early", "confirmed", "terminated"] = "early"
    contact: str = ""
    last_invite: LastInvite | None = None

    @property
    def key(self) -> DialogKey:
        return DialogKey(self.call_id, self.local_tag, self.remote_tag)

    def local(self) -> str:
        """Our From (or To) value with our tag."""
        return with_tag(self.local_uri, self.local_tag)

    def remote(self) -> str:
        """The peer's To (or From) value with its tag; an RFC 2543 peer has none."""
        return with_tag(self.remote_uri, self.remote_tag) if self.remote_tag else self.remote_uri


# ---------------------------------------------------------------------------------------------------------
# From and To values are kept as received (never re-serialised); only the tag comes and goes.
# ---------------------------------------------------------------------------------------------------------

_TAG = re.compile(r";\s*tag\s*=\s*[^;,\s>]*", re.IGNORECASE)


def with_tag(value: str, tag: str) -> str:
    """A From or To value with `tag` appended; without <> it is a header parameter all the same (20.10)."""
    return value + format_parameters({"tag": tag})


def without_tag(value: str) -> str:
    """A From or To value without its tag parameter, the rest untouched."""
    head, bracket, params = value.rpartition(">")
    return head + bracket + _TAG.sub("", params)


# ---------------------------------------------------------------------------------------------------------
# Requests within a dialog: request URI, Route and next hop (RFC 3261 section 12.2.1.1)
# ---------------------------------------------------------------------------------------------------------


class Routing(NamedTuple):
    """How the next request of a dialog goes out: `hop` is the URI whose address takes it."""

    request_uri: str
    routes: list[str]
    hop: str


def route(dialog: Dialog) -> Routing:
    """Request URI and Route values; a first route without `lr` is a strict router (RFC 2543)."""
    if not dialog.route_set:
        return Routing(dialog.remote_target, [], dialog.remote_target)
    first = NameAddr.parse(dialog.route_set[0]).uri
    if "lr" in SipUri.parse(first).params:
        return Routing(dialog.remote_target, dialog.route_set, first)
    # A strict router wants its own URI as request URI, without what a request URI may not hold (19.1.1).
    rest = [*dialog.route_set[1:], f"<{dialog.remote_target}>"]
    return Routing(first.partition("?")[0], rest, first)


def next_hop(hop: str, flow: Flow, *, may_send_to: Callable[[str], bool]) -> Flow:
    """The flow to the URI `hop`, for a dialog whose peer was last heard on `flow`.

    The peer's own connection is used as long as it stands: it passes every firewall. Without one, an IP
    literal that `may_send_to` is followed (RFC 3261 8.1.2). Names are never looked up, since a resolver
    blocks: the address that the dialog's requests come from is where its peer lives.
    """
    if flow.connection:
        return flow
    try:
        uri = SipUri.parse(hop)
        host = str(ipaddress.ip_address(uri.host))
    except (SipError, ValueError):
        return flow
    transport = _hop_transport(uri, flow.transport)
    port = uri.port or (DEFAULT_TLS_PORT if transport == "tls" else DEFAULT_PORT)
    if not 1 <= port <= 65535 or not may_send_to(host):
        return flow
    return Flow(transport, flow.local, (host, port))


def _hop_transport(uri: SipUri, current: Transport) -> Transport:
    """TLS for sips, else the URI's transport parameter, else the one in use (RFC 3263 section 4.1)."""
    if uri.scheme == "sips":
        return "tls"
    return _TRANSPORTS.get((uri.params.get("transport") or "").lower(), current)


_TRANSPORTS: dict[str, Transport] = {"udp": "udp", "tcp": "tcp", "tls": "tls"}
