"""What counts as a recording session (RFC 7866 section 6.2), leniently or to the letter."""

from pathlib import Path

import pytest

from tests.support.replay import Server, recording_server

GOOD = "<sip:src@127.0.0.20:5060>;src"
EVIDENCE = {
    "Contact +sip.src": (GOOD, "<sip:src@127.0.0.20:5060>;+sip.src"),
    "Contact +sip-src": (GOOD, "<sip:src@127.0.0.20:5060>;+sip-src"),
    "in the URI": (GOOD, "<sip:src@127.0.0.20:5060;+sip.src>"),
    "a flag with a value": (GOOD, '<sip:src@127.0.0.20:5060>;+sip.src="<true>"'),
    "Require": (GOOD, "<sip:src@127.0.0.20:5060>\nRequire: siprec"),
    "Supported": (GOOD, "<sip:src@127.0.0.20:5060>\nSupported: replaces, siprec"),
}


@pytest.mark.parametrize("change", EVIDENCE.values(), ids=EVIDENCE.keys())
async def test_one_sign_is_enough(server: Server, change: tuple[str, str]) -> None:
    src = server.src("trait-01-recognition")
    assert (await src.send("good", replace=dict([change]))).status == 200
    await src.ack()
    await src.speak("1")
    await src.speak("2")
    assert [each.packets for each in (await src.bye()).manifest.channels] == [5, 5]


async def test_none_is_too_little(server: Server) -> None:
    assert (await server.src("trait-01-recognition").send("bad")).status == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("<sip:src@127.0.0.20:5060>;+sip.src\nRequire: siprec", 200),
        ("<sip:src@127.0.0.20:5060>;+sip.src", 403),
        ("<sip:src@127.0.0.20:5060>\nRequire: siprec", 403),
        ("<sip:src@127.0.0.20:5060>;src\nRequire: siprec", 403),
    ],
)
async def test_strict_wants_both(tmp_path: Path, headers: str, status: int) -> None:
    async with recording_server(tmp_path, SIPREC_MODE="strict") as server:
        response = await server.src("trait-01-recognition").send("good", replace={GOOD: headers})
        assert response.status == status
