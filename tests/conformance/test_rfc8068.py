"""The call flows of RFC 8068, replayed as dialogs: once from the RFC's own messages, once from ours.

The RFC's messages lie beside the checkout, never in it. Both tell the same story at the same times, so both must come
to the same recording. Sections 3.2 (two parties, separate streams), 3.3 (one mixed stream), 3.4 (persistent recording
session) and 3.5 (turret).
"""

import asyncio
from pathlib import Path

import pytest

from siprec.archive.manifest import ParticipantEntry
from tests.support.replay import FIXTURES, VECTORS, Recorded, Server, Src

MEDIA = {b"198.51.100.1": b"127.0.68.1"}
OURS = VECTORS / "rfc8068"
THEIRS = FIXTURES / "siprec-rfc-examples"
MET = "2010-12-16T23:41:07.000Z"


@pytest.fixture(params=["ours", "theirs"])
def messages(request: pytest.FixtureRequest) -> dict[int, Path]:
    """The 14 messages by number."""
    if request.param == "ours":
        return {int(path.name[:2]): path for path in OURS.glob("*.sip")}
    if not THEIRS.is_dir():
        pytest.skip("the fixtures do not lie beside the checkout")
    return {int(path.name[5:7]): path for path in THEIRS.glob("8068_*.completed.sip")}


class Story:
    """An SRC that sends these messages by number."""

    def __init__(self, server: Server, messages: dict[int, Path]) -> None:
        self.server = server
        self.messages = messages
        self.src: Src = server.src("rfc8068", transport="tcp")

    async def tell(self, number: int) -> None:
        path = self.messages[number]
        data = path.read_bytes() if path.parent == THEIRS else self.src.load(path.stem)
        response = await self.src.relay(data, media=MEDIA)
        assert response.status == 200, (number, response.status)

    async def talk(self, *labels: str) -> None:
        for label in labels:
            await self.src.speak(label)

    async def live(self, heard: list[str], *, gone: str | None = None) -> Recorded:
        """What is on disk once these are on the channels and `gone` has left."""
        assert self.src.invite is not None
        return await self.server.live(
            self.src.invite.call_id,
            lambda found: found.heard == heard and (gone is None or bool(person(found, gone).left)),
        )

    async def ended(self) -> Recorded:
        assert self.src.invite is not None
        return await self.server.ended(self.src.invite.call_id)


@pytest.fixture
def story(server: Server, messages: dict[int, Path]) -> Story:
    return Story(server, messages)


def person(recorded: Recorded, name: str) -> ParticipantEntry:
    (found,) = (each for each in recorded.manifest.participants if (each.name or "").lower() == name.lower())
    return found


def stretches(recorded: Recorded, channel: int) -> list[tuple[str, bool]]:
    """Who was heard in a channel one after the other, and whether the stretch lasts."""
    entries = recorded.manifest.channels[channel].participants
    assert sorted(each["from"] for each in entries) == [each["from"] for each in entries]
    return [((each["name"] or "").capitalize(), each["until"] is None) for each in entries]


async def test_all_fourteen_are_here(messages: dict[int, Path]) -> None:
    assert sorted(messages) == list(range(1, 15))


async def test_3_2_1_basic_call_and_3_2_4_bye(story: Story) -> None:
    await story.tell(1)
    assert story.src.answer is not None
    assert [(each.kind, bool(each.port)) for each in story.src.answer.media] == [
        ("audio", True),
        ("video", False),
        ("audio", True),
        ("video", False),
    ]
    await story.talk("96", "98")
    await story.tell(7)
    recorded = await story.ended()
    assert recorded.heard == ["Alice", "Bob"]
    assert recorded.ssrcs == [[story.src.ssrc("96")], [story.src.ssrc("98")]]
    for name in ("Alice", "Bob"):
        assert (person(recorded, name).joined, person(recorded, name).left) == ([MET], [MET])
    assert len(recorded.bodies) == 2
    assert recorded.manifest.metadata_errors == []
    assert recorded.manifest.sessions[0].group_id is not None


async def test_3_2_2_hold_and_resume(story: Story) -> None:
    """Alice holds Bob: she sends nothing, he is heard; SDP stays sendonly all the time (RFC 7866 section 7.1.1.1)."""
    await story.tell(1)
    await story.talk("96", "98")
    await story.tell(2)
    await asyncio.sleep(0.05)  # how long the hold lasts
    await story.talk("98")
    await story.tell(3)
    await story.talk("96", "98")
    await story.tell(7)
    recorded = await story.ended()
    assert recorded.heard == ["Alice", "Bob"]
    assert [each.packets for each in recorded.manifest.channels] == [10, 15]
    told = [change for event in recorded.events if event["event"] == "metadata" for change in event["changes"]]
    assert len([each for each in told if each["what"] == "sends"]) >= 3  # begins, holds, resumes


