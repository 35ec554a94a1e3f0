"""Dialogs of sessions that are over, as one block of bytes.

They are remembered for minutes, and come while the memory of their calls is being given back: as objects of their own
they would lie scattered among what is free, and each would keep a page, or a whole arena, from going back to the
system.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from struct import Struct

from siprec.sip.dialog import DialogKey

ENDED_SECONDS = 600.0
"""How long the end of a session is remembered: a proxy's or SRC's last try comes within minutes."""

ENDED_LIMIT = 20_000
"""Ended dialogs remembered, 1.4 MB; at 30 calls a second ten minutes' worth."""

_RECORD = Struct("=16s36s8sd?")
"""Digest of the dialog's key, session id, digest of the identity, when (monotonic seconds), whether by the SRC."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What is left of a session that is over. `identity` is a digest: it is only ever compared."""

    session_id: str
    identity: bytes
    by_src: bool

    @classmethod
    def of(cls, session_id: str, identity: str, *, by_src: bool) -> Ended:
        return cls(session_id, _digest(identity, size=8), by_src)

    def belonged_to(self, identity: str) -> bool:
        return self.identity == _digest(identity, size=8)


class EndedDialogs:
    """The newest ends, at most `limit`, none older than `seconds`. The oldest makes room for the newest."""

    def __init__(self, *, limit: int = ENDED_LIMIT, seconds: float = ENDED_SECONDS) -> None:
        self._limit, self._seconds = limit, seconds
        self._block = bytearray()
        self._next = 0

    def __len__(self) -> int:
        return len(self._block) // _RECORD.size

    def add(self, key: DialogKey, ended: Ended, now: float) -> None:
        """Remember how the session of a dialog ended."""
        session_id = ended.session_id.encode()
        record = _RECORD.pack(_digest(*key, size=16), session_id, ended.identity, now, ended.by_src)
        at = self._next * _RECORD.size
        self._block[at : at + _RECORD.size] = record
        self._next = (self._next + 1) % self._limit

    def get(self, key: DialogKey, now: float) -> Ended | None:
        """How the session of a dialog ended, the last time if more than once; None when it is not known any more."""
        wanted = _digest(*key, size=16)
        newest, found, at = now - self._seconds, None, -1
        while (at := self._block.find(wanted, at + 1)) >= 0:
            if at % _RECORD.size:
                continue  # by chance, across two fields
            _, session_id, identity, when, by_src = _RECORD.unpack_from(self._block, at)
            if when >= newest:
                newest, found = when, Ended(session_id.rstrip(b"\0").decode(), identity, by_src)
        return found


def _digest(*texts: str, size: int) -> bytes:
    whole = "\0".join(texts)
    return blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=size).digest()
