"""Multipart bodies: vectors in tests/vectors/sip/multipart, every limit at it and one past it, and any bytes."""

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from siprec.errors import MultipartError
from siprec.sip import limits
from siprec.sip.headers import Disposition, MediaType
from siprec.sip.message import Headers
from siprec.sip.multipart import BodyPart, decoded, format_multipart, parse_body

VECTORS = Path(__file__).parents[2] / "vectors" / "sip" / "multipart"
GOOD = sorted((VECTORS / "good").glob("*.json"))
BAD = sorted((VECTORS / "bad").glob("*.json"))
SDP = MediaType("application", "sdp")


def typed(content_type: str | None) -> Headers:
    return Headers() if content_type is None else Headers([("c", content_type)])


def refused(body: bytes, content_type: str | None = "multipart/mixed;boundary=b") -> tuple[int, str]:
    with pytest.raises(MultipartError) as caught:
        parse_body(typed(content_type), body)
    return caught.value.status, caught.value.reason


# --- vectors


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good(path: Path) -> None:
    expected = json.loads(path.read_text())
    parts = parse_body(typed(expected["content_type"]), path.with_suffix(".mime").read_bytes())
    assert [
        {
            "type": str(part.content_type),
            "disposition": None if part.disposition is None else str(part.disposition),
            "headers": len(part.headers),
            "body": part.body.decode("latin-1"),
        }
        for part in parts
    ] == expected["parts"]


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad(path: Path) -> None:
    expected = json.loads(path.read_text())
    verdict = refused(path.with_suffix(".mime").read_bytes(), expected["content_type"])
    assert verdict == (expected["status"], expected["error"])


def test_a_bare_body_has_the_disposition_and_headers_of_the_message() -> None:
    headers = Headers([("Content-Type", "application/rs-metadata"), ("Content-Disposition", "recording-session")])
    (part,) = parse_body(headers, b"<recording/>")
    assert part == BodyPart(
        MediaType("application", "rs-metadata"), Disposition("recording-session"), headers, b"<recording/>"
    )


def test_encodings_are_shown_to_the_user() -> None:
    body = b"--b\r\nContent-Type: application/sdp\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b\r\n--b--"
    (part,) = parse_body(typed("multipart/mixed;boundary=b"), body)
    assert part.headers.get("e") == "gzip"
    assert part.body == b"\x1f\x8b"


# --- limits (tests at the limit and one past it)


def test_number_of_parts() -> None:
    section = b"--b\r\n\r\nx\r\n"
    parts = parse_body(typed("multipart/mixed;boundary=b"), section * limits.MAX_BODY_PARTS)
    assert len(parts) == limits.MAX_BODY_PARTS
    assert refused(section * (limits.MAX_BODY_PARTS + 1)) == (400, "a multipart body has too many parts")


def nested(depth: int) -> tuple[str, bytes]:
    content_type, body = "text/plain", b"x"
    for level in range(depth):
        part = b"--b%d\r\nContent-Type: %s\r\n\r\n%s" % (level, content_type.encode(), body)
        content_type, body = f"multipart/mixed;boundary=b{level}", part + b"\r\n--b%d--\r\n" % level
    return content_type, body


def test_depth() -> None:
    content_type, body = nested(limits.MAX_BODY_DEPTH)
    assert [part.body for part in parse_body(typed(content_type), body)] == [b"x"]
    content_type, body = nested(limits.MAX_BODY_DEPTH + 1)
    assert refused(body, content_type) == (400, "multipart bodies are nested too deep")


def test_boundary_length() -> None:
    boundary = "b" * limits.MAX_BOUNDARY_CHARACTERS
    body = f"--{boundary}\r\n\r\nx\r\n--{boundary}--".encode()
    assert [part.body for part in parse_body(typed(f"multipart/mixed;boundary={boundary}"), body)] == [b"x"]
    verdict = refused(b"--b" + body[2:], f"multipart/mixed;boundary={boundary}b")
    assert verdict == (400, "a multipart body has no valid boundary")


def test_lines_like_a_delimiter() -> None:
    def body(lines: int) -> bytes:
        return b"--b\r\n\r\n" + b"--bx\r\n" * (lines - 2) + b"\r\n--b--"

    (part,) = parse_body(typed("multipart/mixed;boundary=b"), body(limits.MAX_DELIMITER_LINES))
    assert part.body.startswith(b"--bx")
    verdict = refused(body(limits.MAX_DELIMITER_LINES + 1))
    assert verdict == (400, "too many lines of a multipart body look like its delimiter")


def test_part_headers() -> None:
    def part(lines: int) -> bytes:
        return b"--b\r\n" + b"X: 1\r\n" * lines + b"\r\nx"

    (found,) = parse_body(typed("multipart/mixed;boundary=b"), part(limits.MAX_HEADERS))
    assert len(found.headers) == limits.MAX_HEADERS
    assert refused(part(limits.MAX_HEADERS + 1)) == (513, "a body part: there are too many headers")


