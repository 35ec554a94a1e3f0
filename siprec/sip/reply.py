"""How a response is made from its request (RFC 3261 sections 8.2.6 and 18.2, RFC 3581)."""

import re
from collections.abc import Sequence

from siprec.errors import SipError
from siprec.sip.dialog import DEFAULT_PORT
from siprec.sip.flow import Flow
from siprec.sip.grammar import encode, format_host
from siprec.sip.headers import Via
from siprec.sip.message import VERSION, Request

MAGIC_COOKIE = "z9hg4bk"
# Headers of one response that are the same lines as in the request, in this order (8.2.6.2).
_ECHOED = ("From", "To", "Call-ID", "CSeq")

# RFC 3261 section 21 and the RFCs that add to it; the ones this project sends or meets.
REASONS = {
    100: "Trying",
    180: "Ringing",
    181: "Call Is Being Forwarded",
    182: "Queued",
    183: "Session Progress",
    200: "OK",
    202: "Accepted",
    300: "Multiple Choices",
    301: "Moved Permanently",
    302: "Moved Temporarily",
    305: "Use Proxy",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    407: "Proxy Authentication Required",
    408: "Request Timeout",
    410: "Gone",
    413: "Request Entity Too Large",
    414: "Request-URI Too Long",
    415: "Unsupported Media Type",
    416: "Unsupported URI Scheme",
    420: "Bad Extension",
    421: "Extension Required",
    422: "Session Interval Too Small",
    423: "Interval Too Brief",
    469: "Bad Info Package",
    480: "Temporarily Unavailable",
    481: "Call/Transaction Does Not Exist",
    482: "Loop Detected",
    483: "Too Many Hops",
    484: "Address Incomplete",
    485: "Ambiguous",
    486: "Busy Here",
    487: "Request Terminated",
    488: "Not Acceptable Here",
    491: "Request Pending",
    493: "Undecipherable",
    500: "Server Internal Error",
    501: "Not Implemented",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Server Time-out",
    505: "Version Not Supported",
    513: "Message Too Large",
    600: "Busy Everywhere",
    603: "Decline",
    604: "Does Not Exist Anywhere",
    606: "Not Acceptable",
}

# Parameters of the topmost Via that are ours to write: whatever the sender put there is replaced. A quoted
# value is skipped whole, so that nothing in it is taken for a parameter or for the next Via.
_OURS = re.compile(r";[ \t]*(?:received|rport)[ \t]*(?:=[ \t]*[^;,\" \t]*)?(?=[ \t]*(?:[;,]|$))", re.IGNORECASE)
# Empty elements before it count for nothing (7.3.1).
_TOPMOST = re.compile(r'[ \t,]*+(?:[^,"]|"(?:[^"\\]|\\.)*")*+', re.DOTALL)


def server_key(request: Request) -> tuple[str, ...]:
    """What a request's server transaction is found by (17.2.3); an ACK finds its INVITE's.

    A branch without the magic cookie identifies nothing (RFC 2543): then the headers together do.
    """
    via = request.via
    method = "INVITE" if request.method == "ACK" else request.method
    branch = via.branch or ""
    if len(branch) > len(MAGIC_COOKIE) and branch.lower().startswith(MAGIC_COOKIE):
        return branch, via.sent_by, method
    top = request.headers.get("Via") or ""
    return "", request.call_id, str(request.cseq.number), request.from_.tag or "", top, method


def merge_key(request: Request) -> tuple[str, ...]:
    """Equal for a request that came twice over different paths (8.2.2.2)."""
    return request.from_.tag or "", request.call_id, str(request.cseq.number), request.method


def reply_flow(via: Via, flow: Flow) -> Flow:
    """Where the response goes: to the source address, nowhere else (18.2.2; `maddr` would let a request aim
    it at others). Over UDP to the source port if `rport` asks for it (RFC 3581 section 4), else to sent-by's.
    """
    if flow.reliable or "rport" in via.params:
        return flow
    return Flow(flow.transport, flow.local, (flow.remote[0], via.port or DEFAULT_PORT))


def echo(request: Request, flow: Flow, tag: str) -> list[tuple[str, str]]:
    """The lines that every response repeats, byte for byte but for what we add: `received` and `rport` in the
    topmost Via, our tag in To. Headers that a broken request lacks are left out.
    """
    headers = request.headers
    vias = headers.all("Via")
    lines = [("Via", _stamped(vias[0], request.via, flow)), *(("Via", via) for via in vias[1:])]
    for name in _ECHOED:
        value = headers.get(name)
        if value is not None:
            lines.append((name, _tagged(value, request, tag) if name == "To" else value))
    return lines


def _stamped(line: str, via: Via, flow: Flow) -> str:
    top = _TOPMOST.match(line)
    cut = top.end() if top else len(line)
    host, port = flow.remote
    stamp = f";received={host}"
    if "rport" in via.params:
        stamp = f";rport={port}{stamp}"
    elif via.host == host and "received" not in via.params:
        return line
    return _OURS.sub("", line[:cut]).rstrip(" \t;") + stamp + line[cut:]


def _tagged(value: str, request: Request, tag: str) -> str:
    try:
        present = request.to.tag is not None
    except SipError:  # a To that cannot be read is echoed as it is
        present = True
    return value if present else f"{value};tag={tag}"


def response(status: int, lines: Sequence[tuple[str, str]], *, reason: str | None = None, body: bytes = b"") -> bytes:
    """A response of `lines`; the reason phrase is the usual one unless given. Written straight to bytes: most lines are
    echoes that need no look-up any more. Raises ValueError for a line end in a line, which would forge headers.
    """
    text = REASONS.get(status, "") if reason is None else reason
    head = [f"{VERSION} {status} {text}", *[f"{name}: {value}" for name, value in lines]]
    head.append(f"Content-Length: {len(body)}\r\n\r\n")
    written = "\r\n".join(head)
    if written.count("\n") != len(head) + 1 or written.count("\r") != len(head) + 1:
        raise ValueError("a header may hold no line end")
    return encode(written) + body


def sent_by(flow: Flow) -> str:
    """Our host and port as a Via or Contact shows them."""
    return f"{format_host(flow.local[0])}:{flow.local[1]}"


def own_contact(flow: Flow) -> str:
    """The Contact value by which we are reached where a request came in."""
    transport = "" if flow.transport == "udp" else f";transport={flow.transport}"
    return f"<sip:{sent_by(flow)}{transport}>"
