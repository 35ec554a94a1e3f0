"""SIP requests and responses: bytes to values and back (RFC 3261 section 7).

A message is cut by hand: the head is decoded once, split into lines, each line at its colon. Header values stay the
text that came (unfolded, stripped, surrogateescape), so whatever is echoed goes back byte for byte. `parse` looks at
the essentials only (start line, topmost Via, From, To, Call-ID, CSeq, Content-Length): section 8.2 wants other
malformed headers ignored, and who needs one parses it then.

`parse` takes one whole message. On UDP that is the datagram; on a stream `framing` cuts it first.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar

from siprec.errors import SipError
from siprec.sip.grammar import (
    HEAD_END,
    KEYS,
    LWS,
    TOKEN,
    decode,
    encode,
    header_key,
    split_elements,
    unfold,
)
from siprec.sip.headers import CSeq, NameAddr, Via
from siprec.sip.limits import (
    MAX_CONTENT_LENGTH_DIGITS,
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_LINE_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_VIAS,
)
from siprec.sip.uri import SipUri

VERSION = "SIP/2.0"
_VERSION_SHAPE = re.compile(r"SIP/[0-9]++\.[0-9]++", re.ASCII | re.IGNORECASE)
_STATUS = re.compile(r"[1-6][0-9][0-9]", re.ASCII)
_SPACES = re.compile(r"[ \t]++")
_LENGTH = re.compile(rf"[0-9]{{1,{MAX_CONTENT_LENGTH_DIGITS}}}", re.ASCII)
# Names of the headers every message must have exactly once (section 8.1.1); Via may come more than once, and
# Max-Forwards is missing from RFC 2543 peers.
_ONCE = (("from", "From"), ("to", "To"), ("call-id", "Call-ID"), ("cseq", "CSeq"))

_Value = TypeVar("_Value")


class MessageError(SipError):
    """Why a message cannot be taken; `parse` raises nothing else.

    `partial` is the request as far as it was read, when its topmost Via is readable and it is no ACK: enough to
    answer it with `status`. Its From, To, Call-ID or CSeq may be missing or malformed: echo those that are there.
    It is None for responses, which are dropped.
    """

    def __init__(self, reason: str, *, status: int | None = None, partial: "Request | None" = None) -> None:
        super().__init__(reason, status=status)
        self.partial = partial


class Headers:
    """Header lines in order. Look-up ignores case and knows compact forms; values are unfolded and stripped."""

    __slots__ = ("_index", "_items")

    def __init__(self, items: Iterable[tuple[str, str]] = ()) -> None:
        self._items: list[tuple[str, str]] = []
        self._index: dict[str, list[str]] = {}
        for name, value in items:
            self.add(name, value)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Self:
        """From unfolded lines off the wire. Lines that are no header are left out (section 8.2 would ignore them)."""
        headers = cls()
        items, index = headers._items, headers._index
        for line in lines:
            name, colon, value = line.partition(":")
            name = name.rstrip(LWS)
            key = KEYS.get(name)  # a usual name is a token
            if not colon or (key is None and not TOKEN.fullmatch(name)):
                continue
            value = value.strip(LWS)
            items.append((name, value))
            if key is None:
                key = name.lower()
            if key in index:
                index[key].append(value)
            else:
                index[key] = [value]
        return headers

    def get(self, name: str) -> str | None:
        """Value of the first line of that name; empty values count."""
        values = self._index.get(header_key(name))
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Values of all lines of that name, one entry per line."""
        return list(self._index.get(header_key(name), ()))

    def values(self, name: str) -> list[str]:
        """Comma-separated elements over all lines of that name (section 7.3.1), empty ones left out."""
        return [element for value in self._index.get(header_key(name), ()) for element in split_elements(value)]

    def add(self, name: str, value: str) -> None:
        """Append a line. Raises ValueError for a value with a line end: that would forge headers."""
        if "\n" in value or "\r" in value or not TOKEN.fullmatch(name):
            raise ValueError("a header may hold no line end and its name must be a token")
        self._items.append((name, value))
        self._index.setdefault(header_key(name), []).append(value)

    def set(self, name: str, value: str) -> None:
        """Replace all lines of that name by one, in place of the first; append when there is none."""
        key = header_key(name)
        place = next((at for at, item in enumerate(self._items) if header_key(item[0]) == key), len(self._items))
        self.remove(name)
        self.add(name, value)
        self._items.insert(place, self._items.pop())

    def remove(self, name: str) -> None:
        """Take out all lines of that name, if any."""
        key = header_key(name)
        if self._index.pop(key, None) is not None:
            self._items = [item for item in self._items if header_key(item[0]) != key]

    def copy(self) -> "Headers":
        """Independent copy."""
        return Headers(self._items)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and header_key(name) in self._index

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Headers) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Headers({self._items!r})"


