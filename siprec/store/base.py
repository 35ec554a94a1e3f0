"""What a store of sessions does, whichever way it keeps them.

The owner's memory is the truth; a store is where another process finds what it needs to carry on. Every
failure is typed, so that "the store is down" never looks like "no such session".

Who may write is told by (fence, version), compared like a version number: the fence rises with every adoption
and names one owner (node and boot id), the version rises with the session's own steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from siprec.metadata.model import RSMetadata
from siprec.session.model import CallData, DialogInfo

Index = Literal["dialog", "call_id", "media", "cs_id", "external"]
IndexKey: TypeAlias = tuple[Index, str]
Reason = Literal["bye", "lost"]
"""Why a session ended: the SRC said BYE, or we gave it up: then an SRC that comes back is recorded anew."""

TOMBSTONE_SECONDS = 600.0
"""How long an ended session is told from an unknown one: any SRC that fails over does so within minutes."""

TOMBSTONE_LIMIT = 20_000
"""Tombstones kept at most, about 20 MB with their keys: 33 calls ending each second for all of `TOMBSTONE_SECONDS`."""

FIND_LIMIT = 32
"""Sessions looked at for one key: the rules ask for exactly one, and a peer may give all its calls the same id."""


@dataclass(slots=True)
class SessionRecord:
    """All that is kept of one session. `ended`: why, once it is a tombstone (its SDP and metadata are gone then).
    `metadata_at_rest`: as it was stored last, and of which revision: it is large, and seldom changes. `sdp_at_rest`
    likewise, and of which text.
    """

    call: CallData
    dialogs: list[DialogInfo] = field(default_factory=list)
    metadata: RSMetadata = field(default_factory=RSMetadata)
    ended: Reason | None = None
    metadata_at_rest: tuple[int, bytes] = field(default=(-1, b""), compare=False, repr=False)
    sdp_at_rest: tuple[str, bytes] = field(default=("", b""), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Health:
    """How a store does. `ok`: it takes sessions. `degraded`: only part of what it promises, `detail` says what.

    `dirty`: sessions whose newest state is not yet where it should be; `oldest_dirty_seconds`: since when.
    `set_aside`: records that could not be read.
    """

    ok: bool = True
    degraded: bool = False
    detail: str = ""
    dirty: int = 0
    oldest_dirty_seconds: float = 0.0
    set_aside: int = 0


class SessionStore(Protocol):
    """Keeps session records. All methods may raise StoreUnavailable when what they need cannot be reached."""

    async def create(self, record: SessionRecord) -> None:
        """Keep a new session, and wait until it is durable here. Raises Conflict when its id is known.

        The session is kept from the first moment: whoever stops waiting loses nothing but the certainty.
        """

    async def load(self, session_id: str) -> SessionRecord:
        """The record of a session, ended ones for `TOMBSTONE_SECONDS` included. Raises NotFound."""

    async def save(self, record: SessionRecord) -> None:
        """Keep a newer state; it becomes durable soon after, many saves of one session as one.

        Raises NotFound (also once ended), NotOwner when another owner or a higher fence was saved, Conflict when
        a higher version was.
        """

    async def find(self, index: Index, key: str) -> list[str]:
        """Ids of the sessions whose records hold `key`, ended ones included (see `siprec.store.base.*_key`)."""

    async def owned(self, node: str) -> list[str]:
        """Ids of the living sessions that `node` carries."""

    async def strays(self, node: str) -> dict[str, str]:
        """Living sessions that this very store holds of other nodes than `node`, with their node: at a start, those of
        an earlier life here under another name.
        """

    async def adopt(self, session_id: str, node: str, boot: str, expected_fence: int | None) -> SessionRecord:
        """Become the owner: the record with fence `expected_fence` + 1. Exactly one of many adopters succeeds.

        `expected_fence` None: whatever it is, for a session that this very store holds (`owned`), at a start.

        Raises NotFound (also once ended), Conflict when the fence is not `expected_fence` any more.
        """

    async def tombstone(self, session_id: str, reason: Reason = "bye", newest: SessionRecord | None = None) -> None:
        """Note that a session has ended; an unknown one is no error. Raises NotOwner.

        `newest`: its last state, where that is known; else what was saved last is told of it.
        """

    async def flush(self) -> None:
        """Wait until everything taken so far is durable on this machine."""

    async def publish(self) -> None:
        """Wait until other nodes can see everything taken so far; at once where there are none.

        Raises StoreUnavailable when they cannot for now.
        """

    def health(self) -> Health:
        """How the store does, from memory."""

    async def close(self) -> None:
        """Save what is not yet saved, and let go."""


def dialog_key(call_id: str, local_tag: str, remote_tag: str) -> str:
    """The key of index `dialog`: a dialog as named at our side."""
    return f"{call_id} {local_tag} {remote_tag}"


def media_key(node: str, port: int) -> str:
    """The key of index `media`: the RTP port of a living stream."""
    return f"{node}:{port}"


def external_key(name: str, value: str) -> str:
    """The key of index `external`: an id of another system, with the name of the header it came in."""
    return f"{name}:{value}"
