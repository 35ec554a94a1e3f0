"""What is remembered of dialogs that are over: how many, how long, and what it costs."""

from __future__ import annotations

import uuid

from siprec.recorder.ended import ENDED_LIMIT, ENDED_SECONDS, Ended, EndedDialogs
from siprec.sip.dialog import DialogKey


def key(number: int) -> DialogKey:
    return DialogKey(f"{number}@192.0.2.1", "ours", "theirs")


def ended(number: int, *, by_src: bool = True) -> Ended:
    return Ended.of(str(uuid.UUID(int=number)), "sbc-1", by_src=by_src)


def test_an_ended_dialog_is_told_from_an_unknown_one() -> None:
    dialogs = EndedDialogs()
    dialogs.add(key(1), ended(1), 0.0)
    dialogs.add(key(2), ended(2, by_src=False), 0.0)
    assert dialogs.get(key(1), 0.0) == ended(1)
    assert dialogs.get(key(2), 0.0) == ended(2, by_src=False)
    assert dialogs.get(key(3), 0.0) is None


def test_it_belonged_to_one_identity() -> None:
    assert ended(1).belonged_to("sbc-1")
    assert not ended(1).belonged_to("sbc-2")


def test_a_dialog_that_moved_to_another_session_ends_with_that() -> None:
    dialogs = EndedDialogs()
    dialogs.add(key(1), ended(1), 0.0)
    dialogs.add(key(1), ended(2), 1.0)
    assert dialogs.get(key(1), 1.0) == ended(2)


def test_it_is_forgotten_in_time() -> None:
    dialogs = EndedDialogs()
    dialogs.add(key(1), ended(1), 1.0)
    assert dialogs.get(key(1), 1.0 + ENDED_SECONDS) == ended(1)
    assert dialogs.get(key(1), 1.1 + ENDED_SECONDS) is None


def test_at_the_limit_all_are_remembered_and_one_past_it_the_oldest_goes() -> None:
    dialogs = EndedDialogs(limit=3)
    for number in range(3):
        dialogs.add(key(number), ended(number), 0.0)
    assert [dialogs.get(key(number), 0.0) is not None for number in range(3)] == [True, True, True]
    dialogs.add(key(3), ended(3), 0.0)
    assert len(dialogs) == 3
    assert [dialogs.get(key(number), 0.0) is not None for number in range(4)] == [False, True, True, True]


def test_all_of_them_take_less_than_two_megabytes() -> None:
    dialogs = EndedDialogs()
    for _ in range(ENDED_LIMIT + 1):
        dialogs.add(key(1), ended(1), 0.0)
    assert len(dialogs) == ENDED_LIMIT
    assert len(dialogs._block) < 2_000_000


def test_any_text_may_be_a_key() -> None:
    dialogs, odd = EndedDialogs(), DialogKey("\udcff\0", "", "é" * 300)
    dialogs.add(odd, ended(1), 0.0)
    assert dialogs.get(odd, 0.0) == ended(1)