class _Typed:
    """Typed views of the headers both kinds of message have. Each raises SipError when missing or malformed.

    A value is parsed once and kept with the text it came from, so a changed header is seen.
    """

    __slots__ = ()

    headers: Headers
    _parsed: dict[str, tuple[str, Any]]

    @property
    def via(self) -> Via:
        """The topmost Via."""
        return self._typed("Via", "via", _first_via)

    @property
    def cseq(self) -> CSeq:
        return self._typed("CSeq", "cseq", CSeq.parse)

    @property
    def call_id(self) -> str:
        return self._typed("Call-ID", "call-id", _call_id)

    @property
    def from_(self) -> NameAddr:
        return self._typed("From", "from", NameAddr.parse)

    @property
    def to(self) -> NameAddr:
        return self._typed("To", "to", NameAddr.parse)

    @property
    def contact(self) -> NameAddr | None:
        """The first Contact, None when there is none."""
        return self._typed("Contact", "contact", _first_address) if self.headers.get("Contact") else None

    def once(self, name: str, read: Callable[[Self], _Value]) -> _Value:
        """What `read` makes of this message, kept under `name`; the message must not change any more."""
        known = self._parsed.get(name)
        if known is None:
            known = self._parsed[name] = ("", read(self))
        value: _Value = known[1]
        return value

    def _typed(self, name: str, key: str, read: Callable[[str], _Value]) -> _Value:
        lines = self.headers._index.get(key)  # asked for sixty times in a call: `get` would look for the key each time
        if lines is None:
            raise SipError(f"{name} is missing")
        text, known = lines[0], self._parsed.get(name)
        value: _Value
        if known is not None and known[0] is text:
            value = known[1]
            return value
        try:
            value = read(text)
        except SipError as error:
            raise SipError(f"{name}: {error.reason}") from None
        self._parsed[name] = (text, value)
        return value


