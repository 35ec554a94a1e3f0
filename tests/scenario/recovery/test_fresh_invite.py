"""A fresh INVITE for a call that is being recorded: the same session goes on only where that cannot be wrong."""

from pathlib import Path

import pytest

from tests.support.failover import ALLOW, absence, call_id, come_again, recorded_call
from tests.support.replay import Recorded, Server, Src, recording_server

SESSION = "c2Vzc2lvbi1pbi1jb21tb24="
GONE_SECONDS = 2.1
"""RTP has been away for 1 s, and the dialog is over 2 s old."""


async def lost_call(server: Server, **wanted: str) -> Src:
    """A call whose SRC has fallen silent for long enough."""
    src = await recorded_call(server, session=wanted.get("session", SESSION))
    await absence(0.1)
    server.advance(GONE_SECONDS)
    return src


async def ended_alone(server: Server, src: Src) -> Recorded:
    await src.exchange(src.build("BYE"))
    return await server.ended(call_id(src))


async def test_the_same_session_goes_on(server: Server) -> None:
    old = await lost_call(server)
    new, response = await come_again(server, "", session=SESSION, address="127.0.0.21")
    assert response.status == 200
    await old.request("BYE")
    await new.speak("1")
    await new.exchange(new.build("BYE"))
    recorded = await server.ended(call_id(old))
    assert len(server.recordings()) == 1
    assert [each.how for each in recorded.manifest.recoveries] == ["fresh-invite"]
    assert recorded.manifest.channels[0].packets == 10


HEADERS = {
    "ucid": "User-to-User: 00FA080001000A5B2C3D4E;encoding=hex\n",
    "cisco-guid": "Cisco-Guid: 1234567890-1234567890-1234567890-1234567890\n",
    "session-id": "Session-ID: ab30317f1a784dc48ff824d0d3715d86;remote=00000000000000000000000000000000\n",
    "x-audc-call-id": "X-Audc-Call-Id: 1007\n",
}


@pytest.mark.parametrize("name", HEADERS)
async def test_the_same_call_by_an_external_id(server: Server, name: str) -> None:
    header = {"Max-Forwards: 70\n": f"Max-Forwards: 70\n{HEADERS[name]}"}
    old = await recorded_call(server, session="one", replace=header)
    await absence(0.1)
    server.advance(GONE_SECONDS)
    new, _ = await come_again(server, HEADERS[name], session="two")
    await old.request("BYE")
    await new.exchange(new.build("BYE"))
    recorded = await server.ended(call_id(old))
    assert (len(server.recordings()), recorded.manifest.recoveries[0].how) == (1, "fresh-invite")


@pytest.mark.parametrize(
    "ucid",
    ["FA080001000a5b2c3d4e", "00fa080001000a5b2c3d4e;encoding=hex", "0001000A5B2C3D4E", "00001000101529625934"],
)
async def test_a_ucid_is_the_same_in_every_form(server: Server, ucid: str) -> None:
    """Avaya sends it in a header, AudioCodes and Oracle in the metadata, each with more or less around it."""
    header = {"Max-Forwards: 70\n": f"Max-Forwards: 70\n{HEADERS['ucid']}"}
    old = await recorded_call(server, session="one", replace=header)
    await absence(0.1)
    server.advance(GONE_SECONDS)
    told = {"</start-time></session>": f"</start-time><v:ucid xmlns:v='urn:v'>{ucid}</v:ucid></session>"}
    new, _ = await come_again(server, "", session="two", replace=told)
    await old.request("BYE")
    await new.exchange(new.build("BYE"))
    recorded = await server.ended(call_id(old))
    assert recorded.manifest.external_ids["ucid"] == "0001000A5B2C3D4E"


NOBODY = [
    "Session-ID: 00000000000000000000000000000000;remote=ab30317f1a784dc48ff824d0d3715d86\n",
    "Cisco-Guid: 0-0-0-0\n",
    "X-Audc-Call-Id: 0\n",
]


@pytest.mark.parametrize("header", NOBODY)
async def test_an_id_of_zeros_names_no_call(server: Server, header: str) -> None:
    old = await recorded_call(server, session="one", replace={"Max-Forwards: 70\n": f"Max-Forwards: 70\n{header}"})
    await absence(0.1)
    server.advance(GONE_SECONDS)
    new, _ = await come_again(server, header, session="two")
    assert (await ended_alone(server, new)).manifest.replica_of is None
    assert (await ended_alone(server, old)).manifest.recoveries == []


