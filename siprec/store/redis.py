"""Sessions in memory, in the local journal, and in Redis, where other nodes find them.

Nothing that a call waits for writes to Redis: changes are marked, and a writer of its own sends the newest state of
each marked session in pipelines, at once when there is room, so that a new session is there within 50 ms. Index
entries go first and the session last: a hint may point nowhere, but a session is never without its hints.

Redis may be down, slow, wiped, or an earlier one of itself. Each call has a deadline, the first failure opens a
breaker (who asks gets StoreUnavailable at once), and the writer tries again on its own. Whenever the data set may have
lost something (an outage, another epoch, another process), all rows are marked and sent again, at a limited rate. Every
write is compared with fence, version and owner there: what another node owns by now is lost here, and told so.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from siprec import log
from siprec.errors import Conflict, NotFound, NotOwner, StoreUnavailable
from siprec.store import codec, layout
from siprec.store.base import FIND_LIMIT, TOMBSTONE_SECONDS, Health, Index, IndexKey, Reason, SessionRecord
from siprec.store.codec import Row, TooNew, Unreadable
from siprec.store.dirty import DirtyMap, Mark
from siprec.store.sqlite import SqliteSessionStore
from siprec.store.table import Change, Part

CALL_SECONDS = 0.2
"""Deadline of one call: a hundred times what a healthy Redis takes, and less than the 300 ms an answer may wait."""

COALESCE_SECONDS = 0.01
"""How long the writer gathers before it sends: calls come in bursts, and a new one must be there within 50 ms."""

PROBE_SECONDS = 0.5
"""How often the writer looks whether Redis is there and still the same: re-synced within 2 s needs four looks."""

BATCH = 32
"""Sessions in one pipeline: 10 ms of this process' time. It halves after each failure, lest a slow machine never gets
through, and grows back."""

RESYNC_PAUSE_SECONDS = 0.005
"""Pause after each batch: calls are answered between two, and a Redis just back is not run over."""

DOUBT_SECONDS = 2.0
"""After an outage or a wipe a miss proves nothing until the other nodes have re-synced too."""

CONNECTIONS = 8
"""Calls at once; more of them would only queue in Redis."""

CLOSE_SECONDS = 1.0
"""How long closing waits for Redis to take what it has not; the journal has it anyway."""

GIVEN_UP_LIMIT = 10_000
"""Sessions that other nodes have taken and nobody has ended here: as many as a node carries. One past it is forgotten:
it is then unknown to this store, and no more saved than before.
"""

T = TypeVar("T")


def connect(url: str, *, reading: float | None = CALL_SECONDS) -> Redis:
    """A client for REDIS_URL: redis://, rediss://, unix://, or redis+sentinel://host:port,host:port/service/db.

    `reading`: how many seconds an answer may take; None for who listens. It never retries by itself, so that every
    outage is seen. Raises ValueError when the URL makes no sense.
    """
    options: dict[str, Any] = {
        "socket_timeout": reading,
        "socket_connect_timeout": CALL_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "client_name": "siprec",
    }
    parts = urlsplit(url)
    if not parts.scheme.endswith("+sentinel"):
        return Redis.from_url(url, **options)
    service, _, database = parts.path.lstrip("/").partition("/")
    if not service:
        raise ValueError("a sentinel URL names its service: redis+sentinel://host:port,host:port/service/db")
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    secured: dict[str, Any] = {"username": unquote(user) or None, "password": unquote(password) or None}
    if parts.scheme.startswith("rediss"):
        options["ssl"] = True
    watchers = [_endpoint(each) for each in hosts.split(",")]
    sentinel = Sentinel(watchers, sentinel_kwargs=dict(options), **options)  # type: ignore[no-untyped-call]
    return cast(Redis, sentinel.master_for(service, db=int(database or 0), **secured))


def _endpoint(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":") if text.rpartition(":")[2].isdigit() else (text, "", "26379")
    return host.strip("[]"), int(port)


async def disconnect(client: Redis) -> None:
    """Close a client, and the clients that ask its sentinels, which it leaves open."""
    pool = client.connection_pool
    sentinels = pool.sentinel_manager.sentinels if isinstance(pool, SentinelConnectionPool) else []
    for each in (client, *sentinels):
        with suppress(RedisError, OSError, TimeoutError):
            await each.aclose()


class Shared:
    """Calls to Redis with a deadline, behind a breaker: open after a failure, until the writer finds it back."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._room = asyncio.Semaphore(CONNECTIONS)
        self.error = ""

    async def call(self, make: Callable[[Redis], Awaitable[T]], *, probe: bool = False) -> T:
        """The result of one call. Raises StoreUnavailable."""
        if self.error and not probe:
            raise StoreUnavailable(self.error)
        try:
            async with asyncio.timeout(CALL_SECONDS), self._room:
                result = await make(self._client)
        except (RedisError, OSError, TimeoutError) as error:
            raise self.failed(error) from error
        self.error = ""
        return result

    def failed(self, error: Exception) -> StoreUnavailable:
        """Open the breaker; returns what to raise."""
        self.error = f"Redis: {type(error).__name__}"
        return StoreUnavailable(self.error)

    async def pipeline(self, fill: Callable[[Pipeline], object]) -> list[Any]:
        """The results of many commands, errors of single ones among them. Raises StoreUnavailable."""

        async def run(client: Redis) -> list[Any]:
            async with client.pipeline(transaction=False) as pipe:
                fill(pipe)
                return await pipe.execute(raise_on_error=False)

        return await self.call(run)

    async def close(self) -> None:
        """Close all connections."""
        await disconnect(self._client)


