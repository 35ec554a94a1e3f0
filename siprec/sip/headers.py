"""Typed header values: each is a small frozen dataclass with `parse` and `str` as inverses.

All `parse` methods raise only SipError(400). They take the value as `message.Headers` gives it: unfolded, stripped.
What came from a peer and goes back to it is never written from these values: it is echoed from the raw text.
"""

import re
from dataclasses import dataclass, field
from typing import Self

from siprec.errors import SipError
from siprec.sip.grammar import LWS, QUOTED, format_host, format_parameters, quote, split_parameters, unquote
from siprec.sip.limits import MAX_CSEQ
from siprec.sip.uri import parse_port

# Any protocol name and version: a wrong one is answered 505 on the strength of the start line, over this Via.
_VIA = re.compile(
    r"[^ \t/;,]++[ \t]*+/[ \t]*+[^ \t/;,]++[ \t]*+/[ \t]*+([^ \t/;,]++)[ \t]++"
    r"(?:\[([0-9A-Fa-f:.]++)\]|([A-Za-z0-9\-._]++))[ \t]*+(?::[ \t]*+([0-9]{1,5})[ \t]*+)?(;.*)?",
    re.DOTALL,
)
_CSEQ = re.compile(r"([0-9]{1,32})[ \t]++([A-Za-z0-9\-.!%*_+`'~]++)")
_PARAMETER_NAME = re.compile(r'[^ \t"<>,;=\\]++')
_MEDIA_TYPE = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]++)[ \t]*+/[ \t]*+([A-Za-z0-9\-.!%*_+`'~]++)[ \t]*+(;.*)?", re.DOTALL)
_DISPOSITION = re.compile(r"([A-Za-z0-9\-.!%*_+`'~]++)[ \t]*+(;.*)?", re.DOTALL)


def parse_params(text: str) -> dict[str, str | None]:
    """Parameters `;name=value;flag` of a header value: names in lower case, values unquoted, None without `=`.

    The first semicolon may be missing and empty parameters are skipped: with them left out nothing is in doubt.
    Of a repeated name the first counts. Raises SipError.
    """
    params: dict[str, str | None] = {}
    for piece in split_parameters(text):
        name, equals, value = piece.partition("=")
        if not equals and not name.strip(LWS):
            continue
        name = name.strip(LWS).lower()
        if not _PARAMETER_NAME.fullmatch(name):
            raise SipError("a parameter has no valid name")
        params.setdefault(name, _unquoted(value.strip(LWS)) if equals else None)
    return params


@dataclass(frozen=True, slots=True)
class NameAddr:
    """name-addr or addr-spec with header parameters: From, To, Contact, Route and the like (section 20.10)."""

    display: str
    uri: str
    params: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Without <> every parameter is the header's, and the URI may hold no `?` and no comma (section 20).

        Unquoted display names are taken as they come ("Bell, Alexander <...>", RFC 4475 section 3.1.2.15), and
        so is white space inside the brackets.
        """
        display, bracketed = _display(text.strip(LWS))
        if bracketed is None:
            return cls._bare(display)
        uri, bracket, tail = bracketed.partition(">")
        uri = uri.strip(LWS)
        if not bracket or not uri or "<" in uri:
            raise SipError("an address has no valid URI in angle brackets")
        tail = tail.strip(LWS)
        if tail and tail[0] != ";":
            raise SipError("an address is followed by something else than parameters")
        return cls(display, uri, parse_params(tail))

    @classmethod
    def _bare(cls, text: str) -> Self:
        uri, _, tail = text.partition(";")
        uri = uri.rstrip(LWS)
        if not uri or any(character in uri for character in ' \t"<>?,'):
            raise SipError("an address without angle brackets is not a plain URI")
        return cls("", uri, parse_params(tail))

    @property
    def tag(self) -> str | None:
        """The tag parameter, None when absent (section 19.3)."""
        return self.params.get("tag")

    def __str__(self) -> str:
        display = quote(self.display) + " " if self.display else ""
        return f"{display}<{self.uri}>{format_parameters(self.params)}"


@dataclass(frozen=True, slots=True)
class Via:
    """One Via element (section 20.42). `transport` in upper case; `host` without brackets; `port` None when absent."""

    transport: str
    host: str
    port: int | None = None
    params: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Exactly one element."""
        match = _VIA.fullmatch(text.strip(LWS))
        if match is None:
            raise SipError("it is not protocol, host and parameters")
        transport, address, name, port, tail = match.groups()
        return cls(transport.upper(), address or name, parse_port(port), parse_params(tail or ""))

    @property
    def branch(self) -> str | None:
        """The transaction's id (section 8.1.1.7), None from an RFC 2543 element."""
        return self.params.get("branch")

    @property
    def sent_by(self) -> str:
        """host[:port] in lower case: one part of the key that matches a transaction (section 17.2.3)."""
        port = "" if self.port is None else f":{self.port}"
        return f"{format_host(self.host)}{port}".lower()

    @property
    def received(self) -> str | None:
        """Source address noted by the receiver, IPv6 with or without brackets on the wire (RFC 5118 section 4.5)."""
        received = self.params.get("received")
        return received.strip("[]") if received else None

    def __str__(self) -> str:
        port = "" if self.port is None else f":{self.port}"
        return f"SIP/2.0/{self.transport} {format_host(self.host)}{port}{format_parameters(self.params)}"


@dataclass(frozen=True, slots=True)
class CSeq:
    """Sequence number and method (section 20.16); methods are case-sensitive."""

    number: int
    method: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Leading zeros are fine, 2**31 and above is not (section 8.1.1.5)."""
        match = _CSEQ.fullmatch(text.strip(LWS))
        if match is None:
            raise SipError("it is not a number and a method")
        number = int(match[1])
        if number > MAX_CSEQ:
            raise SipError("the number is not below 2**31")
        return cls(number, match[2])

    def __str__(self) -> str:
        return f"{self.number} {self.method}"


@dataclass(frozen=True, slots=True)
class MediaType:
    """Content-Type or an element of Accept (section 20.15). Type and subtype in lower case: they have no case."""

    type: str
    subtype: str
    params: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """White space around `/`, `;` and `=` is tolerated ("multipart/mixed; boundary = x")."""
        match = _MEDIA_TYPE.fullmatch(text.strip(LWS))
        if match is None:
            raise SipError("it is not a media type")
        return cls(match[1].lower(), match[2].lower(), parse_params(match[3] or ""))

    @property
    def name(self) -> str:
        """`type/subtype`, the part that media types are compared by."""
        return f"{self.type}/{self.subtype}"

    def __str__(self) -> str:
        return f"{self.name}{format_parameters(self.params)}"


@dataclass(frozen=True, slots=True)
class Disposition:
    """Content-Disposition (section 20.11). `value` in lower case: session, recording-session, render, signal ..."""

    value: str
    params: dict[str, str | None] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """One disposition type and its parameters."""
        match = _DISPOSITION.fullmatch(text.strip(LWS))
        if match is None:
            raise SipError("it is not a disposition")
        return cls(match[1].lower(), parse_params(match[2] or ""))

    @property
    def handling(self) -> str:
        """ "optional" or "required"; required when the parameter is absent (section 20.11)."""
        return (self.params.get("handling") or "required").lower()

    def __str__(self) -> str:
        return f"{self.value}{format_parameters(self.params)}"


def _display(text: str) -> tuple[str, str | None]:
    """Display name and what follows the opening bracket; without a bracket all of `text` and None."""
    if text.startswith('"'):
        match = QUOTED.match(text)
        if match is None:
            raise SipError("a display name's quote is not closed")
        after = text[match.end() :].lstrip(LWS)
        if not after.startswith("<"):
            raise SipError("a display name is not followed by a URI in angle brackets")
        return unquote(match[1]), after[1:]
    display, bracket, after = text.partition("<")
    # sip:a@b;x="<y>" has its bracket inside a header parameter.
    if not bracket or (";" in display and '"' in display):
        return text, None
    return display.rstrip(LWS), after


def _unquoted(value: str) -> str:
    if not value.startswith('"'):
        return value
    match = QUOTED.fullmatch(value)
    if match is None:
        raise SipError("a parameter's quote is not closed")
    return unquote(match[1])
