"""Full metadata asked of an SRC whose session was carried on without it (RFC 7866 section 9.2).

An UPDATE without SDP, whose body is a `requestsnapshot`; the SRC answers 200 and sends its metadata in a request of its
own. Only an SRC that lists UPDATE in Allow is asked, and in its own words: its media type for metadata, and `Require:
siprec` if it used that. One that takes offence (415, 420) is asked once more the other way, and then left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siprec.metadata import xml
from siprec.recorder.leg import HeaderList
from siprec.sip.message import Request

if TYPE_CHECKING:
    from siprec.recorder.call import Call

TYPES = ("application/rs-metadata+xml", "application/rs-metadata")
"""The names of the media type: RFC 9806's, which SRCs in the field use, and RFC 7866's."""

_OTHER = {TYPES[0]: TYPES[1], TYPES[1]: TYPES[0]}


class Snapshot:
    """`wanted`: to be asked for as soon as the SRC is known to be there; one that knows no metadata never is."""

    __slots__ = ("_again", "_call", "_require", "_type", "wanted")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._type = ""
        self._require = False
        self._again = False
        self.wanted = False

    def ask_if_wanted(self) -> None:
        """Send the request if one is due."""
        info = self._call.leg.info
        if self.wanted and info is not None and info.updates and (info.siprec or info.metadata_type):
            self.wanted, self._again = False, True
            self._type, self._require = info.metadata_type or TYPES[0], info.siprec
            self._send()

    def is_asked_by(self, request: Request) -> bool:
        """Whether this is such a request of ours."""
        return request.method == "UPDATE" and "Content-Disposition" in request.headers

    def answered(self, status: int) -> None:
        """Its final answer: ask another way if the SRC did not understand."""
        if status in {415, 420} and self._again:
            self._again = False
            if status == 415:
                self._type = _OTHER.get(self._type, TYPES[0])
            else:
                self._require = not self._require
            self._send()
        elif status >= 300:
            self._call.log.info("no metadata snapshot", status=status)

    def _send(self) -> None:
        required: HeaderList = (("Require", "siprec"),) if self._require else ()
        body: HeaderList = (("Content-Type", self._type), ("Content-Disposition", "recording-session"))
        self._call.leg.ask("UPDATE", (*required, *body), xml.build_snapshot_request())
        self._call.leg.note("snapshot-requested")
