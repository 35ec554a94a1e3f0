"""The recording client against a server that only answers: calls, changes within them, and all that goes wrong."""

import asyncio
import itertools
import os
import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import pytest_asyncio

from siprec.client.options import PARTIES, CallOptions
from siprec.client.src import RecordingClient
from siprec.client.voices import conversation
from siprec.errors import ListenError, SipError
from siprec.metadata import xml
from siprec.metadata.model import Recording
from siprec.rtp.codecs import LAW
from siprec.sdp.model import parse as parse_sdp
from siprec.sip.endpoint import METHODS
from siprec.sip.message import Request
from siprec.sip.multipart import parse_body
from tests.unit.client.answering import HOST, Srs

Transport = Literal["udp", "tcp"]
METADATA = (("Content-Type", "application/rs-metadata+xml"), ("Content-Disposition", "recording-session"))


@pytest_asyncio.fixture
async def srs() -> AsyncIterator[Srs]:
    async with Srs() as server:
        yield server


@pytest_asyncio.fixture
async def client() -> AsyncIterator[RecordingClient]:
    async with RecordingClient(local=HOST) as made:
        yield made


def metadata(request: Request) -> Recording:
    bodies = [
        part.body for part in parse_body(request.headers, request.body) if "rs-metadata" in part.content_type.subtype
    ]
    recording = xml.parse(bodies[0])
    assert isinstance(recording, Recording)
    return recording


def options(srs: Srs, **changes: object) -> CallOptions:
    return replace(CallOptions(target=srs.target, transport=srs.transport, duration=0.2), **changes)  # type: ignore[arg-type]


