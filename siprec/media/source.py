"""Whose packets belong to a stream: the source policy (RTP_SOURCE), one packet at a time, without sockets.

The drain decides nearly all packets by vectors: once a stream is settled, a packet from the locked source with
the current SSRC and a negotiated payload type is accepted, one from elsewhere refused. What is left comes
here in order of arrival: the first packets of a stream, and packets with a new SSRC.

A source is learned once: from a packet that comes from exactly the address and port of the SDP, or else from
two packets in order (RFC 3550 appendix A.1) from one address, port and SSRC. Until then up to `MAX_HELD`
packets are held, and those of the learned source are given out when it is: nothing is lost by caution. The
first SSRC of a source needs no probation; a later one needs two packets in order, and they are kept.

While the learned source has nothing to say (`falls_silent`), its stream may go on from elsewhere: with the same SSRC,
sequence numbers that go on, and from where a source could be learned from. A source that lives is never replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address

from siprec.media.arena import address_text
from siprec.rtp.sequence import in_order

MAX_HELD = 50
"""Packets held per stream while its source or an SSRC is not yet believed: one second of audio."""

SILENT_SECONDS = 1.0
"""Without a packet for so long a learned source counts as silent, which is looked at once a second."""

OLD_SOURCE_NS = 5_000_000_000
"""How long after a new SDP the source of the old one is heard, unless the new one speaks: what the SRC sent before
it saw our answer is still on its way (RFC 3264 section 8.3.1)."""

MAX_SSRCS = 16
"""SSRCs a stream remembers as its own; the oldest is forgotten and would be put on probation again."""

MAX_REFUSALS = 64
"""Pairs of reason and source counted one by one per stream; all further sources are counted as one."""

OTHER_SOURCES = (0, 0)
"""Stands for every source beyond `MAX_REFUSALS`; as text it is `::`."""

Network = IPv4Network | IPv6Network
Origin = tuple[int, int, int]
"""Both halves of an address (see `arena.address_words`) and a port."""


class SourcePolicy(StrEnum):
    """The values of RTP_SOURCE."""

    ADDRESS = "address"
    STRICT = "strict"
    LATCH = "latch"


class Reason(StrEnum):
    """Why a packet was not written."""

    ADDRESS = "address"  # not from the address in the SDP (or no listed network, for latch)
    PORT = "port"  # from the right address, but the source is locked to another port
    PAYLOAD_TYPE = "payload_type"  # not negotiated
    SSRC = "ssrc"  # a second SSRC that never sent two packets in order
    UNLEARNED = "unlearned"  # held until a source was learned, and it was another or never came
    TRUNCATED = "truncated"  # longer than a slot
    NOT_RTP = "not_rtp"
    STUN = "stun"
    DTLS = "dtls"
    RTCP_ON_RTP_PORT = "rtcp_on_rtp_port"  # multiplexing (RFC 5761) was not negotiated
    NOT_RTCP = "not_rtcp"
    SRTP_AUTH = "srtp_auth"  # not under the key that was agreed, or changed on its way
    SRTP_REPLAY = "srtp_replay"  # a copy of one that has been here
    PAUSED = "paused"  # read while the recording was paused


@dataclass(frozen=True, slots=True)
class Arrival:
    """One RTP packet on its way through the policy."""

    origin: Origin
    payload_type: int
    sequence: int
    ssrc: int
    time_ns: int
    datagram: bytes


@dataclass(frozen=True, slots=True)
class _Old:
    """The source that was learned under the last SDP."""

    origin: Origin
    ssrcs: frozenset[int]
    until_ns: int


class Refusals:
    """Packets refused, by reason and source address; bounded however many sources there are."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[tuple[Reason, int, int], int] = {}

    def count(self, reason: Reason, high: int, low: int, packets: int = 1) -> None:
        key = (reason, high, low)
        if key not in self._counts and len(self._counts) >= MAX_REFUSALS:
            key = (reason, *OTHER_SOURCES)
        self._counts[key] = self._counts.get(key, 0) + packets

    def by_source(self) -> dict[tuple[str, str], int]:
        """A copy, by (reason, address as text). Safe from any thread."""
        return {(str(key[0]), address_text(key[1], key[2])): count for key, count in dict(self._counts).items()}


