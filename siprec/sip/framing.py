"""Cuts a byte stream (TCP, TLS) into SIP messages (RFC 3261 section 18.3) and answers keep-alives.

Only the head is looked at: it ends at the empty line, and Content-Length tells where the message does. Between
messages line ends are skipped; two CRLF in a row are a ping that wants one CRLF back (RFC 5626 section 4.4.1).

After an error the stream has no known message boundary any more: the connection is to be closed.
"""

from siprec.errors import SipError
from siprec.sip.grammar import HEAD_END
from siprec.sip.limits import MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, MESSAGE_SECONDS
from siprec.sip.message import MessageError, Request, body_length, check_head, parse, read_head

_EMPTY_LINE_BYTES = 4


class StreamError(MessageError):
    """The stream cannot be cut any further: answer `partial` if there is one, then close the connection.

    `messages` are the whole messages that came before in the same `feed`; they are good.
    """

    def __init__(self, error: SipError, *, messages: list[bytes], partial: Request | None) -> None:
        super().__init__(error.reason, status=error.status, partial=partial)
        self.messages = messages


class StreamFramer:
    """One direction of one connection. It holds at most one unfinished message and what one `feed` brought."""

    def __init__(self) -> None:
        self.pongs = 0
        """Keep-alive answers (one CRLF each) to send; the caller sets it back to 0."""
        self._buffer = bytearray()
        self._searched = 0  # octets of the buffer known to hold no end of head
        self._wanted = 0  # length of the message at the front, 0 while its head is unfinished
        self._line_ends = 0  # CRLFs seen in a row since the last message or ping
        self._begun: float | None = None

    def feed(self, data: bytes, now: float) -> list[bytes]:
        """Whole messages that `data` completes, each fit for `message.parse`.

        Raises StreamError: 400 without a usable Content-Length, 513 over a size limit.
        """
        self._buffer += data
        messages: list[bytes] = []
        try:
            while (message := self._next(now)) is not None:
                messages.append(message)
        except SipError as error:
            raise StreamError(error, messages=messages, partial=self._partial()) from None
        return messages

    def deadline(self) -> float | None:
        """When the begun message must be complete, None between messages."""
        return None if self._begun is None else self._begun + MESSAGE_SECONDS

    def _next(self, now: float) -> bytes | None:
        if self._begun is None:
            self._skip_line_ends()
            if not self._buffer or self._buffer == b"\r":
                return None
            self._begun = now
            self._line_ends = 0
        if not self._wanted:
            self._wanted = self._measure()
        if not self._wanted or len(self._buffer) < self._wanted:
            return None
        return self._take()

    def _skip_line_ends(self) -> None:
        """Count CRLFs; a lone CR may be half of one and stays."""
        at = 0
        while self._buffer.startswith((b"\r\n", b"\n"), at):
            at += 1 if self._buffer[at] == 0x0A else 2
            self._line_ends += 1
            if self._line_ends == 2:
                self._line_ends = 0
                self.pongs += 1
        del self._buffer[:at]

    def _measure(self) -> int:
        """Length of the message at the front of the buffer, 0 when its head is not complete yet."""
        end = HEAD_END.search(self._buffer, self._searched, MAX_HEAD_BYTES)
        if end is None:
            if len(self._buffer) >= MAX_HEAD_BYTES:
                raise SipError("the headers are too long", status=513)
            self._searched = max(0, len(self._buffer) - _EMPTY_LINE_BYTES)
            return 0
        head = bytes(self._buffer[: end.end()])
        headers = read_head(head)[1]
        check_head(head, headers)
        length = body_length(headers)
        if length is None:
            raise SipError("Content-Length is missing on a stream")
        if end.end() + length > MAX_MESSAGE_BYTES:
            raise SipError("the message is too long", status=513)
        return end.end() + length

    def _take(self) -> bytes:
        message = bytes(self._buffer[: self._wanted])
        del self._buffer[: self._wanted]
        self._searched = self._wanted = 0
        self._begun = None
        return message

    def _partial(self) -> Request | None:
        """The request whose framing failed, as far as it can be answered."""
        try:
            message = parse(bytes(self._buffer[:MAX_HEAD_BYTES]))
        except MessageError as error:
            return error.partial
        return message if isinstance(message, Request) and message.method != "ACK" else None
