"""What an error comes to as the final response of a request that it met."""

from __future__ import annotations

from siprec.errors import ArchiveError, ListenError, NotOwner, Overload, PeerError
from siprec.log import Logger
from siprec.recorder.contact import IntervalTooSmall
from siprec.recorder.leg import HeaderList
from siprec.session import bodies

ANSWERED = (PeerError, Overload, OSError, ArchiveError, ListenError, NotOwner)
"""Errors that refuse one request; any other is a defect."""

DISK_RETRY_SECONDS = "30"
"""Retry-After of what a disk or the network of this machine stands in the way of: somebody has to see to it."""


def of(error: Exception, method: str, log: Logger) -> tuple[int, HeaderList]:
    """The status and further headers for one of `ANSWERED`, which is logged."""
    if isinstance(error, IntervalTooSmall):
        return error.status, error.headers
    if isinstance(error, PeerError):
        log.warning("request refused", method=method, status=error.status, reason=error.reason)
        return error.status, explained(error)
    if isinstance(error, Overload):
        log.warning("overload", reason=error.reason)
        return 503, (("Retry-After", str(error.retry_after)),)
    if isinstance(error, NotOwner):  # another node has the session, and we were not told yet
        return 500, (("Retry-After", "1"),)
    if isinstance(error, ListenError):
        log.error("media cannot be received", error=str(error), setting="RTP_BIND_IP")
    else:
        log.error("recording folder cannot be written", error=str(error), setting="RECORDING_DIR")
    return 503, (("Retry-After", DISK_RETRY_SECONDS),)


def explained(error: PeerError) -> HeaderList:
    """What would be taken (RFC 3261 section 21.4.13), or why the media was not (21.4.26)."""
    if error.status == 415:
        return error.headers if isinstance(error, bodies.Unsupported) else (("Accept", ", ".join(bodies.ACCEPT)),)
    return (("Warning", f'399 siprec "{error.reason}"'),) if error.status == 488 else ()
