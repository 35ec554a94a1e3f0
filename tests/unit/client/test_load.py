"""The command behind `siprec call`: what it says and what it returns."""

import asyncio
import itertools
import math
from dataclasses import replace

import pytest

from siprec.client import load
from siprec.client.load import LoadSummary
from siprec.client.media import Counts
from siprec.client.options import CallOptions, CallResult, Failover, StreamResult
from siprec.client.src import RecordingClient
from tests.unit.client.answering import HOST, Srs


async def ran(options: CallOptions) -> tuple[int, list[str]]:
    """`run` in a thread of its own, as it brings its own event loop."""
    lines: list[str] = []
    return await asyncio.to_thread(load.run, options, lines.append), lines


def options(srs: Srs, **changes: object) -> CallOptions:
    return replace(CallOptions(target=srs.target, duration=0.1), **changes)  # type: ignore[arg-type]


async def test_one_call_is_told_step_by_step() -> None:
    async with Srs() as srs:
        code, lines = await ran(options(srs, duration=0.2))
    assert code == 0
    assert lines[0] == f"INVITE {srs.target} (udp): 2 streams, PCMU, Alice and Bob"
    assert lines[1].startswith("200 OK in ")
    assert lines[1].endswith(" ms: 2 of 2 streams accepted")
    assert lines[2] == "stream 1 (Alice): 10 RTP packets sent"
    assert lines[3] == "stream 2 (Bob): 10 RTP packets sent"
    assert lines[4].startswith("BYE answered 200 after 0.")
    assert len(lines) == 5


async def test_a_refusal_is_told_once() -> None:
    async with Srs(answers=(503,)) as srs:
        code, lines = await ran(options(srs))
    assert code == 1
    assert lines[1:] == ["the server refused the call: 503 Service Unavailable"]


async def test_nobody_there_is_told_in_a_sentence() -> None:
    async with Srs() as srs:
        gone = options(srs, timeout=0.2)
    code, lines = await ran(gone)
    assert code == 1
    asked = "is siprec serve running, and do we stand in its SIP_ALLOW?"
    assert lines[-1] == f"no answer from {HOST}:{srs.port} (udp) within 0.2 s: {asked}"


async def test_withheld_packets_are_told() -> None:
    async with Srs() as srs:
        code, lines = await ran(options(srs, loss=50.0))
    assert code == 0
    assert "withheld as lost" in lines[2]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"codec": "G729"}, "unknown codec G729: this client can send PCMU, PCMA, G722, L16"),
        (
            {"local": "192.0.2.9"},
            "the local address: cannot listen on 192.0.2.9 port 0: Cannot assign requested address",
        ),
        ({"session_id": "no"}, "the session id is no UUID: no"),
        ({"parties": ()}, "a call needs one party at least"),
        ({"local": "lo"}, "the local address: lo is not an IP address"),
        ({"target": "nonsense"}, None),
        ({"target": "sip:"}, None),
        ({"target": "tel:123"}, None),
        ({"target": "sip:127.0.0.1:99999"}, "'sip:127.0.0.1:99999' is no way to a server: a port is out of range"),
        ({"failover": Failover("b")}, "'b' is no way to a server: a URI has no scheme"),
        ({"duration": -3.0}, "duration: -3.0 is no number of seconds"),
        ({"duration": math.nan}, None),
        ({"duration": math.inf}, None),
        ({"rate": math.inf}, None),
        ({"rate": 0.0}, None),
        ({"jitter_ms": math.inf}, None),
        ({"loss": math.nan}, "loss: nan is no percentage"),
        ({"duplicate": 101.0}, None),
    ],
)
async def test_what_cannot_be_asked_for_is_a_sentence(changes: dict[str, object], sentence: str | None) -> None:
    code, lines = await ran(replace(CallOptions(), **changes))  # type: ignore[arg-type]
    assert code == load.EXIT_USAGE
    assert len(lines) == 1
    assert sentence is None or lines == [sentence]


async def test_many_calls_end_in_a_summary() -> None:
    async with Srs() as srs:
        code, lines = await ran(options(srs, calls=8, rate=100.0))
    assert code == 0
    assert lines[0] == "8 calls: 8 answered, 0 refused, 0 failed"
    assert lines[1].endswith(" RTP packets sent")
    assert lines[2].startswith("INVITE to 200 OK: median ")


async def test_refused_calls_are_counted_by_status() -> None:
    async with Srs(answers=(486,)) as srs:
        code, lines = await ran(options(srs, calls=3, rate=100.0))
    assert code == 1
    assert lines[:2] == ["3 calls: 0 answered, 3 refused, 0 failed", "  refused with 486: 3"]


async def test_concurrency_is_bounded() -> None:
    async with Srs() as srs, RecordingClient(local=HOST) as client:
        summary = await load.load(client, options(srs, calls=6, rate=1000.0, concurrency=2), lambda _: None)
        live = [{"INVITE": 1, "BYE": -1}[request.method] for request in srs.received]
    assert summary.answered == 6
    assert max(itertools.accumulate(live)) == 2


async def test_hanging_up_ends_calls_with_bye_and_begins_no_more() -> None:
    async with Srs() as srs, RecordingClient(local=HOST) as client:
        running = asyncio.create_task(
            load.load(client, options(srs, calls=50, rate=1000.0, concurrency=3, duration=60.0), lambda _: None)
        )
        for _ in range(3):
            await srs.next("ACK")
        client.hang_up()
        summary = await running
    assert 3 <= summary.calls <= 4
    assert summary.ok


def test_percentiles_and_problems() -> None:
    summary = LoadSummary()
    assert summary.setup_percentile(50) is None
    streams = [StreamResult("1", "Alice", True, Counts(sent=10, suppressed=2))]
    for setup in (1.0, 2.0, 3.0):
        summary.add(CallResult("x", status=200, setup_ms=setup, streams=streams))
    summary.add(CallResult("x", problem="no answer"))
    assert summary.setup_percentile(50) == 2.0
    assert not summary.ok
    assert list(summary.sentences()) == [
        "4 calls: 3 answered, 0 refused, 1 failed",
        "  1 x no answer",
        "30 RTP packets sent (6 more withheld as lost)",
        "INVITE to 200 OK: median 2.0 ms, 99 % within 3.0 ms",
    ]
