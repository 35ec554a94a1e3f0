"""SRTP streams through the capture: what is written is plain, what is forged is counted."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.media.capture import RtcpTerms, SessionCapture, SrtpTerms, StreamCapture
from siprec.media.local import LocalStream
from siprec.media.pcap import PcapReader
from siprec.media.ports import PortPair
from siprec.media.secure import Secure
from siprec.rtp import packets, rtcp
from siprec.rtp.srtp import Inbound, Outbound
from siprec.sdp.crypto import SUITES
from tests.unit.media.test_capture import HOST, PCMU, Line, Rig, build, numbers, wait_until

SUITE = "AES_CM_128_HMAC_SHA1_80"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = build(tmp_path, report_seconds=0.1)
    yield made
    made.stop()
    assert [fault for fault in made.faults if fault.cause == "internal"] == []


def terms(suite: str = SUITE, mki_bytes: int = 0) -> SrtpTerms:
    size = SUITES[suite]
    return SrtpTerms(suite, os.urandom(size), os.urandom(size), mki_bytes)


class SecureLine(Line):
    """A peer that sends SRTP."""

    def __init__(self, pair: PortPair, agreed: SrtpTerms, *, ssrc: int = 1, host: str = HOST) -> None:
        super().__init__(pair, ssrc=ssrc, host=host)
        self.sender = Outbound(agreed.suite, agreed.theirs)

    def raw(self, datagram: bytes, *, port_offset: int = 0) -> None:
        protect = self.sender.rtcp if port_offset else self.sender.rtp
        super().raw(protect(datagram), port_offset=port_offset)

    def bare(self, datagram: bytes, *, port_offset: int = 0) -> None:
        super().raw(datagram, port_offset=port_offset)


def secured(rig: Rig, agreed: SrtpTerms, **options: object) -> tuple[SessionCapture, StreamCapture, SecureLine]:
    session, pair = rig.session(), rig.pair()
    line = SecureLine(pair, agreed)
    rig.lines.append(line)
    settings: dict[str, object] = {
        "channel": 0,
        "payload_types": PCMU,
        "remote": line.address,
        "srtp": agreed,
    } | options
    return session, session.add(pair, **settings), line  # type: ignore[arg-type]


def reasons(stream: StreamCapture) -> dict[str, int]:
    return {reason: count for (reason, _), count in stream.counters().refused.items()}


@pytest.mark.parametrize("suite", SUITES)
def test_what_is_written_is_plain(rig: Rig, suite: str) -> None:
    session, stream, line = secured(rig, terms(suite))
    for size in (160, 157, 160, 20):
        line.send(50, size=size)
    wait_until(lambda: stream.counters().accepted == 200)
    (path,) = session.close().result(5).files
    found = [
        batch.data[offset : offset + length].tobytes()
        for batch in PcapReader(path).batches()
        for offset, length in zip(batch.offset.tolist(), batch.length.tolist(), strict=True)
    ]
    sizes = [160] * 50 + [157] * 50 + [160] * 50 + [20] * 50
    assert found == [
        packets.build(0, n, timestamp=160 * n, ssrc=1, payload=n.to_bytes(4, "big") + bytes(size - 4))
        for n, size in enumerate(sizes)
    ]
    assert stream.counters().octets == sum(map(len, found))
    assert stream.counters().refused == {}


def test_plain_and_secure_streams_share_a_tick(rig: Rig) -> None:
    session, secure, line = secured(rig, terms())
    pair = rig.pair()
    other = rig.line(pair)
    plain = session.add(pair, channel=1, payload_types=PCMU, remote=other.address)
    for _ in range(20):
        line.send(3)
        other.send(3)
    wait_until(lambda: secure.counters().accepted == plain.counters().accepted == 60)
    assert sorted(numbers(session)) == sorted([*range(60), *range(60)])


def test_a_thousand_forged_packets_write_nothing(rig: Rig) -> None:
    session, stream, line = secured(rig, terms())
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 5)
    for done in range(100, 1001, 100):  # more at once would not fit into the socket's buffer
        for number in range(100, 200):
            line.bare(packets.build(0, number, timestamp=number, ssrc=1, payload=os.urandom(170)))
        wait_until(lambda done=done: reasons(stream) == {"srtp_auth": done})  # type: ignore[misc]
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 10)
    assert numbers(session) == list(range(10))


def test_plain_packets_on_a_secure_stream_are_forged_ones(rig: Rig) -> None:
    session, stream, line = secured(rig, terms())
    line.bare(packets.build(0, 1, timestamp=160, ssrc=1, payload=bytes(160)))
    wait_until(lambda: reasons(stream) == {"srtp_auth": 1})
    assert numbers(session) == []


def test_a_replay_is_told_from_a_forgery(rig: Rig) -> None:
    session, stream, line = secured(rig, terms())
    data = line.sender.rtp(packets.build(0, 0, timestamp=0, ssrc=1, payload=bytes(160)))
    for _ in range(3):
        line.bare(data)
    wait_until(lambda: reasons(stream) == {"srtp_replay": 2})
    assert numbers(session) == [0]


def test_a_stranger_is_not_tried(rig: Rig) -> None:
    agreed = terms()
    session, stream, line = secured(rig, agreed)
    stranger = SecureLine(rig.pairs[0], agreed, host="127.0.0.9")
    rig.lines.append(stranger)
    stranger.send(3)
    line.send(3)
    wait_until(lambda: stream.counters().accepted == 3)
    assert reasons(stream) == {"address": 3}
    assert numbers(session) == [0, 1, 2]


def test_a_new_ssrc_and_a_late_start(rig: Rig) -> None:
    session, stream, line = secured(rig, terms())
    line.sequence = 40_000
    line.send(5)
    line.ssrc = 2
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 10)
    assert stream.counters().ssrcs == (1, 2)
    assert sorted(numbers(session)) == list(range(40_000, 40_010))


def test_keys_change_under_way(rig: Rig) -> None:
    """The old key is good until the new one is used; then it is over."""
    first, second = terms(), terms("AEAD_AES_256_GCM")
    session, stream, line = secured(rig, first)
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 5)
    stream.update(srtp=second)
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 10)
    old, line.sender = line.sender, Outbound(second.suite, second.theirs)
    line.send(5)
    wait_until(lambda: stream.counters().accepted == 15)
    line.sender = old
    line.send(5)
    wait_until(lambda: reasons(stream) == {"srtp_auth": 5})
    stream.update(srtp=None)
    assert isinstance(stream, LocalStream)
    secure = stream.stream.secure
    wait_until(lambda: not secure.active)
    line.bare(packets.build(0, 20, timestamp=3200, ssrc=1, payload=(20).to_bytes(4, "big") + bytes(156)))
    wait_until(lambda: stream.counters().accepted == 16)
    assert numbers(session) == [*range(15), 20]


def test_the_same_terms_again_keep_the_replay_window() -> None:
    agreed = terms()
    secure, sender = Secure(), Outbound(agreed.suite, agreed.theirs)
    secure.renew(agreed)
    data = sender.rtp(packets.build(0, 1, timestamp=160, ssrc=1, payload=bytes(160)))
    assert secure.open(data, rtcp=False, now_ns=0)
    secure.renew(SrtpTerms(agreed.suite, agreed.theirs, os.urandom(30)))
    with pytest.raises(Exception, match="replayed"):
        secure.open(data, rtcp=False, now_ns=0)
    assert agreed.theirs.hex() not in repr(agreed)
    assert "theirs" not in repr(agreed)


@pytest.mark.parametrize("mux", [False, True])
def test_rtcp_is_srtcp_both_ways(rig: Rig, mux: bool) -> None:
    agreed = terms("AEAD_AES_128_GCM")
    session, stream, line = secured(rig, agreed)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        control.bind((HOST, 0))
        control.settimeout(5)
        hears = line.sock if mux else control
        hears.settimeout(5)
        stream.update(rtcp=RtcpTerms(hears.getsockname()[:2], mux))
        line.send(5)
        told = rtcp.compound(
            rtcp.SenderReport(1, 1 << 40, 800, 5, 800), rtcp.SourceDescription((rtcp.Chunk(1, ((rtcp.CNAME, b"x"),)),))
        )
        hears.sendto(line.sender.rtcp(told), (line.to[0], line.to[1] + (not mux)))
        wait_until(lambda: stream.counters().sent == 5)
        report = Inbound(agreed.suite, agreed.ours).rtcp(hears.recv(2048))
        assert any(isinstance(each, rtcp.ReceiverReport) for each in rtcp.parse(report))
        bad = told + bytes(20)
        hears.sendto(bad, (line.to[0], line.to[1] + (not mux)))
        wait_until(lambda: reasons(stream) == {"srtp_auth": 1})
    session.close().result(5)


def test_packets_held_until_a_source_is_learned_are_plain_too(rig: Rig) -> None:
    agreed = terms()
    session, stream, line = secured(rig, agreed, remote=(HOST, 9))  # another port than the one it sends from
    line.send(10)
    wait_until(lambda: stream.counters().accepted == 10)
    assert numbers(session) == list(range(10))
