"""No redundancy at all (ENABLE_REDUNDANCY=false): nothing is kept, so nothing is ever found."""

from __future__ import annotations

from siprec.errors import NotFound
from siprec.store.base import Health, Index, Reason, SessionRecord


class NoOpSessionStore:
    """A `SessionStore` that takes everything and keeps nothing."""

    async def create(self, record: SessionRecord) -> None:
        """Taken."""

    async def load(self, session_id: str) -> SessionRecord:
        raise NotFound(session_id)

    async def save(self, record: SessionRecord) -> None:
        """Taken."""

    async def find(self, index: Index, key: str) -> list[str]:
        return []

    async def owned(self, node: str) -> list[str]:
        return []

    async def strays(self, node: str) -> dict[str, str]:
        return {}

    async def adopt(self, session_id: str, node: str, boot: str, expected_fence: int | None) -> SessionRecord:
        raise NotFound(session_id)

    async def tombstone(self, session_id: str, reason: Reason = "bye", newest: SessionRecord | None = None) -> None:
        """Taken."""

    async def flush(self) -> None:
        """Nothing waits."""

    async def publish(self) -> None:
        """There are no other nodes."""

    def health(self) -> Health:
        return Health(detail="redundancy is off")

    async def close(self) -> None:
        """Nothing is left to save."""
