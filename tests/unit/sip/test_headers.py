"""Typed header values: vectors in tests/vectors/sip/values, and what holds for any text."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SipError
from siprec.sip.headers import CSeq, Disposition, MediaType, NameAddr, Via, parse_params

VALUES = Path(__file__).parents[2] / "vectors" / "sip" / "values"
TYPES: dict[str, Any] = {
    "name_addr": NameAddr,
    "via": Via,
    "cseq": CSeq,
    "media_type": MediaType,
    "disposition": Disposition,
}


def vectors(kind: str) -> list[Any]:
    return [
        pytest.param(TYPES[name], case, id=f"{name} {case['text']}")
        for name in TYPES
        for case in json.loads((VALUES / f"{name}.{kind}.json").read_text())
    ]


@pytest.mark.parametrize(("type_", "case"), vectors("good"))
def test_good(type_: Any, case: dict[str, Any]) -> None:
    value = type_.parse(case["text"])
    assert value == type_(**case["value"])
    assert str(value) == case["written"]
    assert type_.parse(str(value)) == value


@pytest.mark.parametrize(("type_", "case"), vectors("bad"))
def test_bad(type_: Any, case: dict[str, str]) -> None:
    with pytest.raises(SipError) as caught:
        type_.parse(case["text"])
    assert (caught.value.status, caught.value.reason) == (400, case["error"])


def test_views() -> None:
    assert NameAddr.parse("<sip:a@example.com>;tag=x").tag == "x"
    assert NameAddr.parse("<sip:a@example.com>").tag is None
    via = Via.parse("SIP/2.0/UDP [2001:DB8::1]:5062;branch=z9hG4bK1;received=[2001:db8::2]")
    assert (via.branch, via.sent_by, via.received) == ("z9hG4bK1", "[2001:db8::1]:5062", "2001:db8::2")
    assert Via.parse("SIP/2.0/UDP A.example.com").sent_by == "a.example.com"
    assert Via.parse("SIP/2.0/UDP a;received").received is None
    assert MediaType.parse("Application/SDP;x=1").name == "application/sdp"
    assert Disposition.parse("session").handling == "required"
    assert Disposition.parse("signal;handling=Optional").handling == "optional"


def test_parameters() -> None:
    assert parse_params("") == parse_params(" ; ") == {}
    assert parse_params('a=1;B; c = "x;\\"y" ;') == {"a": "1", "b": None, "c": 'x;"y'}
    assert parse_params(";text=a b") == {"text": "a b"}


# --- what holds for any text

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=20)
token = st.text("abcxyz019-.!%*_+`'~", min_size=1, max_size=8)
params = st.dictionaries(token, st.none() | text.map(lambda value: value.strip(" \t")), max_size=4)
name_addrs = st.builds(NameAddr, text, token.map("sip:{}@example.com".format), params)
vias = st.builds(
    Via,
    token.map(str.upper),
    st.sampled_from(["a.example.com", "2001:db8::1"]),
    st.none() | st.integers(1, 65_535),
    params,
)
media_types = st.builds(MediaType, token, token, params)
dispositions = st.builds(Disposition, token, params)
cseqs = st.builds(CSeq, st.integers(0, 2**31 - 1), token)


@given(name_addrs | vias | media_types | dispositions | cseqs)
def test_written_and_read_is_the_same(value: NameAddr | Via | MediaType | Disposition | CSeq) -> None:
    assert type(value).parse(str(value)) == value


hostile = st.text() | st.text('"\\<>;=, \tsip:@/a1[]?', max_size=40)
PARSERS: list[Callable[[str], object]] = [parse_params, *(type_.parse for type_ in TYPES.values())]


@pytest.mark.parametrize("parse", PARSERS)
def test_any_text_is_a_value_or_refused(parse: Callable[[str], object]) -> None:
    @given(hostile)
    def check(value: str) -> None:
        try:
            parsed = parse(value)
        except SipError:
            return
        if not isinstance(parsed, dict):
            assert parse(str(parsed)) == parsed

    check()
