"""The store that the settings name. Only a shared one costs the import of Redis' client."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from siprec.store.base import SessionStore
from siprec.store.memory import InMemorySessionStore
from siprec.store.noop import NoOpSessionStore
from siprec.store.sqlite import SqliteSessionStore

Kind = Literal["memory", "sqlite", "redis", "noop"]


async def open_store(
    kind: Kind,
    state_dir: Path,
    *,
    node: str,
    boot: str,
    redis_url: str | None = None,
    lost: Callable[[str], None] | None = None,
) -> SessionStore:
    """Open a store for this boot of `node`; its journal, where it has one, is in `state_dir`.

    `lost` is called with the id of a session of ours that another node has taken over. Raises ValueError when
    `redis_url` is needed and makes no sense.
    """
    if kind == "noop":
        return NoOpSessionStore()
    if kind == "memory":
        return InMemorySessionStore(boot=boot)
    if kind == "sqlite":
        return await SqliteSessionStore.open(state_dir, boot=boot)
    from siprec.store.redis import RedisSessionStore

    if not redis_url:
        raise ValueError("REDIS_URL is not set")
    return await RedisSessionStore.connected(redis_url, state_dir, node=node, boot=boot, lost=lost)
