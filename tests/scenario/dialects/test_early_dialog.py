"""An INVITE that requires 100rel gets a reliable 183, and with it an early dialog: what the SRC may do there.

RFC 3261 sections 12.1.1 and 15, RFC 3262, RFC 3311 section 5.
"""

from collections.abc import Mapping

import pytest

from siprec.sip.message import Request, Response, parse
from tests.scenario.dialects.test_refused_changes import SNAPSHOT
from tests.support.failover import call_id, caller, named, recorded_call, still_records, until
from tests.support.replay import Server, Src

METADATA = "application/rs-metadata+xml"


async def ringing(server: Server, replace: Mapping[str, str] | None = None) -> Src:
    """An SRC that has got the 183 and not acknowledged it yet."""
    src, own = caller(server)
    data = src.load("good", replace=own | {"Require: siprec": "Require: siprec, 100rel"} | dict(replace or {}))
    invite = parse(data)
    assert isinstance(invite, Request)
    src.post(data)
    response = await src.provisional(183)
    src.invite, src.to_tag, src.cseq = invite, response.to.tag or "", invite.cseq.number
    return src


def invite_of(src: Src) -> Request:
    assert src.invite is not None
    return src.invite


async def prack(src: Src) -> bytes:
    number = (await src.provisional(183)).headers.get("RSeq")
    return src.build("PRACK", headers={"RAck": f"{number} {invite_of(src).cseq.number} INVITE"})


async def answered(src: Src) -> Response:
    """The INVITE's 200, acknowledged."""
    response = await src.response(invite_of(src))
    assert response.status == 200
    src._agree(invite_of(src), response)
    src.post(src.build("ACK", cseq=invite_of(src).cseq.number))
    return response


async def nothing_left(server: Server) -> None:
    await until(server, lambda: not server.open_ports)
    assert server.recordings() == []
    assert await server.store.owned("test") == []
    assert list(server.pump.endpoint.dialogs) == []
    assert [each for each in server.root.rglob("*") if each.name in {"parts", "recording.json"}] == []


async def test_a_bye_ends_the_invite(server: Server) -> None:
    src = await ringing(server)
    assert server.open_ports
    assert (await src.exchange(src.build("BYE"))).status == 200
    assert (await src.response(invite_of(src))).status == 487
    await nothing_left(server)


async def test_a_bye_ends_it_while_its_folder_is_made(server: Server) -> None:
    """In one breath with the PRACK, for which the 200 has waited."""
    src = await ringing(server)
    src.post(await prack(src))
    assert (await src.exchange(src.build("BYE"))).status == 200
    assert (await src.response(invite_of(src))).status == 487
    await nothing_left(server)


async def test_a_cancel_leaves_nothing_either(server: Server) -> None:
    src = await ringing(server)
    src.post(src.build("CANCEL", branch=invite_of(src).via.branch, cseq=invite_of(src).cseq.number))
    assert (await src.response(invite_of(src))).status == 487
    await nothing_left(server)


async def test_a_prack_lets_the_200_go(server: Server) -> None:
    src = await ringing(server)
    assert (await src.exchange(await prack(src))).status == 200
    await answered(src)
    await src.speak("1")
    assert (await src.bye()).ssrcs[0] == [src.ssrc("1")]


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_what_an_update_tells_belongs_to_the_session(server: Server, acknowledged: bool) -> None:
    src = await ringing(server)
    if acknowledged:
        src.post(await prack(src))
    update = src.build("UPDATE", body=SNAPSHOT.encode(), content_type=METADATA)
    assert (await src.exchange(update)).status == 200
    await answered(src)
    await src.speak("1")
    recorded = await src.bye()
    assert "Carol" in recorded.names
    assert recorded.bodies[-1] == SNAPSHOT.encode()
    assert "update" in [each["event"] for each in recorded.events]


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_an_offer_waits_for_the_answer_to_the_first(server: Server, acknowledged: bool) -> None:
    """Our 183 has none, so there is always one that waits (RFC 3311 section 5.2)."""
    src = await ringing(server)
    if acknowledged:
        src.post(await prack(src))
    refused = await src.exchange(src.build("UPDATE", body=b"v=0\r\n"))
    assert refused.status == 500
    assert 0 <= int(refused.headers.get("Retry-After") or "-1") <= 10
    await answered(src)
    await src.speak("1")
    assert (await src.bye()).ssrcs[0] == [src.ssrc("1")]


@pytest.mark.parametrize("method", ["BYE", "UPDATE"])
async def test_other_tags_name_no_dialog(server: Server, method: str) -> None:
    src = await ringing(server)
    ours, src.to_tag = src.to_tag, "another"
    assert (await src.exchange(src.build(method))).status == 481
    src.to_tag = ours
    await answered(src)
    await src.speak("1")
    assert (await src.bye()).ssrcs[0] == [src.ssrc("1")]


async def test_a_bye_to_a_successor_leaves_the_session(server: Server) -> None:
    """An INVITE with Replaces has an early dialog too; what waited in it has no dialog any more."""
    old = await recorded_call(server)
    new = await ringing(server, {"Max-Forwards: 70\n": f"Max-Forwards: 70\n{named(old)}"})
    update = new.build("UPDATE", body=SNAPSHOT.encode(), content_type=METADATA)
    new.post(update)
    assert (await new.exchange(new.build("BYE"))).status == 200
    assert (await new.response(invite_of(new))).status == 487
    waiting = parse(update)
    assert isinstance(waiting, Request)
    assert (await new.response(waiting)).status == 481
    assert "Carol" not in (await still_records(server, old)).names


async def test_a_prack_is_no_ack(server: Server) -> None:
    """The old dialog gets BYE once the SRC has the 200 that takes it over, not before."""
    old = await recorded_call(server)
    new = await ringing(server, {"Max-Forwards: 70\n": f"Max-Forwards: 70\n{named(old)}"})
    assert (await new.exchange(await prack(new))).status == 200
    assert (await new.response(invite_of(new))).status == 200
    for _ in range(3):  # each is a few turns of the loop, of which the BYE would take as many
        await new.exchange(new.build("OPTIONS"))
    assert not [each for each in old.received if isinstance(each, Request)]
    await answered(new)
    await old.request("BYE")
    assert (await new.exchange(new.build("BYE"))).status == 200
    await server.ended(call_id(old))
