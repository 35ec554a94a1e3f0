"""SRTP of one stream as the client sends it: its own key in the offer, the server's from the answer (RFC 4568)."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field

from siprec.errors import SrtpError
from siprec.rtp.srtp import Inbound, Outbound
from siprec.sdp.crypto import SUITES, Crypto, master


@dataclass(slots=True, eq=False)
class StreamSecurity:
    """`offered`: our a=crypto line. Packets go out under its key; reports come in under the answer's."""

    offered: Crypto
    _outbound: Outbound = field(init=False, repr=False)
    _inbound: Inbound | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        self._outbound = Outbound(self.offered.suite, master(self.offered.key))

    @classmethod
    def new(cls, suite: str) -> StreamSecurity:
        """Under a new key. Raises KeyError for a suite not in SUITES."""
        return cls(Crypto(1, suite, base64.b64encode(secrets.token_bytes(SUITES[suite])).decode()))

    def agree(self, answered: Crypto | None) -> None:
        """Take the key of the answer."""
        if answered is not None:
            self._inbound = Inbound(answered.suite, master(answered.key), mki_bytes=answered.mki_bytes)

    def rtp(self, packet: bytes) -> bytes:
        return self._outbound.rtp(packet)

    def rtcp(self, packet: bytes) -> bytes:
        return self._outbound.rtcp(packet)

    def report(self, datagram: bytes) -> bytes:
        """RTCP of the server in the clear; nothing when it does not prove right."""
        try:
            return self._inbound.rtcp(datagram) if self._inbound else b""
        except SrtpError:
            return b""
