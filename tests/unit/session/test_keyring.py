"""Keys at rest are sealed, and only the node that sealed them opens them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.session.keyring import MAX_KEY_BYTES, SECRET_BYTES, Keyring

HERE, THERE = Keyring(b"h" * SECRET_BYTES), Keyring(b"t" * SECRET_BYTES)
KEY = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"
LINE = f"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^31|1:4"
SDP = f"v=0\r\nm=audio 1 RTP/SAVP 0\r\n{LINE}\r\na=label:inline:{KEY}\r\n"


@given(st.binary(min_size=1, max_size=MAX_KEY_BYTES))
def test_sealed_and_opened(clear: bytes) -> None:
    key = base64.b64encode(clear).decode()
    sealed = HERE.seal(key)
    assert HERE.unseal(sealed) == key
    assert HERE.seal(key) == sealed, "equal keys stay equal"
    assert THERE.unseal(sealed) is None
    assert THERE.seal(key) != sealed


def test_one_byte_more_is_no_key() -> None:
    with pytest.raises(ValueError, match="longer"):
        HERE.seal(base64.b64encode(bytes(MAX_KEY_BYTES + 1)).decode())


@given(st.text(max_size=120) | st.text(alphabet="ABCabc0129+/=", max_size=120).map(lambda text: f"sealed.{text}"))
def test_what_was_not_sealed_here_is_not_opened(text: str) -> None:
    assert HERE.unseal(text) is None


def test_a_changed_seal_is_broken() -> None:
    raw = bytearray(base64.b64decode(HERE.seal(KEY).removeprefix("sealed.")))
    for index in range(len(raw)):
        raw[index] ^= 1
        assert HERE.unseal(f"sealed.{base64.b64encode(raw).decode()}") is None
        raw[index] ^= 1


def test_only_keys_of_an_sdp_are_sealed() -> None:
    sealed = HERE.sealed(SDP)
    assert sealed.count(KEY) == 1, "the label is none"
    assert HERE.revealed(sealed) == SDP
    assert HERE.revealed(SDP) == SDP
    assert THERE.revealed(sealed) == sealed


def test_derived_keys_belong_to_their_purpose() -> None:
    one = HERE.derive("srtp", "a", "b", octets=30)
    assert one == HERE.derive("srtp", "a", "b", octets=30)
    assert len(base64.b64decode(one)) == 30
    others = {HERE.derive("srtp", "ab", octets=30), THERE.derive("srtp", "a", "b", octets=30)}
    assert one not in others


@pytest.mark.parametrize("size", [SECRET_BYTES - 1, SECRET_BYTES + 1])
def test_a_secret_is_of_one_size(size: int) -> None:
    with pytest.raises(ValueError, match="32"):
        Keyring(bytes(size))
