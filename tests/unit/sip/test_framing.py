"""Streams cut into messages: the same whole, byte by byte and at any cut; keep-alives; every limit and error."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.sip import framing, limits
from siprec.sip.framing import StreamError, StreamFramer
from siprec.sip.grammar import HEAD_END
from siprec.sip.message import parse

ESSENTIALS = (
    b"Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\nFrom: <sip:alice@example.com>;tag=1\r\n"
    b"To: <sip:srs@example.com>\r\nCall-ID: c1\r\nCSeq: 1 INVITE\r\n"
)
HEAD = b"INVITE sip:srs@example.com SIP/2.0\r\n" + ESSENTIALS
INVITE = HEAD + b"Content-Length: 11\r\n\r\nv=0\n\r\n\r\nabc"
BARE = HEAD.replace(b"\r\n", b"\n") + b"l :\n 3\n\nxyz"
PING = b"\r\n\r\n"


def cut(data: bytes) -> list[bytes]:
    return StreamFramer().feed(data, 0.0)


def failure(data: bytes) -> StreamError:
    with pytest.raises(StreamError) as caught:
        cut(data)
    return caught.value


def test_messages_that_arrive_together() -> None:
    assert cut(INVITE + BARE + b"\r\n" + INVITE) == [INVITE, BARE, INVITE]


def test_byte_by_byte() -> None:
    framer = StreamFramer()
    messages = [message for octet in PING + INVITE + PING + BARE for message in framer.feed(bytes([octet]), 0.0)]
    assert messages == [INVITE, BARE]
    assert framer.pongs == 2


@given(st.lists(st.sampled_from([INVITE, BARE, PING, b"\r\n"]), max_size=5), st.lists(st.integers(1, 300), max_size=8))
def test_cuts_do_not_matter(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces)
    framer, whole = StreamFramer(), StreamFramer()
    expected = whole.feed(stream, 0.0)
    found = []
    for size in cuts:
        found += framer.feed(stream[:size], 0.0)
        stream = stream[size:]
    found += framer.feed(stream, 0.0)
    assert (found, framer.pongs) == (expected, whole.pongs)
    assert found == [piece for piece in pieces if len(piece) > len(PING)]


def test_keep_alives() -> None:
    framer = StreamFramer()
    assert framer.feed(b"\r\n", 0.0) == []
    assert framer.pongs == 0
    framer.feed(b"\r", 0.0)
    assert (framer.pongs, framer.deadline()) == (0, None)
    framer.feed(b"\n", 0.0)
    assert framer.pongs == 1
    framer.feed(INVITE + b"\r\n" + INVITE + PING + PING, 0.0)
    assert framer.pongs == 3


def test_a_begun_message_has_a_deadline() -> None:
    framer = StreamFramer()
    assert framer.deadline() is None
    framer.feed(b"\r\n" + INVITE[:1], 100.0)
    assert framer.deadline() == 100.0 + limits.MESSAGE_SECONDS
    framer.feed(INVITE[1:-1], 103.0)
    assert framer.deadline() == 100.0 + limits.MESSAGE_SECONDS
    assert framer.feed(INVITE[-1:] + INVITE[:9], 104.0) == [INVITE]
    assert framer.deadline() == 104.0 + limits.MESSAGE_SECONDS
    framer.feed(INVITE[9:], 105.0)
    assert framer.deadline() is None


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (b"", "Content-Length is missing on a stream"),
        (b"l: x\r\n", "Content-Length is not a number"),
        (b"l: -1\r\n", "Content-Length is not a number"),
        (b"l: 0\r\nContent-Length: 0\r\n", "Content-Length is there more than once"),
        (b"X: a\rb\r\nl: 0\r\n", "a header holds a bare carriage return"),
    ],
)
def test_a_boundary_that_cannot_be_known(length: bytes, reason: str) -> None:
    error = failure(INVITE + HEAD + length + b"\r\n" + b"v=0")
    assert (error.status, error.reason) == (400, reason)
    assert error.messages == [INVITE]
    assert error.partial is not None
    assert error.partial.call_id == "c1"


def test_only_requests_are_answered() -> None:
    assert failure(b"SIP/2.0 200 OK\r\n" + ESSENTIALS + b"\r\n").partial is None
    assert failure(HEAD.replace(b"INVITE", b"ACK") + b"\r\n").partial is None
    assert failure(b"hello\r\n\r\n").partial is None


def test_message_size() -> None:
    def sized(total: int) -> bytes:
        body = total - len(HEAD) - len("Content-Length: 393216\r\n\r\n")
        return HEAD + b"Content-Length: %d\r\n\r\n" % body + b"x" * body

    data = sized(limits.MAX_MESSAGE_BYTES)
    assert cut(data) == [data]
    assert len(bytes(parse(data))) == limits.MAX_MESSAGE_BYTES
    error = failure(sized(limits.MAX_MESSAGE_BYTES + 1))
    assert (error.status, error.reason) == (513, "the message is too long")
    assert error.partial is not None


def test_head_size() -> None:
    def sized(total: int) -> bytes:
        lines = b""
        while (missing := total - len(HEAD + lines) - len("l: 0\r\n\r\n")) > 0:
            size = missing if missing <= 4_000 else min(4_000, missing - 100)
            lines += b"X: " + b"x" * (size - 5) + b"\r\n"
        return HEAD + lines + b"l: 0\r\n\r\n"

    data = sized(limits.MAX_HEAD_BYTES)
    assert len(data) == limits.MAX_HEAD_BYTES
    assert cut(data) == [data]
    for endless in (sized(limits.MAX_HEAD_BYTES + 1), b"x" * limits.MAX_HEAD_BYTES):
        error = failure(endless)
        assert (error.status, error.reason) == (513, "the headers are too long")


class Looked:
    """Finds the end of a head, and counts the octets it was given to look at."""

    def __init__(self) -> None:
        self.octets = 0

    def search(self, data: bytearray, start: int, end: int) -> re.Match[bytes] | None:
        self.octets += len(data) - start
        return HEAD_END.search(data, start, end)


def test_a_head_without_end_is_looked_at_once_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the last octets, which may be the beginning of its end."""
    monkeypatch.setattr(framing, "HEAD_END", looked := Looked())
    framer = StreamFramer()
    for _ in range(limits.MAX_HEAD_BYTES - 1):
        framer.feed(b"x", 0.0)
    assert looked.octets < 6 * limits.MAX_HEAD_BYTES


@given(st.lists(st.sampled_from([HEAD, b"\r\n", b"l: 1\r\n", b"x"]) | st.binary(max_size=9), max_size=9).map(b"".join))
def test_any_bytes_are_cut_or_refused(data: bytes) -> None:
    whole, single = StreamFramer(), StreamFramer()
    try:
        expected = whole.feed(data, 0.0)
    except StreamError as error:
        expected = error.messages
    found: list[bytes] = []
    try:
        for octet in data:
            found += single.feed(bytes([octet]), 0.0)
    except StreamError as error:
        found += error.messages
    assert found == expected
