"""What the SRC says about its session, read back by the recorder's own parsers."""

import base64
import uuid

from siprec.client.options import PARTIES
from siprec.client.scene import METADATA_TYPE, SDP_TYPE, Scene
from siprec.client.tracks import CODECS
from siprec.metadata import xml
from siprec.metadata.model import Recording
from siprec.sdp.model import parse as parse_sdp
from siprec.sdp.negotiate import plan
from siprec.sip.message import Headers
from siprec.sip.multipart import parse_body

SESSION = uuid.UUID("a358d2b2-0000-4000-8000-000000000001")


def scene(codec: str = "PCMU", *, address: str = "192.0.2.7") -> Scene:
    made = Scene(address, CODECS[codec], session=SESSION)
    for number, party in enumerate(PARTIES[:2]):
        made.join(party, 40000 + 2 * number)
    return made


def read(made: Scene) -> Recording:
    recording = xml.parse(made.metadata())
    assert isinstance(recording, Recording)
    return recording


def test_the_offer_has_a_labelled_sendonly_line_for_each_party() -> None:
    offer = parse_sdp(bytes(scene().offer()))
    assert [(line.label, line.direction, line.port) for line in offer.media] == [
        ("1", "sendonly", 40000),
        ("2", "sendonly", 40002),
    ]
    assert offer.media[0].address == "192.0.2.7"
    assert all(stream.accepted for stream in plan(offer, codecs=("PCMU",)))


def test_a_dynamic_payload_type_is_mapped() -> None:
    line = scene("L16").offer().media[0]
    assert line.attribute("rtpmap") == "96 L16/16000"


def test_ipv6_is_named_as_such() -> None:
    assert "c=IN IP6 2001:db8::7\r\n" in str(scene(address="2001:db8::7").offer())


def test_the_version_rises_only_with_a_change() -> None:
    made = scene()
    first, same = made.offer(), made.offer()
    made.channels[0].direction = "inactive"
    changed = made.offer()
    assert first.origin == same.origin
    assert changed.origin.session_id == first.origin.session_id
    assert changed.origin.version == first.origin.version + 1


def test_metadata_and_offer_are_tied_by_labels() -> None:
    made = scene()
    recording = read(made)
    assert recording.datamode == "complete"
    assert base64.b64decode(recording.sessions[0].session_id) == SESSION.bytes
    assert [(each.aor, each.display_name) for each in recording.participants] == [
        ("sip:alice@example.com", "Alice"),
        ("sip:bob@example.com", "Bob"),
    ]
    assert [each.label for each in recording.streams] == [line.label for line in made.offer().media]
    alice, bob = recording.participant_stream_assocs
    assert alice.send == bob.recv == (recording.streams[0].stream_id,)
    assert bob.send == alice.recv == (recording.streams[1].stream_id,)


def test_ids_follow_from_the_session_and_are_all_different() -> None:
    one, other = read(scene()), read(scene())
    assert one.participants == other.participants
    ids = [each.participant_id for each in one.participants] + [each.stream_id for each in one.streams]
    assert len({*ids, one.sessions[0].session_id}) == 5


def test_who_leaves_is_disassociated_and_keeps_the_slot() -> None:
    made = scene()
    made.offer()
    made.join(PARTIES[2], 40004)
    made.leave(made.channels[0])
    recording = read(made)
    assert [line.port for line in made.offer().media] == [0, 40002, 40004]
    assert [bool(each.disassociate_time) for each in recording.participant_session_assocs] == [True, False, False]
    assert [each.label for each in recording.streams] == ["2", "3"]
    joined = [each.associate_time for each in recording.participant_session_assocs]
    assert joined[2] >= joined[1]


def test_the_invitation_is_offer_and_metadata_in_one_body() -> None:
    made = scene()
    content, body = made.invitation(metadata=True)
    parts = parse_body(Headers(content), body)
    assert [part.content_type.name for part in parts] == [SDP_TYPE, METADATA_TYPE]
    disposition = parts[1].disposition
    assert disposition is not None
    assert disposition.value == "recording-session"


def test_an_invitation_without_metadata_is_bare_sdp() -> None:
    content, body = scene().invitation(metadata=False)
    assert content == (("Content-Type", SDP_TYPE),)
    assert parse_sdp(body).media
