"""SIP URIs: vectors in tests/vectors/sip/values/uri.*.json, and what holds for any text."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SipError
from siprec.sip.uri import URIS_KEPT, SipUri

VALUES = Path(__file__).parents[2] / "vectors" / "sip" / "values"
GOOD: list[dict[str, Any]] = json.loads((VALUES / "uri.good.json").read_text())
BAD: list[dict[str, str]] = json.loads((VALUES / "uri.bad.json").read_text())

word = st.text("abcXYZ019-_.%+'", min_size=1, max_size=8)
host = st.sampled_from(["example.com", "192.0.2.1", "2001:db8::1", "sbc_1.example.com"])
uris = st.builds(
    SipUri,
    st.sampled_from(["sip", "sips"]),
    st.none() | word,
    st.just(None),
    host,
    st.none() | st.integers(1, 65_535),
    st.dictionaries(word.map(str.lower), st.none() | word, max_size=3),
    st.just("") | word,
)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case["text"])
def test_good(case: dict[str, Any]) -> None:
    uri = SipUri.parse(case["text"])
    assert uri == SipUri(**case["value"])
    assert str(uri) == case["written"]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case["text"])
def test_bad(case: dict[str, str]) -> None:
    with pytest.raises(SipError) as caught:
        SipUri.parse(case["text"])
    assert (caught.value.status, caught.value.reason) == (400, case["error"])


@given(uris)
def test_written_and_read_is_the_same(uri: SipUri) -> None:
    assert SipUri.parse(str(uri)) == uri


@given(st.text() | st.text("sip:@[]:;?=.%2a").map("sip:".__add__))
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    try:
        uri = SipUri.parse(text)
    except SipError:
        return
    assert SipUri.parse(str(uri)) == uri


def test_no_more_uris_are_kept_than_the_limit() -> None:
    for number in range(URIS_KEPT + 1):
        assert SipUri.parse(f"sip:{number}@example.com").user == str(number)
    assert SipUri.parse.cache_info().currsize == URIS_KEPT