class Source:
    """The policy's state for one stream. `remote` is the SDP's address and port, None before there is one."""

    __slots__ = (
        "_admitted",
        "_held",
        "_networks",
        "_old",
        "_silent_after",
        "locked",
        "payload_types",
        "policy",
        "refusals",
        "remote",
        "ssrc",
        "ssrcs",
    )

    def __init__(self, policy: SourcePolicy, networks: Sequence[Network] = ()) -> None:
        self.policy = policy
        self.remote: Origin | None = None
        self.payload_types: frozenset[int] = frozenset()
        self.locked: Origin | None = None
        self.ssrc: int | None = None
        self.ssrcs: dict[int, None] = {}
        self.refusals = Refusals()
        self._networks = tuple(networks)
        self._admitted: dict[int, None] = {}
        self._held: list[Arrival] = []
        self._silent_after: int | None = None
        self._old: _Old | None = None

    @property
    def moving(self) -> bool:
        """Whether the source of the last SDP is heard still."""
        return self._old is not None

    @property
    def silent(self) -> bool:
        return self._silent_after is not None

    def renew(self, remote: Origin | None, *, now_ns: int = 0) -> list[Arrival]:
        """A new SDP: whatever was learned is open again. Gives out held packets that can now be judged."""
        if self.locked is not None:
            self._old = _Old(self.locked, frozenset(self._admitted), now_ns + OLD_SOURCE_NS)
        if remote is None or remote == self.remote:
            self._old = None
        self.remote = remote
        self.locked = self.ssrc = self._silent_after = None
        self._admitted.clear()
        held, self._held = self._held, []
        return [accepted for packet in held for accepted in self.judge(packet)]

    def falls_silent(self, sequence: int) -> None:
        """The learned source has sent nothing for a while; `sequence` was the last, its SSRC still the current one."""
        if self.locked is not None:
            self._silent_after = sequence

    def speaks(self) -> None:
        """The learned source lives."""
        self._silent_after = None

    def judge(self, packet: Arrival) -> list[Arrival]:
        """What is to be written now, in order: nothing, this packet, or held packets and this one."""
        if self.remote is None:
            return self._hold(packet)
        if packet.payload_type not in self.payload_types:
            return self._refuse(packet, Reason.PAYLOAD_TYPE)
        if self.locked is None:
            return self._learn(packet, self.remote)
        if packet.origin != self.locked:
            if self._goes_on(packet, self.remote):
                self.speaks()
                return self._lock(packet)
            return self._refuse(packet, Reason.PORT if packet.origin[:2] == self.locked[:2] else Reason.ADDRESS)
        if packet.ssrc in self._admitted:
            self.ssrc = packet.ssrc
            return [packet]
        return self._probe(packet)

    def forget(self) -> None:
        """The stream ends: what is still held was never learned."""
        while self._held:
            self._refuse(self._held.pop(0), Reason.UNLEARNED if self.locked is None else Reason.SSRC)

    def _learn(self, packet: Arrival, remote: Origin) -> list[Arrival]:
        if packet.origin == remote:
            return self._lock(packet)
        if self._old is not None:
            if packet.time_ns >= self._old.until_ns:
                self._old = None
            elif packet.origin == self._old.origin and packet.ssrc in self._old.ssrcs:
                return [packet]
        if (reason := self._foreign(packet.origin, remote)) is not None:
            return self._refuse(packet, reason)
        return self._lock(packet) if self._follows(packet) else self._hold(packet)

    def _foreign(self, origin: Origin, remote: Origin) -> Reason | None:
        """Why nothing may be learned from `origin`, None when it may."""
        if origin == remote:
            return None
        if self.policy is SourcePolicy.LATCH:
            return None if self._listed(origin) else Reason.ADDRESS
        if origin[:2] != remote[:2]:
            return Reason.ADDRESS
        return Reason.PORT if self.policy is SourcePolicy.STRICT else None

    def _goes_on(self, packet: Arrival, remote: Origin) -> bool:
        """Whether the stream of a source that fell silent goes on in `packet`, which came from elsewhere."""
        last = self._silent_after
        if last is None or packet.ssrc != self.ssrc or not in_order(last, packet.sequence):
            return False
        return self._foreign(packet.origin, remote) is None

    def _lock(self, packet: Arrival) -> list[Arrival]:
        self.locked, self._old = packet.origin, None
        return self._admit(packet)

    def _probe(self, packet: Arrival) -> list[Arrival]:
        return self._admit(packet) if self._follows(packet) else self._hold(packet)

    def _admit(self, packet: Arrival) -> list[Arrival]:
        """`packet.ssrc` is the stream's own from now on; what was held of it comes first."""
        self.ssrc = packet.ssrc
        self._admitted[packet.ssrc] = None
        self.ssrcs[packet.ssrc] = None
        for table in (self._admitted, self.ssrcs):
            if len(table) > MAX_SSRCS:
                del table[next(iter(table))]
        released, others = [], list[Arrival]()
        for held in self._held:
            if held.origin != self.locked:
                self._refuse(held, Reason.UNLEARNED)
            elif held.ssrc == packet.ssrc:
                released.append(held)
            else:
                others.append(held)
        self._held = others
        return [*released, packet]

    def _follows(self, packet: Arrival) -> bool:
        """Whether the latest held packet of the same origin and SSRC comes right before this one."""
        for held in reversed(self._held):
            if held.ssrc == packet.ssrc and held.origin == packet.origin:
                return in_order(held.sequence, packet.sequence)
        return False

    def _hold(self, packet: Arrival) -> list[Arrival]:
        if len(self._held) >= MAX_HELD:
            oldest = self._held.pop(0)
            self._refuse(oldest, Reason.UNLEARNED if self.locked is None else Reason.SSRC)
        self._held.append(packet)
        return []

    def _refuse(self, packet: Arrival, reason: Reason) -> list[Arrival]:
        self.refusals.count(reason, *packet.origin[:2])
        return []

    def _listed(self, origin: Origin) -> bool:
        address = ip_address(address_text(*origin[:2]))
        return any(address in network for network in self._networks)