@contextmanager
def few_files(left: int) -> Iterator[None]:
    """So many descriptors can be opened, and no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 20, hard))
    held: list[int] = [top]
    with suppress(OSError):
        while True:
            held.append(os.dup(0))
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- a call


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_call_is_set_up_heard_and_closed(transport: Transport) -> None:
    async with Srs(transport=transport) as srs, RecordingClient(local=HOST, transport=transport) as client:
        result = await client.call(options(srs, duration=0.3))
        assert (result.status, result.ended_by, result.bye_status, result.problem) == (200, "us", 200, None)
        assert result.ok
        assert 100 in result.provisional
        assert result.setup_ms is not None
        assert result.setup_ms > 0
        assert result.seconds >= 0.3
        assert [(stream.label, stream.name, stream.accepted) for stream in result.streams] == [
            ("1", "Alice", True),
            ("2", "Bob", True),
        ]
        assert [len(srs.packets(sink)) for sink in (0, 1)] == [stream.counts.sent for stream in result.streams]
        assert result.packets >= 30
        assert [request.method for request in srs.received] == ["INVITE", "BYE"]
        assert not client.calls


async def test_the_invite_is_a_recording_session(srs: Srs, client: RecordingClient) -> None:
    session = uuid.uuid4()
    call = await client.start(options(srs, session_id=str(session), headers=(("X-Test", "yes"),)))
    invite = await srs.next("INVITE")
    assert invite.headers.values("Require") == ["siprec"]
    assert invite.contact is not None
    assert "+sip.src" in invite.contact.params
    assert f"{HOST}:{client.port}" in invite.contact.uri
    assert invite.headers.get("X-Test") == "yes"
    parts = parse_body(invite.headers, invite.body)
    assert [part.content_type.name for part in parts] == ["application/sdp", "application/rs-metadata+xml"]
    assert parts[1].disposition is not None
    assert parts[1].disposition.value == "recording-session"
    assert [line.label for line in parse_sdp(parts[0].body).media] == ["1", "2"]
    assert [each.aor for each in metadata(invite).participants] == [party.aor for party in PARTIES[:2]]
    await call.bye()


async def test_each_call_is_a_session_of_its_own(srs: Srs, client: RecordingClient) -> None:
    for _ in range(2):
        await client.call(options(srs, duration=0.0))
    first, second = await srs.next("INVITE"), await srs.next("INVITE")
    assert metadata(first).sessions[0].session_id != metadata(second).sessions[0].session_id
    assert first.call_id != second.call_id


async def test_what_arrives_is_the_conversation_of_the_seed(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=2.0, seed=9))
    packets = await srs.until_packets(0, 40)
    await call.bye()
    heard = LAW["PCMU"][np.frombuffer(b"".join(packet[12:] for packet in packets), np.uint8)].astype(float)
    source = conversation(2.0, seed=9)[0][: len(heard)].astype(float)
    assert np.corrcoef(heard, source)[0, 1] > 0.99


async def test_one_way_sends_the_first_party_only(srs: Srs, client: RecordingClient) -> None:
    result = await client.call(options(srs, one_way=True))
    assert [stream.counts.sent > 0 for stream in result.streams] == [True, False]
    assert not srs.packets(1)


async def test_many_calls_at_a_time(srs: Srs, client: RecordingClient) -> None:
    results = await asyncio.gather(*(client.call(options(srs, duration=0.5, seed=n)) for n in range(20)))
    assert all(result.ok for result in results)
    assert len(srs.dialogs) == 20


# -- refused and unanswered


async def test_a_refusal_is_reported(client: RecordingClient) -> None:
    async with Srs(answers=(180, 486)) as srs:
        call = await client.start(options(srs))
        assert (call.result.status, call.result.reason) == (486, "Busy Here")
        assert call.result.provisional == [100, 180]
        assert not call.result.ok
        assert call.ended.is_set()
        assert (await call.bye()).bye_status is None
        assert (await call.run(5)).packets == 0


WHY_SILENT = "is siprec serve running, and do we stand in its SIP_ALLOW?"


async def test_silence_ends_in_a_sentence(client: RecordingClient) -> None:
    async with Srs() as srs:
        gone = options(srs, timeout=0.3)
    result = await client.call(gone)
    assert result.status == 0
    assert result.problem == f"no answer from {HOST}:{srs.port} (udp) within 0.3 s: {WHY_SILENT}"


async def test_a_closed_tcp_port_is_told_at_once() -> None:
    async with Srs(transport="tcp") as srs:
        gone = options(srs)
    async with RecordingClient(local=HOST, transport="tcp") as client:
        result = await client.call(gone)
    assert result.problem == f"nobody listens at {HOST}:{srs.port} (tcp): is siprec serve running?"


@pytest.mark.parametrize("target", ["nonsense", "sip:", "tel:+15551234"])
async def test_a_target_that_is_no_sip_uri_is_a_problem_not_an_exception(client: RecordingClient, target: str) -> None:
    result = await client.call(CallOptions(target=target))
    assert result.problem
    assert result.status == 0


async def test_an_answer_without_description_is_a_problem(client: RecordingClient) -> None:
    async with Srs() as srs:
        srs.describes = False
        call = await client.start(options(srs))
        assert call.result.answered
        assert call.result.problem == "the server's 200 holds no session description that answers our offer"
        assert (await call.bye()).bye_status == 200
        assert not call.result.ok


async def test_cancel_before_the_answer(client: RecordingClient) -> None:
    async with Srs(answers=(180,)) as srs:
        call = client.begin(options(srs))
        answering = asyncio.create_task(call.answer())
        await srs.next("INVITE")
        await call.cancel()
        await answering
        assert call.result.status == 487
        await srs.next("CANCEL")


async def test_a_cancel_that_crosses_the_answer_becomes_a_bye(client: RecordingClient) -> None:
    async with Srs(answers=()) as srs:
        call = client.begin(options(srs))
        answering = asyncio.create_task(call.answer())
        await srs.next("INVITE")
        srs.answer_late()
        assert (await call.cancel()).status == 200
        await answering
        await srs.next("BYE")
        assert call.result.bye_status == 200


async def test_an_answer_after_giving_up_is_ended_with_bye(
    client: RecordingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("siprec.client.call.RINGING_SECONDS", 0.05)
    monkeypatch.setattr(client, "cancel", lambda transaction: None)  # the CANCEL is lost
    async with Srs(answers=()) as srs:
        call = client.begin(options(srs))
        await call.answer()
        assert call.result.problem == f"{HOST}:{srs.port} answered 100 but nothing final within 0.05 s"
        srs.answer_late()
        await srs.next("BYE")


async def test_an_unanswered_bye_is_a_problem(srs: Srs, client: RecordingClient) -> None:
    srs.refuse_bye = True
    result = await client.call(options(srs, duration=0.05, timeout=0.2))
    assert result.bye_status == 0
    assert result.problem == "BYE: 408 no answer in time"


def test_a_foreign_local_address_is_a_listen_error() -> None:
    async def enter() -> None:
        async with RecordingClient(local="192.0.2.9"):
            pass

    with pytest.raises(ListenError):
        asyncio.run(enter())


async def test_ports_are_given_back_when_they_run_out(srs: Srs, client: RecordingClient) -> None:
    with few_files(3):  # enough for one stream
        for _ in range(3):
            with pytest.raises(ListenError, match="Too many open files"):
                client.begin(options(srs))
    assert (await client.call(options(srs))).ok


async def test_a_host_name_is_looked_up(srs: Srs, client: RecordingClient) -> None:
    assert (await client.call(options(srs, target=f"sip:localhost:{srs.port}"))).ok


def test_towards_takes_the_address_of_the_route() -> None:
    assert RecordingClient.towards("sip:127.0.0.1:5060").local == "127.0.0.1"
    with pytest.raises(SipError):
        RecordingClient.towards("nonsense")


# -- changes by us


async def test_hold_and_resume(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    await srs.until_packets(0, 3)
    assert (await call.hold()).ok
    assert [line.direction for line in srs.offers[-1].media] == ["inactive", "inactive"]
    assert srs.offers[-1].origin.version == srs.offers[0].origin.version + 1
    srs.packets(0)
    held = call.streams[0].counts.sent
    sequence = call.streams[0].sequence
    assert (await call.resume("1")).ok
    assert [line.direction for line in srs.offers[-1].media] == ["sendonly", "inactive"]
    packets = await srs.until_packets(0, 3)
    assert int.from_bytes(packets[0][2:4], "big") == sequence
    assert packets[0][1] & 0x80
    assert call.streams[0].counts.sent > held
    assert not call.streams[1].active
    await call.bye()


async def test_a_third_party_joins_and_leaves(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    await srs.next("INVITE")
    assert (await call.add_stream(PARTIES[2])).ok
    joined = await srs.next("INVITE")
    assert [line.label for line in srs.offers[-1].media] == ["1", "2", "3"]
    assert [each.display_name for each in metadata(joined).participants] == ["Alice", "Bob", "Carol"]
    assert await srs.until_packets(2, 3)
    assert (await call.remove_stream("3")).ok
    assert srs.offers[-1].media[2].port == 0
    assert metadata(await srs.next("INVITE")).participant_session_assocs[2].disassociate_time
    assert not call.streams[2].active
    result = await call.bye()
    assert [stream.name for stream in result.streams] == ["Alice", "Bob", "Carol"]


async def test_a_refused_change_changes_nothing(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    srs.refuse_changes = True
    assert (await call.hold()).status == 488
    assert (await call.add_stream(PARTIES[2])).status == 488
    assert all(stream.active for stream in call.streams)
    srs.refuse_changes = False
    assert (await call.reinvite()).ok
    assert [line.direction for line in srs.offers[-1].media] == ["sendonly", "sendonly"]
    assert (await call.bye()).ok


async def test_update_carries_metadata_only(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    assert (await call.update()).status == 200
    update = await srs.next("UPDATE")
    assert update.headers.get("Content-Type") == "application/rs-metadata+xml"
    assert update.headers.get("Content-Disposition") == "recording-session"
    assert len(metadata(update).participants) == 2
    await call.bye()


async def test_options_and_info_within_the_dialog(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    assert (await call.options_ping()).status == 200
    assert (await call.info(b"x", "text/plain")).status == 200
    assert [request.method for request in srs.received] == ["INVITE", "OPTIONS", "INFO"]
    await call.bye()
    assert (await call.options_ping()).status == 481


async def test_an_inactive_beginning_sends_nothing(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, inactive=True, duration=5.0))
    assert {line.direction for line in srs.offers[0].media} == {"inactive"}
    assert not any(stream.active for stream in call.streams)
    await call.resume()
    assert await srs.until_packets(1, 2)
    await call.bye()


async def test_failover_goes_on_with_the_same_streams(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    before = await srs.until_packets(0, 3)
    async with Srs() as other:
        taken = client.take_over(call, options(other), replaces=True)
        assert (await srs.request("INVITE")).status == 200  # the old dialog lives on, without media of its own
        call.abandon()
        await taken.answer()
        assert taken.result.answered
        first, second = await srs.next("INVITE"), await other.next("INVITE")
        assert metadata(first).sessions[0].session_id == metadata(second).sessions[0].session_id
        assert first.call_id != second.call_id
        old = srs.dialogs[0]
        assert second.headers.get("Replaces") == f"{first.call_id};to-tag={old.local_tag};from-tag={old.remote_tag}"
        after = await other.until_packets(0, 5)
        assert after[0][8:12] == before[-1][8:12]
        stamps = [int.from_bytes(packet[4:8], "big") for packet in after]
        assert {(later - earlier) & 0xFFFFFFFF for earlier, later in itertools.pairwise(stamps)} == {160}
        assert len(taken.streams[0].frames) >= taken.streams[0].counts.sent
        await taken.bye()


async def test_an_abandoned_call_answers_nothing(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    call.abandon()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await srs.request("OPTIONS")
    assert call.requests == ["OPTIONS"]
    assert call.result.ended_by == "failure"


# -- requests of the server


async def test_the_server_ends_the_call(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    running = asyncio.create_task(call.run(60))
    assert (await srs.request("BYE")).status == 200
    result = await running
    assert result.ended_by == "server"
    assert result.bye_status is None
    assert result.problem is None
    assert (await call.bye()).ended_by == "server"


async def test_options_of_the_server_are_answered(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    response = await srs.request("OPTIONS")
    assert response.status == 200
    assert "UPDATE" in response.headers.values("Allow")
    await call.bye()


@pytest.mark.parametrize("updates", [True, False])
async def test_a_snapshot_request_gets_full_metadata(client: RecordingClient, updates: bool) -> None:
    methods = METHODS if updates else tuple(method for method in METHODS if method != "UPDATE")
    async with Srs(methods=methods) as srs:
        call = await client.start(options(srs))
        await srs.next("INVITE")
        body = xml.build_snapshot_request("lost")
        assert (await srs.request("UPDATE", headers=METADATA, body=body)).status == 200
        answer = await srs.next("UPDATE" if updates else "INVITE")
        assert len(metadata(answer).participants) == 2
        assert call.snapshots_requested == 1
        await call.bye()


async def test_the_server_moves_the_media(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    await srs.until_packets(0, 2)
    srs.open_sinks(2)
    response = await srs.request("INVITE", headers=(("Content-Type", "application/sdp"),), body=srs.description(base=2))
    assert response.status == 200
    ours = parse_sdp(response.body)
    assert [(line.label, line.direction) for line in ours.media] == [("1", "sendonly"), ("2", "sendonly")]
    assert await srs.until_packets(2, 2)
    assert await srs.until_packets(3, 2)
    await call.bye()


async def test_the_server_pauses_and_resumes(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    content = (("Content-Type", "application/sdp"),)
    response = await srs.request("INVITE", headers=content, body=srs.description("inactive"))
    assert {line.direction for line in parse_sdp(response.body).media} == {"inactive"}
    assert not any(stream.active for stream in call.streams)
    response = await srs.request("UPDATE", headers=content, body=srs.description())
    assert {line.direction for line in parse_sdp(response.body).media} == {"sendonly"}
    assert all(stream.active for stream in call.streams)
    await call.bye()


async def test_an_offerless_reinvite_gets_our_offer(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs, duration=5.0))
    response = await srs.request("INVITE")
    assert response.status == 200
    assert {line.direction for line in parse_sdp(response.body).media} == {"sendonly"}
    assert all(stream.active for stream in call.streams)
    await call.bye()


async def test_an_offer_of_other_streams_is_refused(srs: Srs, client: RecordingClient) -> None:
    call = await client.start(options(srs))
    text = srs.description().decode()
    body = text[: text.rindex("m=audio")].encode()
    response = await srs.request("INVITE", headers=(("Content-Type", "application/sdp"),), body=body)
    assert response.status == 488
    assert (await call.options_ping()).ok
    await call.bye()
