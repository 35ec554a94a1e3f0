"""What a request must pass before the user sees it (RFC 3261 sections 8.2.1 to 8.2.3, 12.2.2, 14.2).

Each check is a function of its own, run in the order of the tuple it stands in; the first refusal counts.
"""

from collections.abc import Callable
from typing import NamedTuple

from siprec.sip.core import GLARE_RETRY_SECONDS, Core, Record
from siprec.sip.headers import NameAddr
from siprec.sip.message import Request
from siprec.sip.uri import SipUri

SCHEMES = frozenset(("sip", "sips", "tel"))
# Methods that exist (RFCs 3261, 3262, 3311, 3428, 3515, 3903, 6086, 6665): 405 when not allowed, others 501.
KNOWN_METHODS = frozenset(
    (
        *("INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO"),
        *("MESSAGE", "REFER", "PUBLISH", "SUBSCRIBE", "NOTIFY"),
    )
)
# Meaningless outside a dialog.
DIALOG_METHODS = frozenset(("BYE", "PRACK", "UPDATE", "INFO"))


class Refusal(NamedTuple):
    """A final response that the endpoint gives by itself."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


def glare(core: Core) -> Refusal:
    """500 with a random Retry-After (14.2, RFC 3311 5.2)."""
    return Refusal(500, (("Retry-After", str(core.draw(GLARE_RETRY_SECONDS))),))


# ---------------------------------------------------------------------------------------------------------
# Any request
# ---------------------------------------------------------------------------------------------------------


def check_method(core: Core, request: Request) -> Refusal | None:
    if request.method in core.identity.methods:
        return None
    if request.method in KNOWN_METHODS:
        return Refusal(405, (("Allow", ", ".join(core.identity.methods)),))
    return Refusal(501, (("Allow", ", ".join(core.identity.methods)),))


def check_scheme(core: Core, request: Request) -> Refusal | None:
    scheme = request.uri.partition(":")[0].lower()
    return None if scheme in SCHEMES else Refusal(416)


def check_require(core: Core, request: Request) -> Refusal | None:
    unknown = sorted(required(core, request).difference(core.identity.supported))
    return Refusal(420, (("Unsupported", ", ".join(unknown)),)) if unknown else None


def check_addresses(core: Core, request: Request) -> Refusal | None:
    """What a dialog would be built from. Raises SipError(400) when it cannot be read."""
    if request.method in ("INVITE", "UPDATE"):
        _ = request.contact
    for value in request.headers.values("Record-Route"):
        SipUri.parse(NameAddr.parse(value).uri)
    return None


REQUEST_CHECKS: tuple[Callable[[Core, Request], Refusal | None], ...] = (
    check_method,
    check_scheme,
    check_require,
    check_addresses,
)


def required(core: Core, request: Request) -> set[str]:
    """Option tags of Require, in lower case. Cisco CUBE was seen to glue two together ("100relsiprec")."""
    tags: set[str] = set()
    for tag in request.headers.values("Require"):
        tags.update(_unglued(tag.lower(), core.identity.supported))
    return tags


def _unglued(tag: str, supported: tuple[str, ...]) -> tuple[str, ...]:
    if tag not in supported:
        for known in supported:
            if tag.startswith(known) and tag.removeprefix(known) in supported:
                return known, tag.removeprefix(known)
    return (tag,)


# ---------------------------------------------------------------------------------------------------------
# Requests in a dialog
# ---------------------------------------------------------------------------------------------------------


def check_state(core: Core, request: Request, record: Record) -> Refusal | None:
    """A dialog that we have ended takes nothing but the peer's own BYE, which crossed ours."""
    if record.dialog.state != "terminated":
        return None
    return Refusal(200 if request.method == "BYE" else 481)


def check_order(core: Core, request: Request, record: Record) -> Refusal | None:
    """12.2.2: lower is out of order. Equal is let in: another process may have seen the request before us."""
    return Refusal(500) if request.cseq.number < record.dialog.remote_cseq else None


def check_invite(core: Core, request: Request, record: Record) -> Refusal | None:
    """14.2: one INVITE at a time in each direction."""
    if request.method != "INVITE":
        return None
    if "INVITE" in record.incoming:
        return glare(core)
    return Refusal(491) if "INVITE" in record.outgoing else None


def check_update(core: Core, request: Request, record: Record) -> Refusal | None:
    """RFC 3311 section 5.2."""
    if request.method != "UPDATE":
        return None
    if "UPDATE" in record.incoming:
        return glare(core)
    if not has_offer(request):
        return None
    if _offered(record):
        return Refusal(491)
    return glare(core) if "INVITE" in record.incoming else None


DIALOG_CHECKS: tuple[Callable[[Core, Request, Record], Refusal | None], ...] = (
    check_state,
    check_order,
    check_invite,
    check_update,
)


def has_offer(request: Request) -> bool:
    """Whether the body holds a session description, alone or in a multipart (looked for, not parsed)."""
    kind = (request.headers.get("Content-Type") or "").lower()
    if kind.startswith("multipart/"):
        return b"application/sdp" in request.body.lower()
    return kind.startswith("application/sdp") and bool(request.body)


def _offered(record: Record) -> bool:
    return any(has_offer(transaction.request) for transaction in record.outgoing.values())
