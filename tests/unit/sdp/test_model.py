"""Session descriptions: vectors in pairs, limits, and parse as the inverse of str."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import SdpError
from siprec.sdp import model

VECTORS = Path(__file__).parents[2] / "vectors" / "sdp"
GOOD = sorted(VECTORS.glob("*.good.sdp"))
BAD = sorted(VECTORS.glob("*.bad.sdp"))

HEAD = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n"
MEDIA = "m=audio 40000 RTP/AVP 0\r\n"


def _media(*attributes: str, formats: str = "0", head: str = HEAD) -> model.MediaDescription:
    text = f"{head}m=audio 40000 RTP/AVP {formats}\r\n" + "".join(f"{line}\r\n" for line in attributes)
    return model.parse(text).media[0]


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.name)
def test_good_vector_reads_as_expected_and_loses_nothing(path: Path) -> None:
    data = path.read_bytes()
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_text())
    description = model.parse(data)
    seen = [
        {
            "kind": media.kind,
            "port": media.port,
            "transport": media.transport,
            "address": media.address,
            "direction": media.direction,
            "label": media.label,
            "formats": [form.rtpmap for form in media.rtpmap.values()],
        }
        for media in description.media
    ]
    assert seen == expected["media"]
    assert str(description).split() == data.decode().split()
    assert model.parse(str(description)) == description
    assert model.parse(bytes(description)) == description


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.name)
def test_bad_vector_raises_its_sentence(path: Path) -> None:
    with pytest.raises(SdpError) as caught:
        model.parse(path.read_bytes())
    assert caught.value.reason == path.with_suffix(".txt").read_text().strip()
    assert caught.value.status == 400


def test_good_and_bad_come_in_pairs() -> None:
    assert {path.name.split(".")[0] for path in GOOD} == {path.name.split(".")[0] for path in BAD}


def test_unknown_lines_keep_their_place() -> None:
    text = f"{HEAD}y=what\r\nnot a line at all\r\n=\r\n{MEDIA}q=1\r\na=\r\na=label:1\r\n"
    assert str(model.parse(text)) == text


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
def test_any_line_end_is_one(end: str) -> None:
    description = model.parse(f"{HEAD}{MEDIA}a=label:1\r\n".replace("\r\n", end))
    assert description.media[0].label == "1"
    assert str(description) == f"{HEAD}{MEDIA}a=label:1\r\n"


@pytest.mark.parametrize("label", ["1", "a_leg", "16777227", "{0f}", "with space", "1:2"])
def test_label_may_be_any_text(label: str) -> None:
    assert _media(f"a=label:{label}").label == label


def test_empty_label_is_none() -> None:
    assert _media("a=label:").label is None
    assert _media("a=label").label is None


def test_media_inherits_address_and_direction() -> None:
    head = f"{HEAD}c=IN IP4 192.0.2.5/127\r\na=inactive\r\n"
    assert _media(head=head).address == "192.0.2.5"
    assert _media(head=head).direction == "inactive"
    own = _media("c=IN IP4 192.0.2.6", "a=SendOnly", head=head)
    assert (own.address, own.direction) == ("192.0.2.6", "sendonly")


def test_static_payload_types_need_no_rtpmap() -> None:
    known = _media(formats="0 8 9 10 13 18 34 96 200 x").rtpmap
    assert [form.rtpmap for form in known.values()] == [
        "0 PCMU/8000",
        "8 PCMA/8000",
        "9 G722/8000",
        "10 L16/44100/2",
        "13 CN/8000",
        "18 G729/8000",
        "34 H263/90000",
    ]


def test_rtpmap_beats_the_static_meaning_and_the_first_one_counts() -> None:
    media = _media("a=rtpmap:0 L16/8000/2", "a=rtpmap:0 PCMU/8000", "a=rtpmap:96 x/0", "a=fmtp:0 a=b", formats="0 96")
    assert media.rtpmap == {0: model.Format(0, "L16", 8000, 2, "a=b")}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a=rtcp:40001", (40001, None)),
        ("a=rtcp:40001 IN IP6 2001:db8::1", (40001, "2001:db8::1")),
        ("a=rtcp:0", None),
        ("a=rtcp:65536", None),
        ("a=rtcp:", None),
        ("a=rtcp:x", None),
    ],
)
def test_rtcp_attribute(line: str, expected: tuple[int, str | None] | None) -> None:
    assert _media(line).rtcp == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("a=ptime:20", 20), ("a=ptime:20.0", 20), ("a=ptime:0", None), ("a=ptime:1001", None), ("a=ptime:-1", None)],
)
def test_ptime(line: str, expected: int | None) -> None:
    assert _media(line).ptime == expected


def test_crypto_stays_raw() -> None:
    lines = ("a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:AA==|2^20|1:32", "a=crypto:2 F8_128_HMAC_SHA1_80 inline:BB==")
    assert _media(*lines).crypto == tuple(line.removeprefix("a=crypto:") for line in lines)


@pytest.mark.parametrize(
    "value", ["", "x", "- 1 2 IN IP4", "- a b IN IP4 h", f"- {'9' * 21} 1 IN IP4 h", "- 1 ١ IN IP4 h"]
)
def test_malformed_origin_reads_as_the_null_origin(value: str) -> None:
    assert model.parse(f"v=0\r\no={value}\r\n{MEDIA}").origin == model.Origin()


def test_a_new_origin_leaves_the_media_sections_alone() -> None:
    found = model.parse("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nm=audio 40000 RTP/AVP 0\r\no=kept\r\n")
    other = found.with_origin(model.Origin.at("192.0.2.2", 5))
    assert other.origin.session_id == 5
    assert str(other.media[0].lines[1]) == "o=kept"


def test_origin_round_trip() -> None:
    origin = model.Origin.at("2001:db8::1", 7, version=3)
    assert str(origin) == "- 7 3 IN IP6 2001:db8::1"
    assert model.Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", None),
        ("sbc.example.com", None),
        ("192.0.2.1.", None),
        ("", None),
        (None, None),
    ],
)
def test_literal(address: str | None, expected: str | None) -> None:
    assert model.literal(address) == expected


def test_latin_1_text_does_not_cost_the_offer() -> None:
    data = HEAD.replace("s=-", "s=José").encode("latin-1") + MEDIA.encode()
    assert model.parse(data).session.values("s") == ["José"]


# ---- limits, at and one past


def test_size_limit() -> None:
    filler = model.MAX_SDP_BYTES - len(HEAD) - len("i=\r\n")
    assert model.parse(f"{HEAD}i={'x' * filler}\r\n").media == ()
    with pytest.raises(SdpError, match="bytes"):
        model.parse(f"{HEAD}i={'x' * (filler + 1)}\r\n")


def test_line_limit() -> None:
    lines = "a=x\r\n" * (model.MAX_SDP_LINES - 3)
    assert len(model.parse(HEAD + lines).attributes) == model.MAX_SDP_LINES - 3
    with pytest.raises(SdpError, match="lines"):
        model.parse(f"{HEAD}{lines}a=x\r\n")


def test_media_limit() -> None:
    assert len(model.parse(HEAD + MEDIA * model.MAX_MEDIA).media) == model.MAX_MEDIA
    with pytest.raises(SdpError, match="media sections"):
        model.parse(HEAD + MEDIA * (model.MAX_MEDIA + 1))


def test_format_limit() -> None:
    full = " ".join(["0"] * model.MAX_FORMATS)
    assert len(_media(formats=full).formats) == model.MAX_FORMATS
    with pytest.raises(SdpError, match="formats"):
        _media(formats=f"{full} 0")


def test_long_m_line_is_refused_in_linear_time() -> None:
    with pytest.raises(SdpError):
        model.parse(f"{HEAD}m=audio 1 RTP/AVP{' 0' * 30_000}")
    with pytest.raises(SdpError):
        model.parse(f"{HEAD}m=audio 1{' ' * 60_000}")


# ---- properties

_values = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=40)
_lines = st.builds(lambda letter, value: f"{letter}={value}", st.sampled_from("abcikorstuvz"), _values)
_m_lines = st.builds(
    lambda kind, port, formats: f"m={kind} {port} RTP/AVP {' '.join(map(str, formats))}",
    st.sampled_from(["audio", "video", "text"]),
    st.integers(0, 65535),
    st.lists(st.integers(0, 127), min_size=1, max_size=5),
)


@given(st.lists(_lines | _m_lines, max_size=20))
def test_parse_is_the_inverse_of_str(rows: list[str]) -> None:
    text = "".join(f"{row}\r\n" for row in ["v=0", *rows])
    description = model.parse(text)
    assert model.parse(str(description)) == description
    kept = [row for row in rows if row.strip()]
    assert str(description) == "".join(f"{row}\r\n" for row in ["v=0", *kept])


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_raise_only_sdp_error(data: bytes, headed: bool) -> None:
    try:
        description = model.parse(b"v=0\n" + data if headed else data)
    except SdpError:
        return
    for media in description.media:
        assert re.fullmatch(r"\d+", str(media.port))
        assert (media.rtpmap, media.rtcp, media.ptime, media.direction, media.address, media.mid) is not None


_attributes = st.sampled_from(["rtpmap", "fmtp", "rtcp", "ptime", "label", "crypto", "mid", "rtcp-mux", "sendonly"])


@given(st.lists(st.builds(lambda name, value: f"a={name}:{value}", _attributes, _values), max_size=10), _values)
def test_any_attribute_value_is_read_without_error(lines: list[str], formats: str) -> None:
    try:
        media = _media(*lines, f"c={formats}", formats=formats)
    except SdpError:
        return
    assert (media.rtpmap, media.rtcp, media.ptime, media.direction, media.address, media.crypto) is not None
