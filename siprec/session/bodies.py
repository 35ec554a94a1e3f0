"""What the body of a request holds for a recording session: an offer or answer, metadata, and the rest.

RFC 5621 section 8: a part that we cannot process and that says handling=required makes the request 415.
SBCs attach parts nobody but them reads (GTD, ISUP, PIDF) without marking them optional, so only an explicit
`handling=required` on an unknown part is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from siprec.errors import MetadataError, SipError
from siprec.metadata import xml
from siprec.metadata.model import Recording, SnapshotRequest
from siprec.session.admission import is_metadata
from siprec.sip.message import Request
from siprec.sip.multipart import BodyPart, parse_body

ACCEPT = ("application/sdp", "application/rs-metadata+xml", "application/rs-metadata", "multipart/mixed")
"""What an answer to OPTIONS or a 415 lists (RFC 7866 section 12, RFC 9806)."""


@dataclass(frozen=True)
class Bodies:
    """The parts of one body. `sdp` is None when the message carries no session description."""

    sdp: bytes | None = None
    metadata: tuple[BodyPart, ...] = ()
    parts: tuple[BodyPart, ...] = ()

    @cached_property
    def documents(self) -> tuple[Recording | SnapshotRequest | MetadataError, ...]:
        """What each of `metadata` says, or why it cannot be read."""
        return tuple(map(_document, self.metadata))


def read(request: Request) -> Bodies:
    """Take a request's body apart, once however often it is asked for.

    Raises SipError 415 for a content coding or a required part we do not know, MultipartError 400.
    """
    return request.once("body", _read)


def _read(request: Request) -> Bodies:
    coding = request.headers.get("Content-Encoding")
    if coding and coding.lower() != "identity":
        raise SipError("content coding is not supported", status=415)
    if not request.body.strip():
        return Bodies()
    parts = tuple(parse_body(request.headers, request.body))
    sdp = None
    metadata = []
    for part in parts:
        kind = f"{part.content_type.type}/{part.content_type.subtype}".lower()
        if kind == "application/sdp":
            sdp = part.body if sdp is None else sdp
        elif is_metadata(part):
            metadata.append(part)
        elif _required(part):
            raise SipError("a required body part is of an unknown type", status=415)
    return Bodies(sdp, tuple(metadata), parts)


def _required(part: BodyPart) -> bool:
    return part.disposition is not None and (part.disposition.params.get("handling") or "").lower() == "required"


def _document(part: BodyPart) -> Recording | SnapshotRequest | MetadataError:
    try:
        return xml.parse(part.body, charset=part.content_type.params.get("charset"))
    except MetadataError as error:
        return error
