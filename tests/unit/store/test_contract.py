"""What every store of sessions does."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from siprec.errors import Conflict, NotFound, NotOwner
from siprec.session.model import DialogInfo
from siprec.store.base import Index, Reason, SessionStore, dialog_key, external_key, media_key
from tests.support.sessions import dialog, record, session_id
from tests.support.stores import ALL, KEEPING, opened

DIALOG = dialog_key("call-1@192.0.2.10", "srs-tag-1", "src-tag-1")

KEYS: list[tuple[Index, str]] = [
    ("dialog", DIALOG),
    ("call_id", "call-1@192.0.2.10"),
    ("media", media_key("a", 10004)),
    ("media", media_key("a", 10006)),
    ("cs_id", "cs-1"),
    ("external", external_key("Session-ID", f"{1:032x}")),
]


@pytest.fixture
async def store(request: pytest.FixtureRequest) -> AsyncIterator[SessionStore]:
    async with opened(request.param) as store:
        yield store


keeping = pytest.mark.parametrize("store", KEEPING, indirect=True)
every = pytest.mark.parametrize("store", ALL, indirect=True)


# ---- all, also the one that keeps nothing


@every
async def test_unknown_sessions_are_not_found(store: SessionStore) -> None:
    with pytest.raises(NotFound):
        await store.load("nobody")
    with pytest.raises(NotFound):
        await store.adopt("nobody", "a", "a1", 1)
    await store.tombstone("nobody", "bye")
    assert await store.find("dialog", "x y z") == []
    assert await store.owned("a") == []


@every
async def test_a_session_is_taken_saved_and_ended(store: SessionStore) -> None:
    await store.create(record(1))
    await store.save(record(1))
    await store.flush()
    await store.publish()
    await store.tombstone(session_id(1), "bye")
    assert store.health().ok


# ---- those that keep what they take


@keeping
async def test_what_is_created_is_loaded(store: SessionStore) -> None:
    await store.create(record(1))
    assert await store.load(session_id(1)) == record(1)
    assert await store.owned("a") == [session_id(1)]
    assert await store.owned("b") == []
    assert await store.strays("a") == {}
    assert await store.strays("b") == {session_id(1): "a"}


@keeping
async def test_what_is_loaded_is_not_what_the_caller_changes(store: SessionStore) -> None:
    mine = record(1)
    await store.create(mine)
    mine.dialogs.clear()
    assert (await store.load(session_id(1))).dialogs == record(1).dialogs


@keeping
async def test_an_id_is_created_once(store: SessionStore) -> None:
    await store.create(record(1))
    with pytest.raises(Conflict):
        await store.create(record(1))


@keeping
async def test_a_newer_state_replaces_the_older(store: SessionStore) -> None:
    mine = record(1)
    await store.create(mine)
    mine.call.version += 1
    mine.call.local_sdp = "v=0\r\n"
    mine.call.history.clear()
    await store.save(mine)
    assert await store.load(session_id(1)) == mine


@keeping
async def test_an_unknown_session_is_not_saved(store: SessionStore) -> None:
    with pytest.raises(NotFound):
        await store.save(record(1))


@keeping
async def test_the_same_version_may_be_saved_again(store: SessionStore) -> None:
    mine = record(1)
    await store.create(mine)
    mine.metadata.complete = not mine.metadata.complete
    mine.metadata.revision += 1
    await store.save(mine)
    assert await store.load(session_id(1)) == mine


@keeping
async def test_an_older_version_is_refused(store: SessionStore) -> None:
    mine = record(1)
    mine.call.version = 5
    await store.create(mine)
    mine.call.version = 4
    with pytest.raises(Conflict):
        await store.save(mine)


@keeping
async def test_a_lower_fence_is_refused(store: SessionStore) -> None:
    mine = record(1, fence=3)
    await store.create(mine)
    zombie = record(1, fence=2)
    zombie.call.version = 99
    with pytest.raises(NotOwner):
        await store.save(zombie)
    assert await store.load(session_id(1)) == mine


@keeping
async def test_another_node_with_the_same_fence_is_refused(store: SessionStore) -> None:
    await store.create(record(1))
    with pytest.raises(NotOwner):
        await store.save(record(1, node="b"))


@keeping
async def test_a_higher_fence_is_taken_whatever_the_version(store: SessionStore) -> None:
    await store.create(record(1))
    mine = record(1, fence=2)
    mine.call.version = 0
    await store.save(mine)
    assert (await store.load(session_id(1))).call.fence == 2


@keeping
@pytest.mark.parametrize(("index", "key"), KEYS)
async def test_a_session_is_found_by_each_index(store: SessionStore, index: Index, key: str) -> None:
    await store.create(record(1))
    await store.create(record(2))
    assert await store.find(index, key) == [session_id(1)]


@keeping
async def test_the_group_id_finds_nothing(store: SessionStore) -> None:
    await store.create(record(1))
    assert await store.find("cs_id", "the-group") == []
    assert await store.find("external", "the-group") == []


@keeping
async def test_sessions_may_share_a_key(store: SessionStore) -> None:
    other = record(2)
    other.call.external_ids = record(1).call.external_ids
    await store.create(record(1))
    await store.create(other)
    key = external_key("Session-ID", f"{1:032x}")
    assert await store.find("external", key) == [session_id(1), session_id(2)]
    await store.tombstone(session_id(1), "lost")
    other.call.external_ids = {}
    await store.save(other)
    assert await store.find("external", key) == [session_id(1)]


@keeping
async def test_an_update_leaves_no_stale_and_no_second_entry(store: SessionStore) -> None:
    mine = record(1)
    await store.create(mine)
    mine.dialogs[0].dialog.remote_tag = "other"
    mine.call.channels[0].mode = "closed"
    await store.save(mine)
    await store.save(mine)
    assert await store.find("dialog", DIALOG) == []
    assert await store.find("dialog", dialog_key("call-1@192.0.2.10", "srs-tag-1", "other")) == [session_id(1)]
    assert await store.find("media", media_key("a", 10004)) == []
    assert await store.find("media", media_key("a", 10006)) == [session_id(1)]


@keeping
async def test_an_adopted_session_belongs_to_its_adopter(store: SessionStore) -> None:
    await store.create(record(1))
    adopted = await store.adopt(session_id(1), "b", "b1", 1)
    assert (adopted.call.node, adopted.call.fence) == ("b", 2)
    assert adopted.dialogs == record(1).dialogs
    assert await store.load(session_id(1)) == adopted
    assert await store.owned("a") == []
    assert await store.owned("b") == [session_id(1)]
    assert await store.find("media", media_key("a", 10004)) == []
    assert await store.find("media", media_key("b", 10004)) == [session_id(1)]
    adopted.call.version += 1
    await store.save(adopted)


@keeping
async def test_there_is_no_second_adopter(store: SessionStore) -> None:
    await store.create(record(1))
    await store.adopt(session_id(1), "b", "b1", 1)
    with pytest.raises(Conflict):
        await store.adopt(session_id(1), "c", "c1", 1)
    assert await store.owned("b") == [session_id(1)]


@keeping
async def test_the_former_owner_saves_no_more(store: SessionStore) -> None:
    mine = record(1)
    await store.create(mine)
    await store.adopt(session_id(1), "b", "b1", 1)
    mine.call.version += 10
    with pytest.raises(NotOwner):
        await store.save(mine)


@keeping
@pytest.mark.parametrize("reason", ["bye", "lost"])
async def test_an_ended_session_is_told_from_an_unknown_one(store: SessionStore, reason: Reason) -> None:
    await store.create(record(1))
    await store.tombstone(session_id(1), reason)
    await store.tombstone(session_id(1), "bye")
    ended = await store.load(session_id(1))
    assert ended.ended == reason
    assert [each.dialog.key for each in ended.dialogs] == [each.dialog.key for each in record(1).dialogs]
    assert [each.dialog.state for each in ended.dialogs] == [each.dialog.state for each in record(1).dialogs]
    assert (ended.call.identity, ended.call.ended_by_src) == (record(1).call.identity, record(1).call.ended_by_src)
    assert await store.find("dialog", DIALOG) == [session_id(1)]
    assert await store.find("cs_id", "cs-1") == [session_id(1)]
    assert await store.owned("a") == []


@keeping
async def test_an_ended_session_is_told_of_as_it_was_last(store: SessionStore) -> None:
    """Also what was never saved: a call may end before its ACK is."""
    mine = record(1)
    await store.create(mine)
    mine.dialogs[0].dialog.state = "terminated"
    mine.dialogs.append(DialogInfo(dialog(2), "sbc-1"))
    mine.call.ended_by_src = True
    await store.tombstone(session_id(1), "bye", mine)
    ended = await store.load(session_id(1))
    assert [each.dialog.state for each in ended.dialogs] == ["terminated", "confirmed"]
    assert ended.call.ended_by_src
    key = dialog_key("call-2@192.0.2.10", "srs-tag-2", "src-tag-2")
    assert await store.find("dialog", DIALOG) == await store.find("dialog", key) == [session_id(1)]
    assert await store.find("media", media_key("a", 10004)) == []


@keeping
async def test_an_ended_session_frees_its_ports_and_stays_ended(store: SessionStore) -> None:
    await store.create(record(1))
    await store.tombstone(session_id(1), "bye")
    assert await store.find("media", media_key("a", 10004)) == []
    with pytest.raises(NotFound):
        await store.save(record(1))
    with pytest.raises(NotFound):
        await store.adopt(session_id(1), "b", "b1", 1)
    with pytest.raises(Conflict):
        await store.create(record(1))
