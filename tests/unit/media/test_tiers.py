"""All ways of emptying sockets give the same files and the same counts, whatever comes."""

import random
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from siprec.errors import ConfigurationError
from siprec.media import reception, tiers
from siprec.media.arena import SLOT
from siprec.media.drain import Drain, Session
from siprec.media.exchange import Exchange, RtcpTerms
from siprec.media.file import CaptureFile
from siprec.media.pcap import FILE_HEADER
from siprec.media.ports import PortPair, PortPool
from siprec.media.source import Source, SourcePolicy
from siprec.media.streams import Stream, StreamCounters
from siprec.media.threads import Fault
from siprec.media.writer import Writer
from siprec.rtp import packets, rtcp

HOSTS = ("127.0.44.1", "::1")
SESSIONS, STREAMS_EACH, ROUNDS = 8, 3, 8
PCMU, EVENT, FOREIGN = 0, 101, 96
ELSEWHERE = {"127.0.44.1": "127.0.44.66", "::1": "::1"}


@dataclass
class Peer:
    """Sends to one stream, from its own socket or as a stranger, by one random number generator."""

    chance: random.Random
    to: PortPair
    sock: socket.socket
    stranger: socket.socket
    ssrc: int
    sequence: int
    rate: int = 160

    def rtp(self, *, size: int = 160, payload_type: int = PCMU, step: int = 1) -> bytes:
        self.sequence += step
        stamp = self.rate * self.sequence
        payload = bytes([self.sequence & 0xFF]) * size
        return packets.build(payload_type, self.sequence, timestamp=stamp, ssrc=self.ssrc, payload=payload)

    def send(self, datagram: bytes, *, to_rtcp: bool = False, stranger: bool = False) -> None:
        port = self.to.rtcp_port if to_rtcp else self.to.port
        (self.stranger if stranger else self.sock).sendto(datagram, (self.to.address, port))


def plain(peer: Peer) -> None:
    for _ in range(10):
        peer.send(peer.rtp())


def lossy(peer: Peer) -> None:
    """Loss, reordering and duplicates."""
    sent = [peer.rtp(step=peer.chance.choice([1, 1, 1, 2, 5])) for _ in range(12)]
    for place in range(0, 10, 3):
        sent[place], sent[place + 1] = sent[place + 1], sent[place]
    for datagram in sent + sent[4:7]:
        peer.send(datagram)


def mixed_sizes(peer: Peer) -> None:
    for size in [0, 1, 159, 160, 160, 161, 1388, SLOT - 12, peer.chance.randrange(SLOT - 12)]:
        peer.send(peer.rtp(size=size))


def variable_headers(peer: Peer) -> None:
    """Contributing sources, extensions and padding, whole and cut."""
    for first in (0x80, 0x81, 0x8F, 0x90, 0xA0, 0xB2, 0x40):
        for tail in (b"", b"\x00", b"\xbe\xde\x00\x01abcd" + bytes(80) + b"\x04", bytes(90), bytes(90) + b"\xff"):
            peer.send(bytes([first]) + peer.rtp(size=0)[1:] + tail)
    peer.send(b"\x90" + peer.rtp(size=0)[1:] + b"\xbe\xde\x00\x01abcd" + bytes(160))
    peer.send(b"\xa0" + peer.rtp(size=0)[1:] + bytes(160) + b"\x04")


def strangers(peer: Peer) -> None:
    for _ in range(5):
        peer.send(peer.rtp(step=0), stranger=True)
        peer.send(peer.rtp())


def other_types(peer: Peer) -> None:
    for payload_type in (PCMU, EVENT, EVENT, FOREIGN, PCMU):
        peer.send(peer.rtp(payload_type=payload_type))


def ends_with_an_event(peer: Peer) -> None:
    peer.send(peer.rtp())
    peer.send(peer.rtp(payload_type=EVENT))


