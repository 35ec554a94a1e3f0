"""What becomes of SRTP keys in a session's record: sealed, and of no use to another node."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from siprec.errors import SdpError
from siprec.media.ports import PortPool
from siprec.recorder.intake import Ports, own_key, srtp_terms
from siprec.recorder.negotiation import Negotiation, Prepared
from siprec.sdp import model
from siprec.sdp.crypto import master, parse
from siprec.session.keyring import SECRET_BYTES, Keyring
from siprec.session.model import CallData
from siprec.store import plain

KEY = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"
OTHER = "YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0"
SUITE = "AES_CM_128_HMAC_SHA1_80"
HERE, THERE = Keyring(b"h" * SECRET_BYTES), Keyring(b"t" * SECRET_BYTES)


def offer(*lines: str, transport: str = "RTP/SAVP") -> bytes:
    text = f"v=0\no=- 1 1 IN IP4 127.0.0.1\ns=-\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 40000 {transport} 0\n"
    return (text + "".join(f"a={each}\n" for each in (*lines, "label:1", "sendonly"))).encode()


@pytest.fixture
def ports() -> Iterator[Ports]:
    made = Ports({4: PortPool("127.0.0.1", 42_000, 42_199)})
    yield made
    made.close()


@pytest.fixture
def data() -> CallData:
    return CallData("0198", "here", "127.0.0.1", "trunk", "a@example.com", 1)


@pytest.fixture
def negotiation(ports: Ports, data: CallData) -> Negotiation:
    return Negotiation(data, ports=ports, external=(), source="127.0.0.1", entropy=os.urandom, keyring=HERE)


def taken(data: CallData, prepared: Prepared) -> None:
    """What `commit` does to the record."""
    data.channels[:], data.local_sdp = prepared.channels, prepared.text


def test_a_record_holds_no_key(ports: Ports, data: CallData, negotiation: Negotiation) -> None:
    prepared = negotiation.prepare(offer(f"crypto:3 {SUITE} inline:{KEY}|2^31|1:4"), "127.0.0.1")
    taken(data, prepared)
    (channel,) = data.channels
    ours = own_key(data, channel, HERE)
    stored = json.dumps(plain.dump(data))
    for each in (KEY, ours, master(KEY).hex(), repr(master(KEY))):
        assert each not in stored
        assert each not in repr(data)
    assert plain.load(CallData, json.loads(stored)) == data
    (line,) = model.parse(HERE.revealed(data.local_sdp)).media[0].crypto
    assert (parse(line).tag, parse(line).suite, parse(line).key) == (3, SUITE, ours)
    terms = srtp_terms(data, channel, keyring=HERE)
    assert terms is not None
    assert (terms.theirs, terms.ours, terms.mki_bytes) == (master(KEY), master(ours), 4)
    negotiation.release(prepared)


def test_another_node_lets_nothing_in(data: CallData, negotiation: Negotiation) -> None:
    prepared = negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{KEY}"), "127.0.0.1")
    taken(data, prepared)
    terms = srtp_terms(data, data.channels[0], keyring=THERE)
    assert terms is not None
    assert terms.theirs != master(KEY)
    negotiation.release(prepared)


def test_new_keys_change_the_channel_and_not_our_key(data: CallData, negotiation: Negotiation) -> None:
    prepared = negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{KEY}"), "127.0.0.1")
    taken(data, prepared)
    before = data.channels[0]
    same = negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{KEY}"), "127.0.0.1")
    assert (same.changes, same.text) == ([], prepared.text)
    anew = negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{OTHER}"), "127.0.0.1")
    assert [each.kind for each in anew.changes] == ["changed"]
    assert own_key(data, anew.channels[0], HERE) == own_key(data, before, HERE)
    plain_now = negotiation.prepare(offer(transport="RTP/AVP"), "127.0.0.1")
    assert [each.channel.crypto for each in plain_now.changes] == [None]
    negotiation.release(prepared)


@pytest.mark.parametrize("transport", ["RTP/SAVP", "RTP/SAVPF"])
def test_without_a_key_nothing_is_reserved(ports: Ports, negotiation: Negotiation, transport: str) -> None:
    with pytest.raises(SdpError, match="no acceptable SRTP key"):
        negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{KEY[:-4]}", transport=transport), "127.0.0.1")
    prepared = negotiation.prepare(offer(f"crypto:1 {SUITE} inline:{KEY}", transport=transport), "127.0.0.1")
    assert model.parse(prepared.text).media[0].transport == transport
    negotiation.release(prepared)
