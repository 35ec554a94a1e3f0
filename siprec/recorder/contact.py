"""Is the SRC still there? RTP says so, its requests do, its answers to ours do; and the session timer asks (RFC 4028).

Quiet means no packet on every stream that should send. A quiet SRC is asked by OPTIONS in the dialog: any final answer
but 408 or 481 is a sign of life (a hold told by metadata alone looks just like this). Without a sign the session is
interrupted and waits for its SRC; nothing is ever ended for its age. One quiet stream among others is an alarm only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siprec import clock
from siprec.errors import SipError
from siprec.recorder.facilities import Policy
from siprec.recorder.leg import HeaderList
from siprec.recorder.refresh import TimerDue
from siprec.recorder.snapshot import Snapshot
from siprec.session.transitions import Event, State
from siprec.sip import session_timer
from siprec.sip.events import RequestFailed, ResponseReceived
from siprec.sip.message import Request

if TYPE_CHECKING:
    from siprec.recorder.call import Call

RESTORED_PROBE_SECONDS = 1.0
"""A restored session that hears no RTP asks its SRC this soon: it may be on hold, and know nothing of our restart."""


class Contact:
    """The contact of one call with its SRC."""

    __slots__ = ("_asked_at", "_call", "_heard_at", "_lost_at", "_policy", "_snapshot", "_told")

    def __init__(self, call: Call, policy: Policy) -> None:
        self._call = call
        self._policy = policy
        self._heard_at = clock.monotonic()
        self._asked_at: float | None = None
        self._lost_at: float | None = None
        self._told: list[int] = []
        self._snapshot = Snapshot(call)

    # ------------------------------------------------------------------ told by the call

    def begins(self, *, snapshot_wanted: bool) -> None:
        """A dialog was confirmed by our 200 OK."""
        self._told.clear()
        self._snapshot.wanted = snapshot_wanted

    def acknowledged(self) -> None:
        """The ACK has come: now the SRC knows the dialog, and can be asked."""
        self._snapshot.ask_if_wanted()

    def restored(self) -> None:
        """The session came back from the store; nothing has been heard of its SRC yet."""
        self._asked_at, self._lost_at = None, clock.monotonic()
        self._snapshot.wanted = not self._call.record.metadata.complete

    async def check(self) -> None:
        """Ask a quiet SRC whether it is there; give up one that has been lost for SESSION_TIMEOUT."""
        call, now = self._call, clock.monotonic()
        if call.data.state is State.INTERRUPTED:
            await self._wait(now)
        elif call.data.live:
            self._watch_streams(now)
            if self._probe_is_due(now):
                self._probe(now)

    async def heard(self) -> None:
        """The SRC gave a sign of life."""
        call = self._call
        self._heard_at, self._lost_at = clock.monotonic(), None
        self._snapshot.ask_if_wanted()
        if call.data.state is State.INTERRUPTED:
            await call.fire(Event.CONTACT_BACK if call.active else Event.INACTIVE)
            call.log.info("contact is back", state=str(call.data.state))

    async def lost(self, reason: str) -> None:
        """The SRC did not answer, or knows the dialog no more."""
        call = self._call
        if call.data.live and call.data.state is not State.INTERRUPTED:
            self._lost_at = clock.monotonic()
            call.log.warning("contact with the SRC is lost", reason=reason)
            call.leg.note("contact-lost", reason=reason)
            await call.fire(Event.CONTACT_LOST)

    async def timer(self, item: TimerDue) -> None:
        """The session timer wants a refresh, or has run out."""
        call, refresh = self._call, self._call.leg.refresh
        if item.what == "expired":
            await call.end(Event.STOPPED, "the session timer expired without a refresh")
        elif call.data.live and refresh.timer is not None and call.leg.info is not None:
            extra = refresh.timer.headers()
            # UPDATE needs no SDP; else a re-INVITE repeats ours as it is (RFC 4028 section 7.4)
            if call.leg.info.updates:
                sent = call.leg.ask("UPDATE", extra)
            else:
                sdp: HeaderList = (("Content-Type", "application/sdp"),)
                sent = call.leg.ask("INVITE", (*extra, *sdp), call.data.local_sdp.encode())
            if sent:
                refresh.sent()
            else:
                refresh.again()

    async def answered(self, event: ResponseReceived) -> None:
        """A response to a request of ours in the dialog."""
        status, method = event.response.status, event.request.method
        if status < 200 or method == "BYE" or not self._is_current(event):
            return
        if status in {408, 481}:
            await self.lost(f"{method} answered {status}")
            return
        await self.heard()
        if self._snapshot.is_asked_by(event.request):
            self._snapshot.answered(status)
        elif method == "OPTIONS":
            return
        elif status < 300:
            self._call.leg.run_timer(session_timer.accepted(event.response, now=clock.monotonic()))
        else:
            info = self._call.leg.info
            if info is not None and method == "UPDATE" and status in {405, 501}:
                info.updates = False
            self._call.leg.refresh.refused(event.response)

    async def unanswered(self, event: RequestFailed) -> None:
        """A request of ours that got no answer."""
        if event.request.method != "BYE" and self._is_current(event):
            await self.lost(f"{event.request.method}: {event.cause}")

    # ------------------------------------------------------------------ private

    def _is_current(self, event: ResponseReceived | RequestFailed) -> bool:
        """Whether it is about the dialog that carries the session now: what became of an earlier one says nothing."""
        info = self._call.leg.info
        return info is not None and event.dialog is info.dialog

    async def _wait(self, now: float) -> None:
        """An interrupted session: has its SRC come back, or is it to be given up?"""
        call = self._call
        if self._lost_at is None:
            self._lost_at = now
        lost_for = now - self._lost_at
        if call.active and not call.quiet(self._lost_at):
            await self.heard()
        elif lost_for > self._policy.session_timeout:
            # What it recorded ended when the SRC fell silent, not now.
            last = call.leg.last_packet_ns() or call.leg.part.started_ns
            await call.end(Event.STOPPED, "contact with the SRC was lost for SESSION_TIMEOUT", last)
        elif self._asked_at is None and lost_for > RESTORED_PROBE_SECONDS:
            self._probe(now)

    def _probe(self, now: float) -> None:
        self._asked_at = now
        self._call.leg.ask("OPTIONS")

    def _probe_is_due(self, now: float) -> bool:
        long = self._policy.rtp_timeout
        since = max(self._heard_at, self._asked_at or self._heard_at)
        return now - since > long and self._call.age(now) > long and self._call.quiet(now - long)

    def _watch_streams(self, now: float) -> None:
        """Say, once for each stream, that it is quiet while others are heard."""
        call, long = self._call, self._policy.rtp_timeout
        if call.data.state is not State.RECORDING or call.age(now) <= long or call.quiet(now - long):
            return
        for channel in call.leg.intake.silent(call.data.channels, now - long):
            if channel.index not in self._told:
                self._told.append(channel.index)
                call.log.warning("stream is quiet", alarm="one-way", channel=channel.index, setting="RTP_TIMEOUT")
                call.leg.note("one-way", channel=channel.index, label=channel.label, quiet_for_s=long)


class IntervalTooSmall(SipError):
    """Session-Expires below the least that RFC 4028 allows; `headers` tell the peer what that is."""

    status = 422

    def __init__(self, extra: HeaderList) -> None:
        super().__init__("session interval too small")
        self.headers = extra


def agree_timer(request: Request) -> session_timer.Negotiated:
    """What our 2xx says of session expiration. Raises IntervalTooSmall (422)."""
    agreed = session_timer.negotiate(request)
    if agreed.status == 422:
        raise IntervalTooSmall(agreed.headers)
    return agreed
