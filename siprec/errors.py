"""Every error siprec raises on purpose, and whose fault it is.

    SiprecError
    |-- PeerError(status, reason)     the peer's fault: what it sent is answered with `status`
    |   |-- SipError                  a SIP message or header (RFC 3261)
    |   |-- SdpError                  a session description (RFC 8866) or an offer we cannot take (RFC 3264)
    |   |-- MultipartError            a multipart body (RFC 5621)
    |   |-- SrtpError                 a packet that does not prove to be the SRC's (RFC 3711); counted, not answered
    |   `-- MetadataError             an rs-metadata body (RFC 7865); flagged on the recording, never a lost call
    |-- Overload(retry_after)         nobody's fault: 503 with Retry-After
    |   `-- PortsExhausted            no RTP port pair is free
    `-- LocalError                    ours or the machine's
        |-- ConfigurationError        every wrong setting at once, exit code 78
        |-- ListenError               a port in use, an address that is not ours
        |-- ArchiveError              a recording folder that cannot be read or written
        |-- RenderError               a capture that cannot become audio
        `-- StoreError                StoreUnavailable . Conflict . NotOwner . NotFound

Parsers raise only their own `PeerError`; anything else that wire bytes provoke is a defect of ours.
"""

import errno


class SiprecError(Exception):
    """Root of all errors raised on purpose."""


class PeerError(SiprecError):
    """What the peer sent cannot be taken.

    `status` is the SIP status code the peer is answered with (RFC 3261 section 21), `reason` a short
    sentence fit for a log line or a Reason-Phrase: it never quotes bytes from the network.
    """

    status = 400

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        if status is not None:
            self.status = status


class SipError(PeerError):
    """A SIP message or header that breaks the grammar or a named limit."""


class SdpError(PeerError):
    """A session description that cannot be parsed (400) or accepted (488)."""

    status = 488


class OfferPending(PeerError):
    """An offer while one of ours waits for its answer (RFC 3264 section 4, RFC 3311 section 5.2)."""

    status = 491


class MultipartError(PeerError):
    """A multipart body that cannot be taken apart."""


class SrtpError(PeerError):
    """An SRTP or SRTCP packet that is forged, damaged, under another key, or (`replay`) has been here before."""

    def __init__(self, reason: str, *, replay: bool = False) -> None:
        super().__init__(reason)
        self.replay = replay


class MetadataError(PeerError):
    """An rs-metadata body that cannot be understood."""


class Overload(SiprecError):
    """A limit is reached for now; the peer may come again after `retry_after` seconds."""

    def __init__(self, reason: str, *, retry_after: int = 5) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class PortsExhausted(Overload):
    """No RTP port pair is free (`RTP_PORT_MIN`, `RTP_PORT_MAX`)."""


class LocalError(SiprecError):
    """The fault is this server's or its machine's."""


class ConfigurationError(LocalError):
    """Settings that cannot work; `problems` holds one sentence for each, naming its variable."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ListenError(LocalError):
    """A listening socket could not be opened."""


class ArchiveError(LocalError):
    """A recording folder could not be read or written."""


def is_disk_trouble(error: BaseException | None) -> bool:
    """Whether a disk is to blame that may be well again later: full, over quota, failing, or read-only."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}:
            return True
        error = error.__cause__
    return False


class RenderError(LocalError):
    """A capture could not be turned into audio."""


class StoreError(LocalError):
    """A session store did not do what was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached; says nothing about whether the session exists."""


class Conflict(StoreError):
    """The record changed since it was read."""


class NotOwner(StoreError):
    """Another node, or a later life of this one, owns the session."""


class NotFound(StoreError):
    """No such session."""