def garbage(peer: Peer) -> None:
    for datagram in (b"", b"\x80", b"\x00\x01" + bytes(18), b"\x16\xfe" + bytes(20), b"GET / HTTP/1.1", bytes(3000)):
        peer.send(datagram)
    peer.send(peer.rtp())
    peer.send(peer.rtp(size=SLOT - 11))


def new_source(peer: Peer) -> None:
    peer.ssrc += 1000
    plain(peer)


def jump(peer: Peer) -> None:
    peer.send(peer.rtp(step=4000))
    plain(peer)


def control(peer: Peer) -> None:
    report = bytes(rtcp.SenderReport(peer.ssrc, 2, 3, 4, 5))
    peer.send(report, to_rtcp=True)
    peer.send(report, to_rtcp=True, stranger=True)
    peer.send(b"\x80\xc8\x00\x00", to_rtcp=True)
    peer.send(report)
    plain(peer)


def burst(peer: Peer) -> None:
    for _ in range(200):
        peer.send(peer.rtp())


def silence(peer: Peer) -> None:
    peer.sequence += 10


Act = Callable[[Peer], None]

ACTS: list[Act] = [
    lossy,
    mixed_sizes,
    variable_headers,
    strangers,
    other_types,
    ends_with_an_event,
    garbage,
    new_source,
    jump,
    control,
    silence,
]


@dataclass(frozen=True)
class Outcome:
    """What one tier made of it; arrival times are the kernel's, so they are left out of what is compared."""

    files: list[bytes]
    counters: list[StreamCounters]
    rows: list[dict[str, Any]]
    packets: int
    errors: int
    faults: list[Fault]


class Rig:
    """A drain that is driven by hand, its sockets, and a peer for each stream; at the same ports every time."""

    def __init__(self, tier: tiers.Tier, folder: Path, *, seed: int, host: str, stack: ExitStack) -> None:
        self.faults: list[Fault] = []
        self.chance = random.Random(seed)
        self.writer = Writer(self.faults.append, tiers.appender(tier))
        self.writer.start()
        stack.callback(self.writer.stop)
        self.drain = Drain(self.writer, tick=0.2, backlog_bytes=1 << 30, on_fault=self.faults.append, tier=tier)
        count = SESSIONS * STREAMS_EACH
        self.pool = PortPool(host, 7_400, 7_400 + 2 * count - 1, choose=random.Random(1))
        stack.callback(self.pool.close)
        self.streams: list[Stream] = []
        self.sessions: list[Session] = []
        self.peers: list[Peer] = []
        for number in range(SESSIONS):
            directory = folder / f"{number}"
            directory.mkdir(parents=True)
            self.sessions.append(Session(CaptureFile(directory)))
            self.drain.open(self.sessions[-1])
            for channel in range(STREAMS_EACH):
                self._add(self.sessions[-1], channel, host, stack)

    def _add(self, session: Session, channel: int, host: str, stack: ExitStack) -> None:
        """Every fifth stream learns another port than its SDP's, every seventh is paused, every ninth has rtcp-mux."""
        pair, number = self.pool.acquire(0.0), len(self.streams)
        stack.callback(pair.close)
        made = [stack.enter_context(socket.socket(pair.rtp.family, socket.SOCK_DGRAM)) for _ in range(2)]
        made[0].bind((host, 7_500 + number))
        made[1].bind((ELSEWHERE[host], 7_600 + number))
        policy = SourcePolicy.LATCH if number % 11 == 3 else SourcePolicy.ADDRESS
        source = Source(policy, [ip_network("127.0.0.0/8"), ip_network("::1/128")])
        stream = Stream(channel, pair, source, session.file, pair.address, Exchange(session.identity))
        stream.rates = {EVENT: 8000}
        self.drain.add(
            session,
            stream,
            remote=(host, 7_500 + number if number % 5 else 9),
            payload_types=frozenset({PCMU, EVENT}),
            rtcp=RtcpTerms(remote=None, mux=number % 9 == 4) if number % 9 == 4 else None,
            srtp=None,
            writing=number % 7 != 6,
        )
        self.streams.append(stream)
        self.peers.append(Peer(self.chance, pair, made[0], made[1], 100 + number, self.chance.randrange(1 << 16)))

    def play(self, act: Act | None) -> None:
        """Everyone sends, by `act` or as chance has it, then the sockets are emptied once."""
        for peer in self.peers:
            chosen = act or (self.chance.choice(ACTS) if self.chance.random() < 0.3 else plain)
            chosen(peer)
        self.drain.tick()

    def outcome(self) -> Outcome:
        rows = [_row(self.drain, stream) for stream in self.streams]
        for session in self.sessions:
            self.drain.close(session)
        results = [session.closed.result(10) for session in self.sessions]
        files = [_without_times(path) for result in results for path in result.files]
        counters = [_timeless(each) for result in results for _, each in result.counters]
        return Outcome(files, counters, rows, self.drain.packets, self.drain.receive_errors, self.faults)


