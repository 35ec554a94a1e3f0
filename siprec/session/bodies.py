"""What the body of a request holds for a recording session: an offer or answer, metadata, and the rest.

RFC 5621 section 8: a part that we cannot process and that says handling=required makes the request 415.
SBCs attach parts nobody but them reads (GTD, ISUP, PIDF) without marking them optional, so of the parts of a multipart
only an unknown one with an explicit `handling=required` is refused. A body that is the whole message is what the
request is about: one of an unknown type is refused unless it says handling=optional (RFC 3261 section 8.2.3).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property

from siprec.errors import MetadataError, PeerError, SipError
from siprec.metadata import xml
from siprec.metadata.model import Recording, SnapshotRequest
from siprec.session.admission import is_metadata
from siprec.sip.message import Headers, Request
from siprec.sip.multipart import BodyPart, decoded, parse_body

ACCEPT = ("application/sdp", "application/rs-metadata+xml", "application/rs-metadata", "multipart/mixed")
"""What an answer to OPTIONS or a 415 lists (RFC 7866 section 12, RFC 9806)."""


class Unsupported(SipError):
    """A body of a type or a coding that we do not know; `headers` tell the peer which we do (RFC 3261 8.2.3)."""

    status = 415

    def __init__(self, reason: str, *headers: tuple[str, str]) -> None:
        super().__init__(reason)
        self.headers = headers


@dataclass(frozen=True)
class Bodies:
    """The parts of one body. `sdp` is None when the message carries no session description. What it and `metadata` were
    encoded for transfer by is undone, where that can be; of metadata a fault of it is one of the document.
    """

    sdp: bytes | None = None
    metadata: tuple[BodyPart, ...] = ()
    parts: tuple[BodyPart, ...] = ()

    @cached_property
    def documents(self) -> tuple[Recording | SnapshotRequest | MetadataError, ...]:
        """What each of `metadata` says, or why it cannot be read."""
        return tuple(map(_document, self.metadata))


def read(request: Request) -> Bodies:
    """Take a request's body apart, once however often it is asked for.

    Raises Unsupported for a content coding or a required part we do not know, MultipartError 400; also for a session
    description in a transfer encoding that cannot be undone.
    """
    return request.once("body", _read)


def _read(request: Request) -> Bodies:
    _check_coding(request.headers)
    if not request.body.strip():
        return Bodies()
    parts = tuple(parse_body(request.headers, request.body))
    sdp = None
    metadata = []
    for part in parts:
        kind = f"{part.content_type.type}/{part.content_type.subtype}".lower()
        if kind == "application/sdp":
            sdp = _plain(part).body if sdp is None else sdp
        elif is_metadata(part):
            with contextlib.suppress(PeerError):  # then `documents` tell why
                part = _plain(part)
            metadata.append(part)
        elif _required(part, alone=part.headers is request.headers):
            raise Unsupported("a required body is of an unknown type", ("Accept", ", ".join(ACCEPT)))
    return Bodies(sdp, tuple(metadata), parts)


def _required(part: BodyPart, *, alone: bool) -> bool:
    handling = part.disposition.params.get("handling") if part.disposition is not None else None
    return (handling or ("required" if alone else "optional")).lower() == "required"


def _plain(part: BodyPart) -> BodyPart:
    """`part` as its type says. Raises Unsupported, MultipartError."""
    _check_coding(part.headers)
    return decoded(part)


def _check_coding(headers: Headers) -> None:
    if (headers.get("Content-Encoding") or "identity").lower() != "identity":
        raise Unsupported("content coding is not supported", ("Accept-Encoding", "identity"))


def _document(part: BodyPart) -> Recording | SnapshotRequest | MetadataError:
    try:
        return xml.parse(_plain(part).body, charset=part.content_type.params.get("charset"))
    except MetadataError as error:
        return error
    except PeerError as error:
        return MetadataError(error.reason)
