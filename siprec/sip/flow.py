"""Where bytes came from and where they go."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Transport: TypeAlias = Literal["udp", "tcp", "tls"]
Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Flow:
    """One path between us and a peer.

    `local` is the address that a datagram hit (and that the reply leaves from), `remote` the peer's.
    `connection` numbers a TCP or TLS connection; 0 means UDP, or a connection yet to be opened.
    """

    transport: Transport
    local: Address
    remote: Address
    connection: int = 0

    @property
    def reliable(self) -> bool:
        """Whether the transport retransmits by itself (RFC 3261 section 17)."""
        return self.transport != "udp"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message to put on the wire."""

    flow: Flow
    data: bytes
