"""A call's event and queue wake who waits, keep the order, and outlive a wait that was given up."""

import asyncio

import pytest

from siprec.recorder.waiting import Flag, Inbox


async def test_a_flag_wakes_all_who_wait_until_it_is_cleared() -> None:
    flag = Flag()
    waits = [asyncio.ensure_future(flag.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not any(each.done() for each in waits)
    flag.set()
    await asyncio.gather(*waits)
    await flag.wait()
    flag.clear()
    assert not flag.is_set()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(flag.wait(), 0)


async def test_a_wait_that_was_given_up_is_in_nobodys_way() -> None:
    flag = Flag()
    given_up, going_on = (asyncio.ensure_future(flag.wait()) for _ in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    flag.set()
    await going_on
    assert given_up.cancelled() or given_up.cancelling()


async def test_an_inbox_gives_things_in_their_order_and_waits_for_more() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.put(2)
    assert [await inbox.get(), await inbox.get()] == [1, 2]
    more = asyncio.ensure_future(inbox.get())
    await asyncio.sleep(0)
    assert not more.done()
    inbox.put(3)
    assert await more == 3


async def test_what_is_left_in_an_inbox_is_taken_once() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.put(1)
    inbox.put(2)
    assert (inbox.left(), inbox.left()) == ([1, 2], [])
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(inbox.get(), 0)
