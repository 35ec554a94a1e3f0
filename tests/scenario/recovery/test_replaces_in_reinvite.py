"""Replaces carried by a re-INVITE, the To tag present: the session it names is the one that goes on."""

from tests.support.failover import (
    absence,
    call_id,
    caller,
    come_again,
    from_tag,
    named,
    recorded_call,
    reinvite,
    still_records,
)
from tests.support.replay import Server, Src, sdp_of

UNACCEPTABLE = {"RTP/AVP 0 101": "RTP/AVP 96 97"}


def no_bye(src: Src) -> bool:
    return not [each for each in src.received if getattr(each, "method", "") == "BYE"]


async def test_it_names_its_own_dialog(server: Server) -> None:
    """A re-INVITE, and a recovery: never a BYE, the same ports and part."""
    src = await recorded_call(server)
    before = src.answer
    await absence()
    assert (await reinvite(src, named(src))).status == 200
    server.advance(3)
    await src.speak("1")
    assert no_bye(src)
    assert before is not None
    assert src.answer is not None
    assert [each.port for each in src.answer.media] == [each.port for each in before.media]
    recorded = await src.bye()
    (recovery,) = recorded.manifest.recoveries
    assert recovery.how == "reinvite"
    assert recorded.manifest.channels[0].packets == 10
    assert recorded.manifest.fence == 1


async def test_it_names_another_dialog(server: Server) -> None:
    """The named session's id wins: this dialog moves to it, its own session ends, the named dialog gets BYE."""
    named_one, own = await recorded_call(server), await recorded_call(server)
    winner, loser = server.of(call_id(named_one)).manifest.id, server.of(call_id(own)).manifest.id
    own_answer = own.answer
    response = await reinvite(own, named(named_one))
    assert response.status == 200
    await named_one.request("BYE")
    ended = await server.ended(call_id(own))
    assert (ended.manifest.id, ended.manifest.merged_into, ended.manifest.state) == (loser, winner, "ended")
    assert ended.manifest.channels[0].packets == 5
    await own.speak("1")
    assert no_bye(own)
    answer = sdp_of(response)
    assert answer is not None
    assert own_answer is not None
    assert answer.origin.session_id == own_answer.origin.session_id  # one dialog, one o= line (RFC 3264 section 8)
    assert int(answer.origin.version) == int(own_answer.origin.version) + 1
    assert (await own.exchange(own.build("OPTIONS"))).status == 200
    assert (await own.exchange(own.build("BYE"))).status == 200
    recorded = await server.ended(call_id(named_one))
    assert recorded.manifest.id == winner
    assert recorded.manifest.channels[0].packets == 10
    assert recorded.manifest.recoveries[0].how == "reinvite"
    assert [each["call_id"] for each in recorded.manifest.dialogs] == [call_id(named_one), call_id(own)]


async def test_the_moved_dialog_can_be_named_in_turn(server: Server) -> None:
    named_one, own = await recorded_call(server), await recorded_call(server)
    await reinvite(own, named(named_one))
    await server.ended(call_id(own))
    third, response = await come_again(server, named(own))
    assert response.status == 200
    await own.request("BYE")
    await third.exchange(third.build("BYE"))
    assert len((await server.ended(call_id(named_one))).manifest.recoveries) == 2


async def test_refused_media_leave_both_sessions_untouched(server: Server) -> None:
    named_one, own = await recorded_call(server), await recorded_call(server)
    assert (await reinvite(own, named(named_one), replace=UNACCEPTABLE)).status == 488
    await still_records(server, named_one)
    await still_records(server, own)


async def test_one_that_names_nothing_leaves_its_own_session_untouched(server: Server) -> None:
    src = await recorded_call(server)
    header = "Replaces: nobody@example.com;to-tag=1;from-tag=2\n"
    assert (await reinvite(src, header)).status == 481
    await still_records(server, src)


async def test_its_own_dialog_is_lost(server: Server) -> None:
    """RFC 3261 section 12.2.2: accepted, with the request's To tag as ours, its Record-Route and CSeq, and a CSeq of
    ours above any that we can have used.
    """
    old = await recorded_call(server)
    src, own = caller(server)
    own |= {
        "Max-Forwards: 70\n": f"Max-Forwards: 70\n{named(old)}Record-Route: <sip:127.0.0.20:5060;lr>\n",
        "To: <sip:srs@127.0.0.1>": "To: <sip:srs@127.0.0.1>;tag=forgotten",
        "CSeq: 1 ": "CSeq: 77 ",
    }
    response = await src.send("good", replace=own)
    assert response.status == 200
    assert response.to.tag == "forgotten"
    assert response.headers.get("Record-Route") == "<sip:127.0.0.20:5060;lr>"
    await src.ack()
    await old.request("BYE")
    await src.speak("1")
    assert (await src.exchange(src.build("OPTIONS", cseq=76))).status == 500
    src.cseq = 77
    newest, _ = await come_again(server, named(src))
    bye = await src.request("BYE")
    assert bye.cseq.number > 500_000_000
    assert bye.from_.tag == "forgotten"
    assert bye.headers.get("Route") == "<sip:127.0.0.20:5060;lr>"
    await newest.exchange(newest.build("BYE"))
    recorded = await server.ended(call_id(old))
    assert [each.how for each in recorded.manifest.recoveries] == ["reinvite", "replaces"]
    assert recorded.manifest.channels[0].packets == 10


async def test_its_own_dialog_is_lost_and_it_names_that(server: Server) -> None:
    src, own = caller(server)
    header = (
        "Replaces: " + own["trait-09-failover-call"] + "@127.0.0.20;to-tag=forgotten;from-tag=" + own["tag=src-1"][4:]
    )
    own |= {
        "Max-Forwards: 70\n": f"Max-Forwards: 70\n{header}\n",
        "To: <sip:srs@127.0.0.1>": "To: <sip:srs@127.0.0.1>;tag=forgotten",
    }
    assert (await src.send("good", replace=own)).status == 481


async def test_it_names_a_dialog_that_we_gave_up(server: Server) -> None:
    """Its own session simply goes on."""
    gone, src = await recorded_call(server), await recorded_call(server)
    record = server.of(call_id(gone)).manifest
    await server.store.tombstone(record.id, "lost")
    header = named(gone).replace(from_tag(gone), "nobody")
    assert (await reinvite(src, header)).status == 481
    await gone.exchange(gone.build("BYE"))
    await still_records(server, src)
