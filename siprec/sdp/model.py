"""Session descriptions as ordered lines that lose nothing (RFC 8866).

A description is its lines: what this module does not know is kept where it stood, so `parse(str(x)) == x`, and
`str(parse(text))` is `text` with CRLF line ends and without blank lines. Typed properties read the lines on
demand; a line that is malformed beyond the few an answer depends on (v=, m=) is kept and says nothing.

Leniency, each seen on the wire: no c= or t= (OpenSIPS 2), t= before c= and blank lines between the media
sections (CUBE), bare LF (AudioCodes), no direction (Metaswitch), labels that are words or large numbers
(Oracle), text in ISO 8859-1 under no a=charset.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from siprec.errors import SdpError

MAX_SDP_BYTES = 64 * 1024
"""A UDP datagram holds no more; real offers have 0.5 to 3 KiB."""
MAX_SDP_LINES = 4_000
"""A 4-stream video offer has about 100; MAX_MEDIA m-lines have eight each."""
MAX_MEDIA = 500
"""An m-line never goes away (RFC 3264 section 8): one session for many calls, with two for each, holds 250 calls. A
closed one costs the text of an answer; how many may be open is another limit (siprec.session.streams).
"""
MAX_FORMATS = 64
"""Formats on one m-line: there are only 128 payload types, and 35 static ones."""

Direction = Literal["sendonly", "recvonly", "sendrecv", "inactive"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)

_M_LINE = re.compile(r"(\S+)[ \t]+(\d{1,5})(?:/(\d{1,5}))?[ \t]+(\S+)((?:[ \t]+\S+)*)[ \t]*")
_RTPMAP = re.compile(r"(\d{1,3})[ \t]+([^\s/]+)/(\d{1,9})(?:/(\d{1,3}))?[ \t]*")


class Line(NamedTuple):
    """One line `type=value`. A line that is not of this form has an empty type and its text as value.

    A tuple, which is made faster than other objects: a call has some seventy.
    """

    type: str
    value: str

    def __str__(self) -> str:
        return f"{self.type}={self.value}" if self.type else self.value


@dataclass(frozen=True, slots=True)
class Format:
    """What a payload type means: a=rtpmap and a=fmtp, or RFC 3551 section 6 for a static one."""

    payload_type: int
    encoding: str
    clock_rate: int
    channels: int = 1
    fmtp: str = ""

    @property
    def rtpmap(self) -> str:
        """The value of its a=rtpmap."""
        channels = f"/{self.channels}" if self.channels > 1 else ""
        return f"{self.payload_type} {self.encoding}/{self.clock_rate}{channels}"


_STATIC_AUDIO = (
    # RFC 3551 table 4; 2 was G721 there and is G726-32 in the field (Metaswitch, Oracle); 19 was CN before 13 was.
    (0, "PCMU", 8000), (2, "G726-32", 8000), (3, "GSM", 8000), (4, "G723", 8000), (5, "DVI4", 8000),
    (6, "DVI4", 16000), (7, "LPC", 8000), (8, "PCMA", 8000), (9, "G722", 8000), (11, "L16", 44100),
    (12, "QCELP", 8000), (13, "CN", 8000), (14, "MPA", 90000), (15, "G728", 8000), (16, "DVI4", 11025),
    (17, "DVI4", 22050), (18, "G729", 8000), (19, "CN", 8000),
)  # fmt: skip
_STATIC_VIDEO = (
    # RFC 3551 table 5
    (25, "CelB", 90000), (26, "JPEG", 90000), (28, "nv", 90000), (31, "H261", 90000), (32, "MPV", 90000),
    (33, "MP2T", 90000), (34, "H263", 90000),
)  # fmt: skip
STATIC_FORMATS: Mapping[int, Format] = {
    10: Format(10, "L16", 44100, 2),
    **{entry[0]: Format(*entry) for entry in (*_STATIC_AUDIO, *_STATIC_VIDEO)},
}
"""Payload types that need no a=rtpmap, by number."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The o= line (RFC 8866 section 5.2). One that is missing or malformed in what a peer sent reads as `Origin()`."""

    username: str = "-"
    session_id: int = 0
    version: int = 0
    net: str = "IN"
    addrtype: str = "IP4"
    address: str = "0.0.0.0"  # noqa: S104 (an address in a text, nothing is bound)

    def __str__(self) -> str:
        numbers = f"{self.session_id} {self.version}"
        return f"{self.username} {numbers} {self.net} {self.addrtype} {self.address}"

    @classmethod
    def at(cls, address: str, session_id: int, *, version: int = 1, username: str = "-") -> Origin:
        """The origin of a description of our own; `address` is an IPv4 or IPv6 literal."""
        return cls(username, session_id, version, addrtype=address_type(address), address=address)

    @classmethod
    def parse(cls, value: str) -> Origin:
        """Never fails: see the class."""
        fields = value.split()
        if len(fields) != 6 or not all(_is_number(field) for field in fields[1:3]):
            return cls()
        return cls(fields[0], int(fields[1]), int(fields[2]), *fields[3:])


