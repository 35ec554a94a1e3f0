"""Telephone events (RFC 4733): what keys were pressed, from packets that say each several times."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace

KEYS = "0123456789*#ABCD"
"""Events 0 to 15 (RFC 4733 section 3.2)."""

MASK = "X"
"""What stands for a key that is not to be seen: it may be part of a card number or a password."""

MAX_EVENTS = 10_000
"""Events kept of one recording: a key every 9 s over a whole day; more comes from no hand."""

_BLOCK = struct.Struct(">BBH")
_END = 0x80
_VOLUME = 0x3F
_FULL = 0xFFFF  # a segment that lasts as long as the field can say goes on in the next one


@dataclass(slots=True)
class Event:
    """One event. `start` and `duration` in timestamp units (start unwrapped), `volume` in -dBm0.

    `sequence` is the extended sequence number of the first packet that told of it.
    """

    code: int
    start: int
    duration: int
    volume: int
    sequence: int
    ended: bool = False

    @property
    def key(self) -> str:
        """The key, `flash` for event 16, else the event's number."""
        if self.code < len(KEYS):
            return KEYS[self.code]
        return "flash" if self.code == 16 else str(self.code)

    @property
    def masked(self) -> str:
        """As `key`, with keys hidden."""
        return MASK if self.code < len(KEYS) else self.key


def blocks(payload: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """(code, volume, duration, end) of each event in a packet, first to last (RFC 4733 section 2.5.1.5).

    What is left over at the end is not looked at.
    """
    for place in range(0, len(payload) - _BLOCK.size + 1, _BLOCK.size):
        code, flags, duration = _BLOCK.unpack_from(payload, place)
        yield code, flags & _VOLUME, duration, bool(flags & _END)


def duration(payload: bytes) -> int:
    """Timestamp units that a packet's events last together."""
    return sum(each for _, _, each, _ in blocks(payload))


class Collector:
    """Gathers the events of one stream. Packets may come in any order and any number of times.

    `room`: how many more may be kept, shared by all streams of a recording.
    """

    def __init__(self, room: list[int] | None = None) -> None:
        self._room = [MAX_EVENTS] if room is None else room
        self._segments: dict[tuple[int, int], Event] = {}  # by code and start
        self._beyond: tuple[int, int] | None = None  # code and start of the latest that is not kept
        self.omitted = 0

    @property
    def events(self) -> list[Event]:
        """All events by start. Segments that follow each other are one event, whichever came first."""
        found: list[Event] = []
        going_on: dict[tuple[int, int], Event] = {}  # by code and where the next segment would begin
        for code, start in sorted(self._segments, key=lambda place: place[1]):
            segment = self._segments[code, start]
            event = going_on.pop((code, start), None)
            if event is None:
                found.append(event := replace(segment))
            else:
                event.duration, event.ended = start + segment.duration - event.start, segment.ended
                event.sequence = min(event.sequence, segment.sequence)
            if segment.duration == _FULL and not segment.ended:
                going_on[code, start + _FULL] = event
        return sorted(found, key=lambda event: (event.start, event.code))

    def feed(self, timestamp: int, payload: bytes, *, sequence: int) -> None:
        """One packet: its unwrapped timestamp, its payload and its extended sequence number."""
        start = timestamp
        for code, volume, lasts, end in blocks(payload):
            self._note(code, start, lasts=lasts, volume=volume, end=end, sequence=sequence)
            start += lasts

    def _note(self, code: int, start: int, *, lasts: int, volume: int, end: bool, sequence: int) -> None:
        segment = self._segments.get((code, start))
        if segment is None:
            if self._room[0] <= 0:
                self.omitted += (code, start) != self._beyond
                self._beyond = (code, start)
                return
            self._room[0] -= 1
            segment = self._segments[code, start] = Event(code, start, lasts, volume, sequence)
        segment.duration = max(segment.duration, lasts)
        segment.ended = segment.ended or end
        segment.sequence = min(segment.sequence, sequence)
