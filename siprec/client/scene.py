"""What a recording session is about, as the SRC sees it: the parties, their streams, and how both are told.

Told twice over: as an SDP offer with one sendonly m-line for each party (RFC 7866 section 7.1) and as rs-metadata
(RFC 7865), tied together by the labels.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from siprec import clock
from siprec.client.options import Header, Party
from siprec.client.tracks import FRAME_SECONDS, Codec
from siprec.metadata import xml
from siprec.metadata.model import (
    NameID,
    Participant,
    ParticipantSessionAssoc,
    ParticipantStreamAssoc,
    Recording,
    Session,
    SessionRecordingAssoc,
    Stream,
)
from siprec.metadata.times import format_time
from siprec.sdp.model import Direction, Format, Origin, SessionDescription
from siprec.sdp.negotiate import NegotiatedStream, StreamOffer, build_offer, revise
from siprec.sip.headers import Disposition, MediaType
from siprec.sip.message import Headers
from siprec.sip.multipart import BodyPart, format_multipart

SDP_TYPE = "application/sdp"
METADATA_TYPE = "application/rs-metadata+xml"
"""The name that RFC 9806 gave to RFC 7866's application/rs-metadata."""

METADATA_CONTENT = (("Content-Type", METADATA_TYPE), ("Content-Disposition", "recording-session"))

Content = tuple[Sequence[Header], bytes]
"""Headers that describe a body, and the body."""


@dataclass(slots=True)
class Channel:
    """One party's stream: its m-line in SDP, its stream element in the metadata. `port`: our RTP port, 0 = removed;
    `crypto`: our a=crypto line, None for plain RTP."""

    label: str
    party: Party
    participant_id: str
    stream_id: str
    port: int
    joined_ns: int
    direction: Direction = "sendonly"
    left_ns: int | None = None
    crypto: str | None = None


class Scene:
    """The parties of one communication session and their streams, in m-line order.

    Ids are base64 of UUIDs (RFC 7865 section 6.10), all derived from `session`, so that a second SRC which is told the
    same session describes the same participants. `address` is where our ports are.
    """

    def __init__(self, address: str, codec: Codec, *, session: uuid.UUID) -> None:
        self.address, self.codec, self.session = address, codec, session
        self.session_id = _identifier(session)
        self.channels: list[Channel] = []
        self.started_ns = clock.wall_ns()
        self.offered: SessionDescription | None = None
        """Our last description; its o= version rises only when something else changed (RFC 3264 section 8)."""

    @property
    def parties(self) -> list[Party]:
        return [channel.party for channel in self.channels]

    # -- what changes

    def join(self, party: Party, port: int) -> Channel:
        """A new m-line for `party`; labels are "1", "2" and so on."""
        label = str(len(self.channels) + 1)
        person = _identifier(uuid.uuid5(self.session, f"participant {label}"))
        stream = _identifier(uuid.uuid5(self.session, f"stream {label}"))
        joined = clock.wall_ns() if self.offered else self.started_ns
        channel = Channel(label, party, person, stream, port, joined)
        self.channels.append(channel)
        return channel

    def leave(self, channel: Channel) -> None:
        """The party is gone and its slot closed."""
        channel.left_ns, channel.port, channel.direction = clock.wall_ns(), 0, "inactive"

    # -- how it is told

    def offer(self) -> SessionDescription:
        """Our side as it is now, each stream in its own direction."""
        self.offered = revise(self.offered, self._describe(channel.direction for channel in self.channels))
        return self.offered

    def answer(self, agreed: Sequence[NegotiatedStream]) -> SessionDescription:
        """Our side in directions that the server's offer allows."""
        self.offered = revise(self.offered, self._describe(stream.direction for stream in agreed))
        return self.offered

    def invitation(self, *, metadata: bool) -> Content:
        """The body of an INVITE or re-INVITE: offer and full metadata, or the offer alone."""
        offer = bytes(self.offer())
        if not metadata:
            return (("Content-Type", SDP_TYPE),), offer
        parts = [
            BodyPart(MediaType.parse(SDP_TYPE), None, Headers(), offer),
            BodyPart(MediaType.parse(METADATA_TYPE), Disposition("recording-session"), Headers(), self.metadata()),
        ]
        content_type, body = format_multipart(parts, f"siprec-{self.session.hex}")
        return (("MIME-Version", "1.0"), ("Content-Type", content_type)), body

    def snapshot(self) -> Content:
        """The body of an UPDATE with full metadata and nothing else (RFC 7866 section 9.1)."""
        return METADATA_CONTENT, self.metadata()

    def metadata(self) -> bytes:
        """Everything known of the session as rs-metadata; who left keeps its associations, with their end."""
        session, began = self.session_id, format_time(self.started_ns)
        sending = tuple(channel for channel in self.channels if channel.left_ns is None)
        return xml.build(
            Recording(
                sessions=(Session(session, start_time=began),),
                participants=tuple(_participant(channel) for channel in self.channels),
                streams=tuple(Stream(channel.stream_id, session, channel.label) for channel in sending),
                session_recording_assocs=(SessionRecordingAssoc(session, began),),
                participant_session_assocs=tuple(
                    ParticipantSessionAssoc(channel.participant_id, session, *_times(channel))
                    for channel in self.channels
                ),
                participant_stream_assocs=tuple(
                    ParticipantStreamAssoc(
                        channel.participant_id,
                        send=(channel.stream_id,),
                        recv=tuple(other.stream_id for other in sending if other is not channel),
                        associate_time=_times(channel)[0],
                    )
                    for channel in sending
                ),
            )
        )

    def _describe(self, directions: Iterable[Direction]) -> SessionDescription:
        codec = self.codec
        formats = (Format(codec.payload_type, codec.name, codec.clock_rate),)
        streams = [
            StreamOffer(
                self.address, channel.port, formats, channel.label,
                direction=direction, ptime=round(FRAME_SECONDS * 1000),
                transport="RTP/SAVP" if channel.crypto else "RTP/AVP", crypto=channel.crypto,
            )
            for channel, direction in zip(self.channels, directions, strict=True)
        ]  # fmt: skip
        return build_offer(streams, origin=Origin.at(self.address, self.session.int >> 65))


def _identifier(value: uuid.UUID) -> str:
    return base64.b64encode(value.bytes).decode()


def _participant(channel: Channel) -> Participant:
    return Participant(channel.participant_id, (NameID(channel.party.aor, channel.party.name),))


def _times(channel: Channel) -> tuple[str, str]:
    """When the party joined, and when it left ("" while it is there)."""
    return format_time(channel.joined_ns), format_time(channel.left_ns) if channel.left_ns else ""
