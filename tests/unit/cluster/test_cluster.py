"""Nodes over a real Redis: leases, hand-over of sessions, and what a dead node leaves."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from siprec.cluster import boot, handover
from siprec.cluster.base import Release, SingleNode, Wish, open_cluster
from siprec.cluster.handover import MESSAGE_LIMIT
from siprec.cluster.lease import (
    LATE_SECONDS,
    LEASE_SECONDS,
    QUARANTINE_SECONDS,
    RENEW_JITTER,
    RENEW_SECONDS,
    DuplicateNode,
    NodeLease,
)
from siprec.cluster.shared import SharedCluster
from siprec.errors import StoreUnavailable
from siprec.store import layout
from siprec.store.memory import InMemorySessionStore
from siprec.store.redis import RedisSessionStore, Shared, connect
from tests.support import redis_server
from tests.support.redis_server import RedisServer
from tests.support.sessions import record, session_id
from tests.support.stores import needs_redis, node, settled, until

pytestmark = needs_redis


class Now:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with redis_server.running() as running:
        yield running


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    shared_server.ask("FLUSHALL")
    return shared_server


@pytest.fixture
async def shared(server: RedisServer) -> AsyncIterator[Shared]:
    shared = Shared(connect(server.url))
    yield shared
    await shared.close()


@pytest.fixture
def now() -> Now:
    return Now()


async def keep(session: str, to_node: str, wish: Wish) -> bool:
    return False


async def release(session: str, to_node: str, wish: Wish) -> bool:
    return True


@asynccontextmanager
async def member(
    server: RedisServer,
    name: str,
    answer: Release = release,
    *,
    store: RedisSessionStore | None = None,
    now: Now | None = None,
) -> AsyncIterator[SharedCluster]:
    """A node of the cluster, listening."""
    cluster = SharedCluster(
        server.url,
        store or InMemorySessionStore(),
        answer,
        node=name,
        boot=f"{name}-boot",
        now=now or time.monotonic,
    )
    await cluster.start()
    try:
        await asyncio.wait_for(cluster.hand_over.ready(), 5)
        yield cluster
    finally:
        await cluster.close()


# ---- the life of a node


def test_each_start_is_another_life(tmp_path: Path) -> None:
    tokens = iter(("one", "two"))
    assert boot.begin(tmp_path / "state", lambda: next(tokens)) == boot.Boot("one", "")
    assert boot.begin(tmp_path / "state", lambda: next(tokens)) == boot.Boot("two", "one")


def test_a_boot_id_that_cannot_be_kept_is_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert boot.begin(tmp_path / "file", lambda: "one") == boot.Boot("one", "")


async def test_a_node_holds_its_lease_and_gives_it_back(server: RedisServer, shared: Shared, now: Now) -> None:
    lease = NodeLease(shared, "a", "a1", now=now)
    assert not lease.may_adopt()
    await lease.start()
    assert lease.held
    assert lease.may_adopt()
    assert int(server.ask("PTTL", layout.heartbeat("a"))[1:]) > 9000
    await lease.close()
    assert not lease.may_adopt()
    assert server.ask("EXISTS", layout.heartbeat("a")) == b":0"


async def test_a_second_server_of_one_name_does_not_start(shared: Shared, now: Now) -> None:
    first = NodeLease(shared, "a", "a1", now=now)
    await first.start()

    async def meanwhile(_: float) -> None:
        await first.renew()

    second = NodeLease(shared, "a", "a2", now=now, sleep=meanwhile)
    with pytest.raises(DuplicateNode, match="NODE_ID") as refused:
        await second.start()
    assert refused.value.problems[0].startswith("NODE_ID: ")
    assert first.held
    await first.close()


async def test_the_lease_of_a_dead_server_runs_out(server: RedisServer, shared: Shared, now: Now) -> None:
    server.ask("SET", layout.heartbeat("a"), "a1", "PX", "10000")

    async def meanwhile(_: float) -> None:
        server.ask("DEL", layout.heartbeat("a"))

    lease = NodeLease(shared, "a", "a2", now=now, sleep=meanwhile)
    assert not await lease.renew()
    await lease.start()
    assert lease.held
    await lease.close()


async def test_the_life_before_on_this_machine_need_not_run_out(server: RedisServer, shared: Shared, now: Now) -> None:
    server.ask("SET", layout.heartbeat("a"), "a1", "PX", "10000")
    lease = NodeLease(shared, "a", "a2", now=now, previous="a1")
    await lease.start()
    assert lease.may_adopt()
    await lease.close()


async def test_a_second_server_that_turns_up_later_is_told(server: RedisServer, shared: Shared, now: Now) -> None:
    told: list[str] = []
    lease = NodeLease(shared, "a", "a1", now=now, on_duplicate=lambda: told.append("duplicate"))
    await lease.start()
    server.ask("SET", layout.heartbeat("a"), "a2", "PX", "10000")
    assert not await lease.renew()
    assert not await lease.renew()
    assert told == ["duplicate"]
    assert not lease.held
    assert not lease.may_adopt()
    await lease.close()
    assert server.ask("GET", layout.heartbeat("a")).startswith(b"$")


async def test_a_late_renewal_forbids_adoption_for_a_while(shared: Shared, now: Now) -> None:
    lease = NodeLease(shared, "a", "a1", now=now)
    await lease.renew()
    now.seconds += RENEW_SECONDS * (1 + RENEW_JITTER) + LATE_SECONDS
    assert lease.may_adopt()
    await lease.renew()
    assert lease.may_adopt(), "not later than allowed"
    now.seconds += RENEW_SECONDS * (1 + RENEW_JITTER) + LATE_SECONDS + 0.1
    assert not lease.may_adopt()
    await lease.renew()
    assert not lease.may_adopt()
    for _ in range(4):
        assert not lease.may_adopt()
        now.seconds += QUARANTINE_SECONDS / 4
        await lease.renew()
    assert lease.may_adopt()


async def test_another_epoch_forbids_adoption_for_a_while(server: RedisServer, shared: Shared, now: Now) -> None:
    server.ask("SET", layout.EPOCH, "one")
    lease = NodeLease(shared, "a", "a1", now=now)
    await lease.renew()
    server.ask("SET", layout.EPOCH, "two")
    await lease.renew()
    assert lease.held
    assert not lease.may_adopt()
    for _ in range(4):
        now.seconds += QUARANTINE_SECONDS / 4
        await lease.renew()
    assert lease.may_adopt()


async def test_without_redis_a_node_goes_on_and_adopts_nothing(now: Now) -> None:
    with redis_server.running() as server:
        server.kill()
        shared = Shared(connect(server.url))
        lease = NodeLease(shared, "a", "a1", now=now)
        await lease.start()
        assert not lease.may_adopt()
        with pytest.raises(StoreUnavailable):
            await lease.renew()
        server.start()
        await lease.renew()
        assert lease.held
        assert not lease.may_adopt()
        for _ in range(4):
            now.seconds += QUARANTINE_SECONDS / 4
            await lease.renew()
        assert lease.may_adopt()
        await lease.close()
        await shared.close()


# ---- a session whose SRC has gone elsewhere


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is waited for as long as a busy machine may take; a later one would not be heard."""
    monkeypatch.setattr(handover, "ANSWER_SECONDS", 30.0)


