"""Rows as checksummed frames, which can be found again in the bytes of a file whose structure is lost.

SQLite checks nothing that it stores: each frame carries its own CRC, names its session, and starts with a mark that
a search finds. A core fits into one page, so a frame lies in one piece whatever happened to the tree above it.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from siprec.store.codec import Row

Kind = Literal[b"s", b"d", b"x"]
"""Session (head and core), SDP, metadata."""

_HEADER = struct.Struct(">5sII")
_MARK = b"srsJ"
_FOUND = re.compile(re.escape(_MARK) + b"[sdx]")

FRAME_LIMIT = 8 << 20
"""Bytes of one frame that are looked at: above what the codec reads, below what a forged length could cost."""


def number_of(session_id: str) -> int:
    """The row number of a session: 63 bits of a hash, so that no index, which could break, is needed.

    Two of 100 000 sessions would share one once in two billion journals.
    """
    return int.from_bytes(hashlib.blake2b(session_id.encode("utf-8", "surrogatepass"), digest_size=8).digest()) >> 1


def pack(kind: Kind, row: Row) -> bytes:
    """The frame of one kind of a row; empty when the row has nothing of that kind."""
    if kind == b"s":
        head = [row.session_id, row.node, row.boot, row.fence, row.version, row.state, row.ended, row.schema]
        payload = json.dumps(head).encode() + b"\n" + row.core
    else:
        body = row.sdp if kind == b"d" else row.xml
        if not body:
            return b""
        payload = json.dumps([row.session_id]).encode() + b"\n" + body
    return _HEADER.pack(_MARK + kind, len(payload), zlib.crc32(kind + payload)) + payload


def unpack(data: bytes, at: int = 0) -> tuple[bytes, Row] | None:
    """The frame at an offset: its kind, and a row with what it holds; None when it is damaged."""
    if len(data) - at < _HEADER.size:
        return None
    mark, length, checksum = _HEADER.unpack_from(data, at)
    if mark[:4] != _MARK or length > FRAME_LIMIT:
        return None
    kind, payload = mark[4:], data[at + _HEADER.size : at + _HEADER.size + length]
    if len(payload) != length or zlib.crc32(kind + payload) != checksum:
        return None
    head, _, body = payload.partition(b"\n")
    if kind == b"s":
        session_id, node, boot, fence, version, state, ended, schema = json.loads(head)
        return kind, Row(session_id, node, boot, fence, version, state, ended, schema, core=body)
    blank = Row(json.loads(head)[0], "", "", 0, 0, "", "", 0, b"")
    return kind, replace(blank, sdp=body) if kind == b"d" else replace(blank, xml=body)


def search(data: bytes) -> Iterator[tuple[bytes, Row]]:
    """All whole frames in the bytes of a file, in their order."""
    for each in _FOUND.finditer(data):
        found = unpack(data, each.start())
        if found is not None:
            yield found


class Assembly:
    """Rows put together again from frames; of several of one session the highest rank counts."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}
        self._sdp: dict[str, bytes] = {}
        self._xml: dict[str, bytes] = {}

    def add(self, kind: bytes, row: Row) -> None:
        """Take a frame."""
        if kind == b"d":
            self._sdp[row.session_id] = row.sdp
        elif kind == b"x":
            self._xml[row.session_id] = row.xml
        elif row.session_id not in self._rows or row.rank >= self._rows[row.session_id].rank:
            self._rows[row.session_id] = row

    def fill(self, other: Assembly) -> None:
        """Take from another what is missing here or newer there."""
        for session_id, row in other._rows.items():
            if session_id not in self._rows or row.rank > self._rows[session_id].rank:
                self._rows[session_id] = row
        self._sdp = other._sdp | self._sdp
        self._xml = other._xml | self._xml

    def rows(self) -> list[Row]:
        """The sessions, whole as far as their bodies were found."""
        return [
            row if row.ended else replace(row, sdp=self._sdp.get(each, b""), xml=self._xml.get(each, b""))
            for each, row in self._rows.items()
        ]