class _Section:
    """What a media section and the session level have in common: lines with c= and a=."""

    lines: tuple[Line, ...]

    def values(self, type_: str) -> list[str]:
        """Values of all lines of one type, in order."""
        return [line.value for line in self.lines if line.type == type_]

    @cached_property
    def attributes(self) -> tuple[tuple[str, str | None], ...]:
        """(name, value) of each a= line in order; value None for a flag."""
        pairs = (value.partition(":") for value in self.values("a"))
        return tuple((name.strip(), value.strip() if colon else None) for name, colon, value in pairs)

    def attribute(self, name: str) -> str | None:
        """Value of the first attribute of that name; "" for a flag, None when absent."""
        return next((value or "" for each, value in self.attributes if each == name), None)

    def attribute_values(self, name: str) -> list[str]:
        """Values of all attributes of that name, in order."""
        return [value or "" for each, value in self.attributes if each == name]

    @cached_property
    def own_direction(self) -> Direction | None:
        """The first direction attribute of this section itself."""
        flags = {name.lower(): None for name, value in self.attributes if value is None}
        return next((direction for flag in flags for direction in DIRECTIONS if flag == direction), None)

    @cached_property
    def own_address(self) -> str | None:
        """Address of this section's own first c= line, without TTL and count; may be a host name."""
        fields = next(iter(self.values("c")), "").split()
        return fields[2].partition("/")[0] if len(fields) == 3 else None


