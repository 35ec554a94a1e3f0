"""The a=crypto attribute: SRTP keys told in the session description (SDES, RFC 4568).

Not taken: what would weaken the packets (UNENCRYPTED_SRTP, UNENCRYPTED_SRTCP, UNAUTHENTICATED_SRTP), several master
keys on one line, key derivation at intervals, and FEC. A peer that offers only that has its m-line refused.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from siprec.errors import SdpError

SUITES: Mapping[str, int] = {
    "AES_CM_128_HMAC_SHA1_80": 30,
    "AES_CM_128_HMAC_SHA1_32": 30,
    "AEAD_AES_128_GCM": 28,
    "AEAD_AES_256_GCM": 44,
}
"""Bytes of master key and salt together (RFC 4568 section 6.2, RFC 7714 section 14.2), by name."""

MAX_MKI_BYTES = 128
"""RFC 4568 section 6.1; libsrtp knows no longer one either."""

_CRYPTO = re.compile(r"(\d{1,9})[ \t]+([A-Za-z0-9_]{1,64})[ \t]+(\S{1,512})((?:[ \t]+\S{1,64}){0,16})[ \t]*")
_KEY = re.compile(r"inline:([A-Za-z0-9+/]{1,128}={0,2})(?:\|(?:2\^)?(\d{1,20}))?(?:\|(\d{1,40}):(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Crypto:
    """One a=crypto line. `key` is master key and salt as text, kept out of `repr`; `mki_bytes`: length of the master
    key identifier in each packet, 0 for none; `mki` its value."""

    tag: int
    suite: str
    key: str = field(repr=False)
    mki: str = "1"
    mki_bytes: int = 0

    def __str__(self) -> str:
        identifier = f"|{self.mki}:{self.mki_bytes}" if self.mki_bytes else ""
        return f"{self.tag} {self.suite} inline:{self.key}{identifier}"


def parse(value: str) -> Crypto:
    """Read the value of an a=crypto line. Raises SdpError for one that cannot be taken; never quotes the key."""
    line = _CRYPTO.fullmatch(value.strip())
    if line is None:
        raise SdpError("malformed a=crypto line")
    tag, suite, parameters, session = line.groups()
    if suite.upper() not in SUITES:
        raise SdpError("SRTP suite not supported")
    if any(not _ignorable(each) for each in session.split()):
        raise SdpError("SRTP session parameter not supported")
    found = _KEY.fullmatch(parameters)
    if found is None:
        raise SdpError("SRTP key malformed, or more than one of them")
    key, _, mki, length = found.groups()
    if len(master(key)) != SUITES[suite.upper()]:
        raise SdpError("SRTP key is not as long as its suite asks for")
    if length is not None and not 0 < int(length) <= MAX_MKI_BYTES:
        raise SdpError("SRTP key identifier of an impossible length")
    return Crypto(int(tag), suite.upper(), key, mki or "1", int(length or 0))


def choose(values: Iterable[str]) -> Crypto | None:
    """The first line that can be taken: their order is the peer's preference (RFC 4568 section 5.1.1)."""
    for value in values:
        try:
            return parse(value)
        except SdpError:
            continue
    return None


def master(key: str) -> bytes:
    """Master key and salt. Padding may be missing (seen on the wire). Raises SdpError."""
    try:
        return base64.b64decode(key.rstrip("=") + "=" * (-len(key.rstrip("=")) % 4), validate=True)
    except binascii.Error:
        raise SdpError("SRTP key is no base64") from None


def _ignorable(parameter: str) -> bool:
    """A window size is a hint; what begins with "-" may be passed over (RFC 4568 sections 6.3.6, 6.3.7)."""
    return parameter.startswith(("-", "WSH="))
