"""SRTP under one key: the RFC's vectors, loss, replay, roll-over, and whatever a forger may send."""

from __future__ import annotations

import hashlib
import hmac
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SrtpError
from siprec.rtp import packets, srtp
from siprec.rtp.srtp import PROFILES, Inbound, Outbound
from siprec.sdp.crypto import SUITES

SUITE = "AES_CM_128_HMAC_SHA1_80"

# RFC 3711 appendix B.3
MASTER = bytes.fromhex("E1F97A0D3E018BE0D64FA32C06DE4139" + "0EC675AD498AFEEBB6960B3AABE6")
AUTH_KEY = bytes.fromhex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4")
# What libsrtp's own self test expects under that key.
PLAIN = bytes.fromhex("800f1234decafbadcafebabe" + "ab" * 16)
CIPHER = bytes.fromhex("4e55dc4ce79978d88ca4d215949d2402")


def packet(index: int, *, ssrc: int = 7) -> bytes:
    payload = index.to_bytes(4, "big") * 40
    return packets.build(0, index, timestamp=160 * index, ssrc=ssrc, payload=payload)


def pair(suite: str = SUITE, **wanted: int) -> tuple[Outbound, Inbound]:
    key = os.urandom(SUITES[suite])
    return Outbound(suite, key), Inbound(suite, key, **wanted)


def protected(sender: Outbound, count: int, *, start: int = 0, ssrc: int = 7) -> list[bytes]:
    return [sender.rtp(packet(index, ssrc=ssrc)) for index in range(start, start + count)]


def test_the_suites_are_those_of_sdp() -> None:
    assert PROFILES.keys() == SUITES.keys()


def test_the_rfcs_vector() -> None:
    tag = hmac.new(AUTH_KEY, PLAIN[:12] + CIPHER + bytes(4), hashlib.sha1).digest()[:10]
    assert Outbound(SUITE, MASTER).rtp(PLAIN) == PLAIN[:12] + CIPHER + tag
    assert Inbound(SUITE, MASTER).rtp(PLAIN[:12] + CIPHER + tag, now_ns=0) == PLAIN
    short = Inbound("AES_CM_128_HMAC_SHA1_32", MASTER)
    assert short.rtp(PLAIN[:12] + CIPHER + tag[:4], now_ns=0) == PLAIN


@pytest.mark.parametrize("suite", SUITES)
def test_loss_and_disorder_cost_nothing_more(suite: str) -> None:
    sender, receiver = pair(suite)
    sent = list(enumerate(protected(sender, 500)))
    chosen = random.Random(1)
    kept = [each for each in sent if chosen.random() > 0.1]
    kept.sort(key=lambda each: each[0] + chosen.random() * 20)
    assert all(receiver.rtp(data, now_ns=0) == packet(index) for index, data in kept)


@pytest.mark.parametrize("suite", SUITES)
def test_a_packet_is_taken_once(suite: str) -> None:
    sender, receiver = pair(suite)
    for each in protected(sender, 10):
        receiver.rtp(each, now_ns=0)
        with pytest.raises(SrtpError, match="replayed") as caught:
            receiver.rtp(each, now_ns=0)
        assert caught.value.replay


@pytest.mark.parametrize("suite", SUITES)
def test_a_thousand_bad_tags(suite: str) -> None:
    sender, receiver = pair(suite)
    for index, each in enumerate(protected(sender, 1000)):
        changed = bytearray(each)
        changed[-1 - index % len(each)] ^= 1
        if bytes(changed[8:12]) == each[8:12] and changed[2:4] == each[2:4]:
            with pytest.raises(SrtpError):
                receiver.rtp(bytes(changed), now_ns=index)
    assert receiver.rtp(sender.rtp(packet(1000)), now_ns=0) == packet(1000)


@pytest.mark.parametrize("suite", SUITES)
def test_rtcp_both_under_and_without_the_key(suite: str) -> None:
    sender, receiver = pair(suite)
    report = bytes.fromhex("80c9000100000007")
    assert receiver.rtcp(sender.rtcp(report)) == report
    assert sender.rtcp(report)[8:] != report[8:]
    with pytest.raises(SrtpError):
        receiver.rtcp(report + bytes(14))


