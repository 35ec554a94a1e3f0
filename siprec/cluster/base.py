"""What a recorder asks of the other nodes, and the answers of a node that is alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from siprec.store.base import SessionStore

Wish = Literal["release", "end", "alive"]
"""What a node may want of the owner of a session: that it lets go, ends it (its SRC said BYE there), or is there."""

Release: TypeAlias = Callable[[str, str, Wish], Awaitable[bool]]
"""release(session id, asking node, wish): do so with a session of ours; False: it is not to be moved, or not here."""


@dataclass(frozen=True, slots=True)
class Orphan:
    """A session whose node has had no lease for long."""

    session_id: str
    node: str


class Cluster(Protocol):
    """The other nodes. `alone`: there are none, who could finish what this one leaves."""

    @property
    def alone(self) -> bool: ...

    @property
    def named(self) -> bool:
        """Whether no other living server has this node's name: it is known, since the start or a while later."""

    async def start(self) -> None:
        """Show that this node lives, and listen. Raises DuplicateNode, which names NODE_ID."""

    def may_adopt(self) -> bool:
        """Whether sessions may be adopted that nobody asked this node to adopt."""

    async def ask_release(self, session_id: str) -> bool:
        """Ask the owner of a session to release it, because its SRC has come here.

        False only when a living owner keeps it; otherwise go on with `store.load` and `store.adopt`.
        """

    async def tell(self, session_id: str, wish: Wish) -> bool:
        """Whether a living owner on another node has done as we wish. Raises StoreUnavailable."""

    async def orphans(self, session_timeout: float) -> list[Orphan]:
        """Sessions of nodes without lease for 10 s + `session_timeout`: to be adopted and finished.

        Ask at regular intervals: what a node's lease does between two questions is not seen.
        """

    async def close(self) -> None:
        """Leave the cluster."""


class SingleNode:
    """No other nodes: this one may do everything."""

    alone = True
    named = True

    async def start(self) -> None:
        """Nobody is to be told."""

    def may_adopt(self) -> bool:
        return True

    async def ask_release(self, session_id: str) -> bool:
        return True

    async def tell(self, session_id: str, wish: Wish) -> bool:
        return False

    async def orphans(self, session_timeout: float) -> list[Orphan]:
        return []

    async def close(self) -> None:
        """Nobody is to be told."""


def open_cluster(
    redis_url: str | None,
    store: SessionStore,
    release: Release,
    *,
    node: str,
    boot: str,
    previous: str = "",
    on_duplicate: Callable[[], None] = lambda: None,
) -> Cluster:
    """The cluster around this boot of `node`, not yet started. Without Redis it is alone.

    `release` is asked when another node wants a session. `previous`: the boot before on this machine, known to be over
    (siprec.cluster.boot). `on_duplicate` is called when another server turns up under the name of this one, later than
    at the start. Raises ValueError when the URL makes no sense.
    """
    if redis_url is None:
        return SingleNode()
    from siprec.cluster.shared import SharedCluster

    return SharedCluster(redis_url, store, release, node=node, boot=boot, previous=previous, on_duplicate=on_duplicate)
