"""What is not yet written somewhere: one mark for each session, however often it changes, so it cannot grow."""

from __future__ import annotations

from dataclasses import dataclass

from siprec.store.table import Part


@dataclass(slots=True)
class Mark:
    """Parts of a session to be written, and since when (monotonic seconds)."""

    parts: Part
    since: float


class DirtyMap:
    """Marks, oldest first. A batch taken is written, then `done` or `failed`."""

    def __init__(self) -> None:
        self._waiting: dict[str, Mark] = {}
        self._taken: dict[str, Mark] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    def __bool__(self) -> bool:
        """Whether anything waits to be taken."""
        return bool(self._waiting)

    def mark(self, session_id: str, parts: Part, *, now: float) -> None:
        """Note that `parts` of a session changed."""
        known = self._waiting.get(session_id)
        if known is None:
            self._waiting[session_id] = Mark(parts, now)
        else:
            known.parts |= parts

    def take(self, limit: int | None = None) -> dict[str, Mark]:
        """The oldest marks, at most `limit`, to be written now."""
        if limit is None or len(self._waiting) <= limit:
            self._taken, self._waiting = self._waiting, {}
        else:
            self._taken = {each: self._waiting.pop(each) for each in list(self._waiting)[:limit]}
        return self._taken

    def done(self) -> None:
        """What was taken is written."""
        self._taken = {}

    def failed(self) -> None:
        """What was taken is not: it waits again, in front."""
        for session_id, mark in self._waiting.items():
            known = self._taken.setdefault(session_id, mark)
            known.parts |= mark.parts
        self._waiting, self._taken = self._taken, {}

    def age(self, now: float) -> float:
        """Seconds since the oldest mark; 0 without one."""
        for marks in (self._taken, self._waiting):
            for mark in marks.values():
                return max(0.0, now - mark.since)
        return 0.0
