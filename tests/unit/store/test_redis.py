"""Sessions shared by nodes over a real Redis: what they see of each other, and what a Redis in trouble does to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from siprec.errors import Conflict, NotFound, NotOwner, StoreUnavailable
from siprec.store import codec, layout, redis
from siprec.store.base import SessionRecord, dialog_key
from siprec.store.redis import RedisSessionStore, connect, disconnect
from tests.load.adopters import race
from tests.support import redis_server
from tests.support.redis_server import RedisServer
from tests.support.sessions import record, session_id
from tests.support.stores import needs_redis, node, settled, until

pytestmark = needs_redis

DIALOG = dialog_key("call-1@192.0.2.10", "srs-tag-1", "src-tag-1")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server.running() as running:
        yield running


@pytest.fixture
async def a(server: RedisServer) -> AsyncIterator[RedisSessionStore]:
    async with node(server, "a") as store:
        yield store


@pytest.fixture
async def b(server: RedisServer) -> AsyncIterator[RedisSessionStore]:
    async with node(server, "b") as store:
        yield store


@pytest.fixture
async def client(server: RedisServer) -> AsyncIterator[Redis]:
    async with Redis.from_url(server.url) as client:
        yield client


@pytest.fixture
def asking(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Task[Any] | None]:
    """Who has sent Redis something and waits for the answer: a task for each time."""
    found: list[asyncio.Task[Any] | None] = []
    read = AbstractConnection.read_response

    async def noted(connection: AbstractConnection, *args: Any, **kwargs: Any) -> object:
        found.append(asyncio.current_task())
        return await read(connection, *args, **kwargs)

    monkeypatch.setattr(AbstractConnection, "read_response", noted)
    return found


async def seen(store: RedisSessionStore, number: int = 1) -> float:
    async def found() -> bool:
        return bool(await store.find("call_id", f"call-{number}@192.0.2.10"))

    return await until(found)


# ---- two nodes


async def test_a_new_session_is_there_for_others_at_once(
    server: RedisServer,
    b: RedisSessionStore,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """It is sent because it is new: the next look at Redis, after which anything would be, is an hour away."""
    monkeypatch.setattr(redis, "CALL_SECONDS", 20.0)  # what fails waits for that look
    monkeypatch.setattr(redis, "connect", lambda url: connect(url, reading=20.0))
    monkeypatch.setattr(redis, "PROBE_SECONDS", 3600.0)
    async with node(server, "a") as a:
        await a.create(record(2))
        await seen(b, 2)  # the first look is over
        await a.create(record(1))
        record_property("seconds", await seen(b))
        assert await b.load(session_id(1)) == record(1)
        assert await b.find("dialog", DIALOG) == [session_id(1)]
        assert await b.owned("a") == sorted([session_id(1), session_id(2)])


async def test_a_session_goes_to_the_node_that_adopts_it(server: RedisServer, b: RedisSessionStore) -> None:
    lost: asyncio.Queue[str] = asyncio.Queue()
    async with node(server, "a", lost=lost.put_nowait) as a:
        mine = record(1)
        await a.create(mine)
        await seen(b)
        adopted = await b.adopt(session_id(1), "b", "b-boot", 1)
        assert (adopted.call.node, adopted.call.fence) == ("b", 2)
        adopted.call.version += 1
        await b.save(adopted)
        mine.call.version += 5
        await a.save(mine)  # it does not know yet; what it writes is refused
        assert await asyncio.wait_for(lost.get(), 5) == session_id(1)
        with pytest.raises(NotOwner):
            await a.save(mine)
        await a.tombstone(session_id(1), "lost")
        await settled(b)
        assert await a.load(session_id(1)) == adopted
        assert await a.owned("a") == []
        assert await a.owned("b") == [session_id(1)]
        assert await a.find("media", "a:10004") == []


async def test_so_many_sessions_are_remembered_as_another_node_s(
    server: RedisServer, b: RedisSessionStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis, "GIVEN_UP_LIMIT", 2)
    lost: asyncio.Queue[str] = asyncio.Queue()
    async with node(server, "a", lost=lost.put_nowait) as a:
        mine = {number: record(number) for number in range(1, 4)}
        for number, each in mine.items():
            await a.create(each)
            await seen(b, number)
            await b.adopt(session_id(number), "b", "b-boot", 1)
            each.call.version += 5
            await a.save(each)
            assert await asyncio.wait_for(lost.get(), 5) == session_id(number)
        for number, error in ((1, NotFound), (2, NotOwner), (3, NotOwner)):
            with pytest.raises(error):
                await a.save(mine[number])
        await a.tombstone(session_id(2))  # its recording is over here too
        with pytest.raises(NotFound):
            await a.save(mine[2])
        assert {(await b.load(session_id(number))).call.node for number in mine} == {"b"}


async def test_there_is_no_second_adopter_nor_a_zombie(
    server: RedisServer, a: RedisSessionStore, b: RedisSessionStore
) -> None:
    await a.create(record(1))
    await seen(b)
    await b.adopt(session_id(1), "b", "b-boot", 1)
    async with node(server, "c") as c:
        with pytest.raises(Conflict):
            await c.adopt(session_id(1), "c", "c-boot", 1)
        taken = await c.adopt(session_id(1), "c", "c-boot", 2)
        assert taken.call.fence == 3


async def test_two_adopters_race(server: RedisServer) -> None:
    result = await race(server, 50)
    assert result.good
    assert result.won_by_b + result.won_by_c == 50


async def test_the_end_of_a_session_is_seen_by_others(
    a: RedisSessionStore, b: RedisSessionStore, client: Redis
) -> None:
    await a.create(record(1))
    await settled(a)
    await a.tombstone(session_id(1), "bye")
    await settled(a)
    assert (await b.load(session_id(1))).ended == "bye"
    assert await b.find("dialog", DIALOG) == [session_id(1)]
    assert await b.owned("a") == []
    with pytest.raises(NotFound):
        await b.adopt(session_id(1), "b", "b-boot", 1)
    assert 0 < await client.pttl(layout.session(session_id(1))) <= 600_000


async def test_a_lost_state_directory_is_made_good_by_redis(server: RedisServer) -> None:
    async with node(server, "a", boot="a1") as before:
        await before.create(record(1))
        await settled(before)
    async with node(server, "a", boot="a2") as after:
        assert await after.owned("a") == [session_id(1)]
        assert (await after.adopt(session_id(1), "a", "a2", 1)).call.fence == 2


async def test_events_tell_what_happened(a: RedisSessionStore, client: Redis) -> None:
    await a.create(record(1))
    await settled(a)
    await a.tombstone(session_id(1), "bye")
    await settled(a)
    entries: Any = await client.xrange(layout.EVENTS)
    assert [each[1][b"state"] for each in entries] == [b"recording", b"ended"]


async def test_bodies_are_written_when_they_change_only(a: RedisSessionStore, client: Redis) -> None:
    mine = record(1)
    await a.create(mine)
    await settled(a)
    key = layout.session(session_id(1))
    await client.hset(key, "sdp", "kept")
    mine.call.version += 1
    await a.save(mine)
    await settled(a)
    assert await client.hmget(key, "ver", "sdp") == [str(mine.call.version).encode(), b"kept"]


async def test_every_script_stays_in_one_slot() -> None:
    # its own choice, the port plus 10000, may lie beyond the last port there is
    options = ("--cluster-enabled", "yes", "--cluster-port", str(redis_server.free_port()))
    with redis_server.running(options=options) as server:
        server.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")

        async def ready() -> bool:
            return server.ask("SET", "srs:epoch", "x") == b"+OK"

        await until(ready)
        async with node(server, "a") as a, node(server, "b") as b:
            await a.create(record(1))
            await seen(b)
            assert (await b.adopt(session_id(1), "b", "b-boot", 1)).call.fence == 2
            await b.tombstone(session_id(1), "bye")
            await settled(b)
            assert (await a.load(session_id(1))).ended is None  # its own memory, until it writes
            assert server.ask("EXISTS", layout.session(session_id(1))) == b":1"


# ---- Redis in trouble

Operation = Callable[[RedisSessionStore, SessionRecord], Awaitable[object]]


def newer(mine: SessionRecord) -> SessionRecord:
    mine.call.version += 1
    return mine


OPERATIONS: dict[str, Operation] = {
    "create": lambda store, mine: store.create(record(7)),
    "load": lambda store, mine: store.load(session_id(2)),
    "save": lambda store, mine: store.save(newer(mine)),
    "find": lambda store, mine: store.find("call_id", "call-2@192.0.2.10"),
    "owned": lambda store, mine: store.owned("b"),
    "adopt": lambda store, mine: store.adopt(session_id(2), "a", "a-boot", 1),
    "tombstone": lambda store, mine: store.tombstone(session_id(1), "bye"),
}


@pytest.mark.parametrize("name", OPERATIONS)
async def test_redis_is_killed_in_the_middle_of(
    name: str,
    server: RedisServer,
    a: RedisSessionStore,
    b: RedisSessionStore,
    asking: list[asyncio.Task[Any] | None],
) -> None:
    mine = record(1)
    await a.create(mine)
    await b.create(record(2))
    await settled(a)
    await settled(b)
    server.pause()  # so that it is in the middle for sure
    asking.clear()
    operation = asyncio.ensure_future(OPERATIONS[name](a, mine))

    async def asked() -> bool:
        return bool(asking)

    await until(asked)  # by the operation, or by the writer that sends what it changed
    server.kill()
    with contextlib.suppress(StoreUnavailable):  # and nothing else: down is not the same as unknown
        await asyncio.wait_for(operation, 30)
    assert a.health().ok
    server.start()
    wanted = {session_id(1): mine.call.version} | ({session_id(7): 1} if name == "create" else {})

    async def all_there() -> bool:
        found = [await b.load(each) for each in wanted]
        if name == "tombstone":
            return found[0].ended == "bye"
        return [each.call.version for each in found] == list(wanted.values())

    await until(all_there)


async def test_a_wiped_redis_gets_everything_back(
    a: RedisSessionStore, b: RedisSessionStore, client: Redis, record_property: Callable[[str, object], None]
) -> None:
    for number in range(50):
        await a.create(record(number))
    await settled(a)
    await client.flushall()

    async def back() -> bool:
        return bool(await client.exists(*(layout.session(session_id(each)) for each in range(50))) == 50)

    record_property("seconds", await until(back))
    await seen(b, 49)


async def test_a_miss_after_a_wipe_proves_nothing_for_a_while(a: RedisSessionStore, client: Redis) -> None:
    await settled(a)
    with pytest.raises(NotFound):
        await a.load("unknown")
    await client.flushall()

    async def doubtful() -> bool:
        try:
            await a.load("unknown")
        except StoreUnavailable:
            return True
        except NotFound:
            return False
        return False

    await until(doubtful)
    with pytest.raises(StoreUnavailable):
        await a.find("call_id", "unknown")
    await settled(a)
    assert await doubtful(), "other nodes may still be at it"

    async def unknown() -> bool:
        with pytest.raises(NotFound):
            await a.load("unknown")
        return True

    await until(unknown)


async def test_a_redis_that_is_back_in_an_earlier_state_is_brought_up_to_date(tmp_path: object) -> None:
    with redis_server.running(saved=True) as server:
        async with node(server, "a") as a, node(server, "b") as b:
            mine = record(1)
            await a.create(mine)
            await settled(a)
            server.pause()
            await a.save(newer(mine))
            server.restart()

            async def there() -> bool:
                return (await b.load(session_id(1))).call.version == mine.call.version

            await until(there)


async def test_a_paused_redis_delays_nobody(
    a: RedisSessionStore, b: RedisSessionStore, server: RedisServer, asking: list[asyncio.Task[Any] | None]
) -> None:
    await b.create(record(2))
    await settled(b)
    server.pause()
    asking.clear()
    await a.create(record(1))
    await a.save(record(1))
    assert await a.find("dialog", DIALOG) == [session_id(1)]
    assert asyncio.current_task() not in asking
    with pytest.raises(StoreUnavailable):
        await a.load(session_id(2))
    asking.clear()
    for _ in range(20):
        with pytest.raises(StoreUnavailable):
            await a.load(session_id(2))
    assert asyncio.current_task() not in asking, "the breaker is open"
    assert a.health().degraded
    server.resume()
    await settled(a)
    assert await b.load(session_id(1)) == record(1)


async def test_a_start_without_redis_is_a_start(server: RedisServer) -> None:
    server.kill()
    async with node(server, "a") as a:
        assert await a.owned("a") == []
        await a.create(record(1))
        assert (await a.adopt(session_id(1), "a", "a2", 1)).call.fence == 2
        with pytest.raises(StoreUnavailable):
            await a.load("unknown")
        server.start()
        await settled(a)
        assert server.ask("EXISTS", layout.session(session_id(1))) == b":1"


# ---- what others may have written


@pytest.mark.parametrize("poison", ["garbage", "no fence", "wrong type", "huge fence", "not utf-8"])
async def test_a_poisoned_record_is_set_aside(
    poison: str, a: RedisSessionStore, b: RedisSessionStore, client: Redis
) -> None:
    key = layout.session(session_id(1))
    await a.create(record(1))
    await settled(a)
    if poison == "wrong type":
        await client.delete(key)
        await client.set(key, "x")
        with pytest.raises(StoreUnavailable):
            await b.load(session_id(1))
    else:
        fields: dict[str, dict[str, str | bytes]] = {
            "garbage": {"blob": b"\xff\x00"},
            "no fence": {"fence": "one"},
            "huge fence": {"fence": "9" * 400},
            "not utf-8": {"own": b"\xff"},
        }
        await client.hset(key, mapping=fields[poison])  # type: ignore[arg-type]
        with pytest.raises(NotFound):
            await b.load(session_id(1))
        assert b.health().set_aside == 1
        assert await client.exists(layout.quarantine(session_id(1)))
    mine = record(1)
    await a.save(newer(mine))
    await until_equal(b, mine)


async def until_equal(store: RedisSessionStore, wanted: SessionRecord) -> None:
    async def equal() -> bool:
        there = await store.load(wanted.call.session_id)
        return there.call.version == wanted.call.version

    await until(equal)


async def test_a_key_of_a_wrong_type_is_replaced(a: RedisSessionStore, b: RedisSessionStore, client: Redis) -> None:
    await settled(a)
    await client.set(layout.index(("call_id", "call-1@192.0.2.10")), "x")
    await client.set(layout.node("a"), "x")
    await a.create(record(1))
    await settled(a)
    assert await b.owned("a") == [session_id(1)]
    assert await b.find("call_id", "call-1@192.0.2.10") == [session_id(1)]


async def test_a_record_of_a_later_version_is_left_alone(
    a: RedisSessionStore, b: RedisSessionStore, client: Redis
) -> None:
    await a.create(record(1))
    await settled(a)
    await client.hset(layout.session(session_id(1)), "schema", str(codec.SCHEMA + 1))
    with pytest.raises(StoreUnavailable):
        await b.load(session_id(1))
    assert await client.exists(layout.session(session_id(1)))


async def test_a_hint_that_points_nowhere_is_no_session(b: RedisSessionStore, client: Redis) -> None:
    await client.hset(layout.index(("call_id", "x")), "nobody", "")
    assert await b.find("call_id", "x") == []


# ---- where Redis is


def test_text_of_peers_is_no_key() -> None:
    assert layout.index(("media", "a:10000")) == "srs:ix:med:a:10000"
    for text in ("{x}", "a b", "~" * 3, "x" * 41, "\ud800", "*", ""):
        assert layout.index(("call_id", text)).startswith("srs:ix:cid:~")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("redis+sentinel://127.0.0.1:26379,127.0.0.1:26380", "names its service"),
        ("http://127.0.0.1", "scheme"),
        ("redis+sentinel://h:1/s/x", "invalid literal"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        connect(url)


async def test_sentinels_tell_where_redis_is(server: RedisServer) -> None:
    with redis_server.running(kind=redis_server.Sentinel) as sentinel:
        assert sentinel.ask("SENTINEL", "MONITOR", "calls", "127.0.0.1", str(server.port), "1") == b"+OK"
        client = connect(f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/calls/3")
        await client.set("x", "1")
        await disconnect(client)
    assert server.ask("GET", "x") == b"$-1"
