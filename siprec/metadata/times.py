"""Times in metadata: RFC 3339 (RFC 7865 section 6.9) as peers really write it.

Forgiven: lower-case t and z, a space for T, no seconds, an offset without colon or minutes (OpenSIPS), no offset at
all (Oracle: taken as UTC), white space around, a leap second.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

CLOCK_SET_NS = 946_684_800_000_000_000
"""2000-01-01. An earlier time is that of a clock nobody set (Sonus starts in 1970) and says nothing."""

_SECOND_NS = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d{1,18}))?)?\s?(?:[Zz]|([+-])(\d\d)(?::?(\d\d))?)?",
    re.ASCII,
)


def parse_time(text: str) -> int | None:
    """Nanoseconds since 1970 in UTC; None when `text` is no time."""
    match = _TIME.fullmatch(text.strip())
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(each or 0) for each in match.groups()[:6])
    offset = timedelta(hours=int(match[9] or 0), minutes=int(match[10] or 0))
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
        moment = moment + offset if match[8] == "-" else moment - offset
    except (ValueError, OverflowError):
        return None
    nanoseconds = int((match[7] or "0").ljust(9, "0")[:9])
    return (moment - _EPOCH) // timedelta(seconds=1) * _SECOND_NS + nanoseconds


def format_time(at_ns: int) -> str:
    """`at_ns` (since 1970, UTC) in RFC 3339 with milliseconds and Z."""
    moment = _EPOCH + timedelta(seconds=at_ns // _SECOND_NS)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{at_ns % _SECOND_NS // 1_000_000:03d}Z"


def stated(text: str) -> int | None:
    """The time `text` states; None when it states none or comes from a clock that was never set."""
    found = parse_time(text) if text else None
    return None if found is None or found < CLOCK_SET_NS else found


def stated_or(text: str, received_ns: int) -> int:
    """The time `text` states, else `received_ns`."""
    found = stated(text)
    return received_ns if found is None else found
