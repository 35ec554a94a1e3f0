"""What an INVITE with Replaces comes to (RFC 3891 section 3), one scenario for each row."""

from pathlib import Path

import pytest

from siprec.errors import StoreUnavailable
from siprec.sdp.model import MediaDescription
from siprec.sip.message import Request
from tests.support.failover import (
    ALLOW,
    absence,
    call_id,
    caller,
    come_again,
    from_tag,
    named,
    recorded_call,
    still_records,
    until,
)
from tests.support.replay import Server, Src, recording_server, sdp_of


async def test_a_match_goes_on_with_the_session(server: Server) -> None:
    """Same id, fence + 1, ports of its own, a part of its own; the old dialog gets BYE; one recording."""
    old = await recorded_call(server)
    before = server.of(call_id(old)).manifest
    await absence()
    new, response = await come_again(server, named(old))
    assert response.status == 200
    bye = await old.request("BYE")
    assert bye.call_id == call_id(old)
    await new.speak("1")
    assert {each.port for each in answered(new)}.isdisjoint(each.port for each in answered(old))
    assert (await new.exchange(new.build("BYE"))).status == 200
    recorded = await server.ended(call_id(old))
    assert len(server.recordings()) == 1
    manifest = recorded.manifest
    assert (manifest.id, manifest.fence, manifest.verdict) == (before.id, before.fence + 1, "one-way")
    assert [each["call_id"] for each in manifest.dialogs] == [call_id(old), call_id(new)]
    assert manifest.channels[0].packets == 10
    assert len(list((recorded.folder.path / "parts").iterdir())) == 2
    (recovery,) = manifest.recoveries
    assert (recovery.how, recovery.from_node, recovery.to_node) == ("replaces", "test", "test")
    gap = next(each for each in manifest.gaps if each.channel == 0 and each.cause == "interrupted")
    assert 0.25 < gap.length < 1.0
    assert recovery.gap_ms is not None
    assert abs(recovery.gap_ms - gap.length * 1000) < 1


def answered(src: Src) -> tuple[MediaDescription, ...]:
    assert src.answer is not None
    return tuple(src.answer.media)


async def test_without_an_ack_the_old_dialog_gets_bye_after_two_seconds(server: Server) -> None:
    old = await recorded_call(server)
    new, response = await come_again(server, named(old), ack=False)
    assert response.status == 200
    assert not [each for each in old.received if isinstance(each, Request)]
    server.advance(2.1)
    await old.request("BYE")
    await new.ack()
    await new.exchange(new.build("BYE"))
    await server.ended(call_id(old))


async def test_the_old_dialog_s_own_bye_does_not_end_the_session(server: Server) -> None:
    old = await recorded_call(server)
    new, _ = await come_again(server, named(old), ack=False)
    assert (await old.exchange(old.build("BYE"))).status == 200
    await new.ack()
    await new.speak("1")
    assert server.of(call_id(old)).manifest.state == "recording"
    await new.exchange(new.build("BYE"))
    assert (await server.ended(call_id(old))).manifest.channels[0].packets == 10


async def test_no_match(server: Server) -> None:
    old = await recorded_call(server)
    for wrong in (
        named(old).replace(call_id(old), "nobody@example.com"),
        named(old).replace(old.to_tag, "nobody"),
        named(old).replace(f"from-tag={from_tag(old)}", "from-tag=nobody"),
        f"Replaces: {call_id(old)};to-tag={from_tag(old)};from-tag={old.to_tag}\n",  # the other side's view
    ):
        assert (await come_again(server, wrong))[1].status == 481
    await still_records(server, old)


async def test_a_dialog_that_the_src_ended(server: Server) -> None:
    old = await recorded_call(server)
    await old.bye()
    assert (await come_again(server, named(old)))[1].status == 603
    assert len(server.recordings()) == 1