@dataclass(frozen=True)
class MediaDescription(_Section):
    """One media section: its lines, the m= line first, and the session-level section it inherits from."""

    lines: tuple[Line, ...]
    session: SessionLevel
    kind: str
    port: int
    port_count: int
    transport: str
    formats: tuple[str, ...]

    @classmethod
    def of(cls, lines: tuple[Line, ...], session: SessionLevel) -> MediaDescription:
        """Raises SdpError when the m= line is malformed (RFC 8866 section 5.14)."""
        match = _M_LINE.fullmatch(lines[0].value)
        if match is None:
            raise SdpError("malformed m= line", status=400)
        kind, port, count, transport, formats = match.groups()
        if int(port) > 65535:
            raise SdpError("port out of range in an m= line", status=400)
        each = tuple(formats.split())
        if len(each) > MAX_FORMATS:
            raise SdpError(f"more than {MAX_FORMATS} formats on an m= line", status=400)
        return cls(lines, session, kind.lower(), int(port), int(count or 1), transport.upper(), each)

    @property
    def address(self) -> str | None:
        """Connection address, its own or the session's (RFC 8866 section 5.7); may be a host name."""
        return self.own_address or self.session.own_address

    @property
    def direction(self) -> Direction | None:
        """Its own direction or the session's; None when neither states one."""
        return self.own_direction or self.session.own_direction

    @property
    def label(self) -> str | None:
        """a=label (RFC 4574), any text; None when absent or empty."""
        return self.attribute("label") or None

    @property
    def mid(self) -> str | None:
        """a=mid (RFC 5888)."""
        return self.attribute("mid") or None

    @property
    def crypto(self) -> tuple[str, ...]:
        """Values of a=crypto, as they came (RFC 4568)."""
        return tuple(self.attribute_values("crypto"))

    @property
    def rtcp_mux(self) -> bool:
        """a=rtcp-mux (RFC 5761)."""
        return self.attribute("rtcp-mux") is not None

    @cached_property
    def rtcp(self) -> tuple[int, str | None] | None:
        """Port and, where given, address of a=rtcp (RFC 3605)."""
        fields = (self.attribute("rtcp") or "").split()
        if not fields or not _is_number(fields[0]) or not 0 < int(fields[0]) <= 65535:
            return None
        return int(fields[0]), fields[3] if len(fields) == 4 else None

    @cached_property
    def ptime(self) -> int | None:
        """a=ptime in milliseconds, 1 to 1000; None when absent or nonsense."""
        text = (self.attribute("ptime") or "").partition(".")[0]
        return int(text) if _is_number(text) and 0 < int(text) <= 1000 else None

    @cached_property
    def rtpmap(self) -> dict[int, Format]:
        """Meaning of each payload type of the m= line that has one, in the m= line's order."""
        mapped = self._mapped()
        parameters = self._parameters()
        known: dict[int, Format] = {}
        for text in self.formats:
            number = int(text) if _is_number(text) and int(text) < 128 else None
            form = None if number is None else mapped.get(number) or STATIC_FORMATS.get(number)
            if form is not None:
                fmtp = parameters.get(form.payload_type)
                known[form.payload_type] = replace(form, fmtp=fmtp) if fmtp else form
        return known

    def _mapped(self) -> dict[int, Format]:
        found: dict[int, Format] = {}
        for value in self.attribute_values("rtpmap"):
            match = _RTPMAP.fullmatch(value)
            if match and int(match[3]):
                number = int(match[1])
                channels = max(1, int(match[4] or 1))
                found.setdefault(number, Format(number, match[2], int(match[3]), channels))
        return found

    def _parameters(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for value in self.attribute_values("fmtp"):
            number, _, parameters = value.partition(" ")
            if _is_number(number):
                found.setdefault(int(number), parameters.strip())
        return found


@dataclass(frozen=True)
class SessionLevel(_Section):
    """The lines before the first m= line."""

    lines: tuple[Line, ...]


@dataclass(frozen=True)
class SessionDescription:
    """A whole description: session level and media sections."""

    session: SessionLevel
    media: tuple[MediaDescription, ...]

    def __str__(self) -> str:
        return "".join(f"{line}\r\n" for line in self)

    def __bytes__(self) -> bytes:
        return str(self).encode()

    def __iter__(self) -> Iterator[Line]:
        yield from self.session.lines
        for media in self.media:
            yield from media.lines

    @property
    def origin(self) -> Origin:
        """The first o= line."""
        return Origin.parse(next(iter(self.session.values("o")), ""))

    @property
    def address(self) -> str | None:
        """Session-level connection address; may be a host name."""
        return self.session.own_address

    @property
    def attributes(self) -> tuple[tuple[str, str | None], ...]:
        """Session-level attributes in order."""
        return self.session.attributes

    @property
    def timing(self) -> str:
        """Value of the first t= line, "0 0" (RFC 8866 section 5.9: unbounded) when there is none."""
        return next(iter(self.session.values("t")), "0 0")

    def with_origin(self, origin: Origin) -> SessionDescription:
        """The same description under another o= line."""
        head = [Line("o", str(origin)) if line.type == "o" else line for line in self.session.lines]
        return of_lines([*head, *(line for media in self.media for line in media.lines)])


def parse(text: str | bytes) -> SessionDescription:
    """Read a description.

    Raises SdpError (400) when it does not begin with v=0, holds a NUL or a malformed m= line, or is larger
    than the limits of this module. Other malformed lines are kept and ignored.
    """
    if len(text) > MAX_SDP_BYTES:
        raise SdpError(f"session description over {MAX_SDP_BYTES} bytes", status=400)
    if isinstance(text, bytes):
        text = _decode(text)
    if "\0" in text:
        raise SdpError("NUL in a session description", status=400)
    rows = [row for row in re.split(r"\r\n|\n|\r", text) if row.strip()]
    if len(rows) > MAX_SDP_LINES:
        raise SdpError(f"more than {MAX_SDP_LINES} lines in a session description", status=400)
    return of_lines(_line(row) for row in rows)


def of_lines(lines: Iterable[Line]) -> SessionDescription:
    """A description of these lines, under the same rules as `parse`."""
    sections: list[list[Line]] = [[]]
    for line in lines:
        if line.type == "m":
            sections.append([])
        sections[-1].append(line)
    head, *media = (tuple(section) for section in sections)
    if not head or head[0].type != "v" or head[0].value.strip() != "0":
        raise SdpError("a session description begins with v=0", status=400)
    if len(media) > MAX_MEDIA:
        raise SdpError(f"more than {MAX_MEDIA} media sections", status=400)
    session = SessionLevel(head)
    return SessionDescription(session, tuple(MediaDescription.of(section, session) for section in media))


def address_type(address: str) -> str:
    """ "IP4" or "IP6" for an address literal of our own."""
    return "IP6" if ":" in address else "IP4"


def literal(address: str | None) -> str | None:
    """`address` as a canonical IP literal; None for a host name, a zone or nonsense.

    An IPv4-mapped IPv6 address is given as the IPv4 address it names: packets from there arrive as IPv4.
    """
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:
            return None
        return str(parsed.ipv4_mapped or parsed)
    return str(parsed)


def _decode(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _line(row: str) -> Line:
    letter, equals, value = row[:1], row[1:2], row[2:]
    return Line(letter, value) if equals == "=" and letter.isalpha() and letter.isascii() else Line("", row)


def _is_number(text: str) -> bool:
    """A non-negative decimal of at most 20 digits: o= fields are 64 bit in practice (RFC 3264 section 5)."""
    return len(text) <= 20 and text.isascii() and text.isdigit()
