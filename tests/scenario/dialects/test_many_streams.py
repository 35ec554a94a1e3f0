"""One recording session for many calls (RFC 7866 section 10): more streams than a file has channels, one after the
other in the same m-lines, in m-lines appended for each, and too many of them at a time.
"""

from siprec.metadata import xml
from siprec.metadata.model import (
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Recording,
    Session,
    Stream,
)
from siprec.sdp.model import MAX_MEDIA
from siprec.session.streams import CHANNELS_LIMIT, OPEN_LIMIT
from tests.support.replay import Recorded, Server, Src

HEAD = "v=0\r\no=- 2026 {version} IN IP4 127.0.30.1\r\ns=-\r\nc=IN IP4 127.0.30.1\r\nt=0 0\r\n"
BOUNDARY = "b1"


def line(label: str, port: int) -> str:
    return f"m=audio {port} RTP/AVP 0\r\na=label:{label}\r\na=sendonly\r\n"


def described(call: str, labels: list[str]) -> bytes:
    """The metadata of a call in which each stream has a sender of its own, named as its label is."""
    return xml.build(
        Recording(
            "complete",
            sessions=(Session(call),),
            participants=tuple(Participant(f"p-{each}", (NameID(f"sip:{each}@example.com", each),)) for each in labels),
            streams=tuple(Stream(f"s-{each}", call, each) for each in labels),
            participant_session_assocs=tuple(ParticipantSessionAssoc(f"p-{each}", call) for each in labels),
            participant_stream_assocs=tuple(ParticipantStreamAssoc(f"p-{each}", (f"s-{each}",)) for each in labels),
        )
    )


class Persistent:
    """A recording session that goes on from call to call."""

    def __init__(self, src: Src) -> None:
        self.src = src
        self.version = 1

    async def call(self, *lines: str, metadata: bytes = b"") -> list[bool]:
        """Offer these m-lines; which of them are recorded."""
        self.version += 1
        offer = HEAD.format(version=self.version) + "".join(lines)
        kind, body = "application/sdp", offer.encode()
        if metadata:
            kind = f"multipart/mixed;boundary={BOUNDARY}"
            parts = (
                b"Content-Type: application/sdp\r\n\r\n" + body,
                b"Content-Type: application/rs-metadata+xml\r\nContent-Disposition: recording-session\r\n\r\n"
                + metadata,
            )
            body = b"".join(b"--b1\r\n" + each + b"\r\n" for each in parts) + b"--b1--\r\n"
        answered = await self.src.exchange(self.src.build("INVITE", body=body, content_type=kind))
        assert answered.status == 200
        await self.src.ack()
        assert self.src.answer is not None
        return [bool(each.port) for each in self.src.answer.media]


async def begun(server: Server) -> Persistent:
    src = server.src("trait-06-sdp")
    assert (await src.send("good")).status == 200
    await src.ack()
    await src.speak("a_leg")
    await src.speak("b_leg")
    return Persistent(src)


def counted(recorded: Recorded) -> list[int]:
    return [each.packets for each in recorded.manifest.channels]


async def test_every_stream_is_heard_beyond_as_many_as_a_file_has_channels(server: Server) -> None:
    session, streams = await begun(server), 16
    for call in range(3):
        labels = [f"c{call}-{slot}" for slot in range(streams)]
        lines = [line(label, 12_000 + 4 * slot) for slot, label in enumerate(labels)]
        assert await session.call(*lines, metadata=described(f"call{call}", labels)) == [True] * streams
        for label in labels:
            await session.src.speak(label)
    recorded = await session.src.bye()
    channels = recorded.manifest.channels
    assert len(channels) == CHANNELS_LIMIT
    assert counted(recorded) == [5] * 16 + [15] * 2 + [10] * 14
    assert [each.label for each in channels[16:]] == [f"c2-{slot}" for slot in (14, 15, *range(14))]
    assert sum(each.lost for each in channels) == 0
    assert (recorded.manifest.gaps, recorded.manifest.verdict) == ([], "ok")
    shared = channels[16]
    assert (shared.label, shared.stream_id, shared.participant) == ("c2-14", "s-c2-14", "c2-14")
    heard = [(each["name"], each["from"], each["until"]) for each in shared.participants]
    assert [name for name, _, _ in heard] == ["c0-14", "c1-14", "c2-14"]
    assert [until for _, _, until in heard[:-1]] == [since for _, since, _ in heard[1:]]


async def test_lines_may_be_appended_for_each_call_and_those_of_earlier_ones_do_not_count(server: Server) -> None:
    session = await begun(server)
    over = [line("a_leg", 0), line("b_leg", 0)]
    for call in range(5):
        labels = [f"c{call}-{number}" for number in range(8)]
        lines = [line(label, 12_100 + 100 * call + 4 * number) for number, label in enumerate(labels)]
        assert await session.call(*over, *lines) == [False] * len(over) + [True] * 8
        for label in labels:
            await session.src.speak(label)
        over += [line(label, 0) for label in labels]
    assert len(over) > OPEN_LIMIT
    recorded = await session.src.bye()
    assert counted(recorded) == [10] * 10 + [5] * 22
    assert [each.label for each in recorded.manifest.channels[:10]] == [
        f"c{call}-{number}" for call, number in [(3, 6), (3, 7), *((4, each) for each in range(8))]
    ]
    assert (recorded.manifest.gaps, recorded.manifest.verdict) == ([], "ok")


async def test_of_too_many_at_a_time_the_last_are_refused_and_the_others_recorded(server: Server) -> None:
    session = await begun(server)
    labels = [str(number) for number in range(OPEN_LIMIT + 2)]
    lines = [line(label, 12_000 + 4 * number) for number, label in enumerate(labels)]
    assert await session.call(*lines) == [True] * OPEN_LIMIT + [False] * 2
    await session.src.speak(labels[0])
    await session.src.speak(labels[OPEN_LIMIT - 1])
    freed = [line(labels[0], 0), *lines[1:]]
    assert await session.call(*freed) == [False] + [True] * OPEN_LIMIT + [False]
    await session.src.speak(labels[OPEN_LIMIT])
    assert await session.call(*lines) == [False] + [True] * OPEN_LIMIT + [False]
    assert sum(counted(await session.src.bye())) == 25


async def test_more_lines_than_any_session_needs_are_refused_and_change_nothing(server: Server) -> None:
    session = await begun(server)
    assert len(await session.call(*[line("a_leg", 0)] * MAX_MEDIA)) == MAX_MEDIA
    offer = HEAD.format(version=9) + line("a_leg", 0) * (MAX_MEDIA + 1)
    assert (await session.src.exchange(session.src.build("INVITE", body=offer.encode()))).status == 400
    assert sum(counted(await session.src.bye())) == 10


async def test_streams_that_change_places_keep_their_channels(server: Server) -> None:
    session = await begun(server)
    assert await session.call(line("b_leg", 12_004), line("a_leg", 12_000)) == [True, True]
    await session.src.speak("a_leg", packets=10)
    await session.src.speak("b_leg")
    recorded = await session.src.bye()
    assert recorded.labels == ["a_leg", "b_leg"]
    assert counted(recorded) == [15, 10]
    assert [len(each.ssrcs) for each in recorded.manifest.channels] == [1, 1]
    assert (recorded.manifest.gaps, recorded.manifest.verdict) == ([], "ok")
