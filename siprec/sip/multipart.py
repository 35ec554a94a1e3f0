"""Message bodies in several parts (RFC 5621, RFC 2046 section 5.1).

Bodies are cut at their delimiter lines and nothing else is touched: part bodies keep their octets, whatever their
line ends (an AudioCodes SDP part may have bare LF). What real SBCs do and is taken:

- no closing delimiter (Cisco, Sonus, SEMS): the last part ends with the body;
- white space after a delimiter (Oracle) and around `; boundary = x`;
- part headers as `Name:value`, and a Content-Length per part that need not be right (BroadWorks): it is not read;
- an empty line before the part's text (Google): it belongs to the part's body.
"""

import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from siprec.errors import MultipartError, SipError
from siprec.sip.grammar import HEAD_END, LWS, encode, header_key
from siprec.sip.headers import Disposition, MediaType
from siprec.sip.limits import MAX_BODY_DEPTH, MAX_BODY_PARTS, MAX_BOUNDARY_CHARACTERS, MAX_DELIMITER_LINES
from siprec.sip.message import Headers, check_head, read_head

# RFC 2045 section 5.2 and RFC 2046 section 4.5.1: what an unknown or unreadable type is to be treated as.
_UNKNOWN_TYPE = MediaType("application", "octet-stream")
_SDP = MediaType("application", "sdp")
_DEFAULT_PART_TYPE = MediaType("text", "plain")  # RFC 2046 section 5.1
_IDENTITIES = frozenset({"", "7bit", "8bit", "binary"})
_WRITTEN_BY_US = ("content-type", "content-disposition", "content-length")


@dataclass(frozen=True, slots=True)
class BodyPart:
    """One body. `headers` are the part's own (Content-ID, Content-Encoding, ...); for a bare body the message's.

    `disposition` is None when not given or unreadable. `body` is as received: `decoded` undoes its
    Content-Transfer-Encoding; a Content-Encoding is for the user to refuse.
    """

    content_type: MediaType
    disposition: Disposition | None
    headers: Headers
    body: bytes


def parse_body(headers: Headers, body: bytes) -> list[BodyPart]:
    """The leaves of a message body in order: nested multiparts are flattened, a bare body is one part.

    No body, no parts. A leaf inside a nested multipart takes that one's disposition when it has none itself (RFC
    5621 section 8.4: handling=optional of the whole holds for what is in it). Raises MultipartError for a
    Content-Type of the message, a boundary or a structure that cannot be used, and past MAX_BODY_PARTS,
    MAX_BODY_DEPTH or MAX_DELIMITER_LINES.
    """
    if not body:
        return []
    content_type = _message_type(headers, body)
    if content_type.type != "multipart":
        return [BodyPart(content_type, _disposition(headers), headers, body)]
    return _Reader().leaves(content_type, body, None, 1)


def decoded(part: BodyPart) -> BodyPart:
    """`part` without its Content-Transfer-Encoding (RFC 2045 section 6), never longer than it was.

    Raises MultipartError for base64 that is damaged (400) and for an encoding that we do not know (415).
    """
    encoding = (part.headers.get("Content-Transfer-Encoding") or "").lower()
    if encoding in _IDENTITIES:
        return part
    if encoding == "base64":
        try:
            body = binascii.a2b_base64(part.body)  # what is not of its alphabet is left out (section 6.8)
        except binascii.Error:
            raise MultipartError("the base64 of a body part is damaged") from None
    elif encoding == "quoted-printable":
        body = binascii.a2b_qp(part.body)
    else:
        raise MultipartError("the transfer encoding of a body part is unknown", status=415)
    headers = part.headers.copy()
    headers.remove("Content-Transfer-Encoding")
    return replace(part, headers=headers, body=body)


def format_multipart(parts: Sequence[BodyPart], boundary: str) -> tuple[str, bytes]:
    """Content-Type value and octets of a multipart/mixed body.

    Raises ValueError without parts, or when a part holds the boundary: the caller draws another one.
    """
    delimiter = b"--" + encode(boundary)
    if not parts or not 0 < len(boundary) <= MAX_BOUNDARY_CHARACTERS or boundary.strip(LWS) != boundary:
        raise ValueError("a multipart body needs a part and a boundary of 1 to 70 characters")
    if any(delimiter in part.body for part in parts):
        raise ValueError("a part holds the boundary")
    written = b"".join(b"%s\r\n%s\r\n%s\r\n" % (delimiter, _part_head(part), part.body) for part in parts)
    return str(MediaType("multipart", "mixed", {"boundary": boundary})), written + delimiter + b"--\r\n"


