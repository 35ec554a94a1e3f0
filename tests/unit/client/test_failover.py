"""The client loses its server, by every sign of loss, and goes to another one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from siprec.client import failover, load
from siprec.client.options import CallOptions, Failover, FailoverStyle
from siprec.client.src import RecordingClient
from tests.unit.client.answering import HOST, Srs


@pytest.fixture
async def client() -> AsyncIterator[RecordingClient]:
    async with RecordingClient(local=HOST) as running:
        yield running


def options(first: Srs, second: Srs, style: FailoverStyle = "replaces", *, duration: float = 2.0) -> CallOptions:
    return CallOptions(target=first.target, duration=duration, failover=Failover(second.target, style))


@pytest.mark.parametrize("style", ["replaces", "fresh"])
async def test_refused_packets_tell_of_a_dead_host(client: RecordingClient, style: FailoverStyle) -> None:
    told: list[str] = []
    async with Srs() as second, AsyncExitStack() as first_only:
        first = await first_only.enter_async_context(Srs())
        call = await client.start(options(first, second, style))
        await first.until_packets(0, 2)
        await first_only.aclose()
        carried = await failover.carry(client, call, report=told.append)
        result = await carried.bye()
    assert (result.bye_status, result.carried, result.target) == (200, 1, second.target)
    (invite,) = (each for each in second.received if each.method == "INVITE")
    assert ("Replaces" in invite.headers) == (style == "replaces")
    assert "refuses the packets" in told[0]
    assert "carries the call on" in told[1]


async def test_an_unanswered_options_tells_of_a_lost_server(client: RecordingClient) -> None:
    async with Srs() as first, Srs() as second:
        first.deaf = True
        call = await client.start(options(first, second))
        reason = await failover.watch(call, 10.0)
        assert reason == "OPTIONS: no answer in time"
        taken = await failover.go_over(client, call, Failover(second.target), report=print)
        assert taken is not None
        assert taken.options.failover == Failover(first.target)  # from there the way back
        await taken.bye()


async def test_a_server_that_answers_is_kept(client: RecordingClient) -> None:
    async with Srs() as first, Srs() as second:
        call = await client.start(options(first, second, duration=1.5))
        assert await failover.carry(client, call, report=print) is call
        assert (await call.bye()).carried == 0
        assert [each.method for each in first.received] == ["INVITE", "OPTIONS", "BYE"]
        assert second.received == []


async def test_bye_of_the_server_is_no_loss(client: RecordingClient) -> None:
    async with Srs() as first, Srs() as second:
        call = await client.start(options(first, second))
        await first.request("BYE")
        assert await failover.carry(client, call, report=print) is call
        assert call.result.ended_by == "server"
        assert second.received == []


async def test_a_refused_call_keeps_its_streams_for_the_next_try(client: RecordingClient) -> None:
    told: list[str] = []
    async with Srs() as first, Srs(answers=(503,)) as second:
        call = await client.start(options(first, second))
        streams = list(call.streams)

        def accept(text: str) -> None:
            told.append(text)
            second.answers = (200,)

        taken = await failover.go_over(client, call, Failover(second.target), report=accept)
        assert told == [f"{second.target}: the server refused the call: 503 Service Unavailable"]
        assert taken is not None
        assert taken.streams == streams
        assert await second.until_packets(0, 2)
        await taken.bye()


async def test_nobody_takes_over(client: RecordingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failover, "GIVE_UP_SECONDS", 0.0)
    async with Srs(answers=(480,)) as second, AsyncExitStack() as first_only:
        first = await first_only.enter_async_context(Srs())
        call = await client.start(options(first, second))
        await first_only.aclose()
        result = await (await failover.carry(client, call, report=print)).bye()
    assert result.problem == f"{second.target} did not take the call over"
    assert (result.ended_by, result.bye_status) == ("failure", None)


async def test_a_re_invite_that_is_not_taken_leaves_the_dialog(
    client: RecordingClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "GIVE_UP_SECONDS", 0.0)
    async with Srs() as first, Srs() as second:
        call = await client.start(options(first, second))
        assert await failover.go_over(client, call, Failover(second.target, "reinvite"), report=print) is None
        assert call.options.target == first.target
        assert not call.ended.is_set()


async def test_many_calls_are_carried_on(client: RecordingClient) -> None:
    async with Srs() as second, AsyncExitStack() as first_only:
        first = await first_only.enter_async_context(Srs())
        wanted = options(first, second)
        running = asyncio.create_task(load.load(client, wanted, print))
        await first.next("ACK")
        await first_only.aclose()
        summary = await running
    assert summary.carried == 1
    assert summary.ok
    assert "1 calls were carried on by another server" in list(summary.sentences())


def test_an_unknown_style_is_a_sentence() -> None:
    told: list[str] = []
    wanted = CallOptions(failover=Failover("sip:127.0.0.1:5062", "magic"))  # type: ignore[arg-type]
    assert load.run(wanted, told.append) == load.EXIT_USAGE
    assert told == ["unknown style of failover: there are replaces, fresh, reinvite"]
