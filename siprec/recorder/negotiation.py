"""The SDP side of one leg: offers taken and made, answers given and read, channels changed accordingly.

Two steps in either direction, so that nothing changes before all can. `prepare` (or `conclude`, for the peer's answer
to an offer of ours) reserves ports, says what the channels will be, and may refuse; `commit` makes the capture follow
and cannot fail. Between the two the INVITE may turn out to be cancelled or the folder not to be writable: `release`.

SRTP keys (RFC 4568) are sealed here, in channels and in our SDP alike; `siprec.recorder.leg` puts them on the wire.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from siprec import clock
from siprec.errors import ListenError, PortsExhausted, SdpError
from siprec.media.arena import SLOT
from siprec.media.ports import PortPair
from siprec.recorder.intake import ANY_ADDRESS, Intake, Ports, local_address_towards, own_key
from siprec.sdp import model as sdp
from siprec.sdp import negotiate
from siprec.sdp.crypto import Crypto
from siprec.session import streams
from siprec.session.keyring import Keyring
from siprec.session.model import CallData, Channel

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
TRANSPORTS = negotiate.PLAIN_TRANSPORTS | negotiate.SECURE_TRANSPORTS
PAYLOAD_LIMIT = SLOT - 64
"""Octets of the longest payload: beside it a datagram has an RTP header, perhaps an extension, and SRTP's tag."""

STREAMS_LIMIT = 8
"""Streams offered in answer to an INVITE without an offer, however many its metadata names."""

NONE_YET: Mapping[int, str | None] = MappingProxyType({})


@dataclass(slots=True)
class Prepared:
    """What an offer or answer comes to. `channels`: all of them, as they will be; `text`: our SDP, empty when the
    exchange is over; `pairs`: reserved ports by channel index."""

    channels: list[Channel]
    changes: list[streams.Change]
    pairs: dict[int, PortPair]
    text: str

    @property
    def anew(self) -> frozenset[int]:
        """The channels that carry another stream from now on."""
        return frozenset(each.channel.index for each in self.changes if each.another)


class Negotiation:
    """`external`: EXTERNAL_IP; `source`: the address that the SRC's signalling comes from.

    `strict`: an offer that leaves out m-lines is refused (RFC 3264 section 8). `fresh`: this leg takes a session over
    from another, whose streams all end with it.
    """

    __slots__ = (
        "_data",
        "_entropy",
        "_external",
        "_fresh",
        "_keyring",
        "_local",
        "_ports",
        "_proposed",
        "_source",
        "_strict",
        "_waiting",
        "local_sdp",
    )

    def __init__(
        self,
        data: CallData,
        *,
        ports: Ports,
        external: Sequence[IpAddress],
        source: str,
        entropy: Callable[[int], bytes],
        keyring: Keyring,
        strict: bool = False,
        fresh: bool = False,
    ) -> None:
        self._data = data
        self._ports = ports
        self._external = external
        self._source = source
        self._entropy = entropy
        self._keyring = keyring
        self._strict = strict
        self._fresh = fresh
        self.local_sdp = ""
        """With `fresh`, our last SDP in the dialog that carries the session on: a new dialog has none."""
        self._proposed: sdp.SessionDescription | None = None
        self._waiting: dict[int, PortPair] = {}
        self._local = ""

    # ------------------------------------------------------------------ the peer offers

    def prepare(self, body: bytes, local: str) -> Prepared:
        """What the peer's offer comes to, and our answer. Raises SdpError 400 or 488, PortsExhausted.

        `local`: the address of ours that the request came to.
        """
        self._local = local
        offer = sdp.parse(body)
        last = self._last() if self._strict else None
        if last is not None and len(offer.media) < len(last.media):
            raise SdpError("the offer has fewer media sections than the one before")
        planned = negotiate.plan(
            offer,
            codecs=streams.DECODED,
            undecodable=streams.CAPTURED,
            transports=TRANSPORTS,
            default_address=self._source,
            rtcp_mux=True,
            payload_limit=PAYLOAD_LIMIT,
        )
        lines = self._sealed(streams.admitted(self._known(), planned))
        refused = {each.reason or "" for each in lines if not each.accepted and each.remote_port}
        if refused and not any(each.accepted for each in lines):
            raise SdpError("; ".join(sorted(refused)))
        changes = streams.changes(self._known(), lines)
        prepared = self._place(changes, self._reserve(changes))
        try:
            ports = {each.mline: (each.address, each.port) for each in prepared.channels if each.open}
            keys, origin = self._keys(prepared.channels), self._origin(ports)
            answer = negotiate.build_answer(offer, lines, ports=ports, origin=origin, crypto=keys)
        except SdpError:
            self.release(prepared)
            raise
        prepared.text = self._revised(answer)
        return prepared

    # ------------------------------------------------------------------ we offer

    def propose(self, labels: Sequence[str | None], local: str) -> str:
        """Our offer in the answer to an INVITE without one: the slots known, or new ones with these labels, at most
        STREAMS_LIMIT (RFC 3261 section 14.2). `local`: the address of ours that the INVITE came to.

        Raises PortsExhausted, SdpError 488.
        """
        self._local = local
        previous = self._previous()
        if previous is not None:
            ports = {each.mline: (each.address, each.port) for each in self._data.channels if each.open}
            known = negotiate.plan(previous, codecs=streams.DECODED + streams.CAPTURED, transports=TRANSPORTS)
            keys, origin = self._keys(self._data.channels), self._origin(ports)
            offer = negotiate.offer_again(known, ports=ports, origin=origin, crypto=keys)
        else:
            offer = self._new_slots(labels[:STREAMS_LIMIT])
        self._proposed = sdp.parse(self._revised(offer))
        return str(self._proposed)

    def conclude(self, body: bytes) -> Prepared:
        """What the peer's answer (in its ACK) makes of our offer. Raises SdpError."""
        assert self._proposed is not None, "only an offer of ours is answered"
        answer = sdp.parse(body)
        lines = self._sealed(
            negotiate.read_answer(self._proposed, answer, default_direction="sendonly", default_address=self._source)
        )
        changes = streams.changes(self._known(), lines)
        opened = {each.channel.mline: each.channel.index for each in changes if each.kind == "opened"}
        pairs = {opened[mline]: self._waiting.pop(mline) for mline in list(self._waiting) if mline in opened}
        offered = {mline: media.address for mline, media in enumerate(self._proposed.media)}
        prepared = self._place(changes, pairs, offered)
        prepared.text = str(self._proposed)
        self.withdraw()
        return prepared

    def withdraw(self) -> None:
        """Our offer is over: give the ports back that nothing was agreed for."""
        for pair in self._waiting.values():
            self._ports.release(pair, clock.monotonic())
        self._waiting.clear()
        self._proposed = None

    @property
    def proposing(self) -> bool:
        """Whether an offer of ours waits for its answer."""
        return self._proposed is not None

    # ------------------------------------------------------------------ either way

    def commit(self, prepared: Prepared, intake: Intake, *, turned: frozenset[int], at_ns: int) -> None:
        """Make the capture what the channels are by now (siprec.recorder.learn.settle): as agreed at `at_ns`, and those
        that `turned` on hold or not as the metadata says.
        """
        channels = self._data.channels
        changed = set(turned - prepared.pairs.keys())
        for change in prepared.changes:
            index = change.channel.index
            if change.kind == "opened":
                intake.open(channels[index], prepared.pairs[index], at_ns)
            elif change.kind == "changed":
                changed.add(index)
            else:
                intake.close(change.channel, at_ns)
        for index in sorted(changed):
            intake.change(channels[index], at_ns)
        self._fresh = False

    def release(self, prepared: Prepared) -> None:
        """Give back what was reserved for something that will not be committed."""
        for pair in prepared.pairs.values():
            self._ports.release(pair, clock.monotonic())

    # ------------------------------------------------------------------ private

    def _known(self) -> list[Channel]:
        channels = self._data.channels
        return streams.closed(channels, {each.index for each in channels if each.open and self._fresh})

    def _reserve(self, changes: Sequence[streams.Change]) -> dict[int, PortPair]:
        """A pair for each channel to be opened, or none at all. Raises PortsExhausted, SdpError."""
        pairs: dict[int, PortPair] = {}
        try:
            for channel in (each.channel for each in changes if each.kind == "opened"):
                address = channel.remote[0] if channel.remote else self._source
                pairs[channel.index] = self._ports.acquire(address, clock.monotonic(), local=self._local)
        except (PortsExhausted, ListenError, SdpError):
            for pair in pairs.values():
                self._ports.release(pair, clock.monotonic())
            raise
        return pairs

    def _place(
        self, changes: list[streams.Change], pairs: dict[int, PortPair], offered: Mapping[int, str | None] = NONE_YET
    ) -> Prepared:
        """All channels after `changes`, those that open with their ports and the address SDP shows for them: by m-line
        the one `offered` to the peer, where that was us.
        """
        channels = {each.index: each for each in self._known()}
        try:
            for change in changes:
                channel = change.channel
                if change.kind == "opened":
                    pair = pairs[channel.index]
                    remote = channel.remote[0] if channel.remote else self._source
                    address = offered.get(channel.mline) or self._address_of(pair, remote)
                    channel.address, channel.port, channel.rtcp_port = address, pair.port, pair.port + 1  # nobody's yet
                channels[channel.index] = channel
        except SdpError:
            for pair in pairs.values():
                self._ports.release(pair, clock.monotonic())
            raise
        return Prepared([channels[index] for index in sorted(channels)], changes, pairs, "")

    def _keys(self, channels: Sequence[Channel]) -> dict[int, str]:
        """Our a=crypto line for each open SRTP channel, by m-line; the key sealed, tag and suite the peer's."""
        keys = {}
        for each in channels:
            if each.open and each.crypto is not None:
                key = self._keyring.seal(own_key(self._data, each, self._keyring))
                keys[each.mline] = str(Crypto(each.crypto.tag, each.crypto.suite, key))
        return keys

    def _sealed(self, lines: Sequence[negotiate.NegotiatedStream]) -> list[negotiate.NegotiatedStream]:
        return [
            replace(each, crypto=replace(each.crypto, key=self._keyring.seal(each.crypto.key))) if each.crypto else each
            for each in lines
        ]

    def _new_slots(self, labels: Sequence[str | None]) -> sdp.SessionDescription:
        try:
            for index in range(len(labels)):
                now = clock.monotonic()
                self._waiting[index] = self._ports.acquire(self._source, now, local=self._local)
            ports = {index: (self._address_of(pair, self._source), pair.port) for index, pair in self._waiting.items()}
            origin = self._origin(ports)
        except (PortsExhausted, ListenError, SdpError):
            self.withdraw()
            raise
        slots = [
            negotiate.StreamOffer(*each, label=label, direction="recvonly")
            for each, label in zip(ports.values(), labels, strict=True)
        ]
        return negotiate.build_offer(slots, origin=origin)

    def _address_of(self, pair: PortPair, remote: str) -> str:
        """The address to put in SDP for what `pair` receives from `remote`. Raises SdpError 488."""
        return self._external_address(pair.address) or (
            self._reached(remote) if pair.address in ANY_ADDRESS else _bare(pair.address)
        )

    def _external_address(self, like: str) -> str:
        """EXTERNAL_IP of the family of `like`, "" without one."""
        return next((str(each) for each in self._external if (each.version == 6) == (":" in like)), "")

    def _reached(self, remote: str) -> str:
        """Where packets of `remote` reach a wildcard: where its request did, else where the kernel's route leaves.

        What came over loopback, from a proxy beside us, says nothing of where others reach us.
        """
        local, peer = (ipaddress.ip_address(_bare(each)) for each in (self._local, remote))
        usable = local.version == peer.version and not local.is_unspecified
        if usable and (peer.is_loopback or not local.is_loopback):
            return str(local)
        return local_address_towards(remote)

    def _origin(self, ports: Mapping[int, tuple[str, int]]) -> sdp.Origin:
        """o= of a description with these `ports`; without any, that of whoever answers at all."""
        first = next(iter(ports.values()), None)
        address = first[0] if first else self._external_address(self._local) or _bare(self._local)
        return sdp.Origin.at(address, int.from_bytes(self._entropy(4), "big"))

    def _previous(self) -> sdp.SessionDescription | None:
        if self._fresh or not self._data.local_sdp:
            return None
        return sdp.parse(self._keyring.revealed(self._data.local_sdp))

    def _revised(self, description: sdp.SessionDescription) -> str:
        """`description` under the o= id of our last one of this dialog; its version rises only if it differs."""
        return str(negotiate.revise(self._last(), description))

    def _last(self) -> sdp.SessionDescription | None:
        """Our last one of this dialog, which has the m-lines of the peer's; keys are sealed in it."""
        last = self.local_sdp if self._fresh else self._data.local_sdp
        return sdp.parse(last) if last else None


def shown(pair: PortPair, before: str, external: Sequence[IpAddress]) -> str:
    """The address that SDP names for a `pair` that was taken up again: the one named `before`, unless settings have
    changed so that nothing leads from there to where the pair is bound.
    """
    leads_there = pair.address in ANY_ADDRESS or before in map(str, external)
    return before if leads_there else _bare(pair.address)


def _bare(address: str) -> str:
    """An address without the scope that the kernel adds to link-local IPv6."""
    return address.partition("%")[0]