@pytest.mark.usefixtures("patient")
async def test_an_owner_lets_go_with_its_last_word(server: RedisServer) -> None:
    async with node(server, "a") as a, node(server, "b") as b:
        mine = record(1)
        await a.create(mine)
        await settled(a)
        asked: list[tuple[str, str]] = []

        async def let_go(session: str, to_node: str, wish: Wish) -> bool:
            asked.append((session, to_node))
            mine.call.version += 7
            await a.save(mine)
            return True

        async with member(server, "a", let_go, store=a), member(server, "b", store=b) as there:
            assert await there.ask_release(session_id(1))
            assert asked == [(session_id(1), "b")]
            found = await b.load(session_id(1))
            assert found.call.version == mine.call.version
            adopted = await b.adopt(session_id(1), "b", "b-boot", found.call.fence)
            assert adopted.call.fence == 2


@pytest.mark.usefixtures("patient")
async def test_an_owner_may_keep_a_session(server: RedisServer) -> None:
    async with node(server, "a") as a:
        await a.create(record(1))
        await settled(a)
        async with member(server, "a", keep), member(server, "b") as there:
            assert await there.hand_over.ask(session_id(1)) == "refused"
            assert not await there.ask_release(session_id(1))


async def test_nobody_waits_for_a_node_that_is_gone(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "ANSWER_SECONDS", 3600.0)  # who waited would wait for ever
    async with node(server, "a") as a:
        await a.create(record(1))
        await settled(a)
        async with member(server, "b") as there:
            assert await there.hand_over.ask(session_id(1)) == "silent"
            assert await there.ask_release(session_id(1))


