"""SIP and SIPS URIs (RFC 3261 section 19.1); other schemes are carried but not understood."""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Self

from siprec.errors import SipError
from siprec.sip.grammar import format_host

# Underscores are no part of a host name, but Windows and container names bring them.
_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]++)\]|([A-Za-z0-9\-._]++))(?::([0-9]{1,5}))?", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+\-.]*+", re.ASCII)
# Controls, space, quotes and angle brackets end a URI wherever one stands in a message.
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f"<>]')
_HOST_END = re.compile(r"[;?]")
MAX_PORT = 65_535

URIS_KEPT = 128
"""URIs whose parts are known. All calls of an SRC have the same Request-URI and Contact, and each is read eight times
in a call; with those of a hundred SRCs, as long as a header may be, they take 2 MiB.
"""


@dataclass(frozen=True, slots=True)
class SipUri:
    """A URI taken apart: `str()` gives a URI that parses to an equal value.

    user, password, parameter values and headers keep their %-escapes. `host` has no brackets when it is an IPv6
    address. Parameter names are lower case. For a scheme other than sip and sips only `scheme` and `opaque`
    (all after the colon) are set: such URIs occur in headers of every call and must not stop it.
    """

    scheme: str
    user: str | None = None
    password: str | None = None
    host: str = ""
    port: int | None = None
    params: dict[str, str | None] = field(default_factory=dict)
    headers: str = ""
    opaque: str = ""

    @classmethod
    @lru_cache(maxsize=URIS_KEPT)
    def parse(cls, text: str) -> Self:
        """Who parses the same text may get the same URI.

        Raises SipError when `text` is not a URI or, for sip and sips, breaks section 19.1.1.
        """
        scheme, colon, rest = text.partition(":")
        if not colon or not _SCHEME.fullmatch(scheme):
            raise SipError("a URI has no scheme")
        if not rest or _FORBIDDEN.search(rest):
            raise SipError("a URI is empty or holds white space, quotes or angle brackets")
        scheme = scheme.lower()
        if scheme not in ("sip", "sips"):
            return cls(scheme, opaque=rest)
        # The user part may hold ; and ? unescaped, so the @ is looked for first (RFC 4475 section 3.1.1.1).
        user, password, rest = _user_info(rest)
        end = _HOST_END.search(rest)
        host_port, tail = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
        host, port = _host_and_port(host_port)
        params, _, headers = tail.partition("?")
        return cls(scheme, user, password, host, port, _uri_params(params), headers)

    def __str__(self) -> str:
        if self.opaque:
            return f"{self.scheme}:{self.opaque}"
        user_info = "" if self.user is None else f"{self.user}@"
        if self.password is not None:
            user_info = f"{self.user or ''}:{self.password}@"
        port = "" if self.port is None else f":{self.port}"
        params = "".join(f";{name}" if value is None else f";{name}={value}" for name, value in self.params.items())
        headers = f"?{self.headers}" if self.headers else ""
        return f"{self.scheme}:{user_info}{format_host(self.host)}{port}{params}{headers}"


def parse_port(digits: str | None) -> int | None:
    """A port as written, None when absent. Raises SipError outside 1 to 65535: no socket call may ever see it."""
    if digits is None:
        return None
    port = int(digits)
    if not 1 <= port <= MAX_PORT:
        raise SipError("a port is out of range")
    return port


def _user_info(text: str) -> tuple[str | None, str | None, str]:
    info, at, rest = text.partition("@")
    if not at:
        return None, None, text
    user, colon, password = info.partition(":")
    return user, password if colon else None, rest


def _host_and_port(text: str) -> tuple[str, int | None]:
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise SipError("a URI has no valid host")
    return match[1] or match[2], parse_port(match[3])


def _uri_params(text: str) -> dict[str, str | None]:
    params: dict[str, str | None] = {}
    for piece in text.split(";"):
        name, equals, value = piece.partition("=")
        if name:
            params.setdefault(name.lower(), value if equals else None)
    return params
