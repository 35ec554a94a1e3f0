"""What is let in: which INVITE asks for a recording session, and how many a source may send.

Detection is a policy, not the AND-rule of RFC 7866 section 6.2: of the SBCs in the field some send no
`Require: siprec`, some no `+sip.src`, some write it as `;src` or inside the angle brackets.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from siprec.sip.message import Request
from siprec.sip.multipart import BodyPart
from siprec.sip.uri import SipUri

METADATA_TYPES = frozenset({("application", "rs-metadata"), ("application", "rs-metadata+xml")})
"""RFC 7866 registered the first; RFC 9806 renamed it."""

SRC_FEATURES = frozenset({"+sip.src", "src", "+sip-src"})

TLS_PREFIX = "tls:"
"""Begins the identity of an SRC that proved itself by a certificate."""

SOURCES_LIMIT = 10_000
"""Sources whose rate is remembered; far above any number of SBCs, it bounds memory if SIP_ALLOW is wide."""


@dataclass(frozen=True, slots=True)
class RecordingSource:
    """An SRC that is heard. `name` is its identity: of the SIP_ALLOW entry that matched, or of its TLS certificate."""

    name: str
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]


def identify(sources: Sequence[RecordingSource], address: str) -> RecordingSource | None:
    """The first source one of whose networks holds `address` (an IP literal), or None: it is not heard."""
    literal = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(literal, "ipv4_mapped", None)
    literal = mapped or literal
    return next((each for each in sources if any(literal in network for network in each.networks)), None)


def identity_of(source: RecordingSource, subject: str | None) -> RecordingSource:
    """`source` as the TLS subject it proved to be, if it did. The prefix keeps subjects and SIP_ALLOW's names apart."""
    return source if subject is None else replace(source, name=f"{TLS_PREFIX}{subject}")


def source_named(sources: Sequence[RecordingSource], name: str, address: str) -> RecordingSource | None:
    """The source that `name` was the identity of when it called from `address`; None when it is not listed any more."""
    if name.startswith(TLS_PREFIX):
        listed = identify(sources, address)
        return None if listed is None else replace(listed, name=name)
    return next((each for each in sources if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Recognition:
    """Whether an INVITE asks for a recording session, and what in it says so."""

    is_recording_session: bool
    evidence: tuple[str, ...]


def is_metadata(part: BodyPart) -> bool:
    """Whether a body part carries rs-metadata, under either of its names."""
    return (part.content_type.type.lower(), part.content_type.subtype.lower()) in METADATA_TYPES


def recognise(request: Request, parts: Sequence[BodyPart], *, strict: bool = False) -> Recognition:
    """Look for a recording session in an INVITE and its body parts.

    `strict` is RFC 7866 section 6.2 to the letter: `+sip.src` in the Contact and `siprec` in Require.
    """
    evidence = []
    if _has_option(request, "Require"):
        evidence.append("Require: siprec")
    if _has_option(request, "Supported"):
        evidence.append("Supported: siprec")
    features = _contact_features(request)
    evidence += [f"Contact {each}" for each in sorted(features & SRC_FEATURES)]
    if any(is_metadata(part) for part in parts):
        evidence.append("rs-metadata body")
    if any(part.disposition is not None and part.disposition.value.lower() == "recording-session" for part in parts):
        evidence.append("disposition recording-session")
    if strict:
        return Recognition("+sip.src" in features and "Require: siprec" in evidence, tuple(evidence))
    return Recognition(bool(evidence), tuple(evidence))


def _has_option(request: Request, header: str) -> bool:
    return any("siprec" in value.lower() for value in request.headers.values(header))


def _contact_features(request: Request) -> set[str]:
    contact = request.contact
    if contact is None:
        return set()
    names = {name.lower() for name in contact.params}
    uri = SipUri.parse(contact.uri)
    return names | {name.lower() for name in uri.params}


class RateLimiter:
    """A token bucket for each source: `rate` new dialogs a second, bursts of twice that."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._burst = 2 * rate
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allow(self, source: str, now: float) -> bool:
        """Whether `source` may open one more dialog at `now` (seconds)."""
        tokens, since = self._buckets.pop(source, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        allowed = tokens >= 1
        self._buckets[source] = (tokens - 1 if allowed else tokens, now)
        if len(self._buckets) > SOURCES_LIMIT:
            self._buckets.popitem(last=False)
        return allowed
