"""What a store of sessions does, whichever way it keeps them.

The owner's memory is the truth; a store is where another process finds what it needs to carry on. Every
failure is typed, so that "the store is down" never looks like "no such session".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

from siprec.metadata.model import RSMetadata
from siprec.session.model import CallData, DialogInfo

Index = Literal["dialog", "call_id", "media", "cs_id", "external"]


@dataclass(slots=True)
class SessionRecord:
    """All that is kept of one session."""

    call: CallData
    dialogs: list[DialogInfo] = field(default_factory=list)
    metadata: RSMetadata = field(default_factory=RSMetadata)


class SessionStore(Protocol):
    """Keeps session records. All methods raise StoreUnavailable when the store cannot be reached."""

    async def create(self, record: SessionRecord) -> None:
        """Keep a new session. Raises Conflict when its id is known."""

    async def load(self, session_id: str) -> SessionRecord:
        """The record of a session. Raises NotFound."""

    async def save(self, record: SessionRecord) -> None:
        """Keep a newer state. Raises NotFound, or NotOwner when a higher fence was saved."""

    async def find(self, index: Index, key: str) -> list[str]:
        """Ids of the sessions known under `key`; a hint, to be verified against the record."""

    async def owned(self, node: str) -> list[str]:
        """Ids of the sessions that `node` carries."""

    async def tombstone(self, session_id: str) -> None:
        """Forget an ended session."""
