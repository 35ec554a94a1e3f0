"""The nodes that share one Redis, as `siprec.cluster.base.Cluster`."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import cast

from siprec import clock
from siprec.cluster.base import Orphan, Release, Wish
from siprec.cluster.handover import HandOver, Outcome
from siprec.cluster.lease import LEASE_SECONDS, NodeLease
from siprec.store import layout
from siprec.store.base import SessionStore
from siprec.store.redis import Shared, connect

_NODE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9-]{0,31}")

NODES_LIMIT = 256
"""Nodes looked at: a cluster has some tens; whoever writes thousands of names into Redis is no node."""


SCAN_COUNT = 1000
"""Keys that one SCAN looks at: a millisecond of Redis' time."""


class SharedCluster:
    """The nodes that share one Redis."""

    def __init__(
        self,
        url: str,
        store: SessionStore,
        release: Release,
        *,
        node: str,
        boot: str,
        previous: str = "",
        on_duplicate: Callable[[], None] = lambda: None,
        now: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._node = node
        self._now = now
        self._shared = Shared(connect(url))
        self.lease = NodeLease(self._shared, node, boot, now=now, previous=previous, on_duplicate=on_duplicate)
        self.hand_over = HandOver(self._shared, connect(url, reading=None), store, release, node=node, boot=boot)
        self._missing_since: dict[str, float] = {}

    alone = False

    @property
    def named(self) -> bool:
        return self.lease.held

    async def start(self) -> None:
        await self.lease.start()
        await self.hand_over.start()

    def may_adopt(self) -> bool:
        return self.lease.may_adopt()

    async def ask_release(self, session_id: str) -> bool:
        """As the protocol says. Raises StoreUnavailable."""
        outcome: Outcome = await self.hand_over.ask(session_id)
        return outcome != "refused"

    async def tell(self, session_id: str, wish: Wish) -> bool:
        """As the protocol says. Raises StoreUnavailable."""
        return await self.hand_over.ask(session_id, wish) == "released"

    async def orphans(self, session_timeout: float) -> list[Orphan]:
        """As the protocol says. Raises StoreUnavailable."""
        if not self.lease.may_adopt():
            self._missing_since.clear()
            return []
        missing = [each for each in await self._nodes() if each != self._node]
        leases = await self._shared.pipeline(lambda pipe: [pipe.exists(layout.heartbeat(each)) for each in missing])
        now = self._now()
        dead = [each for each, lease in zip(missing, leases, strict=True) if lease == 0]
        self._missing_since = {each: self._missing_since.get(each, now) for each in dead}
        found = []
        for node in dead:
            if now - self._missing_since[node] >= LEASE_SECONDS + session_timeout:
                found += [Orphan(each, node) for each in await self._sessions(node)]
        return found

    async def _sessions(self, node: str) -> list[str]:
        members = await self._shared.call(
            lambda client: cast("Awaitable[set[bytes]]", client.smembers(layout.node(node)))
        )
        return sorted(each.decode("ascii", "replace") for each in members if len(each) <= layout.FIELD_LIMIT)

    async def _nodes(self) -> list[str]:
        """All nodes that own sessions; by SCAN, slice by slice, which holds nobody up."""
        prefix = layout.node("")
        found: set[str] = set()
        cursor: int | None = None
        while cursor != 0 and len(found) < NODES_LIMIT:
            cursor, keys = await self._shared.call(
                lambda client, at=cursor or 0: client.scan(at, match=f"{prefix}*", count=SCAN_COUNT)  # type: ignore[misc]
            )
            names = [key.removeprefix(prefix.encode()) for key in keys]
            found.update(each.decode() for each in names if _NODE.fullmatch(each))
        return sorted(found)

    async def close(self) -> None:
        await self.hand_over.close()
        await self.lease.close()
        await self._shared.close()
