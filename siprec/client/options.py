"""What a call of the recording client is asked to do, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from siprec.client.media import Counts, Impairments

Header = tuple[str, str]

NO_ANSWER_SECONDS = 8.0
"""Wait for the first response of any kind: T1 * 2^4, five sendings of the INVITE over UDP. Timer B's 32 s (RFC 3261
section 17.1.1.2) is longer than a person at a terminal waits."""

RINGING_SECONDS = 60.0
"""Wait for a final response once a provisional one came; then the INVITE is cancelled."""


@dataclass(frozen=True, slots=True)
class Party:
    """One participant of the recorded call: `aor` is an address of record (RFC 7865 section 6.5.1)."""

    name: str
    aor: str


PARTIES = (
    Party("Alice", "sip:alice@example.com"),
    Party("Bob", "sip:bob@example.com"),
    Party("Carol", "sip:carol@example.com"),
    Party("Dave", "sip:dave@example.com"),
)


FailoverStyle = Literal["replaces", "fresh", "reinvite"]
"""How a call goes to another server: see siprec.client.failover."""


@dataclass(frozen=True, slots=True)
class Failover:
    """The server (a SIP URI) to go to when the first one is lost, and how."""

    target: str
    style: FailoverStyle = "replaces"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOptions:
    """One call, or many alike, to a recording server.

    `target`: SIP URI of the server; `local`: our address, None for the one that the route to the target leaves from.
    `duration`: seconds of media; `rate`: new calls per second; `concurrency`: most calls at a time.
    `loss`, `duplicate`: percent; `reorder`: depth in packets; `jitter_ms`: milliseconds (see media.Impairments).
    `session_id`: UUID of the communication session, None for a new one for each call; the same id in a later call tells
    the server that it is the same session (failover). `seed` fixes audio, SSRCs and impairments; call n uses seed + n.
    `srtp`: suite (see siprec.sdp.crypto.SUITES) under whose keys the streams go, None for plain RTP.
    `one_way`: only the first party is heard. `counter`: each payload begins with its 32-bit packet number.
    """

    target: str = "sip:127.0.0.1:5060"
    transport: Literal["udp", "tcp", "tls"] = "udp"
    local: str | None = None
    codec: str = "PCMU"
    duration: float = 10.0
    parties: tuple[Party, ...] = PARTIES[:2]
    calls: int = 1
    rate: float = 10.0
    concurrency: int = 1000
    srtp: str | None = None
    one_way: bool = False
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: int = 0
    jitter_ms: float = 0.0
    seed: int = 1
    counter: bool = False
    reports: bool = True
    session_id: str | None = None
    inactive: bool = False
    """Begin with every stream a=inactive, as SBCs do before their call is answered (RFC 7866 section 7.1.1.1)."""
    metadata: bool = True
    headers: tuple[Header, ...] = ()
    timeout: float = NO_ANSWER_SECONDS
    failover: Failover | None = None

    @property
    def impairments(self) -> Impairments:
        return Impairments(self.loss, self.duplicate, self.reorder, self.jitter_ms)


@dataclass(frozen=True, slots=True)
class StreamResult:
    """One stream as the server answered it; `accepted` is False for a port of 0."""

    label: str
    name: str
    accepted: bool
    counts: Counts


@dataclass(slots=True)
class CallResult:
    """What became of a call.

    `status`: final status of the INVITE; 0 when there was none, and `problem` says why in a sentence.
    `provisional`: statuses before it. `setup_ms`: INVITE to final response. `answer`: the server's SDP.
    `ended_by`: "us", "server" (its BYE), "failure", or None while the call lives. `bye_status`: answer to our BYE,
    0 when none came, None when none was sent. `carried`: how often the call went to another server (failover).
    """

    target: str
    status: int = 0
    reason: str = ""
    provisional: list[int] = field(default_factory=list)
    answer: str | None = None
    setup_ms: float | None = None
    seconds: float = 0.0
    streams: list[StreamResult] = field(default_factory=list)
    ended_by: Literal["us", "server", "failure"] | None = None
    bye_status: int | None = None
    carried: int = 0
    problem: str | None = None

    @property
    def answered(self) -> bool:
        return 200 <= self.status < 300

    @property
    def packets(self) -> int:
        """RTP packets put on the wire, all streams."""
        return sum(stream.counts.sent for stream in self.streams)

    @property
    def ok(self) -> bool:
        """Answered, recorded to its end and closed in good order."""
        return self.answered and self.problem is None
