"""The SDP side of one call: offers taken and made, answers given and read, channels changed accordingly.

Two steps for either direction, so that nothing changes before all can: `prepare` reserves ports for what would be
opened and may refuse; `commit` makes the capture follow and cannot fail. Between the two an INVITE may still turn out
to be cancelled, or the folder not to be writable: then `release` gives the ports back.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from siprec import clock
from siprec.errors import PortsExhausted, SdpError
from siprec.media.ports import PortPair
from siprec.recorder.intake import Intake, Ports, local_address_towards
from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.session import streams
from siprec.session.model import CallData, Channel

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(slots=True)
class Prepared:
    """What an offer or answer will change once committed. `offer`: the peer's, None when this is its answer."""

    offer: sdp.SessionDescription | None
    lines: list[negotiate.NegotiatedStream]
    changes: list[streams.Change]
    pairs: dict[int, PortPair]


class Negotiation:
    """`external`: EXTERNAL_IP; `source`: the address that the SRC's signalling comes from."""

    def __init__(
        self,
        data: CallData,
        *,
        ports: Ports,
        external: Sequence[IpAddress],
        source: str,
        entropy: Callable[[int], bytes],
    ) -> None:
        self._data = data
        self._ports = ports
        self._external = external
        self._source = source
        self._entropy = entropy
        self._lines: list[negotiate.NegotiatedStream] = []
        self._proposed: sdp.SessionDescription | None = None
        self._waiting: dict[int, PortPair] = {}

    # ------------------------------------------------------------------ the peer offers

    def prepare(self, body: bytes, *, held: Callable[[Channel], bool]) -> Prepared:
        """What the peer's offer comes to. `held`: whether an inactive channel is on hold rather than paused.

        Raises SdpError 400 or 488, PortsExhausted.
        """
        offer = sdp.parse(body)
        lines = negotiate.plan(offer, codecs=streams.DECODED, undecodable=streams.CAPTURED)
        refused = {each.reason or "" for each in lines if not each.accepted and each.remote_port}
        if refused and not any(each.accepted for each in lines):
            raise SdpError("; ".join(sorted(refused)))
        changes = streams.changes(self._data.channels, lines, held=held)
        return Prepared(offer, lines, changes, self._reserve(changes))

    def answer(self, prepared: Prepared) -> bytes:
        """Our answer to a committed offer; its o= version rises only if it differs from our last SDP."""
        assert prepared.offer is not None, "an answer is answered by nothing"
        answer = negotiate.build_answer(
            prepared.offer, prepared.lines, ports=self._local_ports(), origin=self._origin(prepared.lines)
        )
        return self._remember(answer)

    # ------------------------------------------------------------------ we offer

    def propose(self, count: int) -> bytes:
        """Our offer in the answer to an INVITE without one: the slots known, or `count` new ones (RFC 3261 14.2).

        Raises PortsExhausted, SdpError 488.
        """
        if self._lines:
            offer = negotiate.offer_again(self._lines, ports=self._local_ports(), origin=self._origin(self._lines))
        else:
            address = self._address_towards(self._source)
            try:
                for index in range(count):
                    self._waiting[index] = self._ports.acquire(self._source, clock.monotonic())
            except (PortsExhausted, SdpError):
                self.withdraw()
                raise
            slots = [negotiate.StreamOffer(address, pair.port, direction="recvonly") for pair in self._waiting.values()]
            offer = negotiate.build_offer(slots, origin=self._origin(()))
        self._proposed = negotiate.revise(self._previous(), offer)
        return self._remember(offer)

    def conclude(self, body: bytes, *, held: Callable[[Channel], bool]) -> Prepared:
        """What the peer's answer (in its ACK) makes of our offer. Raises SdpError."""
        assert self._proposed is not None, "only an offer of ours is answered"
        lines = negotiate.read_answer(self._proposed, sdp.parse(body), default_direction="sendonly")
        changes = streams.changes(self._data.channels, lines, held=held)
        opened = {each.channel.mline: each.channel.index for each in changes if each.kind == "opened"}
        pairs = {opened[mline]: pair for mline, pair in self._waiting.items() if mline in opened}
        for mline, pair in self._waiting.items():
            if mline not in opened:
                self._ports.release(pair, clock.monotonic())
        self._waiting.clear()
        self._proposed = None
        return Prepared(None, lines, changes, pairs)

    def withdraw(self) -> None:
        """No answer came to our offer: give the ports back that wait for one."""
        for pair in self._waiting.values():
            self._ports.release(pair, clock.monotonic())
        self._waiting.clear()
        self._proposed = None

    @property
    def proposing(self) -> bool:
        """Whether an offer of ours waits for its answer."""
        return self._proposed is not None

    # ------------------------------------------------------------------ either way

    def commit(self, prepared: Prepared, intake: Intake) -> None:
        """Make the channels and their capture what was agreed."""
        at_ns = clock.wall_ns()
        self._lines = prepared.lines
        for change in prepared.changes:
            channel = change.channel
            if change.kind == "opened":
                pair = prepared.pairs[channel.index]
                channel = replace(channel, port=pair.port, rtcp_port=pair.port + 1)
                intake.open(channel, pair, at_ns)
            elif change.kind == "changed":
                intake.change(channel, at_ns)
            else:
                intake.close(channel, at_ns)
            self._keep(channel)

    def release(self, prepared: Prepared) -> None:
        """Give back what was reserved for something that will not be committed."""
        for pair in prepared.pairs.values():
            self._ports.release(pair, clock.monotonic())

    # ------------------------------------------------------------------ private

    def _reserve(self, changes: Sequence[streams.Change]) -> dict[int, PortPair]:
        """A pair for each channel to be opened, or none at all. Raises PortsExhausted, SdpError."""
        pairs: dict[int, PortPair] = {}
        try:
            for channel in (each.channel for each in changes if each.kind == "opened"):
                address = channel.remote[0] if channel.remote else self._source
                pairs[channel.index] = self._ports.acquire(address, clock.monotonic())
        except (PortsExhausted, SdpError):
            for pair in pairs.values():
                self._ports.release(pair, clock.monotonic())
            raise
        return pairs

    def _keep(self, channel: Channel) -> None:
        if channel.index == len(self._data.channels):
            self._data.channels.append(channel)
        else:
            self._data.channels[channel.index] = channel

    def _local_ports(self) -> Mapping[int, tuple[str, int]]:
        """Where each open m-line is received: our address towards its source, and its port."""
        return {
            each.mline: (self._address_towards(each.remote[0] if each.remote else self._source), each.port)
            for each in self._data.channels
            if each.open
        }

    def _address_towards(self, remote: str) -> str:
        """The address to put in SDP: EXTERNAL_IP of the family, else the source of the route to `remote`."""
        version = ipaddress.ip_address(remote).version
        for each in self._external:
            if each.version == version:
                return str(each)
        return local_address_towards(remote)

    def _origin(self, lines: Sequence[negotiate.NegotiatedStream]) -> sdp.Origin:
        remote = next((each.remote_address for each in lines if each.remote_address), self._source)
        return sdp.Origin.at(self._address_towards(remote), int.from_bytes(self._entropy(4), "big"))

    def _previous(self) -> sdp.SessionDescription | None:
        return sdp.parse(self._data.local_sdp) if self._data.local_sdp else None

    def _remember(self, description: sdp.SessionDescription) -> bytes:
        """`description` under the o= id of our last one; it becomes our last one."""
        revised = negotiate.revise(self._previous(), description)
        self._data.local_sdp = str(revised)
        return bytes(revised)
