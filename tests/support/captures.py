"""Part folders for tests: packets that a sender made, and what a network does to them."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from siprec.media import part as part_file
from siprec.media import pcap
from siprec.media.part import Mode, Outage, Part, PartStream, PayloadFormat, Phase
from siprec.rtp import packets as rtp
from siprec.rtp.codecs import encode_law

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
PCMU, PCMA = PayloadFormat(0, "PCMU", 8000), PayloadFormat(8, "PCMA", 8000)
G722, OPUS = PayloadFormat(9, "G722", 8000), PayloadFormat(111, "opus", 48000, 2)
EVENTS = PayloadFormat(101, "telephone-event", 8000)


@dataclass(frozen=True, slots=True)
class Sent:
    """One packet: when it arrived (ns after START) and what it was."""

    at: int
    payload: bytes
    sequence: int
    timestamp: int
    ssrc: int = 0x1111
    payload_type: int = 0
    port: int = 10_000

    def record(self) -> bytes:
        packet = rtp.build(
            self.payload_type, self.sequence, timestamp=self.timestamp, ssrc=self.ssrc, payload=self.payload
        )
        return raw_record(self.at, packet, self.port)


def raw_record(at: int, packet: bytes, port: int) -> bytes:
    return pcap.record(START + at, packet, source=("192.0.2.1", 40_000), destination=("192.0.2.9", port))


@dataclass(slots=True)
class Sender:
    """Makes packets of `ticks` RTP clock units each, one each `pace_ns`."""

    ssrc: int = 0x1111
    payload_type: int = 0
    port: int = 10_000
    sequence: int = 1000
    timestamp: int = 50_000
    ticks: int = 160
    pace_ns: int = 20_000_000
    clock: int = 0  # ns after START of the next packet

    def send(self, payloads: Iterable[bytes]) -> list[Sent]:
        return [self._one(payload) for payload in payloads]

    def _one(self, payload: bytes) -> Sent:
        sent = Sent(
            self.clock, payload, self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF, self.ssrc, self.payload_type,
            self.port,
        )  # fmt: skip
        self.skip()
        return sent

    def skip(self, packets: int = 1) -> None:
        """Packets that were sent but are never to arrive."""
        self.sequence += packets
        self.pause(packets)

    def pause(self, packets: int = 1) -> None:
        """Silence: time goes on, no packet is sent."""
        self.timestamp += packets * self.ticks
        self.clock += packets * self.pace_ns


@dataclass(slots=True)
class Channel:
    """What part.json says of one stream. `index`: of the channel it has, if that is not its place among the streams."""

    formats: Sequence[PayloadFormat] = (PCMU, EVENTS)
    port: int = 10_000
    since: int = 0
    label: str | None = None
    phases: Sequence[tuple[int, Mode]] = ()
    index: int | None = None

    def stream(self, place: int) -> PartStream:
        index = place if self.index is None else self.index
        phases = self.phases or [(self.since, "active")]
        return PartStream(
            index, self.label, self.port, self.port + 1,
            [Phase(START + at, mode, tuple(self.formats)) for at, mode in phases],
        )  # fmt: skip


@dataclass(slots=True)
class Folder:
    """One part folder; times in ns after START."""

    channels: Sequence[Channel] = field(default_factory=lambda: [Channel()])
    start: int = 0
    end: int | None = 10 * SECOND
    outages: Sequence[Outage] = ()
    clock: Sequence[tuple[int, int]] = ()
    fence: int = 1
    node: str = "a"

    def write(self, path: Path, packets: Iterable[Sent | bytes]) -> Path:
        """Writes capture and control file; packets in the order given."""
        path.mkdir(parents=True)
        part = Part(
            "1", self.node, self.fence, START + self.start, None if self.end is None else START + self.end,
            [each.stream(place) for place, each in enumerate(self.channels)], list(self.outages), list(self.clock),
        )  # fmt: skip
        (path / "part.json").write_bytes(part_file.dump(part))
        records = [each if isinstance(each, bytes) else each.record() for each in packets]
        (path / "capture-0001.pcap").write_bytes(pcap.write_header() + b"".join(records))
        return path


def outage(start: int, end: int, cause: str, channel: int | None = None) -> Outage:
    return Outage(START + start, START + end, cause, channel)  # type: ignore[arg-type]


def payloads(data: NDArray[np.uint8], size: int = 160) -> list[bytes]:
    return [data[at : at + size].tobytes() for at in range(0, len(data) - size + 1, size)]


def noise(packets: int, *, seed: int = 1, size: int = 160) -> NDArray[np.uint8]:
    """Octets of which no two packets are alike and none is silent."""
    codes = np.random.default_rng(seed).integers(0, 256, packets * size, dtype=np.uint8)
    codes[codes == 0xFF] = 0x80
    codes[codes == 0x7F] = 0x00
    return codes


def tone(seconds: float, *, rate: int = 8000, hertz: float = 440.0, peak: float = 8000.0) -> NDArray[np.int16]:
    wave: NDArray[np.float64] = peak * np.sin(2 * np.pi * hertz / rate * np.arange(round(seconds * rate)))
    return np.rint(wave).astype(np.int16)


def law_payloads(samples: NDArray[np.int16], law: str = "PCMU") -> list[bytes]:
    return payloads(encode_law(samples, law))


def sender_report(at: int, *, ssrc: int, ntp_ns: int, timestamp: int, port: int = 10_001) -> bytes:
    seconds, rest = divmod(ntp_ns, SECOND)
    words = struct.pack(
        ">BBHIIIIII", 0x80, 200, 6, ssrc, seconds + 2_208_988_800, (rest << 32) // SECOND, timestamp, 0, 0
    )
    return raw_record(at, words, port)


def network(packets: Sequence[Sent], *, seed: int, loss: float = 0.0, duplicates: float = 0.0, depth: int = 0,
            jitter_ns: int = 0) -> tuple[list[Sent], set[int]]:  # fmt: skip
    """What arrives, in order of arrival, and the indices of what was lost. First and last packet always arrive."""
    rng = random.Random(seed)
    arriving: list[Sent] = []
    lost: set[int] = set()
    for index, each in enumerate(packets):
        inner = 0 < index < len(packets) - 1
        if inner and rng.random() < loss:
            lost.add(index)
            continue
        delayed = replace(each, at=each.at + (rng.randint(0, jitter_ns) if inner else 0))
        arriving.append(delayed)
        if rng.random() < duplicates:
            arriving.append(replace(delayed, at=delayed.at + rng.randint(0, jitter_ns + 1)))
    if depth:  # a packet may be overtaken by the next `depth`
        arriving = [replace(each, at=each.at + rng.randint(0, depth) * 20_000_000 * (rng.random() < 0.1))
                    if 0 < place < len(arriving) - 1 else each for place, each in enumerate(arriving)]  # fmt: skip
    return sorted(arriving, key=lambda each: each.at), lost