async def test_3_2_2_hold_is_a_gap_of_its_own(story: Story) -> None:
    await story.tell(1)
    await story.talk("96", "98")
    await story.tell(2)
    await asyncio.sleep(0.2)  # how long the hold lasts: longer than what was said before it, which came at once
    await story.tell(3)
    await story.tell(7)
    assert (await story.ended()).causes == {(0, "hold")}


async def test_3_2_3_transfer_by_reinvite(story: Story) -> None:
    """Carol takes Alice's place in the same session; her streams are declared nowhere."""
    await story.tell(1)
    await story.talk("96", "98")
    await story.tell(4)
    await story.talk("96", "98")
    recorded = await story.live(["Carol", "Bob"], gone="Alice")
    assert person(recorded, "Alice").left == ["2013-12-16T23:41:07.000Z"]
    assert person(recorded, "Carol").joined == ["2013-12-16T23:41:07.000Z"]
    assert person(recorded, "Carol").left == []
    recorded = await story.src.bye()
    assert recorded.heard == ["Carol", "Bob"]
    assert sorted(stretches(recorded, 0)) == [("Alice", False), ("Carol", True)]  # the RFC dates only the transfer
    assert stretches(recorded, 1) == [("Bob", True)]
    assert len(recorded.manifest.sessions) == 1
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]


async def test_3_2_3_transfer_by_refer(story: Story) -> None:
    """The session stops, and with it all who were in it; a new one begins in the same recording session."""
    await story.tell(1)
    await story.talk("96", "98")
    await story.tell(5)
    await story.tell(6)
    await story.talk("96", "98")
    recorded = await story.src.bye()
    assert [(each or "").lower() for each in recorded.heard] == ["carol", "bob"]
    assert stretches(recorded, 0) == [("Alice", False), ("Carol", True)]
    assert stretches(recorded, 1) == [("Bob", False), ("Bob", True)]
    assert len(recorded.manifest.sessions) == 2
    assert person(recorded, "Alice").left == [MET]
    assert person(recorded, "Bob").joined == [MET, "2010-12-16T23:32:03.000Z"]
    assert person(recorded, "Bob").left == [MET]
    assert person(recorded, "Carol").joined == [MET]
    assert [each.packets for each in recorded.manifest.channels] == [10, 10]


async def test_3_3_1_mixed_3_3_2_hold_and_resume(story: Story) -> None:
    await story.tell(8)
    await story.talk("96")
    await story.live(["Alice, Bob"])
    await story.tell(9)
    await story.talk("96")
    await story.live(["Bob"])
    await story.tell(10)
    await story.talk("96")
    recorded = await story.src.bye()
    assert recorded.heard == ["Alice, Bob"]
    assert stretches(recorded, 0) == [("Alice", False), ("Bob", True), ("Alice", True)]
    assert recorded.causes == set()  # someone is heard all the time
    assert len(recorded.manifest.sessions[0].sip_session_ids) == 2


async def test_3_3_3_join_and_drop(story: Story) -> None:
    await story.tell(8)
    await story.tell(11)
    await story.live(["Alice, Bob, Carol"])
    await story.tell(12)
    recorded = await story.live(["Bob, Carol"], gone="Alice")
    assert person(recorded, "Alice").left == [MET]
    assert len(recorded.manifest.sessions[0].sip_session_ids) == 2
    recorded = await story.src.bye()
    assert recorded.names == ["Alice", "Bob", "Carol"]


async def test_3_4_persistent_session_outlives_its_call(story: Story) -> None:
    """A re-INVITE without SDP says that the call is over; the next call of the same recording session follows."""
    await story.tell(1)
    await story.talk("96", "98")
    await story.tell(13)
    recorded = await story.live(["Alice", "Bob"], gone="Alice")
    assert recorded.manifest.state in {"recording", "paused"}
    assert person(recorded, "Alice").left == [MET]
    await story.tell(6)
    await story.talk("96", "98")
    recorded = await story.src.bye()
    assert [(each or "").lower() for each in recorded.heard] == ["carol", "bob"]
    assert len(recorded.manifest.sessions) == 2


async def test_3_5_turret(story: Story) -> None:
    """Two calls mixed into one stream; Bob is in both."""
    await story.tell(14)
    await story.talk("96")
    recorded = await story.src.bye()
    assert [each.lower() for each in (recorded.heard[0] or "").split(", ")] == ["alice", "bob", "carol"]
    assert [len(each.sip_session_ids) for each in recorded.manifest.sessions] == [3, 3]
    assert len({each.group_id for each in recorded.manifest.sessions}) == 1
    assert person(recorded, "Bob").joined == [MET, "2010-12-16T23:43:07.000Z"]