@dataclass(slots=True)
class Request(_Typed):
    """A SIP request. `uri` is the Request-URI as written."""

    method: str
    uri: str
    headers: Headers
    body: bytes = b""
    version: str = VERSION
    _parsed: dict[str, tuple[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def request_uri(self) -> SipUri:
        """The Request-URI taken apart. Raises SipError."""
        return SipUri.parse(self.uri)

    def __bytes__(self) -> bytes:
        return _serialise(f"{self.method} {self.uri} {self.version}", self.headers, self.body)


@dataclass(slots=True)
class Response(_Typed):
    """A SIP response; `reason` is the Reason-Phrase and may be empty."""

    status: int
    reason: str
    headers: Headers
    body: bytes = b""
    _parsed: dict[str, tuple[str, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __bytes__(self) -> bytes:
        return _serialise(f"{VERSION} {self.status} {self.reason}", self.headers, self.body)


Message = Request | Response


def parse(data: bytes) -> Message:
    """One whole message; empty lines before it are skipped (section 7.5).

    The body is as long as Content-Length says: octets beyond are dropped, fewer are an error (section 18.3).
    Without Content-Length it is all that follows the headers. Raises MessageError with status 400, 505 (version)
    or 513 (a limit on size).
    """
    head, rest = cut_head(data.lstrip(b"\r\n"))
    start, headers = read_head(head)
    read = _response if start[:4].upper() == "SIP/" else _request
    return read(start, headers, head, rest)


def cut_head(data: bytes) -> tuple[bytes, bytes | None]:
    """Start line, headers and the empty line; then what follows, None when there is no empty line.

    The head is at most MAX_HEAD_BYTES and one octet, so that `check_head` can tell that it is too long.
    """
    end = HEAD_END.search(data, 0, MAX_HEAD_BYTES)
    if end is None:
        return data[: MAX_HEAD_BYTES + 1], None
    return data[: end.end()], data[end.end() :]


def read_head(head: bytes) -> tuple[str, Headers]:
    """Start line and the first MAX_HEADERS headers. Never raises: `check_head` does."""
    start, *lines = decode(unfold(head)).replace("\r\n", "\n").split("\n", MAX_HEADERS + 1)
    return start, Headers.read(lines[:MAX_HEADERS])


def check_head(head: bytes, headers: Headers) -> None:
    """Limits and what no head may hold. Raises SipError."""
    if len(head) > MAX_HEAD_BYTES:
        raise SipError("the headers are too long", status=513)
    if head.count(b"\n") > MAX_HEADERS:
        lines = unfold(head).rstrip(b"\r\n").count(b"\n")  # the start line has no LF before it
        if lines > MAX_HEADERS:
            raise SipError("there are too many headers", status=513)
    if len(head) > MAX_LINE_BYTES and any(len(line) > MAX_LINE_BYTES + 1 for line in unfold(head).split(b"\n")):
        raise SipError("a header line is too long", status=513)
    if head.count(b"\r") != head.count(b"\r\n"):
        raise SipError("a header holds a bare carriage return")
    if len(headers.values("Via")) > MAX_VIAS:
        raise SipError("there are too many Via headers")


def body_length(headers: Headers) -> int | None:
    """Content-Length, None when absent. Raises SipError unless it is digits only and there once.

    Several of them, even equal ones, are refused: two receivers that choose differently see different messages.
    """
    values = headers.all("Content-Length")
    if not values:
        return None
    if len(values) > 1:
        raise SipError("Content-Length is there more than once")
    if not _LENGTH.fullmatch(values[0]):
        raise SipError("Content-Length is not a number")
    return int(values[0])


def _request(start: str, headers: Headers, head: bytes, rest: bytes | None) -> Request:
    method, uri, version = _request_line(start)
    request = Request(method, uri, headers, version=version)
    try:
        _check_request_line(request)
        check_head(head, headers)
        _check_essentials(request)
        if request.cseq.method != method:
            raise SipError("CSeq names another method than the request line")
        request.body = _body(headers, rest, len(head))
    except SipError as error:
        raise MessageError(error.reason, status=error.status, partial=_answerable(request)) from None
    return request


def _response(start: str, headers: Headers, head: bytes, rest: bytes | None) -> Response:
    version, _, line = start.partition(" ")
    status, _, reason = line.lstrip(LWS).partition(" ")
    try:
        if version.upper() != VERSION or not _STATUS.fullmatch(status):
            raise SipError("the status line is malformed")
        response = Response(int(status), reason.strip(LWS), headers)
        check_head(head, headers)
        _check_essentials(response)
        response.body = _body(headers, rest, len(head))
    except SipError as error:
        raise MessageError(error.reason, status=error.status) from None
    return response


def _request_line(start: str) -> tuple[str, str, str]:
    """Method, URI and version, whatever is there: more or other white space than one SP each is forgiven
    (RFC 4475 sections 3.1.2.9 and 3.1.2.10); what stays in the URI makes it malformed."""
    parts = start.split(" ")
    if len(parts) != 3:
        parts = _SPACES.split(start.strip(LWS))
    if len(parts) < 3:
        return parts[0], "", ""
    return parts[0], " ".join(parts[1:-1]), parts[-1]


def _check_request_line(request: Request) -> None:
    if not TOKEN.fullmatch(request.method) or not _VERSION_SHAPE.fullmatch(request.version):
        raise SipError("the request line is malformed")
    if request.version.upper() != VERSION:
        raise SipError("the SIP version is not 2.0", status=505)
    try:
        SipUri.parse(request.uri)
    except SipError as error:
        raise SipError(f"Request-URI: {error.reason}") from None


def _check_essentials(message: Message) -> None:
    index = message.headers._index
    for key, name in _ONCE:
        if len(index.get(key, ())) > 1:
            raise SipError(f"{name} is there more than once")
    # Reading them is the check; the values stay cached.
    _ = message.via, message.from_, message.to, message.call_id, message.cseq
    try:
        for lower in message.headers.values("Via")[1:]:  # a response has to find its way back along all of them
            Via.parse(lower)
    except SipError as error:
        raise SipError(f"Via: {error.reason}") from None


def _body(headers: Headers, rest: bytes | None, head_bytes: int) -> bytes:
    if rest is None:
        raise SipError("there is no empty line after the headers")
    if head_bytes + len(rest) > MAX_MESSAGE_BYTES:
        raise SipError("the message is too long", status=513)
    length = body_length(headers)
    if length is None:
        return rest
    if length > len(rest):
        raise SipError("the body is shorter than Content-Length")
    return rest[:length]


def _answerable(request: Request) -> Request | None:
    if request.method == "ACK":
        return None
    try:
        _ = request.via
    except SipError:
        return None
    return request


def _first_via(text: str) -> Via:
    return Via.parse(text if "," not in text else _first(text))


def _first_address(text: str) -> NameAddr:
    return NameAddr.parse(text if "," not in text else _first(text))


def _first(text: str) -> str:
    elements = split_elements(text)
    return elements[0] if elements else ""


def _call_id(text: str) -> str:
    if not text or " " in text or "\t" in text:
        raise SipError("it is empty or holds white space")
    return text


def _serialise(start: str, headers: Headers, body: bytes) -> bytes:
    lines = [start]
    lines += [f"{name}: {value}" for name, value in headers if header_key(name) != "content-length"]
    lines.append(f"Content-Length: {len(body)}\r\n\r\n")
    return encode("\r\n".join(lines)) + body
