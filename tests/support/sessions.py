"""Session records as a recorder makes them, for tests of what keeps them."""

from __future__ import annotations

from siprec.metadata import merge
from siprec.metadata.model import (
    Group,
    NameID,
    Participant,
    ParticipantStreamAssoc,
    Recording,
    RSMetadata,
    Session,
    Stream,
)
from siprec.sdp.model import Format
from siprec.session.model import CallData, Channel, DialogInfo
from siprec.session.transitions import Event
from siprec.sip.dialog import Dialog, LastInvite
from siprec.sip.flow import Flow
from siprec.store.base import SessionRecord

WALL_NS = 1_763_668_000_000_000_000

FORMATS = (Format(0, "PCMU", 8000), Format(8, "PCMA", 8000), Format(101, "telephone-event", 8000, 1, "0-16"))


def session_id(number: int) -> str:
    """A time-ordered id, as a recorder gives them."""
    return f"0197{number % 65536:04x}-0000-7000-8000-{number:012x}"


def record(number: int, *, node: str = "a", fence: int = 1) -> SessionRecord:
    """A call of two streams with metadata, answered."""
    call = CallData(
        session_id(number),
        node,
        "192.0.2.10",
        "sbc-1",
        f"call-{number}@192.0.2.10",
        WALL_NS + number,
        fence=fence,
        local_sdp=f"v=0\r\no=- {number} 1 IN IP4 192.0.2.1\r\n" + "a=x\r\n" * 60,
        external_ids={"Session-ID": f"{number:032x}"},
        channels=[_channel(number, index) for index in range(2)],
    )
    call.fire(Event.ANSWERED, at_ns=WALL_NS + number, monotonic=12345.678)
    return SessionRecord(call, [DialogInfo(dialog(number), "sbc-1")], metadata(number))


def dialog(number: int) -> Dialog:
    """A confirmed dialog, as the called side has it."""
    return Dialog(
        f"call-{number}@192.0.2.10",
        f"srs-tag-{number}",
        f"src-tag-{number}",
        "<sip:srs@192.0.2.1>",
        '"Alice; \N{SNOWMAN}" <sip:alice@example.com>',
        "sip:src@192.0.2.10:5060",
        Flow("udp", ("192.0.2.1", 5060), ("192.0.2.10", 5060)),
        "uas",
        route_set=["<sip:192.0.2.20;lr>"],
        remote_cseq=1,
        state="confirmed",
        contact="<sip:192.0.2.1:5060>;+sip.srs",
        last_invite=LastInvite("z9hG4bK77asjd", "192.0.2.10:5060", 1, f"src-tag-{number}", b"SIP/2.0 200 OK\r\n\xff"),
    )


def metadata(number: int) -> RSMetadata:
    """Alice and Bob in one communication session, in a group."""
    state = RSMetadata()
    people = (("p1", "Alice"), ("p2", "Bob"))
    document = Recording(
        groups=(Group("the-group"),),
        sessions=(Session(f"cs-{number}", group_ref="the-group"),),
        participants=tuple(Participant(each, (NameID(f"sip:{name}@example.com", name),)) for each, name in people),
        streams=tuple(Stream(f"s{each}", f"cs-{number}", str(each)) for each in (1, 2)),
        participant_stream_assocs=tuple(ParticipantStreamAssoc(f"p{each}", send=(f"s{each}",)) for each in (1, 2)),
    )
    merge.apply(state, document, at_ns=WALL_NS)
    return state


def _channel(number: int, index: int) -> Channel:
    return Channel(
        index,
        index,
        str(index + 1),
        "active",
        FORMATS,
        ("192.0.2.11", 20000 + 2 * index),
        ("192.0.2.11", 20001 + 2 * index),
        address="192.0.2.1",
        port=10000 + 4 * (number % 5000) + 2 * index,
        rtcp_port=10001 + 4 * (number % 5000) + 2 * index,
        stream_id=f"stream-{number}-{index}==",
        participants=(f"p{index + 1}",),
    )