async def test_a_dialog_that_we_gave_up_is_continued_by_a_new_recording(tmp_path: Path) -> None:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, RTP_TIMEOUT="1s", SESSION_TIMEOUT="1s") as server:
        old = await recorded_call(server)
        old.on_request = lambda request: (481, [], b"")
        while server.of(call_id(old)).manifest.state != "ended":
            server.advance(11)
            await absence(0.05)
        new, response = await come_again(server, named(old))
        assert response.status == 200
        await new.speak("1")
        recorded = await new.bye()
        assert recorded.manifest.continues == server.of(call_id(old)).manifest.id
        assert recorded.manifest.id != recorded.manifest.continues


@pytest.mark.parametrize("form", ["two headers", "two in one", "no tags", "with Join"])
async def test_a_form_that_is_forbidden(server: Server, form: str) -> None:
    old = await recorded_call(server)
    good = named(old)
    header = {
        "two headers": good + good,
        "two in one": good.rstrip() + ", other@example.com;to-tag=1;from-tag=2\n",
        "no tags": f"Replaces: {call_id(old)}\n",
        "with Join": good + good.replace("Replaces", "Join"),
    }[form]
    assert (await come_again(server, header))[1].status == 400
    await still_records(server, old)


@pytest.mark.parametrize("method", ["BYE", "UPDATE", "OPTIONS", "INFO"])
async def test_replaces_in_another_request_of_the_dialog(server: Server, method: str) -> None:
    """400, and that BYE ends nothing."""
    old = await recorded_call(server)
    name, _, value = named(old).strip().partition(": ")
    assert (await old.exchange(old.build(method, headers={name: value}))).status == 400
    await still_records(server, old)


@pytest.mark.parametrize("method", ["OPTIONS", "BYE"])
async def test_replaces_in_another_request_outside_of_it(server: Server, method: str) -> None:
    old = await recorded_call(server)
    other, own = caller(server)
    data = other.load("good", replace=own | {"Max-Forwards: 70\n": f"Max-Forwards: 70\n{named(old)}"})
    tagged = b"To: <sip:srs@127.0.0.1>;tag=nobody" if method == "BYE" else b"To: <sip:srs@127.0.0.1>"
    data = data.replace(b"INVITE", method.encode()).replace(b"To: <sip:srs@127.0.0.1>", tagged)
    assert (await other.exchange(data)).status == 400
    await still_records(server, old)


async def test_early_only_on_a_confirmed_dialog(server: Server) -> None:
    old = await recorded_call(server)
    assert (await come_again(server, named(old, extra=";early-only")))[1].status == 486
    await still_records(server, old)


async def test_an_early_dialog_that_we_have_not_answered(server: Server) -> None:
    """Only the side that sent the INVITE may have its early dialog replaced."""
    src, own = caller(server)
    own["Require: siprec"] = "Require: siprec, 100rel"
    src.post(src.load("good", replace=own))
    await until(server, lambda: any(getattr(each, "status", 0) == 183 for each in src.received))
    ringing = next(each for each in src.received if getattr(each, "status", 0) == 183)
    header = f"Replaces: {ringing.call_id};to-tag={ringing.to.tag};from-tag={ringing.from_.tag}\n"
    assert (await come_again(server, header))[1].status == 481


async def test_another_identity(server: Server) -> None:
    old = await recorded_call(server)
    assert (await come_again(server, named(old), address="127.0.0.66"))[1].status == 403
    await still_records(server, old)


async def test_the_same_identity_at_another_address(server: Server) -> None:
    old = await recorded_call(server)
    new, response = await come_again(server, named(old), address="127.0.0.21")
    assert response.status == 200
    await new.exchange(new.build("BYE"))
    await server.ended(call_id(old))


@pytest.mark.parametrize("offer", ["RTP/AVP 96", "UDP/TLS/RTP/SAVPF 0"])
async def test_media_that_we_cannot_take(server: Server, offer: str) -> None:
    old = await recorded_call(server)
    _, response = await come_again(server, named(old), replace={"RTP/AVP 0 101": offer, "a=rtpmap:0 PCMU/8000\n": ""})
    assert response.status == 488
    await still_records(server, old)


