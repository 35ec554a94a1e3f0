"""Bob hands the call to Carol: recording.json tells who was heard when in their channel, also after a restart."""

from pathlib import Path

from siprec import clock
from siprec.archive.manifest import Manifest
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
from siprec.recorder.dossier import timestamp
from tests.support.failover import ALLOW, call_id, recorded_call
from tests.support.replay import Src, recording_server

SESSION = "one-session"
ALICE, BOB, CAROL = "cGFydGljaXBhbnQtQWxpYw==", "cGFydGljaXBhbnQtQm9iLQ==", "carol-id"
BOB_STREAM, CAROL_STREAM = "c3RyZWFtLW9mLUJvYi0tLQ==", "carol-stream"


async def transfer(src: Src, at: str) -> None:
    """A partial document: Bob and his stream are gone, Carol's has their label."""
    document = Recording(
        "partial",
        sessions=(Session(SESSION),),
        participants=(Participant(CAROL, (NameID("sip:carol@example.com", "Carol"),)),),
        streams=(Stream(CAROL_STREAM, SESSION, "2"),),
        participant_session_assocs=(
            ParticipantSessionAssoc(BOB, SESSION, disassociate_time=at),
            ParticipantSessionAssoc(CAROL, SESSION, at),
        ),
        participant_stream_assocs=(
            ParticipantStreamAssoc(BOB, send=(BOB_STREAM,), disassociate_time=at),
            ParticipantStreamAssoc(CAROL, send=(CAROL_STREAM,), associate_time=at),
        ),
    )
    request = src.build("UPDATE", body=xml.build(document), content_type="application/rs-metadata+xml")
    assert (await src.exchange(request)).status == 200


def told(manifest: Manifest) -> list[list[tuple[str | None, str, str | None]]]:
    return [[(each["name"], each["from"], each["until"]) for each in one.participants] for one in manifest.channels]


async def test_bob_is_replaced_by_carol_on_channel_1(tmp_path: Path) -> None:
    async with recording_server(tmp_path, dies=True, SIP_ALLOW=ALLOW) as first:
        src = await recorded_call(first, session=SESSION)
        ((_, began, _),), _ = told(first.of(call_id(src)).manifest)
        at = timestamp(clock.wall_ns())
        await transfer(src, at)
        live = await first.live(call_id(src), lambda found: found.heard == ["Alice", "Carol"])
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW) as second:
        src.server = second
        recorded = await src.bye()
    assert recorded.manifest.state == "ended"
    assert recorded.manifest.fence > live.manifest.fence
    assert recorded.heard == ["Alice", "Carol"]
    assert told(recorded.manifest) == told(live.manifest)
    assert told(recorded.manifest) == [[("Alice", began, None)], [("Bob", began, at), ("Carol", at, None)]]
    assert [each["participant_id"] for each in recorded.manifest.channels[1].participants] == [BOB, CAROL]
