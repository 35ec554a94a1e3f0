"""Is the SRC still there? RTP says so, its requests do, its answers to ours do; and the session timer asks (RFC 4028).

Quiet means no packet on every stream that should send. A quiet SRC is asked by OPTIONS in the dialog: any final answer
but 408 or 481 is a sign of life (a hold told by metadata alone looks just like this). Without a sign the session is
interrupted and waits for its SRC; nothing is ever ended for its age.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from siprec import clock
from siprec.errors import SipError
from siprec.recorder.facilities import Policy
from siprec.recorder.leg import HeaderList
from siprec.recorder.refresh import TimerDue
from siprec.session.transitions import Event, State
from siprec.sip import session_timer
from siprec.sip.events import RequestFailed, ResponseReceived
from siprec.sip.message import Request

if TYPE_CHECKING:
    from siprec.recorder.call import Call


class Contact:
    """The contact of one call with its SRC. `takes_updates`: the SRC allows UPDATE."""

    def __init__(self, call: Call, policy: Policy) -> None:
        self._call = call
        self._policy = policy
        self._probed_at: float | None = None
        self._lost_at: float | None = None
        self.takes_updates = False

    async def check(self) -> None:
        """Ask a quiet SRC whether it is there; give up one that has been lost for SESSION_TIMEOUT."""
        call, now = self._call, clock.monotonic()
        if call.data.state is State.INTERRUPTED:
            if self._lost_at is None:
                self._lost_at = now
            if call.active and not call.quiet(self._lost_at):
                await self.heard()
            elif now - self._lost_at > self._policy.session_timeout:
                await call.end(Event.STOPPED, "contact with the SRC was lost for SESSION_TIMEOUT")
        elif call.data.live and self._probe_is_due(now):
            self._probed_at = now
            call.ask("OPTIONS")

    def _probe_is_due(self, now: float) -> bool:
        long = self._policy.rtp_timeout
        asked = self._probed_at is not None and now - self._probed_at <= long
        return not asked and self._call.age(now) > long and self._call.quiet(now - long)

    async def heard(self) -> None:
        """The SRC gave a sign of life."""
        call = self._call
        self._lost_at = self._probed_at = None
        if call.data.state is State.INTERRUPTED:
            await call.fire(Event.CONTACT_BACK if call.active else Event.INACTIVE)
            call.log.info("contact is back", state=str(call.data.state))

    async def lost(self, reason: str) -> None:
        """The SRC did not answer, or knows the dialog no more."""
        call = self._call
        if call.data.live:
            self._lost_at = clock.monotonic()
            call.log.warning("contact with the SRC is lost", reason=reason)
            call.leg.note("contact-lost", reason=reason)
            await call.fire(Event.CONTACT_LOST)

    async def timer(self, item: TimerDue) -> None:
        """The session timer wants a refresh, or has run out."""
        call, refresh = self._call, self._call.leg.refresh
        if item.what == "expired":
            await call.end(Event.STOPPED, "the session timer expired without a refresh")
        elif call.data.live and refresh.timer is not None:
            extra = refresh.timer.headers()
            # UPDATE needs no SDP; else a re-INVITE repeats ours as it is (RFC 4028 section 7.4)
            if self.takes_updates:
                sent = call.ask("UPDATE", extra)
            else:
                sdp: HeaderList = (("Content-Type", "application/sdp"),)
                sent = call.ask("INVITE", (*extra, *sdp), call.data.local_sdp)
            if sent:
                refresh.sent()
            else:
                refresh.again()

    async def answered(self, event: ResponseReceived) -> None:
        """A response to a request of ours in the dialog."""
        status, method = event.response.status, event.request.method
        if status < 200 or method == "BYE":
            return
        if status in {408, 481}:
            await self.lost(f"{method} answered {status}")
        elif method == "OPTIONS":
            await self.heard()
        elif status < 300:
            self._call.leg.refresh.start(session_timer.accepted(event.response, now=clock.monotonic()))
        elif status == 491:
            self._call.leg.refresh.again()

    async def unanswered(self, event: RequestFailed) -> None:
        """A request of ours that got no answer."""
        if event.request.method != "BYE":
            await self.lost(f"{event.request.method}: {event.cause}")


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