def _row(drain: Drain, stream: Stream) -> dict[str, Any]:
    row = drain.table.reception[stream.index]
    names = [name for name in reception.RECEPTION.names or () if name not in {"time_ns", "jitter"}]
    assert 0 <= float(row["jitter"]) < 1 << 33
    return {name: row[name].item() for name in names}


def _timeless(counters: StreamCounters) -> StreamCounters:
    assert counters.first_packet_ns <= counters.last_packet_ns or not counters.accepted
    return replace(counters, first_packet_ns=0, last_packet_ns=0, jitter_ms=0.0)


def _without_times(path: Path) -> bytes:
    """A capture file with the arrival times blanked, after a look whether each stream's rise."""
    data, latest, at = bytearray(path.read_bytes()), 0, FILE_HEADER
    while at < len(data):
        latest = max(latest, int.from_bytes(data[at : at + 4], "little"))
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        data[at : at + 8] = bytes(8)
        at += 16 + size
    assert at == len(data)
    return bytes(data)


def outcome(tier: tiers.Tier, folder: Path, *, seed: int, host: str, acts: Sequence[Act | None]) -> Outcome:
    with ExitStack() as stack:
        rig = Rig(tier, folder / tier, seed=seed, host=host, stack=stack)
        for act in acts:
            rig.play(act)
        return rig.outcome()


def same(folder: Path, *, seed: int, host: str, acts: Sequence[Act | None]) -> Outcome:
    """What all tiers make of it alike."""
    first, *others = [outcome(tier, folder, seed=seed, host=host, acts=acts) for tier in tiers.available()]
    for other in others:
        assert other.counters == first.counters
        assert other.rows == first.rows
        assert other == first
    assert first.faults == []
    return first


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_tiers_agree_on_what_comes_by_chance(tmp_path: Path, host: str, seed: int) -> None:
    found = same(tmp_path, seed=seed, host=host, acts=[plain, *[None] * ROUNDS, control])
    assert found.packets > SESSIONS * STREAMS_EACH * ROUNDS * 5


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("act", ACTS)
def test_tiers_agree_on_each_kind(tmp_path: Path, host: str, act: Act) -> None:
    same(tmp_path, seed=7, host=host, acts=[act, plain, act, plain])


def test_tiers_agree_when_more_comes_than_the_arena_holds(tmp_path: Path) -> None:
    found = same(tmp_path, seed=1, host="127.0.44.1", acts=[plain, burst, None])
    assert found.packets > 4096


def test_the_fastest_is_chosen_unless_told_otherwise() -> None:
    assert tiers.choose("auto") == tiers.available()[0]
    assert [tiers.choose(each) for each in tiers.available()] == [*tiers.available()]


@pytest.mark.parametrize("wanted", ["native", "batch"])
def test_a_tier_that_cannot_run_here_is_an_error(monkeypatch: pytest.MonkeyPatch, wanted: tiers.Tier) -> None:
    monkeypatch.setattr(tiers, "available", lambda: ("single",))
    assert tiers.choose("auto") == "single"
    with pytest.raises(ConfigurationError, match=f"RTP_RECEIVE: {wanted} cannot run here"):
        tiers.choose(wanted)
