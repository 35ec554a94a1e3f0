"""RTCP between us and the SRC of one stream: what it told, where it may be told something, and what is said.

Nothing goes to an address that SDP alone names: an SRC must have been heard from there under the source policy
(RTP_SOURCE), be it RTP from the same address or RTCP from that very port. So no one can be made a target of ours.
"""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

import numpy as np

from siprec.media import reception
from siprec.media.arena import address_words
from siprec.media.source import MAX_SSRCS, Origin, Source, SourcePolicy
from siprec.rtp import rtcp

CNAME_BYTES = 12
"""Random bytes of a CNAME: 96 bits, as RFC 7022 section 4.2 asks for; no host or user name is in it."""

MAX_DELAY = 0xFFFFFFFF
"""The longest delay since a sender report that a block can tell, in 1/65536 s: 18 hours."""

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class RtcpTerms:
    """What SDP says of a stream's RTCP. `remote`: IP literal and port it goes to (the one above RTP's, or that of
    a=rtcp, RFC 3605); None when SDP tells none. `mux`: it shares RTP's port on both sides (RFC 5761)."""

    remote: tuple[str, int] | None = None
    mux: bool = False


class Identity:
    """Who we are in the RTCP of one session: an SSRC and a CNAME, both random."""

    __slots__ = ("_cname", "_sent", "ssrc")

    def __init__(self) -> None:
        self.ssrc = secrets.randbits(32)
        self._cname = base64.b64encode(secrets.token_bytes(CNAME_BYTES))
        self._sent: tuple[int, bytes] | None = None

    def evade(self, ssrc: int) -> None:
        """Take another SSRC when the peer uses ours (RFC 3550 section 8.2)."""
        while self.ssrc == ssrc:
            self.ssrc = secrets.randbits(32)

    @property
    def description(self) -> rtcp.SourceDescription:
        return rtcp.SourceDescription((rtcp.Chunk(self.ssrc, ((rtcp.CNAME, self._cname),)),))

    @property
    def description_as_sent(self) -> bytes:
        """The same for every report of a session."""
        if self._sent is None or self._sent[0] != self.ssrc:
            self._sent = self.ssrc, bytes(self.description)
        return self._sent[1]


@dataclass(slots=True, eq=False)
class Exchange:
    """The RTCP of one stream. `sent` is what sender reports tell of each SSRC: packets and octets; `left_ns` when
    a BYE came, 0 while none has; `reports` counts ours; `terms` is None while nobody wants any."""

    identity: Identity
    terms: RtcpTerms | None = None
    sent: dict[int, tuple[int, int]] = field(default_factory=dict)
    left_ns: int = 0
    reports: int = 0
    _heard_at: Origin | None = None
    _last_sr: tuple[int, int, int] = (0, 0, 0)  # whose, middle of its NTP time, its arrival

    @property
    def mux(self) -> bool:
        return self.terms is not None and self.terms.mux

    @property
    def negotiated(self) -> Origin | None:
        if self.terms is None or self.terms.remote is None:
            return None
        host, port = self.terms.remote
        return (*address_words(host), port)

    def renew(self, terms: RtcpTerms | None) -> None:
        """A new SDP: where the peer's RTCP comes from is learned again."""
        self.terms = terms
        self._heard_at = None

    # ---- what comes ------------------------------------------------------------------------------------------

    def hear(self, datagram: bytes, origin: Origin, time_ns: int, *, source: Source) -> None:
        """RTCP that the source policy has let in."""
        negotiated = self.negotiated
        if origin == negotiated or (self._heard_at is None and source.policy is not SourcePolicy.STRICT):
            self._heard_at = origin
        for packet in rtcp.parse(datagram):
            if isinstance(packet, rtcp.SenderReport):
                self._hear_sender(packet, time_ns)
            elif isinstance(packet, rtcp.Bye) and not source.ssrcs.keys().isdisjoint(packet.ssrcs):
                self.left_ns = time_ns

    def _hear_sender(self, report: rtcp.SenderReport, time_ns: int) -> None:
        self._last_sr = (report.ssrc, report.ntp >> 16 & 0xFFFFFFFF, time_ns)
        self.sent[report.ssrc] = (report.packet_count, report.octet_count)
        if len(self.sent) > MAX_SSRCS:
            del self.sent[next(iter(self.sent))]

    def told(self, ssrcs: dict[int, None]) -> tuple[int, int] | None:
        """Packets and octets that the SRC says it has sent as `ssrcs`; None when it never said."""
        counts = [count for ssrc, count in dict(self.sent).items() if ssrc in ssrcs]
        return (sum(each[0] for each in counts), sum(each[1] for each in counts)) if counts else None

    # ---- what goes -------------------------------------------------------------------------------------------

    def target(self, source: Source) -> Origin | None:
        """Where reports may go: where the peer's RTCP came from (symmetric RTCP, RFC 4961), else where SDP says,
        if RTP came from that address. None: nowhere yet."""
        if self.terms is None or self._heard_at is not None:
            return None if self.terms is None else self._heard_at
        negotiated, locked = self.negotiated, source.locked
        if negotiated is None or locked is None or negotiated[:2] != locked[:2]:
            return None
        return negotiated

    def compose(self, row: np.void, now_ns: int, *, leaving: bool = False) -> bytes:
        """A receiver report with SDES CNAME, and BYE when `leaving` (RFC 3550 sections 6.4.2, 6.5, 6.6)."""
        blocks: tuple[rtcp.ReportBlock, ...] = ()
        self.identity.evade(int(row["ssrc"]))
        if reception.heard_since_report(row):
            whose, last_sr, arrived_ns = self._last_sr
            known = bool(arrived_ns) and whose == row["ssrc"]
            delay = min(max(0, (now_ns - arrived_ns) * 65536 // _NS), MAX_DELAY) if known else 0
            blocks = (reception.report(row, last_sr=last_sr if known else 0, delay=delay),)
        ssrc = self.identity.ssrc
        bye = (rtcp.Bye((ssrc,)),) if leaving else ()
        return rtcp.compound(rtcp.ReceiverReport(ssrc, blocks), self.identity.description_as_sent, *bye)