async def test_a_node_that_was_asked_and_does_not_answer_is_silent(server: RedisServer) -> None:
    asked = asyncio.Event()

    async def sleep(session: str, to_node: str, wish: Wish) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    async with node(server, "a") as a:
        await a.create(record(1))
        await settled(a)
        async with member(server, "a", sleep), member(server, "b") as there:
            assert await there.hand_over.ask(session_id(1)) == "silent"
            await asyncio.wait_for(asked.wait(), 30)


async def test_nobody_is_asked_for_what_is_ours_or_unknown(server: RedisServer) -> None:
    async with node(server, "a") as a, member(server, "a", keep) as here:
        await a.create(record(1))
        await settled(a)
        assert await here.hand_over.ask(session_id(1)) == "ours"
        assert await here.hand_over.ask("nobody") == "unknown"
        assert await here.ask_release("nobody")


@pytest.mark.usefixtures("patient")
async def test_what_is_no_message_is_passed_over(server: RedisServer) -> None:
    async with node(server, "a") as a:
        await a.create(record(1))
        await settled(a)
        async with member(server, "a"), member(server, "b") as there:
            nested = "[" * MESSAGE_LIMIT
            for text in ("", "{}", "[]", "x" * (MESSAGE_LIMIT + 1), nested, '{"kind": "ask"}', '{"kind": 1}'):
                for name in ("a", "b"):
                    server.ask("PUBLISH", layout.channel(name), text)
            forged = '{"kind":"answer","number":1,"asker":"b","boot":"other","session":"","granted":true}'
            server.ask("PUBLISH", layout.channel("b"), forged)
            assert await there.hand_over.ask(session_id(1)) == "released"


async def test_a_node_hears_again_after_redis_was_away() -> None:
    with redis_server.running() as server:
        async with node(server, "a") as a, member(server, "a"), member(server, "b") as there:
            await a.create(record(1))
            await settled(a)
            server.restart()

            async def released() -> bool:
                return await there.hand_over.ask(session_id(1)) == "released"

            await until(released)


# ---- what a dead node leaves


async def test_the_sessions_of_a_dead_node_are_found_after_a_while(server: RedisServer, now: Now) -> None:
    async with node(server, "a") as a:
        await a.create(record(1))
        await settled(a)
    async with member(server, "b", now=now) as there:

        async def orphans() -> list[str]:
            await there.lease.renew()
            return [each.session_id for each in await there.orphans(session_timeout=30.0)]

        assert await orphans() == []
        for _ in range(13):
            now.seconds += (LEASE_SECONDS + 30.0) / 13 - 0.001
            assert await orphans() == []
        now.seconds += 0.1
        assert await orphans() == [session_id(1)]
        server.ask("SET", layout.heartbeat("a"), "a2", "PX", "10000")
        assert await orphans() == []
        server.ask("DEL", layout.heartbeat("a"))
        assert await orphans() == [], "its time begins anew"


async def test_a_node_in_doubt_looks_for_no_orphans(server: RedisServer, now: Now) -> None:
    server.ask("SADD", layout.node("dead"), "x")
    async with member(server, "b", now=now) as there:
        assert await there.orphans(0.0) == []
        now.seconds += 60
        assert await there.orphans(0.0) == []
        with contextlib.suppress(StoreUnavailable):
            await there.lease.renew()
        assert await there.orphans(0.0) == []


# ---- alone


async def test_a_single_node_may_do_everything() -> None:
    alone = open_cluster(None, InMemorySessionStore(), keep, node="a", boot="a1")
    assert isinstance(alone, SingleNode)
    await alone.start()
    assert alone.may_adopt()
    assert await alone.ask_release(session_id(1))
    assert await alone.orphans(30.0) == []
    await alone.close()


async def test_with_a_url_there_is_a_cluster(server: RedisServer) -> None:
    cluster = open_cluster(server.url, InMemorySessionStore(), keep, node="a", boot="a1")
    await cluster.start()
    assert cluster.may_adopt()
    await cluster.close()


def test_redis_is_imported_only_when_it_is_used() -> None:
    look = "import sys, siprec.store.opening, siprec.cluster.base; sys.exit('redis' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], timeout=30).returncode == 0
