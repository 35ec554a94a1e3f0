"""The lease of a node: a key in Redis that says that it lives, and which life of it.

The lease guards one thing only: adopting sessions that nobody asked us to adopt. Recording never depends on it. A node
that could not renew in time, or found another epoch, may be the one that is cut off: it adopts nothing unprompted until
it has been back for a while. No wall clock of another machine is looked at.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import cast

from redis.asyncio import Redis

from siprec import log
from siprec.errors import ConfigurationError, StoreUnavailable
from siprec.store import layout
from siprec.store.redis import Shared

LEASE_SECONDS = 10.0
"""Life of a lease: three renewals may be lost before a node counts as dead."""

RENEW_SECONDS = 3.0
RENEW_JITTER = 0.2
"""Part of `RENEW_SECONDS` by which renewals are spread, so that nodes started together do not renew together."""

LATE_SECONDS = 3.0
"""A renewal this late means that the process, or its way to Redis, stood still: others may have acted meanwhile."""

QUARANTINE_SECONDS = 10.0
"""How long nothing is adopted after a doubt: one lease, in which every other living node has shown itself."""

WATCH_SECONDS = 0.25
"""How often a lease found held by another boot is looked at."""

_TAKE = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] and held ~= ARGV[2] then return held end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
return ARGV[1]
"""
_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class DuplicateNode(ConfigurationError):
    """Another living server uses this node's name."""


class NodeLease:
    """Holds the lease of `node` for the life `boot`; `previous` is a life known to be over, whose lease is taken over.

    `sleep` and `now` are for tests. `on_duplicate` is called when another server turns up under this name later on.
    """

    def __init__(
        self,
        shared: Shared,
        node: str,
        boot: str,
        *,
        now: Callable[[], float],
        previous: str = "",
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        on_duplicate: Callable[[], None] = lambda: None,
    ) -> None:
        self._shared = shared
        self._node = node
        self._boot = boot
        self._previous = previous
        self._now = now
        self._sleep = sleep
        self._on_duplicate = on_duplicate
        self._log = log.get(part="cluster")
        self._due_at: float | None = None
        self._free_at = 0.0
        self._doubt = False
        self._held = False
        self._epoch: bytes | None = None
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    # ---- called by whoever starts and stops the node

    async def start(self) -> None:
        """Take the lease and keep it. Without Redis: go on without, and take it when Redis comes.

        A lease held by another boot is watched until it runs out. Raises DuplicateNode when it is renewed.
        """
        try:
            await self._watch_other()
        except StoreUnavailable as error:
            self._doubt = True
            self._log.warning("node lease cannot be taken yet", error=str(error))
        self._task = asyncio.create_task(self._keep())

    async def close(self) -> None:
        """Give the lease back, so that others need not wait for its end."""
        self._closing = True  # the client may swallow the cancellation
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(StoreUnavailable):
            await self._script(_LEAVE, self._boot)
        self._held = False

    # ---- called by whoever wants to adopt

    @property
    def held(self) -> bool:
        """Whether the last renewal succeeded."""
        return self._held

    def may_adopt(self) -> bool:
        """Whether sessions may be adopted that nobody asked this node to adopt."""
        if not self._held or self._doubt or self._due_at is None:
            return False
        return self._free_at <= self._now() <= self._due_at + LATE_SECONDS

    # ---- keeping it

    async def _watch_other(self) -> None:
        left = -1
        while not await self.renew():
            if left < 0:
                self._log.warning("waiting for the lease of this node's name to run out", node=self._node)
            ttl = await self._shared.call(lambda client: client.pttl(layout.heartbeat(self._node)), probe=True)
            if left >= 0 and ttl > left:
                raise DuplicateNode(
                    [f"NODE_ID: another living server calls itself {self._node}; each needs a name of its own"]
                )
            left = ttl
            await self._sleep(WATCH_SECONDS)

    async def _keep(self) -> None:
        while not self._closing:
            await self._sleep(RENEW_SECONDS * random.uniform(1 - RENEW_JITTER, 1 + RENEW_JITTER))  # noqa: S311
            with suppress(StoreUnavailable):
                await self.renew()

    async def renew(self) -> bool:
        """Renew, or take, the lease once; False when another boot holds it. Raises StoreUnavailable."""
        try:
            held_by = await self._script(_TAKE, self._boot, self._previous, str(int(LEASE_SECONDS * 1000)))
            epoch = await self._shared.call(_epoch, probe=True)
        except StoreUnavailable:
            self._held = False
            self._doubt = True
            raise
        if held_by != self._boot.encode():
            self._lose()
            return False
        self._succeed(epoch)
        return True

    def _lose(self) -> None:
        if self._held or self._due_at is not None:
            self._log.error("another living server uses this NODE_ID", node=self._node)
            self._due_at = None
            self._on_duplicate()
        self._held = False
        self._doubt = True

    def _succeed(self, epoch: bytes | None) -> None:
        now = self._now()
        late = self._due_at is not None and now > self._due_at + LATE_SECONDS
        # The epoch is set by whoever comes first, often after the first lease: only one seen before can change.
        wiped = self._epoch is not None and epoch != self._epoch
        if self._doubt or late or wiped:
            self._free_at = now + QUARANTINE_SECONDS
        self._epoch = epoch
        self._doubt = False
        self._held = True
        self._due_at = now + RENEW_SECONDS * (1 + RENEW_JITTER)

    async def _script(self, text: str, *arguments: str) -> bytes:
        key = layout.heartbeat(self._node)
        return await self._shared.call(
            lambda client: cast(Awaitable[bytes], client.eval(text, 1, key, *arguments)), probe=True
        )


async def _epoch(client: Redis) -> bytes | None:
    return cast("bytes | None", await client.get(layout.EPOCH))