# --- transfer encodings


def encoded(encoding: str, body: bytes) -> BodyPart:
    return BodyPart(
        SDP, None, Headers([("Content-ID", "<1@example.com>"), ("content-transfer-encoding", encoding)]), body
    )


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("base64", b"dj0wDQpvPS0N\r\nCg==\r\n"),
        ("BASE64", b" dj0w!DQpvPS0NCg== "),
        ("quoted-printable", b"v=3D0\r\no=\r\n=3D-\r\n"),
        ("Quoted-Printable", b"=76=3D0=0D=0Ao=3d-=0D=0A"),
    ],
)
def test_a_transfer_encoding_is_undone(encoding: str, body: bytes) -> None:
    part = decoded(encoded(encoding, body))
    assert part.body == b"v=0\r\no=-\r\n"
    assert list(part.headers) == [("Content-ID", "<1@example.com>")]
    assert decoded(part) is part


@pytest.mark.parametrize("encoding", ["7bit", "8bit", "Binary", ""])
def test_others_leave_a_part_as_it_is(encoding: str) -> None:
    part = encoded(encoding, b"v=3D0\r\n")
    assert decoded(part) is part


@pytest.mark.parametrize(
    ("encoding", "body", "status", "reason"),
    [
        ("base64", b"dj0wDQ", 400, "the base64 of a body part is damaged"),
        ("x-uuencode", b"", 415, "the transfer encoding of a body part is unknown"),
    ],
)
def test_what_cannot_be_undone(encoding: str, body: bytes, status: int, reason: str) -> None:
    with pytest.raises(MultipartError) as caught:
        decoded(encoded(encoding, body))
    assert (caught.value.status, caught.value.reason) == (status, reason)


@given(st.binary(max_size=300), st.sampled_from(["base64", "quoted-printable"]))
def test_what_is_decoded_is_never_longer(body: bytes, encoding: str) -> None:
    with contextlib.suppress(MultipartError):
        assert len(decoded(encoded(encoding, body)).body) <= len(body)


# --- writing


def test_written() -> None:
    parts = [
        BodyPart(SDP, None, Headers(), b"v=0\r\n"),
        BodyPart(
            MediaType("application", "rs-metadata+xml"),
            Disposition("recording-session", {"handling": "required"}),
            Headers([("Content-Type", "ignored/here"), ("l", "9"), ("Content-ID", "<1@example.com>")]),
            b"<recording/>",
        ),
    ]
    assert format_multipart(parts, "b") == (
        "multipart/mixed;boundary=b",
        b"--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n\r\n"
        b"--b\r\nContent-Type: application/rs-metadata+xml\r\n"
        b"Content-Disposition: recording-session;handling=required\r\nContent-ID: <1@example.com>\r\n\r\n"
        b"<recording/>\r\n--b--\r\n",
    )


@pytest.mark.parametrize(
    ("bodies", "boundary"),
    [([], "b"), ([b"x"], ""), ([b"x"], "b" * 71), ([b"x"], "b "), ([b"text --b text"], "b")],
)
def test_what_cannot_be_written(bodies: list[bytes], boundary: str) -> None:
    parts = [BodyPart(SDP, None, Headers(), body) for body in bodies]
    with pytest.raises(ValueError, match="boundary"):
        format_multipart(parts, boundary)


octets = st.binary(max_size=30) | st.lists(st.sampled_from([b"\r\n", b"\n", b"--", b"b", b" "])).map(b"".join)


@given(st.lists(octets, min_size=1, max_size=4))
def test_written_and_read_is_the_same(bodies: list[bytes]) -> None:
    parts = [BodyPart(SDP, Disposition("session"), Headers(), body) for body in bodies]
    content_type, body = format_multipart(parts, "unlikely-boundary 1")
    found = parse_body(typed(content_type), body)
    assert [(part.content_type, part.disposition, part.body) for part in found] == [
        (SDP, Disposition("session"), octets) for octets in bodies
    ]


pieces = st.sampled_from(
    [
        b"--b",
        b"--b--",
        b"--c",
        b"\r\n",
        b"\n",
        b" ",
        b"--",
        b"Content-Type: multipart/mixed;boundary=c\r\n\r\n",
        b"x: y",
    ]
)
types = st.sampled_from([None, "application/sdp", "multipart/mixed;boundary=b", 'multipart/x;boundary="b'])


@given(types, st.lists(pieces | st.binary(max_size=6), max_size=20).map(b"".join))
def test_any_bytes_are_parts_or_refused(content_type: str | None, body: bytes) -> None:
    try:
        parts = parse_body(typed(content_type), body)
    except MultipartError:
        return
    assert all(part.content_type.type != "multipart" for part in parts)
