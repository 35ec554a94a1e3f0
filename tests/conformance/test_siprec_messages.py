"""The messages of RFC 7866 and RFC 8068 and five bodies of real SBCs, taken apart.

They lie beside the checkout, never in it.
"""

import re
from pathlib import Path

import pytest

from siprec.sip.framing import StreamFramer
from siprec.sip.message import Headers, parse
from siprec.sip.multipart import parse_body

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason="the fixtures do not lie beside the checkout")

METADATA = {"application/rs-metadata", "application/rs-metadata+xml"}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("siprec-rfc-examples/*.sip")), ids=lambda path: path.stem)
def test_rfc_message(path: Path) -> None:
    data = path.read_bytes()
    assert StreamFramer().feed(data, 0.0) == [data]
    message = parse(data)
    parts = parse_body(message.headers, message.body)
    (metadata,) = (part for part in parts if part.content_type.name in METADATA)
    assert metadata.disposition is not None
    assert metadata.disposition.value == "recording-session"
    assert {part.content_type.name for part in parts} - METADATA <= {"application/sdp"}


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("vendor/*.mime")), ids=lambda path: path.stem)
def test_vendor_body(path: Path) -> None:
    body = path.read_bytes()
    boundary = re.search(rb"--(\S+)", body)
    assert boundary is not None
    headers = Headers([("Content-Type", f'multipart/mixed; boundary="{boundary[1].decode()}"')])
    parts = {part.content_type.name: part for part in parse_body(headers, body)}
    assert parts["application/sdp"].body.startswith(b"v=0")
    (metadata,) = METADATA & set(parts)
    assert parts[metadata].body.strip().endswith(b">")
    for part in (part for name, part in parts.items() if name == "application/gtd"):
        assert part.disposition is not None
        assert part.disposition.handling == "optional"