class _Reader:
    """Takes one message body apart, counting parts over all levels."""

    def __init__(self) -> None:
        self._parts = 0

    def leaves(
        self, content_type: MediaType, body: bytes, disposition: Disposition | None, depth: int
    ) -> list[BodyPart]:
        if depth > MAX_BODY_DEPTH:
            raise MultipartError("multipart bodies are nested too deep")
        found: list[BodyPart] = []
        for section in _sections(body, _boundary(content_type)):
            self._parts += 1
            if self._parts > MAX_BODY_PARTS:
                raise MultipartError("a multipart body has too many parts")
            part = _part(section, disposition)
            if part.content_type.type == "multipart":
                found += self.leaves(part.content_type, part.body, part.disposition, depth + 1)
            else:
                found.append(part)
        if not found:
            raise MultipartError("a multipart body has no part")
        return found


def _sections(body: bytes, boundary: str) -> Iterator[bytes]:
    """What lies between the delimiter lines; preamble and epilogue are left out."""
    start = -1
    for at, after, closing in _delimiters(body, b"--" + encode(boundary)):
        if start >= 0:
            yield body[start : max(start, at)]
        start = after
        if closing:
            return
    if start >= 0:
        yield body[start:]


def _delimiters(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int, bool]]:
    """Each delimiter line: where the text before it ends, where the text after it starts, whether it closes.

    The line end before a delimiter belongs to it (RFC 2046 section 5.1.1). A longer word that starts like a
    delimiter is none: inner boundaries often are outer ones with a suffix.
    """
    line = b"\n" + delimiter
    seen = 0
    at = 0 if body.startswith(delimiter) else _after_line_end(body, line, 0)
    while at >= 0:
        seen += 1
        if seen > MAX_DELIMITER_LINES:
            raise MultipartError("too many lines of a multipart body look like its delimiter")
        after = at + len(delimiter)
        line_end = body.find(b"\n", after)
        line_end = len(body) if line_end < 0 else line_end
        trail = body[after:line_end].rstrip(b" \t\r")
        if trail in (b"", b"--"):
            before = at - 2 if body[max(0, at - 2) : at] == b"\r\n" else max(0, at - 1)
            yield before, min(line_end + 1, len(body)), bool(trail)
        at = _after_line_end(body, line, after)


def _after_line_end(body: bytes, line: bytes, start: int) -> int:
    at = body.find(line, start)
    return at if at < 0 else at + 1


def _part(section: bytes, inherited: Disposition | None) -> BodyPart:
    headers, body = _split_part(section)
    return BodyPart(_part_type(headers), _disposition(headers) or inherited, headers, body)


def _split_part(section: bytes) -> tuple[Headers, bytes]:
    if section.startswith((b"\r\n", b"\n")):  # no headers at all
        return Headers(), section[section.index(b"\n") + 1 :]
    end = HEAD_END.search(section)
    head, body = (section, b"") if end is None else (section[: end.start() + 1], section[end.end() :])
    # `read_head` sets the first line apart; a part has no start line.
    head = b"\n" + head
    headers = read_head(head)[1]
    try:
        check_head(head, headers)
    except SipError as error:
        raise MultipartError(f"a body part: {error.reason}", status=error.status) from None
    return headers, body


def _message_type(headers: Headers, body: bytes) -> MediaType:
    """Content-Type of the message. Without one, as some gateways send, only SDP can be told by its first line."""
    text = headers.get("Content-Type")
    if not text:
        return _SDP if body.startswith(b"v=0") else _UNKNOWN_TYPE
    try:
        return MediaType.parse(text)
    except SipError as error:
        raise MultipartError(f"Content-Type: {error.reason}") from None


def _part_type(headers: Headers) -> MediaType:
    text = headers.get("Content-Type")
    if not text:
        return _DEFAULT_PART_TYPE
    try:
        return MediaType.parse(text)
    except SipError:
        return _UNKNOWN_TYPE


def _disposition(headers: Headers) -> Disposition | None:
    text = headers.get("Content-Disposition")
    if not text:
        return None
    try:
        return Disposition.parse(text)
    except SipError:
        return None


def _boundary(content_type: MediaType) -> str:
    boundary = content_type.params.get("boundary")
    if not boundary or len(boundary) > MAX_BOUNDARY_CHARACTERS:
        raise MultipartError("a multipart body has no valid boundary")
    return boundary


def _part_head(part: BodyPart) -> bytes:
    lines = [f"Content-Type: {part.content_type}\r\n"]
    if part.disposition is not None:
        lines.append(f"Content-Disposition: {part.disposition}\r\n")
    lines += [f"{name}: {value}\r\n" for name, value in part.headers if header_key(name) not in _WRITTEN_BY_US]
    return encode("".join(lines))
