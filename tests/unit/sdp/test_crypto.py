"""a=crypto lines as they come."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SdpError
from siprec.sdp import crypto
from siprec.sdp.crypto import MAX_MKI_BYTES, SUITES, Crypto

KEY = "MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw"
AES = "AES_CM_128_HMAC_SHA1_80"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (f"1 {AES} inline:{KEY}", Crypto(1, AES, KEY)),
        (f"1  {AES.lower()}\tinline:{KEY} ", Crypto(1, AES, KEY)),
        (f"2 {AES} inline:{KEY}|2^31", Crypto(2, AES, KEY)),
        (f"2 {AES} inline:{KEY}|1048576|1:4", Crypto(2, AES, KEY, "1", 4)),
        (f"2 {AES} inline:{KEY}|17:{MAX_MKI_BYTES}", Crypto(2, AES, KEY, "17", MAX_MKI_BYTES)),
        (f"999999999 {AES} inline:{KEY} WSH=128 -FUTURE=1", Crypto(999999999, AES, KEY)),
    ],
)  # fmt: skip
def test_good(value: str, expected: Crypto) -> None:
    assert crypto.parse(value) == expected
    assert crypto.parse(str(expected)) == expected
    assert KEY not in repr(expected)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "malformed"),
        (f"1 {AES}", "malformed"),
        (f"1 NULL_HMAC_SHA1_80 inline:{KEY}", "suite"),
        (f"1 F8_128_HMAC_SHA1_80 inline:{KEY}", "suite"),
        (f"1 {AES} inline:{KEY[:-4]}", "long"),
        (f"1 {AES} inline:{KEY}AAAA", "long"),
        (f"1 {AES} inline:{KEY[:-3]}", "base64"),
        (f"1 {AES} uri:{KEY}", "key"),
        (f"1 {AES} inline:{KEY}|2^31;inline:{KEY}|2^31", "more than one"),
        (f"1 {AES} inline:{KEY}|1:0", "identifier"),
        (f"1 {AES} inline:{KEY}|1:{MAX_MKI_BYTES + 1}", "identifier"),
        (f"1 {AES} inline:{KEY} UNENCRYPTED_SRTP", "session parameter"),
        (f"1 {AES} inline:{KEY} UNENCRYPTED_SRTCP", "session parameter"),
        (f"1 {AES} inline:{KEY} UNAUTHENTICATED_SRTP", "session parameter"),
        (f"1 {AES} inline:{KEY} KDR=1", "session parameter"),
        (f"1 {AES} inline:{KEY} FEC_ORDER=FEC_SRTP", "session parameter"),
    ],
)
def test_bad(value: str, reason: str) -> None:
    with pytest.raises(SdpError, match=reason) as caught:
        crypto.parse(value)
    assert KEY[:8] not in str(caught.value)


@pytest.mark.parametrize(("suite", "octets"), SUITES.items())
def test_a_key_is_as_long_as_its_suite_asks_for(suite: str, octets: int) -> None:
    for size in (octets - 1, octets + 1):
        with pytest.raises(SdpError):
            crypto.parse(f"1 {suite} inline:{base64.b64encode(bytes(size)).decode()}")
    whole = base64.b64encode(bytes(octets)).decode()
    for text in (whole, whole.rstrip("=")):
        assert crypto.master(crypto.parse(f"1 {suite} inline:{text}").key) == bytes(octets)


def test_the_first_that_can_be_taken_is() -> None:
    lines = [f"1 F8_128_HMAC_SHA1_80 inline:{KEY}", f"2 {AES} inline:{KEY}", f"3 AEAD_AES_128_GCM inline:{KEY}"]
    assert crypto.choose(lines) == Crypto(2, AES, KEY)
    assert crypto.choose(lines[:1]) is None
    assert crypto.choose([]) is None


@given(
    tag=st.integers(0, 999_999_999),
    suite=st.sampled_from(sorted(SUITES)),
    mki=st.integers(1, 10**9),
    mki_bytes=st.integers(1, MAX_MKI_BYTES),
    data=st.data(),
)
def test_what_we_write_we_read(tag: int, suite: str, mki: int, mki_bytes: int, data: st.DataObject) -> None:
    octets = SUITES[suite]
    key = base64.b64encode(data.draw(st.binary(min_size=octets, max_size=octets))).decode()
    for line in (Crypto(tag, suite, key), Crypto(tag, suite, key, str(mki), mki_bytes)):
        assert crypto.parse(str(line)) == line


@given(st.text(max_size=200) | st.from_regex(r"1 AES_CM_128_HMAC_SHA1_80 inline:\S{0,60}( \S{0,9}){0,3}"))
def test_any_text_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(SdpError):
        crypto.parse(text)
