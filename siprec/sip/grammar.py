"""The pieces of the SIP grammar that several parsers share (RFC 3261 section 25.1).

Everything works on `str` decoded from UTF-8 with surrogateescape, so that bytes which are not UTF-8 survive an
echo. White space is SP and HTAB only: `str.strip()` without arguments, `\\s` and `splitlines()` would also take
characters such as U+0085 or U+00A0, which are ordinary text in SIP. Patterns use possessive repetition, so none
of them backtracks over hostile input.
"""

import re

LWS = " \t"
"""What separates tokens once lines are unfolded (RFC 3261 section 25.1, LWS and SWS)."""

TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]++")
"""token, RFC 3261 section 25.1."""

QUOTED = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL)
"""quoted-string; group 1 is the text with its escapes. Any byte is taken inside: display names carry raw UTF-8."""

HEAD_END = re.compile(rb"\n\r?\n")
"""The empty line after the headers. A bare LF ends a line too: some gateways write headers with it."""

_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_FOLD = re.compile(rb"\r?\n[ \t]++")
_BARE_VALUE = re.compile(r"[A-Za-z0-9\-.!%*_+`'~\[\]:]++")
# A quote or an angle bracket that is never closed swallows the rest: what follows cannot be told apart safely.
_SKIP = r'|"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_ELEMENT = re.compile(rf'(?:[^,"<]++{_SKIP}|<[^>]*+(?:>|\Z))*+', re.DOTALL)
_PARAMETER = re.compile(rf'(?:[^;"]++{_SKIP})*+', re.DOTALL)

COMPACT_FORMS = {
    "a": "Accept-Contact",  # RFC 3841
    "b": "Referred-By",  # RFC 3892
    "c": "Content-Type",
    "d": "Request-Disposition",  # RFC 3841
    "e": "Content-Encoding",
    "f": "From",
    "i": "Call-ID",
    "j": "Reject-Contact",  # RFC 3841
    "k": "Supported",
    "l": "Content-Length",
    "m": "Contact",
    "n": "Identity-Info",  # RFC 4474
    "o": "Event",  # RFC 6665
    "r": "Refer-To",  # RFC 3515
    "s": "Subject",
    "t": "To",
    "u": "Allow-Events",  # RFC 6665
    "v": "Via",
    "x": "Session-Expires",  # RFC 4028
    "y": "Identity",  # RFC 8224
}
"""Compact header names (RFC 3261 section 7.3.3 and the RFCs named)."""

_USUAL_NAMES = (
    *COMPACT_FORMS.values(),
    *("Accept", "Allow", "Call-Info", "Content-Disposition", "CSeq", "Date", "Diversion", "Expires"),
    *("Max-Forwards", "MIME-Version", "Min-SE", "P-Asserted-Identity", "RAck", "Reason", "Record-Route"),
    *("Recv-Info", "Remote-Party-ID", "Replaces", "Require", "Retry-After", "Route", "RSeq", "Server"),
    *("Session-ID", "Timestamp", "Unsupported", "User-Agent", "User-to-User", "Warning"),
)
KEYS = {spelling: name.lower() for name in _USUAL_NAMES for spelling in (name, name.lower())} | {
    spelling: name.lower() for letter, name in COMPACT_FORMS.items() for spelling in (letter, letter.upper())
}
"""What `header_key` makes of the usual names, as they are usually spelt."""


def header_key(name: str) -> str:
    """The one key under which all spellings of a header name meet: lower case, compact form written out."""
    return KEYS.get(name) or name.lower()


def unfold(head: bytes) -> bytes:
    """Join continuation lines, each fold becoming one space (RFC 3261 section 7.3.1)."""
    if b"\n " in head or b"\n\t" in head:
        return _FOLD.sub(b" ", head)
    return head


def decode(octets: bytes) -> str:
    """Text of header bytes; `encode` gives back the same bytes whatever they were."""
    return octets.decode("utf-8", "surrogateescape")


def encode(text: str) -> bytes:
    """Inverse of `decode`."""
    return text.encode("utf-8", "surrogateescape")


def split_elements(text: str) -> list[str]:
    """Elements of a comma-separated header value; commas in quotes and in <> do not count. Empty ones are dropped."""
    if "," not in text:
        pieces = [text]
    elif '"' not in text and "<" not in text:
        pieces = text.split(",")
    else:
        pieces = _cut(text, _ELEMENT)
    return [element for piece in pieces if (element := piece.strip(LWS))]


def split_parameters(text: str) -> list[str]:
    """Pieces between semicolons; those in quotes do not count. Nothing is stripped or dropped."""
    if '"' not in text:
        return text.split(";")
    return _cut(text, _PARAMETER)


def quote(text: str) -> str:
    """`text` as a quoted-string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def unquote(text: str) -> str:
    """Inside of a quoted-string without its escapes."""
    return "".join(_ESCAPED.split(text)) if "\\" in text else text


def format_parameters(params: dict[str, str | None]) -> str:
    """`;name=value` for each; a value is quoted when it is neither token nor host (RFC 3261 gen-value)."""
    return "".join(f";{name}" if value is None else f";{name}={_value(value)}" for name, value in params.items())


def format_host(host: str) -> str:
    """An IPv6 address gets its brackets back (IPv6reference)."""
    return f"[{host}]" if ":" in host else host


def _value(value: str) -> str:
    return value if _BARE_VALUE.fullmatch(value) else quote(value)


def _cut(text: str, piece: re.Pattern[str]) -> list[str]:
    """Cut at the one character that `piece` stops at."""
    pieces = []
    at = 0
    while match := piece.match(text, at):
        pieces.append(match[0])
        at = match.end() + 1
        if at > len(text):
            break
    return pieces
