"""A body that nobody here understands (RFC 3261 section 8.2.3, RFC 5621 section 8.4)."""

import pytest

from siprec.session.bodies import ACCEPT
from tests.support.failover import call_id, caller, recorded_call, still_records
from tests.support.replay import Server, Src

OPTIONAL = {"Content-Disposition": "render;handling=optional"}
TEXT = b"It is a note.\r\n"


async def noted(src: Src, method: str, headers: dict[str, str]) -> tuple[int, list[str]]:
    """What a request in the dialog that holds a note is answered: status, Accept."""
    message = src.build(
        method, body=TEXT, content_type="text/plain", headers={"Contact": "<sip:src@127.0.0.20>"} | headers
    )
    response = await src.exchange(message)
    return response.status, response.headers.values("Accept")


def begins(server: Server, headers: str, body: bytes) -> tuple[Src, bytes]:
    """An INVITE of a new call whose headers end with these, with this body."""
    src, own = caller(server)
    head = src.load("good", replace=own).partition(b"\r\nContent-Type")[0]
    length = f"Content-Length: {len(body)}"
    return src, head + b"".join(
        b"\r\n" + each.encode() for each in (*headers.splitlines(), length)
    ) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "disposition",
    ["", "Content-Disposition: render", "Content-Disposition: signal;handling=required", "Content-Disposition: ;;"],
)
async def test_an_invite_with_nothing_else_is_refused_with_what_we_take(server: Server, disposition: str) -> None:
    response = await (it := begins(server, f"Content-Type: text/plain\n{disposition}", TEXT))[0].exchange(it[1])
    assert (response.status, response.headers.values("Accept")) == (415, list(ACCEPT))
    assert server.recordings() == []


async def test_an_invite_with_an_optional_one_brings_no_offer(server: Server) -> None:
    src, invite = begins(server, "Content-Type: text/plain\nContent-Disposition: signal;handling=optional", TEXT)
    response = await src.exchange(invite)
    assert (response.status, b"recvonly" in response.body) == (200, True)


async def test_a_content_coding_is_refused_with_those_we_take(server: Server) -> None:
    src, invite = begins(server, "Content-Type: application/sdp\nContent-Encoding: gzip", b"\x1f\x8b")
    response = await src.exchange(invite)
    assert (response.status, response.headers.values("Accept-Encoding")) == (415, ["identity"])
    src = await recorded_call(server)
    coded = src.build("UPDATE", body=b"\x1f\x8b", headers={"Contact": "<sip:a@b>", "Content-Encoding": "gzip"})
    response = await src.exchange(coded)
    assert (response.status, response.headers.values("Accept-Encoding")) == (415, ["identity"])


@pytest.mark.parametrize("method", ["INVITE", "UPDATE"])
async def test_a_change_that_cannot_be_read_changes_nothing(server: Server, method: str) -> None:
    src = await recorded_call(server)
    assert await noted(src, method, {}) == (415, list(ACCEPT))
    await still_records(server, src)


async def test_an_update_with_an_optional_one_is_a_refresh(server: Server) -> None:
    src = await recorded_call(server)
    assert (await noted(src, "UPDATE", OPTIONAL))[0] == 200
    await still_records(server, src)


async def test_info_is_answered_and_bye_ends_the_call(server: Server) -> None:
    src = await recorded_call(server)
    control = src.build("INFO", body=b"<media_control/>", content_type="application/media_control+xml")
    assert (await src.exchange(control)).status == 200
    assert (await noted(src, "BYE", {}))[0] == 200
    assert (await server.ended(call_id(src))).manifest.state == "ended"
