"""Session timers (RFC 4028): what to answer, when to refresh, when to give the session up.

Pure values: the user puts `headers` into its 2xx (or 422), keeps the `SessionTimer`, and acts at its two times. Each
2xx to an INVITE or UPDATE, of either side, replaces the timer; one without Session-Expires ends it (section 9).
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from siprec.errors import SipError
from siprec.sip.headers import parse_params
from siprec.sip.message import Headers, Request, Response

Refresher = Literal["uac", "uas"]

# Section 4: the absolute minimum, twice the time a transaction may take to fail.
MIN_INTERVAL = 90
# A peer may ask for "any duration"; this bounds the digits that are converted.
MAX_DIGITS = 10
# Section 10: the side that does not refresh gives up this much before the end, or a third of the interval.
MARGIN_SECONDS = 32.0


@dataclass(frozen=True, slots=True)
class SessionTimer:
    """The running timer of a dialog; `started` is the time of the last 2xx, all in monotonic seconds."""

    interval: int
    ours: bool
    """Whether we refresh."""
    started: float

    @property
    def refresh_at(self) -> float | None:
        """When to send a refresh (half the interval, section 9); None when the peer does that."""
        return self.started + self.interval / 2 if self.ours else None

    @property
    def bye_at(self) -> float:
        """When to send BYE, no refresh having succeeded: shortly before the session expires (section 10)."""
        return self.started + self.interval - min(MARGIN_SECONDS, self.interval / 3)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """For a refresh request of ours, which keeps the roles: its sender is the UAC of that transaction."""
        return (("Session-Expires", f"{self.interval};refresher={'uac' if self.ours else 'uas'}"),)


class Negotiated(NamedTuple):
    """The answer to a request's wish: `headers` belong into the response with `status` (200: any 2xx)."""

    status: Literal[200, 422]
    headers: tuple[tuple[str, str], ...]
    interval: int | None
    refresher: Refresher | None

    def timer(self, now: float) -> SessionTimer | None:
        """The timer that runs from the 2xx sent at `now`; None without session expiration."""
        if self.interval is None or self.status != 200:
            return None
        return SessionTimer(self.interval, self.refresher == "uas", now)


_NONE = Negotiated(200, (), None, None)


def negotiate(request: Request, *, minimum: int = MIN_INTERVAL) -> Negotiated:
    """As server of an INVITE or UPDATE (section 9). `minimum` seconds below 90 count as 90.

    The value is copied, the refresher of table 2 kept; where the choice is ours the peer refreshes, since some SRCs
    take a recorder's re-INVITE badly (OpenSIPS before 2024). Without a wish none is added. A malformed
    Session-Expires counts as none.
    """
    wish = _session_expires(request.headers)
    if wish is None:
        return _NONE
    interval, refresher = wish
    knows = any(tag.lower() == "timer" for tag in request.headers.values("Supported"))
    floor = max(MIN_INTERVAL, minimum)
    if interval < floor and knows:
        return Negotiated(422, (("Min-SE", str(floor)),), None, None)
    if interval < MIN_INTERVAL:
        return _NONE  # a proxy's wish: it may neither be refused (the UAC does not know 422) nor be granted
    chosen: Refresher = (refresher or "uac") if knows else "uas"
    headers = [("Session-Expires", f"{interval};refresher={chosen}")]
    if knows:
        headers.append(("Require", "timer"))
    return Negotiated(200, tuple(headers), interval, chosen)


def accepted(response: Response, *, now: float) -> SessionTimer | None:
    """As client, from the 2xx to an INVITE or UPDATE of ours (section 7.2). Without refresher it is us."""
    agreed = _session_expires(response.headers)
    if agreed is None:
        return None
    interval, refresher = agreed
    return SessionTimer(max(interval, MIN_INTERVAL), refresher != "uas", now)


def minimum_of(response: Response) -> int | None:
    """Min-SE of a 422, the least to ask for when trying again (section 7.3); None when it says nothing usable."""
    value = (response.headers.get("Min-SE") or "").partition(";")[0].strip()
    return int(value) if _is_number(value) else None


def _session_expires(headers: Headers) -> tuple[int, Refresher | None] | None:
    value, _, tail = (headers.get("Session-Expires") or "").partition(";")
    value = value.strip()
    if not _is_number(value):
        return None
    try:
        refresher = (parse_params(tail).get("refresher") or "").lower()
    except SipError:
        refresher = ""
    return int(value), "uac" if refresher == "uac" else "uas" if refresher == "uas" else None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS
