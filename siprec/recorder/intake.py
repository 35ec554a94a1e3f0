"""The media side of one call: its port pairs, its capture, and the `Part` that explains the capture."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from types import MappingProxyType

from siprec.archive.manifest import RefusedEntry
from siprec.errors import ListenError, SdpError
from siprec.fdstore import FdStore
from siprec.media.capture import CaptureResult, RtcpTerms, SessionCapture, SrtpTerms, StreamCapture
from siprec.media.part import Mode, Part, PartStream, PayloadFormat, Phase
from siprec.media.ports import PortPair, PortPool
from siprec.media.source import SourcePolicy
from siprec.sdp.crypto import SUITES, master
from siprec.sdp.model import Format
from siprec.session.keyring import Keyring
from siprec.session.model import CallData, Channel

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104
"""What a port is bound to that takes packets for all addresses of this machine."""

BARRIER_SECONDS = 1.0
"""For the keeper, or systemd, to let go of a socket: a thousand times what it takes."""

APPLY_SECONDS = 0.5
"""For the capture to heed a pause or its end, which takes it a tick: the answer is kept back for no longer."""


@dataclass(slots=True)
class _Line:
    """One channel being captured."""

    capture: StreamCapture
    pair: PortPair
    plan: PartStream
    remote: tuple[str, int] | None
    rtcp: RtcpTerms
    srtp: SrtpTerms | None
    writing: bool


class Ports:
    """A pool of port pairs for each address family that media can be received on.

    `store` keeps every pair that is in use over the death of this process (siprec.fdstore).
    """

    def __init__(self, pools: Mapping[int, PortPool], store: FdStore | None = None) -> None:
        self._pools = pools
        self._store = store or FdStore()
        self.unkept = 0
        """Pairs that nobody keeps although somebody is there to: no room, or no answer."""
        self.capacity = sum(pool.free for pool in pools.values())

    def acquire(self, address: str | None, now: float, *, local: str = "") -> PortPair:
        """A pair of the family of `address`, on `local` where media may be received on that one of our addresses.

        Raises SdpError 488 for a family we do not serve, PortsExhausted.
        """
        version = _version(address) if address else min(self._pools)
        pool = self._pools.get(version)
        if pool is None:
            raise SdpError(f"no media address for IPv{version} (RTP_BIND_IP)")
        return self._kept(pool.acquire(now, host=local))

    def restore(self, address: str, port: int) -> tuple[PortPair, bool]:
        """The pair that an earlier process had at `port`; whether its sockets outlived that process. Others are bound
        where its peer sends to, `address`, while that can be had here: behind a NAT it cannot.

        Raises ListenError when the port is taken or out of range now.
        """
        pool = self._pools.get(_version(address))
        if pool is None:
            raise ListenError(f"no media address for {address} any more (RTP_BIND_IP)")
        names = _names(address, port)
        sockets = [sock for name in names for sock in self._store.take_all(name)]
        by_port = {sock.getsockname()[1]: sock for sock in sockets}
        if len(sockets) == 2 and by_port.keys() == {port, port + 1}:
            return pool.adopt(by_port[port], by_port[port + 1]), True
        for sock in sockets:
            sock.close()
        for name in names:
            self._store.remove(name)
        if sockets:  # half a pair: its port is free only once nobody keeps the other half
            self._store.barrier(BARRIER_SECONDS)
        host = pool.host if pool.host in ANY_ADDRESS else address
        return self._kept(pool.reopen(port, host=host)), False

    def release(self, pair: PortPair, now: float) -> None:
        """Close a pair; nobody keeps it any longer. Its port rests, so that the keeper may lag behind."""
        for name in _names(pair.address, pair.port):
            self._store.remove(name)
        self._pools[_version(pair.address)].release(pair, now)

    def _kept(self, pair: PortPair) -> PortPair:
        both, odd = _names(pair.address, pair.port)
        rtp, rtcp = pair.rtp.fileno(), pair.rtcp.fileno()
        if self._store.several:
            kept = self._store.put(both, rtp, rtcp)
        else:
            kept = self._store.put(both, rtp) and self._store.put(odd, rtcp)
        if not kept and self._store.present:
            self.unkept += 1
        return pair

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


class Intake:
    """Opens, moves and closes the streams of one session, and keeps `part` true to what it did.

    What is opened before `begin` is planned: `part` tells of it, so that it can be on disk before the first packet.
    """

    __slots__ = (
        "_capture",
        "_keys",
        "_lines",
        "_networks",
        "_now",
        "_planned",
        "_policy",
        "_ports",
        "_removing",
        "part",
        "refused",
        "sent",
    )

    def __init__(
        self,
        *,
        part: Part,
        ports: Ports,
        policy: SourcePolicy,
        networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
        now: Callable[[], float],
        keys: Callable[[Channel], SrtpTerms | None],
    ) -> None:
        self.part = part
        self._keys = keys
        self._capture: SessionCapture | None = None
        self._planned: list[tuple[Channel, PortPair, PartStream]] = []
        self._ports = ports
        self._policy = policy
        self._networks = networks
        self._now = now
        self._lines: dict[int, _Line] = {}
        self._removing: list[asyncio.Future[None]] = []
        self.refused: list[RefusedEntry] = []
        self.sent: dict[int, int] = {}
        """Packets that the SRC says it has sent on each channel, where it said so in RTCP; complete once finished."""

    @property
    def begun(self) -> bool:
        return self._capture is not None

    def begin(self, capture: SessionCapture) -> None:
        """Capture what is planned, and at once what is opened from now on."""
        self._capture = capture
        for channel, pair, plan in self._planned:
            self._start(capture, channel, pair, plan)
        self._planned.clear()

    def foreseen(self, channels: Iterable[Channel], at_ns: int) -> Part:
        """`part` as it will be once, from `at_ns` on, all channels are as in `channels`."""
        wanted = {each.index: each for each in channels}
        now = {id(line.plan): wanted[index] for index, line in self._lines.items()}
        plans = []
        for plan in self.part.streams:
            plans.append(copy := replace(plan, phases=list(plan.phases)))
            if (channel := now.get(id(plan))) is not None:
                moved = channel.port != plan.port
                _enter_phase(copy, replace(channel, mode="closed") if moved else channel, at_ns)
        ports = {index: line.plan.port for index, line in self._lines.items()}
        for channel in wanted.values():
            if channel.open and channel.port != ports.get(channel.index):
                plans.append(plan := _plan(channel))
                _enter_phase(plan, channel, at_ns)
        secured = any(each.open and each.crypto is not None for each in wanted.values())
        return replace(self.part, streams=plans, decrypted=self.part.decrypted or secured)

    def open(self, channel: Channel, pair: PortPair, at_ns: int) -> None:
        """Capture `channel` on `pair`."""
        plan = _plan(channel)
        self.part.streams.append(plan)
        self.part.decrypted = self.part.decrypted or channel.crypto is not None
        _enter_phase(plan, channel, at_ns)
        if self._capture is None:
            self._planned.append((channel, pair, plan))
        else:
            self._start(self._capture, channel, pair, plan)

    def _start(self, capture: SessionCapture, channel: Channel, pair: PortPair, plan: PartStream) -> None:
        rtcp, srtp, writing = rtcp_terms(channel), self._keys(channel), channel.sending
        anywhere = pair.address in ANY_ADDRESS
        stream = capture.add(
            pair,
            channel=channel.index,
            policy=self._policy,
            payload_types=payload_types(channel),
            clock_rates=clock_rates(channel),
            remote=channel.remote,
            rtcp=rtcp,
            srtp=srtp,
            writing=writing,
            networks=self._networks,
            destination=channel.address if anywhere and channel.address else None,
        )
        self._lines[channel.index] = _Line(stream, pair, plan, channel.remote, rtcp, srtp, writing)

    async def foresee(self, channels: Iterable[Channel]) -> None:
        """Write what comes, or no more, as SDP will let `channels` send, and from where. That is in force on return,
        since a packet may follow our 200 OK at once; all else waits for `change`.
        """
        changing = False
        for channel in channels:
            line = self._lines.get(channel.index)
            if line is None or channel.port != line.plan.port:
                continue
            if channel.sending:  # what waits for its source came during the pause: it is judged before writing
                changing |= self._follow_remote(line, channel)
            changing |= self._follow_pause(line, channel)
        if changing and self._capture is not None:
            await asyncio.wait([asyncio.wrap_future(self._capture.applied())], timeout=APPLY_SECONDS)

    def change(self, channel: Channel, at_ns: int) -> None:
        """Follow a new source, other codecs, a pause or a resume."""
        line = self._lines[channel.index]
        line.capture.update(payload_types=payload_types(channel), clock_rates=clock_rates(channel))
        rtcp, srtp = rtcp_terms(channel), self._keys(channel)
        self.part.decrypted = self.part.decrypted or srtp is not None
        if srtp != line.srtp:
            line.capture.update(srtp=srtp)
            line.srtp = srtp
        self._follow_remote(line, channel)
        if rtcp != line.rtcp:
            line.capture.update(rtcp=rtcp)
            line.rtcp = rtcp
        self._follow_pause(line, channel)
        _enter_phase(line.plan, channel, at_ns)

    def _follow_remote(self, line: _Line, channel: Channel) -> bool:
        if channel.remote == line.remote:  # giving it anew would let the source be learned anew
            return False
        line.capture.update(remote=channel.remote)
        line.remote = channel.remote
        return True

    def _follow_pause(self, line: _Line, channel: Channel) -> bool:
        if channel.sending == line.writing:
            return False
        line.capture.update(writing=channel.sending)
        line.writing = channel.sending
        return True

    def close(self, channel: Channel, at_ns: int) -> None:
        """Stop a stream that the session dropped; its ports go back once the capture has let go of them."""
        line = self._lines.pop(channel.index)
        _enter_phase(line.plan, channel, at_ns)
        removing = asyncio.ensure_future(self._let_go(line))
        self._removing.append(removing)
        removing.add_done_callback(self._removing.remove)

    async def _let_go(self, line: _Line) -> None:
        await asyncio.wrap_future(line.capture.remove())
        self._ports.release(line.pair, self._now())

    def last_packet_ns(self) -> int:
        """When the last packet of any stream came (CLOCK_REALTIME ns), 0 before the first; at most a tick old."""
        alive = [line.capture.liveness() for line in self._lines.values()]
        return max((each.last_packet_ns for each in alive if each is not None), default=0)

    def quiet(self, channels: Iterable[Channel], since: float) -> bool:
        """Whether no stream that should send has sent anything since then (monotonic seconds)."""
        due = [each for each in channels if each.mode == "active" and each.index in self._lines]
        return len(self.silent(due, since)) == len(due)

    def silent(self, channels: Iterable[Channel], since: float) -> list[Channel]:
        """Those that should send and have not since then (monotonic seconds)."""
        found = []
        for channel in channels:
            line = self._lines.get(channel.index) if channel.mode == "active" else None
            alive = line.capture.liveness() if line else None  # None too before the first tick
            heard_at = alive.last_packet_at if alive else None
            if line is not None and (heard_at is None or heard_at < since):
                found.append(channel)
        return found

    def withdraw(self) -> None:
        """Give the ports back of what was planned and never begun."""
        for _, pair, _ in self._planned:
            self._ports.release(pair, self._now())
        self._planned.clear()

    def note_outages(self) -> bool:
        """Have `part` tell of all outages of the capture, which stays as it is; whether there are any."""
        found = self._capture.outages() if self._capture else ()
        self.part.outages.extend(found)
        return bool(found)

    async def finish(self, at_ns: int) -> CaptureResult:
        """Drain what the kernel still holds, write all, give the ports back. `part` is complete afterwards."""
        assert self._capture is not None, "what was not begun is withdrawn"
        if self._removing:
            await asyncio.gather(*self._removing)
        result = await asyncio.wrap_future(self._capture.close())
        for line in self._lines.values():
            self._ports.release(line.pair, self._now())
        self._lines.clear()
        self.part.ended_ns = at_ns
        self.part.outages.extend(result.outages)
        self.refused = [
            RefusedEntry(channel, reason, source, packets)
            for channel, counters in result.counters
            for (reason, source), packets in counters.refused.items()
        ]
        for channel, counters in result.counters:
            if counters.sent is not None:
                self.sent[channel] = self.sent.get(channel, 0) + counters.sent
        return result


def _plan(channel: Channel) -> PartStream:
    return PartStream(channel.index, channel.label, channel.port, channel.rtcp_port)


def _enter_phase(plan: PartStream, channel: Channel, at_ns: int) -> None:
    formats = tuple(
        PayloadFormat(each.payload_type, each.encoding, each.clock_rate, each.channels, each.fmtp)
        for each in channel.formats
    )
    mode: Mode = "metadata-hold" if channel.held_by_metadata else channel.mode
    if not plan.phases or (plan.phases[-1].mode, plan.phases[-1].formats) != (mode, formats):
        plan.phases.append(Phase(at_ns, mode, formats))


def _names(address: str, port: int) -> tuple[str, str]:
    """What a pair is called in the store: by its port, which IPv4 and IPv6 may share. The second name is that of the
    RTCP socket where a name stands for one socket only.
    """
    family = "s" if ":" in address else ""
    return f"{family}{port}", f"{family}{port + 1}"


def _version(address: str) -> int:
    """4 or 6, of an IP literal."""
    return 6 if ":" in address else 4


def local_address_towards(remote: str) -> str:
    """The source address of the route to `remote` (an IP literal). Raises SdpError 488 when there is no route."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((remote, 9))  # sends nothing: connecting UDP only picks the route
        except OSError as error:
            raise SdpError("no route to the media address of the offer") from error
        return str(probe.getsockname()[0])


def payload_types(channel: Channel) -> frozenset[int]:
    """The payload types that `channel` may carry."""
    return _types_and_rates(channel.formats)[0]


def clock_rates(channel: Channel) -> Mapping[int, int]:
    """The RTP clock of each payload type."""
    return _types_and_rates(channel.formats)[1]


@lru_cache(maxsize=64)
def _types_and_rates(formats: tuple[Format, ...]) -> tuple[frozenset[int], Mapping[int, int]]:
    """Streams with the same formats, which are nearly all of an SRC, share what is kept of them."""
    rates = {each.payload_type: each.clock_rate for each in formats}
    return frozenset(rates), MappingProxyType(rates)


def srtp_terms(data: CallData, channel: Channel, *, keyring: Keyring) -> SrtpTerms | None:
    """The keys of an SRTP channel, None for a plain one.

    A key that another node has sealed cannot be had here: until an INVITE brings a new one, nothing is let in.
    """
    if channel.crypto is None:
        return None
    suite = channel.crypto.suite
    theirs = keyring.unseal(channel.crypto.key) or keyring.derive("nobody's", octets=SUITES[suite])
    return SrtpTerms(suite, master(theirs), master(own_key(data, channel, keyring)), channel.crypto.mki_bytes)


def own_key(data: CallData, channel: Channel, keyring: Keyring) -> str:
    """Our master key and salt for an SRTP channel, as text.

    It is derived, so that a refresh and a restart find the same one. It belongs to one port: a stream that is opened
    anew begins with packet 0, which under the same key would repeat its key stream. After a restart our SSRC is another
    one, which has the same effect.
    """
    assert channel.crypto is not None, "only SRTP channels have keys"
    suite = channel.crypto.suite
    return keyring.derive("srtp", data.session_id, str(channel.mline), str(channel.port), suite, octets=SUITES[suite])


def rtcp_terms(channel: Channel) -> RtcpTerms:
    """What was agreed on the channel's RTCP."""
    return RtcpTerms(channel.remote_rtcp, channel.rtcp_mux)
