"""Seeded damage to valid bytes: what a broken or hostile peer might send, the same again for the same seed."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

EDGES = (b"0", b"-1", b"1", b"00", b"65535", b"65536", b"2147483647", b"2147483648", b"4294967296", b"9" * 40)
"""Numbers at which something wraps or ends."""

PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\r\n ", b"\t", b" ", b"\0", b"\x1b[2J", b"\xff", b"\xc3", b"\xe2\x80\xa8"),
    *(
        b":",
        b";",
        b",",
        b'"',
        b"'",
        b"\\",
        b"<",
        b">",
        b"=",
        b"/",
        b"@",
        b"?",
        b"%00",
        b"%s%n",
        b"[",
        b"]",
        b"*",
        b"--",
    ),
    *(b"SIP/2.0", b"INVITE", b"ACK", b"BYE", b"CANCEL", b"PRACK", b"UPDATE", b"sip:", b"sips:", b"tel:", b"[::1]"),
    *(b";tag=", b";branch=z9hG4bK", b";received=", b";rport", b";lr", b"Via: ", b"v:", b"l: 0\r\n", b"To: ", b"CSeq: "),
    *(b"Content-Length: 99999\r\n", b"Content-Type: multipart/mixed;boundary=x\r\n", b"Require: 100rel\r\n"),
    *(
        b"RAck: 1 1 INVITE\r\n",
        b"Replaces: a;to-tag=b;from-tag=c\r\n",
        b"Session-Expires: 1\r\n",
        b"Record-Route: <>\r\n",
    ),
    *(
        b"m=audio 0 RTP/AVP 0\r\n",
        b"a=inactive\r\n",
        b"c=IN IP4 0.0.0.0\r\n",
        b"a=rtpmap:0 X/1/1\r\n",
        b"a=label:1\r\n",
    ),
    *(b"<!DOCTYPE x>", b"<!ENTITY", b"&amp;", b"&#0;", b"<![CDATA[", b"]]>", b"<?xml", b"xmlns=", b"</", b"/>"),
    *(b"../../etc/passwd", b"/dev/null", b"${x}", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"z" * 300),
)
"""What parsers stumble over, for all the formats that are spoken here."""

_NUMBER = re.compile(rb"[0-9]+")
MAX_PLACES = 3
"""Damages to one message: with more, hardly any gets past the first check."""


class Mutator:
    """Damages bytes. `others` are further valid inputs, from which pieces are taken."""

    def __init__(self, seed: int, *, others: Sequence[bytes] = (), pieces: Sequence[bytes] = PIECES) -> None:
        self._random = random.Random(seed)
        self._others = tuple(others)
        self._pieces = tuple(pieces)

    def __call__(self, data: bytes) -> bytes:
        for _ in range(self._random.randint(1, MAX_PLACES)):
            data = self._random.choice(_DAMAGES)(self, data)
        return data

    def _flip(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + bytes(each ^ (1 << self._random.randrange(8)) for each in data[at : at + 1]) + data[at + 1 :]

    def _octet(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.randbytes(1) + data[at + 1 :]

    def _insert(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + self._random.choice(self._pieces) + data[at:]

    def _overwrite(self, data: bytes) -> bytes:
        at, piece = self._place(data), self._random.choice(self._pieces)
        return data[:at] + piece + data[at + len(piece) :]

    def _remove(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at + self._random.choice((1, 2, 8, 64)) :]

    def _repeat(self, data: bytes) -> bytes:
        at = self._place(data)
        return data[:at] + data[at : at + self._random.choice((1, 4, 32))] * self._random.choice((2, 3, 30)) + data[at:]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._place(data)]

    def _number(self, data: bytes) -> bytes:
        found = list(_NUMBER.finditer(data))
        if not found:
            return data
        chosen = self._random.choice(found)
        return data[: chosen.start()] + self._random.choice(EDGES) + data[chosen.end() :]

    def _lines(self, data: bytes) -> bytes:
        """A line is lost, doubled or in another place."""
        lines = data.splitlines(keepends=True)
        if not lines:
            return data
        line = lines.pop(self._random.randrange(len(lines)))
        for _ in range(self._random.randrange(3)):
            lines.insert(self._random.randint(0, len(lines)), line)
        return b"".join(lines)

    def _splice(self, data: bytes) -> bytes:
        if not self._others:
            return data
        other = self._random.choice(self._others)
        return data[: self._place(data)] + other[self._place(other) :]

    def _place(self, data: bytes) -> int:
        return self._random.randint(0, len(data))


_DAMAGES: tuple[Callable[[Mutator, bytes], bytes], ...] = (
    Mutator._flip,
    Mutator._octet,
    Mutator._insert,
    Mutator._overwrite,
    Mutator._remove,
    Mutator._repeat,
    Mutator._cut,
    Mutator._number,
    Mutator._lines,
    Mutator._splice,
)