async def test_a_cancelled_one_changes_nothing(server: Server) -> None:
    old = await recorded_call(server)
    new, own = caller(server)
    own |= {
        "Require: siprec": "Require: siprec, 100rel",
        "Max-Forwards: 70\n": f"Max-Forwards: 70\n{named(old)}",
    }
    data = new.load("good", replace=own)
    new.post(data)
    await until(server, lambda: any(getattr(each, "status", 0) == 183 for each in new.received))
    request = data.partition(b"Require")[0].replace(b"INVITE", b"CANCEL") + b"Content-Length: 0\r\n\r\n"
    new.post(request)
    await until(server, lambda: any(getattr(each, "status", 0) == 487 for each in new.received))
    await still_records(server, old)


async def test_several_matches_are_none(server: Server) -> None:
    """Two stored sessions with one dialog: neither can be meant for sure."""
    store = server.store
    old = await recorded_call(server)
    record = await store.load(server.of(call_id(old)).manifest.id)
    await old.bye()
    for number, node in enumerate("xy"):
        record.call.session_id = f"01a1faaa-82ea-7c05-9d36-59725ea712e{number}"
        record.call.node = node
        record.dialogs[0].dialog.local_tag = "twice"
        record.ended = None
        await store.create(record)
    header = f"Replaces: {call_id(old)};to-tag=twice;from-tag={from_tag(old)}\n"
    assert (await come_again(server, header))[1].status == 481


@pytest.mark.parametrize(
    ("header", "status"),
    [("Replaces: nobody@example.com\n", 400), ("Replaces: nobody@example.com;to-tag=1;from-tag=2\n", 481)],
)
async def test_the_order_of_the_first_checks(server: Server, header: str, status: int) -> None:
    """400 before 481 before 403 and 488."""
    media = {"RTP/AVP 0 101": "RTP/AVP 96", "a=rtpmap:0 PCMU/8000\n": ""}
    assert (await come_again(server, header, address="127.0.0.66", replace=media))[1].status == status


async def test_the_order_of_the_later_checks(server: Server) -> None:
    """603 before 403 before 486 before 488."""
    media = {"RTP/AVP 0 101": "RTP/AVP 96", "a=rtpmap:0 PCMU/8000\n": ""}
    early = ";early-only"
    over, old = await recorded_call(server), await recorded_call(server)
    await over.bye()
    stranger = "127.0.0.66"
    assert (await come_again(server, named(over, extra=early), address=stranger, replace=media))[1].status == 603
    assert (await come_again(server, named(old, extra=early), address=stranger, replace=media))[1].status == 403
    assert (await come_again(server, named(old, extra=early), replace=media))[1].status == 486
    assert (await come_again(server, named(old), replace=media))[1].status == 488
    await still_records(server, old)


async def test_the_answer_begins_a_session_description_of_its_own(server: Server) -> None:
    old = await recorded_call(server)
    _, response = await come_again(server, named(old))
    answer = sdp_of(response)
    assert answer is not None
    assert old.answer is not None
    assert answer.origin.session_id != old.answer.origin.session_id


@pytest.mark.parametrize(("unknown", "status"), [("accept", 200), ("reject", 500)])
async def test_a_store_that_cannot_be_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unknown: str, status: int
) -> None:
    async with recording_server(tmp_path, SIP_ALLOW=ALLOW, REPLACES_UNKNOWN=unknown) as server:

        async def unavailable(*_: object) -> list[str]:
            raise StoreUnavailable("down")

        monkeypatch.setattr(server.store, "find", unavailable)
        header = "Replaces: elsewhere@example.com;to-tag=1;from-tag=2\n"
        src, response = await come_again(server, header)
        assert response.status == status
        if status == 200:
            await src.bye()
        else:
            assert response.headers.get("Retry-After")
