"""What is said between the process that speaks SIP and its media workers: JSON.

    to a worker     open add update remove close sync apply stop
    from a worker   hello once it listens, totals each tick, details of a session when they have changed,
                    removed closed done when done, fault

Streams are named by their slot on the board (`board`), where their numbers stand, sessions by a number.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from ipaddress import ip_network
from typing import Any, Literal

from siprec.media.exchange import RtcpTerms
from siprec.media.part import Outage
from siprec.media.secure import SrtpTerms
from siprec.media.source import SourcePolicy
from siprec.media.streams import StreamCounters
from siprec.media.tiers import Tier

Message = dict[str, Any]
Question = Literal["sync", "apply"]


@dataclass(frozen=True, slots=True)
class Orders:
    """What every worker captures with, the last words of its command line: see LocalCapture."""

    tick: float
    backlog_bytes: int
    tier: Tier
    report_seconds: float


def dump(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


def load(data: bytes) -> Message:
    message: Message = json.loads(data)
    return message


# ---- how a stream is captured (capture.Terms, capture.Changes) -----------------------------------------------


def _pack_srtp(terms: SrtpTerms | None) -> Any:
    if terms is None:
        return None
    keys = (base64.b64encode(each).decode() for each in (terms.theirs, terms.ours))
    return [terms.suite, *keys, terms.mki_bytes]


def _unpack_srtp(raw: Any) -> SrtpTerms | None:
    if raw is None:
        return None
    suite, theirs, ours, mki_bytes = raw
    return SrtpTerms(suite, base64.b64decode(theirs), base64.b64decode(ours), mki_bytes)


def _unpack_rtcp(raw: Any) -> RtcpTerms | None:
    return None if raw is None else RtcpTerms(_address(raw[0]), raw[1])


def _address(raw: Any) -> tuple[str, int] | None:
    return None if raw is None else (raw[0], raw[1])


def _same(value: Any) -> Any:
    return value


_TERMS: Mapping[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "remote": (_same, _address),
    "payload_types": (sorted, frozenset),
    "policy": (str, SourcePolicy),
    "networks": (lambda value: [str(each) for each in value], lambda raw: tuple(map(ip_network, raw))),
    "clock_rates": (lambda value: list(value.items()), dict),
    "rtcp": (lambda value: None if value is None else [value.remote, value.mux], _unpack_rtcp),
    "srtp": (_pack_srtp, _unpack_srtp),
    "writing": (_same, _same),
    "destination": (_same, _same),
}
"""How each is written, and read."""


def pack_terms(terms: Mapping[str, Any]) -> Message:
    return {name: _TERMS[name][0](value) for name, value in terms.items()}


def unpack_terms(raw: Message) -> Any:
    """Terms or Changes, whichever was packed."""
    return {name: _TERMS[name][1](value) for name, value in raw.items()}


# ---- what came of it -----------------------------------------------------------------------------------------


def pack_counters(counters: StreamCounters) -> Message:
    refused = [[reason, source, count] for (reason, source), count in counters.refused.items()]
    return asdict(counters) | {"refused": refused}


def unpack_counters(raw: Message) -> StreamCounters:
    refused = {(reason, source): count for reason, source, count in raw["refused"]}
    return StreamCounters(**raw | {"refused": refused, "ssrcs": tuple(raw["ssrcs"])})


def pack_outages(outages: tuple[Outage, ...]) -> list[Message]:
    return [asdict(each) for each in outages]


def unpack_outages(raw: list[Message]) -> tuple[Outage, ...]:
    return tuple(Outage(**each) for each in raw)