def test_the_sequence_number_rolls_over() -> None:
    sender, receiver = pair()
    for index in range(60_000, 60_000 + 70_000, 500):
        assert receiver.rtp(sender.rtp(packet(index)), now_ns=0) == packet(index)


def test_another_ssrc_has_its_own_counter() -> None:
    sender, receiver = pair()
    for ssrc in range(1, 2 * srtp.MAX_SOURCES):
        assert receiver.rtp(sender.rtp(packet(5, ssrc=ssrc)), now_ns=0) == packet(5, ssrc=ssrc)


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("counter", [1, 2, srtp.MAX_ROLL_OVERS - 1])
@pytest.mark.parametrize("sequence", [0, 1, 999, 40_000, 65_535])
def test_a_late_joiner_finds_the_roll_over_counter(suite: str, counter: int, sequence: int) -> None:
    sender, receiver = pair(suite)
    index = counter * 65_536 + sequence
    for each in range(sequence, index, 30_000):
        sender.rtp(packet(each))
    late = protected(sender, 20, start=index)
    chosen = [*late[1:], late[0]]  # overtaken by the first that came
    assert [receiver.rtp(each, now_ns=0) for each in chosen] == [
        *map(packet, range(index + 1, index + 20)),
        packet(index),
    ]
    with pytest.raises(SrtpError, match="replayed"):
        receiver.rtp(late[3], now_ns=0)


def test_a_counter_beyond_all_that_are_tried_is_not_found() -> None:
    sender, receiver = pair()
    index = (srtp.MAX_ROLL_OVERS + 1) * 65_536
    for each in range(0, index, 30_000):
        sender.rtp(packet(each))
    with pytest.raises(SrtpError):
        receiver.rtp(sender.rtp(packet(index)), now_ns=0)


def test_what_is_long_past_does_not_turn_time_back() -> None:
    """A replay from half the number space ago looks like the future; it must not be found in the past."""
    sender, receiver = pair()
    first = sender.rtp(packet(0))
    receiver.rtp(first, now_ns=0)
    for index in range(0, 60_000, 1000):
        receiver.rtp(sender.rtp(packet(index + 1)), now_ns=0)
    with pytest.raises(SrtpError):
        receiver.rtp(first, now_ns=0)
    assert receiver.rtp(sender.rtp(packet(60_001)), now_ns=0) == packet(60_001)


def test_a_search_is_made_once_a_second() -> None:
    sender, receiver = pair()
    for index in range(0, 70_000, 30_000):
        sender.rtp(packet(index))
    with pytest.raises(SrtpError):
        receiver.rtp(packet(9) + bytes(10), now_ns=0)
    late = sender.rtp(packet(70_000))
    with pytest.raises(SrtpError):
        receiver.rtp(late, now_ns=srtp.SEARCH_NS - 1)
    assert receiver.rtp(late, now_ns=srtp.SEARCH_NS) == packet(70_000)


@pytest.mark.parametrize(("suite", "tail"), [(SUITE, 10), ("AES_CM_128_HMAC_SHA1_32", 4), ("AEAD_AES_128_GCM", 0)])
@pytest.mark.parametrize("length", [1, 4])
def test_a_key_identifier_is_stepped_over(suite: str, tail: int, length: int) -> None:
    sender, receiver = pair(suite, mki_bytes=length)
    data = sender.rtp(packet(1))
    end = len(data) - tail
    assert receiver.rtp(data[:end] + bytes(length) + data[end:], now_ns=0) == packet(1)


@given(data=st.binary(max_size=1600), mki=st.integers(0, 128))
def test_no_bytes_do_any_harm(data: bytes, mki: int) -> None:
    receiver = Inbound(SUITE, MASTER, mki_bytes=mki)
    with pytest.raises(SrtpError):
        receiver.rtp(data, now_ns=0)
    with pytest.raises(SrtpError):
        receiver.rtcp(data)