async def test_a_group_id_is_no_call(server: Server) -> None:
    group = {
        "<datamode>complete</datamode>\n": '<datamode>complete</datamode>\n<group group_id="Z3JvdXA="/>\n',
        "<start-time>": "<group-ref>Z3JvdXA=</group-ref><start-time>",
    }
    old = await recorded_call(server, session="one", replace=group)
    await absence(0.1)
    server.advance(GONE_SECONDS)
    new, _ = await come_again(server, "", session="two", replace=group)
    assert (await ended_alone(server, new)).manifest.replica_of is None
    assert (await ended_alone(server, old)).manifest.recoveries == []


async def is_parallel(server: Server, old: Src) -> bool:
    """Whether a fresh INVITE for the same call makes a recording of its own, tied to the first."""
    new, _ = await come_again(server, "", session=SESSION)
    first, second = await ended_alone(server, old), await ended_alone(server, new)
    assert first.manifest.recoveries == []
    return second.manifest.replica_of == first.manifest.id


async def test_a_dialog_younger_than_two_seconds_has_not_failed(server: Server) -> None:
    old = await recorded_call(server, session=SESSION)
    assert await is_parallel(server, old)


async def test_a_stream_that_is_heard_has_not_failed(server: Server) -> None:
    old = await lost_call(server)
    await old.speak("2")
    assert await is_parallel(server, old)


async def test_inactive_streams_tell_nothing(server: Server) -> None:
    old = await recorded_call(server, session=SESSION)
    assert old.invite is not None
    body = old.load("good").partition(b"--b1\r\nContent-Type: application/sdp\r\n\r\n")[2].partition(b"\r\n--b1")[0]
    for port, line in zip((12000, 12004), old.line("1")[0:1] + old.line("2")[0:1], strict=True):
        body = body.replace(f"m=audio {port} ".encode(), f"m=audio {line.port} ".encode())
    assert (await old.exchange(old.build("INVITE", body=body.replace(b"sendonly", b"inactive")))).status == 200
    await old.ack()
    server.advance(GONE_SECONDS)
    assert await is_parallel(server, old)


async def test_another_identity_never_goes_on(server: Server) -> None:
    old = await lost_call(server)
    new, response = await come_again(server, "", session=SESSION, address="127.0.0.66")
    assert response.status == 200
    second = (await ended_alone(server, new)).manifest
    assert (second.replica_of, second.continues) == (None, None)
    assert (await ended_alone(server, old)).manifest.recoveries == []


async def test_a_call_ended_by_bye_never_goes_on(server: Server) -> None:
    old = await lost_call(server)
    await old.bye()
    new, _ = await come_again(server, "", session=SESSION)
    second = (await ended_alone(server, new)).manifest
    assert (second.replica_of, second.continues) == (None, None)


async def test_one_ended_by_bye_is_no_second_candidate(server: Server) -> None:
    over = await lost_call(server)
    await over.bye()
    old = await lost_call(server)
    new, _ = await come_again(server, "", session=SESSION)
    await old.request("BYE")
    await new.exchange(new.build("BYE"))
    assert len((await server.ended(call_id(old))).manifest.recoveries) == 1


async def test_of_two_candidates_neither_is_meant(server: Server) -> None:
    first = await recorded_call(server, session=SESSION)
    second = await recorded_call(server, session=SESSION)
    await absence(0.1)
    server.advance(GONE_SECONDS)
    new, _ = await come_again(server, "", session=SESSION)
    for src in (new, first, second):
        assert (await ended_alone(server, src)).manifest.recoveries == []
    assert len(server.recordings()) == 3


async def test_one_that_we_gave_up_is_continued(tmp_path: Path) -> None:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, RTP_TIMEOUT="1s", SESSION_TIMEOUT="1s") as server:
        old = await recorded_call(server, session=SESSION)
        old.on_request = lambda request: (481, [], b"")
        while server.of(call_id(old)).manifest.state != "ended":
            server.advance(11)
            await absence(0.05)
        new, _ = await come_again(server, "", session=SESSION)
        recorded = await ended_alone(server, new)
        assert recorded.manifest.continues == server.of(call_id(old)).manifest.id