@dataclass(frozen=True, slots=True)
class _Sending:
    """One session in a batch."""

    row: Row
    mark: Mark
    gone: frozenset[IndexKey]


class RedisSessionStore(SqliteSessionStore):
    """A `SessionStore` shared by nodes. `lost` is called with the id of a session that another node owns by now."""

    def __init__(
        self, url: str, state_dir: Path, *, node: str, boot: str, lost: Callable[[str], None] | None = None
    ) -> None:
        super().__init__(state_dir, boot=boot)
        self._node = node
        self._shared = Shared(connect(url))
        self._lost = lost or (lambda _: None)
        self._given_up: dict[str, None] = {}  # oldest first
        self._log = log.get(part="store")
        self._dirty = DirtyMap()
        self._batch = BATCH
        self._idle = asyncio.Event()
        self._gone: dict[str, set[IndexKey]] = {}
        self._refresh_at: dict[str, float] = {}
        self._data_set: tuple[bytes, str] | None = None
        self._lagging = False
        self._sure_at = 0.0
        self._wake = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connected(
        cls, url: str, state_dir: Path, *, node: str, boot: str, lost: Callable[[str], None] | None = None
    ) -> RedisSessionStore:
        """Read the journal in a thread, and begin; Redis need not be there. Raises ValueError for a wrong URL."""
        store = await asyncio.to_thread(cls, url, state_dir, node=node, boot=boot, lost=lost)
        store._task = asyncio.create_task(store._run())
        return store

    # ---- called by the recorder

    async def load(self, session_id: str) -> SessionRecord:
        if session_id in self._table:
            return await super().load(session_id)
        row = await self._fetch(session_id)
        if row is None:
            raise self._miss(session_id)
        return codec.decode(row)

    async def save(self, record: SessionRecord) -> None:
        if record.call.session_id in self._given_up:
            raise NotOwner(record.call.session_id)
        await super().save(record)

    async def find(self, index: Index, key: str) -> list[str]:
        here = await super().find(index, key)
        if here and index in {"dialog", "media"}:
            return here
        try:
            there = await self._find_shared((index, key))
        except StoreUnavailable:
            if here:
                return here
            raise
        if not here and not there and self._doubtful:
            raise StoreUnavailable("Redis has not got back all sessions yet")
        return sorted({*here, *there})

    async def owned(self, node: str) -> list[str]:
        here = await super().owned(node)
        try:
            found = await self._shared.call(lambda client: _members(client, layout.node(node)))
        except StoreUnavailable:
            if node == self._node:
                return here  # a start waits for nothing that another machine has
            raise
        there = [each for each in found if each not in self._table]
        rows = [await self._fetch(each) for each in there]
        return [*here, *(row.session_id for row in rows if row is not None and row.node == node and not row.ended)]

    async def adopt(self, session_id: str, node: str, boot: str, expected_fence: int | None) -> SessionRecord:
        if session_id in self._table:
            return await super().adopt(session_id, node, boot, expected_fence)
        if expected_fence is None:
            raise NotFound(session_id)
        fence = expected_fence + 1
        arguments = [str(expected_fence), node, boot, str(fence), str(layout.SESSION_TTL_SECONDS * 1000)]
        verdict = await self._shared.call(
            lambda client: _eval(client, layout.ADOPT, layout.session(session_id), arguments)
        )
        if verdict == b"unknown":
            raise self._miss(session_id)
        owner = verdict.decode(errors="replace").removeprefix("from ") if verdict.startswith(b"from ") else None
        row = await self._fetch(session_id) if owner is not None else None
        if owner is None or row is None or (row.node, row.boot, row.fence) != (node, boot, fence):
            raise Conflict(session_id)
        return await self._welcome(row, owner)

    async def _welcome(self, row: Row, owner: str) -> SessionRecord:
        """Take in a session that `owner` had."""
        record = codec.decode(row)
        self._given_up.pop(row.session_id, None)
        gone = codec.keys(replace(row, node=owner)) - codec.keys(row)
        self._note(replace(self._table.take(row), parts=Part.ALL | Part.STATE, gone=lambda: gone))
        if owner != row.node:
            with suppress(StoreUnavailable):  # a hint, no more
                await self._shared.call(lambda client: _leave(client, owner, row.session_id))
        return record

    async def tombstone(self, session_id: str, reason: Reason = "bye", newest: SessionRecord | None = None) -> None:
        await super().tombstone(session_id, reason, newest)
        self._refresh_at.pop(session_id, None)
        self._given_up.pop(session_id, None)

    async def publish(self) -> None:
        if self._shared.error:
            raise StoreUnavailable(self._shared.error)
        try:
            await asyncio.wait_for(self._idle.wait(), CALL_SECONDS)
        except TimeoutError:
            raise StoreUnavailable("Redis has not taken everything yet") from None

    def health(self) -> Health:
        local = super().health()
        waiting = len(self._dirty)
        return replace(
            local,
            degraded=local.degraded or bool(self._shared.error) or self._lagging,
            detail="; ".join(filter(None, (local.detail, self._shared.error, "re-syncing" if self._lagging else ""))),
            dirty=max(local.dirty, waiting),
            oldest_dirty_seconds=max(local.oldest_dirty_seconds, self._dirty.age(self._now())),
        )

    async def close(self) -> None:
        if not self._shared.error:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), CLOSE_SECONDS)
        self._closing = True  # the client may swallow the cancellation
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._shared.close()
        await super().close()

    # ---- called by the layers below

    def _note(self, change: Change) -> None:
        super()._note(change)
        self._mark(change.row.session_id, change.parts)
        if gone := change.gone():
            self._gone.setdefault(change.row.session_id, set()).update(gone)

    def _dropped(self, session_id: str) -> None:
        super()._dropped(session_id)
        self._gone.pop(session_id, None)  # Redis forgets a tombstone on its own

    # ---- reading from Redis

    @property
    def _doubtful(self) -> bool:
        """Whether a session that is not found in Redis may still exist."""
        return self._lagging or self._now() < self._sure_at

    def _miss(self, session_id: str) -> Exception:
        if self._doubtful:
            return StoreUnavailable("Redis has not got back all sessions yet")
        return NotFound(session_id)

    async def _fetch(self, session_id: str) -> Row | None:
        """The row in Redis, checked; None when there is none, or none that can be read."""
        key = layout.session(session_id)
        try:
            raw = await self._shared.call(lambda client: _hash(client, key))
            if not raw:
                return None
            row = layout.row(session_id, raw)
            codec.decode(row)
        except TooNew as error:
            raise StoreUnavailable(str(error)) from None
        except Unreadable as error:
            self._unreadable += 1
            self._log.error("unreadable session in Redis set aside", session=session_id, error=str(error))
            await self._shared.pipeline(lambda pipe: _set_aside(pipe, session_id))
            return None
        return row

    async def _find_shared(self, key: IndexKey) -> list[str]:
        members = await self._shared.call(lambda client: _hinted(client, layout.index(key)))
        found = []
        for session_id in members[:FIND_LIMIT]:
            row = self._table.row(session_id) or await self._fetch(session_id)
            if row is not None and key in codec.keys(row):
                found.append(session_id)
        return found

    # ---- writing to Redis: one task

    def _mark(self, session_id: str, parts: Part) -> None:
        self._dirty.mark(session_id, parts, now=self._now())
        self._wake.set()
        self._idle.clear()

    def _mark_all(self) -> None:
        for row in self._table:
            self._mark(row.session_id, Part.ALL)

    async def _run(self) -> None:
        probe_at = 0.0
        while not self._closing:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, probe_at - self._now())):
                    await self._wake.wait()
                    await asyncio.sleep(COALESCE_SECONDS)
            try:
                if self._now() >= probe_at:
                    probe_at = self._now() + PROBE_SECONDS
                    await self._probe()
                await self._send_all(until=probe_at)
            except StoreUnavailable as error:
                self._interrupted(str(error))
                self._wake.clear()  # the next probe is the next try

    def _interrupted(self, error: str) -> None:
        if not self._lagging:
            self._log.warning("shared store lost, calls go on", error=error)
        self._lagging = True
        self._data_set = None

    async def _probe(self) -> None:
        """See whether Redis is there and still the one that took what was sent. Raises StoreUnavailable."""
        found = await self._shared.call(_identify, probe=True)
        if found != self._data_set:
            first = self._data_set is None and not self._lagging
            self._data_set = found
            if not first:
                self._lagging = True
                self._sure_at = self._now() + DOUBT_SECONDS
            self._mark_all()
        now = self._now()
        for session_id in [each for each, at in self._refresh_at.items() if at <= now]:
            del self._refresh_at[session_id]
            self._mark(session_id, Part.ALL)

    async def _send_all(self, *, until: float) -> None:
        """Send what is marked, batch by batch, till nothing is or the next probe is due. Raises StoreUnavailable."""
        while self._dirty:
            if self._shared.error:
                raise StoreUnavailable(self._shared.error)
            batch = self._dirty.take(self._batch)
            try:
                await self._send(list(self._sendings(batch)))
            except BaseException:
                self._dirty.failed()
                self._batch = max(1, self._batch // 2)
                raise
            self._dirty.done()
            self._batch = min(BATCH, self._batch * 2)
            if self._dirty:
                await asyncio.sleep(RESYNC_PAUSE_SECONDS)
            if self._now() >= until:
                return
        self._wake.clear()
        self._idle.set()
        if self._lagging:
            self._lagging = False
            self._log.info("shared store has all sessions of this node again", sessions=len(self._table))

    def _sendings(self, batch: dict[str, Mark]) -> Iterable[_Sending]:
        for session_id, mark in batch.items():
            row = self._table.row(session_id)
            if row is not None:
                yield _Sending(row, mark, frozenset(self._gone.pop(session_id, ())))

    async def _send(self, batch: Sequence[_Sending]) -> None:
        steps: list[tuple[_Sending, str]] = []

        def fill(pipe: Pipeline) -> None:
            for each in batch:
                steps.extend((each, key) for key in _queue(pipe, each))

        try:
            results = await self._shared.pipeline(fill)
            accepted, broken = self._judge(zip(steps, results, strict=True))
        except StoreUnavailable:
            for each in batch:
                if each.gone:
                    self._gone.setdefault(each.row.session_id, set()).update(each.gone)
            raise
        events = [each.row for each in accepted if Part.STATE in each.mark.parts]
        if events:
            await self._shared.pipeline(lambda pipe: _tell(pipe, events))
        if broken:
            self._log.error("keys of Redis that are not ours removed", keys=len(broken))
            await self._shared.pipeline(lambda pipe: [pipe.delete(each) for each in broken])

    def _judge(self, results: Iterable[tuple[tuple[_Sending, str], Any]]) -> tuple[list[_Sending], list[str]]:
        """The sessions that were taken, and keys in the way. Raises StoreUnavailable when Redis cannot write now."""
        accepted: list[_Sending] = []
        broken: list[str] = []
        for (sending, key), result in results:
            session_id = sending.row.session_id
            if isinstance(result, ResponseError) and str(result).startswith("WRONGTYPE"):
                broken.append(key)
                self._mark(session_id, Part.ALL)
            elif isinstance(result, Exception):
                raise self._shared.failed(result) from result
            elif result == b"owner":
                self._give_up(session_id)
            elif result == b"kept":
                self._schedule_refresh(sending.row)
                accepted.append(sending)
        return accepted, broken

    def _schedule_refresh(self, row: Row) -> None:
        if not row.ended:
            # Jitter, so that the sessions of a re-sync are not all refreshed in one moment.
            life = layout.SESSION_TTL_SECONDS / 2 * random.uniform(0.8, 1.0)  # noqa: S311
            self._refresh_at[row.session_id] = self._now() + life

    def _give_up(self, session_id: str) -> None:
        """Another node owns it: this one keeps capturing, but decides nothing any more."""
        self._table.drop(session_id)
        self._journal.mark(session_id, Part.ALL)
        self._refresh_at.pop(session_id, None)
        self._log.warning("session is owned by another node now", session=session_id)
        self._given_up[session_id] = None
        if len(self._given_up) > GIVEN_UP_LIMIT:
            del self._given_up[next(iter(self._given_up))]
        self._lost(session_id)


# ---------------------------------------------------------------------------------------------------------
# Commands
# ---------------------------------------------------------------------------------------------------------


async def _members(client: Redis, key: str) -> list[str]:
    return _session_ids(await cast(Awaitable[set[bytes]], client.smembers(key)))


async def _hinted(client: Redis, key: str) -> list[str]:
    return _session_ids(await cast(Awaitable[list[bytes]], client.hkeys(key)))


def _session_ids(found: Iterable[bytes]) -> list[str]:
    """What could be session ids among what was found."""
    return sorted(each.decode("ascii", "replace") for each in found if len(each) <= layout.FIELD_LIMIT)


async def _hash(client: Redis, key: str) -> dict[bytes, bytes]:
    return await cast(Awaitable[dict[bytes, bytes]], client.hgetall(key))


async def _eval(client: Redis, script: str, key: str, arguments: Sequence[str | bytes]) -> bytes:
    return cast(bytes, await client.eval(script, 1, key, *arguments))


async def _leave(client: Redis, node: str, session_id: str) -> None:
    await client.srem(layout.node(node), session_id)


async def _identify(client: Redis) -> tuple[bytes, str]:
    """Which data set this is: its epoch, begun when there is none, and the process that serves it."""
    epoch = await client.get(layout.EPOCH)
    if epoch is None:
        await client.set(layout.EPOCH, secrets.token_hex(8), nx=True)
        epoch = await client.get(layout.EPOCH)
    if isinstance(epoch, str):
        raise TypeError("this client must not decode")
    try:
        process = str((await client.info("server")).get("run_id", ""))
    except ResponseError:  # an access list without INFO: the epoch alone must do
        process = ""
    return epoch or b"", process


def _set_aside(pipe: Pipeline, session_id: str) -> None:
    pipe.rename(layout.session(session_id), layout.quarantine(session_id))
    pipe.expire(layout.quarantine(session_id), layout.SESSION_TTL_SECONDS)


def _tell(pipe: Pipeline, rows: Sequence[Row]) -> None:
    for row in rows:
        fields: dict[Any, Any] = {"session": row.session_id, "node": row.node, "state": row.state, "fence": row.fence}
        pipe.xadd(layout.EVENTS, fields, maxlen=layout.EVENTS_LIMIT, approximate=True)


def _argument(value: object) -> str:
    # A cast, not a conversion: the client takes bytes here, its annotations do not say so.
    return cast(str, str(value) if isinstance(value, int) else value)


def _queue(pipe: Pipeline, sending: _Sending) -> list[str]:
    """Put the commands that store a session into a pipeline; returns the key of each, in their order."""
    row, life = sending.row, int(TOMBSTONE_SECONDS if sending.row.ended else layout.SESSION_TTL_SECONDS)
    keys = codec.keys(row) if Part.KEYS in sending.mark.parts or row.ended or sending.gone else frozenset()
    touched = [layout.index(each) for each in keys]
    for key in touched:
        pipe.eval(layout.HINT, 1, key, row.session_id, str(life))
    (pipe.srem if row.ended else pipe.sadd)(layout.node(row.node), row.session_id)
    arguments = [row.node, row.boot, row.fence, row.version, row.state, row.ended, row.schema, life * 1000, "blob"]
    bodies = {Part.SDP: ("sdp", row.sdp), Part.XML: ("xml", row.xml)}
    changed = [item for part, body in bodies.items() if part & sending.mark.parts and not row.ended for item in body]
    pipe.eval(layout.SAVE, 1, layout.session(row.session_id), *map(_argument, [*arguments, row.core, *changed]))
    touched += [layout.node(row.node), layout.session(row.session_id)]
    for each in sending.gone - keys:
        pipe.hdel(layout.index(each), row.session_id)
        touched.append(layout.index(each))
    return touched
