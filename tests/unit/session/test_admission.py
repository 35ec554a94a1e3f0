import ipaddress

import pytest

from siprec.session import bodies
from siprec.session.admission import SOURCES_LIMIT, RateLimiter, RecordingSource, identify, recognise
from siprec.sip.message import Request, parse

PLAIN = "<sip:alice@192.0.2.1>"
METADATA = (
    "Content-Type: multipart/mixed; boundary=b\r\n",
    "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n"
    "--b\r\nContent-Type: Application/RS-Metadata\r\n\r\n<recording/>\r\n--b--\r\n",
)


def invite(contact: str = PLAIN, headers: str = "", body: str = "") -> Request:
    text = (
        "INVITE sip:srs@192.0.2.9 SIP/2.0\r\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\n"
        "From: <sip:alice@example.com>;tag=1\r\nTo: <sip:srs@192.0.2.9>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n"
        f"Contact: {contact}\r\n{headers}Content-Length: {len(body)}\r\n\r\n{body}"
    )
    message = parse(text.encode())
    assert isinstance(message, Request)
    return message


def is_recording(request: Request, *, strict: bool = False) -> bool:
    return recognise(request, bodies.read(request).parts, strict=strict).is_recording_session


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(invite(f"{PLAIN};+sip.src", "Require: siprec\r\n"), id="as the RFC says"),
        pytest.param(invite(f"{PLAIN};+sip.src"), id="no Require"),
        pytest.param(invite(f"{PLAIN};src"), id="bare src"),
        pytest.param(invite(f"{PLAIN};+sip-src"), id="a dash"),
        pytest.param(invite("<sip:alice@192.0.2.1;+sip.src>"), id="inside the brackets"),
        pytest.param(invite(headers="Require: siprec\r\n"), id="Require alone"),
        pytest.param(invite(headers="Require: 100relsiprec\r\n"), id="Require glued"),
        pytest.param(invite(headers="Supported: timer, siprec\r\n"), id="Supported alone"),
        pytest.param(invite(headers=METADATA[0], body=METADATA[1]), id="metadata alone"),
        pytest.param(
            invite(
                headers="Content-Type: text/plain\r\nContent-Disposition: recording-session;handling=optional\r\n",
                body="x",
            ),
            id="disposition alone",
        ),
    ],
)
def test_every_dialect_is_a_recording_session(request_: Request) -> None:
    assert is_recording(request_)


def test_a_plain_call_is_none() -> None:
    assert not is_recording(invite(headers="Supported: timer, 100rel\r\n"))


def test_strict_wants_both_signs() -> None:
    assert is_recording(invite(f"{PLAIN};+sip.src", "Require: siprec\r\n"), strict=True)
    assert not is_recording(invite(f"{PLAIN};+sip.src"), strict=True)
    assert not is_recording(invite(headers="Require: siprec\r\n"), strict=True)


def test_a_source_is_named_by_the_entry_that_matches() -> None:
    acme = RecordingSource("acme", (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32")))
    assert identify([acme], "192.0.2.77") is acme
    assert identify([acme], "::ffff:192.0.2.77") is acme
    assert identify([acme], "2001:db8::1") is acme
    assert identify([acme], "198.51.100.1") is None


def test_a_burst_of_twice_the_rate_then_the_rate() -> None:
    limiter = RateLimiter(10)
    assert sum(limiter.allow("acme", 0.0) for _ in range(21)) == 20
    assert limiter.allow("other", 0.0)
    assert sum(limiter.allow("acme", 1.0) for _ in range(11)) == 10


def test_remembered_sources_are_bounded() -> None:
    limiter = RateLimiter(1)
    for number in range(SOURCES_LIMIT + 1):
        limiter.allow(str(number), 0.0)
    assert len(limiter._buckets) == SOURCES_LIMIT
    assert "0" not in limiter._buckets
