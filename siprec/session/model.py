"""The plain records of a recording session: what must be known to carry it on in another process.

`CallData` is the session, `DialogInfo` one SIP dialog of it, `RSMetadata` (siprec.metadata.merge) who spoke.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from siprec.sdp.crypto import Crypto
from siprec.sdp.model import Format
from siprec.session.transitions import Effect, Event, State, step
from siprec.sip.dialog import Dialog

HISTORY_LIMIT = 32
"""Steps kept in a session's history ring: a call with holds and updates stays below it, a flapping one is capped."""

Mode = Literal["active", "hold", "paused", "closed"]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of the state machine; `at_ns` is wall clock, `monotonic` seconds of the process that took it."""

    event: Event
    before: State
    after: State
    at_ns: int
    monotonic: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """A time in which somebody was heard in a channel. `participant`: a key of the metadata."""

    participant: str
    start_ns: int
    end_ns: int | None = None


@dataclass(slots=True)
class Channel:
    """One audio stream of the recording: a channel of its file, which it may have from another that is closed.

    `index`: place in the file (m-line order of the first offer, later streams appended). `mline`: its slot in the SDP.
    `remote`: where the offer says RTP comes from. `address`, `port`: where our SDP says we are. `participants`: keys,
    in the metadata, of those heard in it: one on a separate stream, several on a mixed one. `past`: who was heard in it
    before it was the stream that it is, or theirs whose it is; that is since `since_ns`, if not from its beginning
    (siprec.recorder.heard). `closing`: which of the session's closings closed it last, 0 before any. `crypto`: of an
    SRTP stream the peer's key, sealed (siprec.session.keyring).
    """

    index: int
    mline: int
    label: str | None
    mode: Mode
    formats: tuple[Format, ...]
    remote: tuple[str, int] | None
    remote_rtcp: tuple[str, int] | None = None
    rtcp_mux: bool = False
    crypto: Crypto | None = None
    sdp_mode: Mode = "active"
    address: str = ""
    port: int = 0
    rtcp_port: int = 0
    stream_id: str | None = None
    participants: tuple[str, ...] = ()
    past: tuple[Stretch, ...] = ()
    since_ns: int = 0
    closing: int = 0

    @property
    def open(self) -> bool:
        """Whether the stream is part of the session now (a closed one keeps its channel in the file)."""
        return self.mode != "closed"

    @property
    def sending(self) -> bool:
        """Whether SDP lets it send: what comes otherwise is not to be recorded."""
        return self.open and self.sdp_mode == "active"

    @property
    def held_by_metadata(self) -> bool:
        """Whether the metadata alone says that the call holds it (RFC 8068 section 3.2.2): SDP lets it send."""
        return self.mode == "hold" and self.sending


@dataclass(slots=True)
class DialogInfo:
    """A SIP dialog of the session, and whose it is: `identity` names the SRC (its SIP_ALLOW entry).

    What another process must know of the SRC: `updates`, its Allow lists UPDATE; `siprec`, its INVITE required it;
    `metadata_type`, the media type of its metadata, empty before any. `session_expires`: seconds of the session timer
    (RFC 4028), 0 without one; `refreshes`: it is us who refresh.
    """

    dialog: Dialog
    identity: str
    updates: bool = False
    siprec: bool = False
    metadata_type: str = ""
    session_expires: int = 0
    refreshes: bool = False


@dataclass(frozen=True, slots=True)
class Recovery:
    """How the session went on after a failure: `how` is restart, replaces, reinvite, fresh-invite or adopted."""

    at_ns: int
    how: str
    from_node: str
    to_node: str


@dataclass(slots=True)
class CallData:
    """A recording session. Times are CLOCK_REALTIME nanoseconds.

    `plain`: a call that is no recording session (RECORD_PLAIN_CALLS). `unjournaled`: our 200 OK went out before the
    session was in the journal, where it still is not. `saved_ns`: when it was last stored. `local_sdp`: our last offer
    or answer. `external_ids`: ids that other systems know the call by, from its headers.
    """

    session_id: str
    node: str
    source: str
    identity: str
    call_id: str
    offered_ns: int
    state: State = State.OFFERED
    fence: int = 1
    version: int = 0
    started_ns: int | None = None
    ended_ns: int | None = None
    ended_by_src: bool = False
    saved_ns: int = 0
    plain: bool = False
    unjournaled: bool = False
    continues: str | None = None
    replica_of: str | None = None
    merged_into: str | None = None
    local_sdp: str = ""
    external_ids: dict[str, str] = field(default_factory=dict)
    channels: list[Channel] = field(default_factory=list)
    recoveries: list[Recovery] = field(default_factory=list)
    history: list[HistoryEntry] = field(default_factory=list)

    def fire(self, event: Event, *, at_ns: int, monotonic: float) -> tuple[Effect, ...]:
        """Take the step for `event`, note it in the history, and return the effects to run.

        Returns () when the event is ignored in this state. Raises ImpossibleStep.
        """
        taken = step(self.state, event)
        if taken is None:
            return ()
        del self.history[: 1 - HISTORY_LIMIT]
        self.history.append(HistoryEntry(event, self.state, taken.next, at_ns, monotonic))
        self.state = taken.next
        self.version += 1
        return taken.effects

    @property
    def live(self) -> bool:
        return self.state in {State.RECORDING, State.PAUSED, State.INTERRUPTED, State.RECOVERING}
