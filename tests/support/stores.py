"""Stores of every kind, opened for tests, and waiting for what they do in the background."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from siprec.errors import StoreError
from siprec.store.base import SessionStore
from siprec.store.opening import Kind, open_store
from siprec.store.redis import RedisSessionStore
from tests.support import redis_server
from tests.support.redis_server import RedisServer

WAIT_SECONDS = 10.0

needs_redis = pytest.mark.skipif(not redis_server.installed(), reason=redis_server.MISSING)

KEEPING = ("memory", "sqlite", pytest.param("redis", marks=needs_redis))
"""Kinds of stores that read their own writes."""

ALL = (*KEEPING, "noop")


@asynccontextmanager
async def opened(kind: Kind, *, node: str = "a", boot: str = "a1") -> AsyncIterator[SessionStore]:
    """A store of a kind, with a Redis of its own where it needs one."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server.running()).url if kind == "redis" else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        store = await open_store(kind, folder, node=node, boot=boot, redis_url=url)
        try:
            yield store
        finally:
            await store.close()


@asynccontextmanager
async def node(
    server: RedisServer,
    name: str,
    *,
    boot: str = "",
    folder: Path | None = None,
    lost: Callable[[str], None] | None = None,
) -> AsyncIterator[RedisSessionStore]:
    """A node's store over a running Redis."""
    with tempfile.TemporaryDirectory() as state:
        store = await RedisSessionStore.connected(
            server.url, folder or Path(state), node=name, boot=boot or f"{name}-boot", lost=lost
        )
        try:
            yield store
        finally:
            await store.close()


async def until(holds: Callable[[], Awaitable[bool]], *, seconds: float = WAIT_SECONDS) -> float:
    """Ask again and again until something holds; returns after how many seconds. A store that is down says no."""
    begun = time.monotonic()
    while True:
        with contextlib.suppress(StoreError):
            if await holds():
                return time.monotonic() - begun
        assert time.monotonic() - begun < seconds, "it did not come to hold"
        await asyncio.sleep(0.005)


async def settled(store: SessionStore) -> float:
    """Wait until everything is where it should be; returns after how many seconds."""

    async def clean() -> bool:
        health = store.health()
        return not health.degraded and health.dirty == 0

    return await until(clean)
