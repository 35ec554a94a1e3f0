"""Counted calls into a server that is going to fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from siprec.client.call import LiveCall
from siprec.client.media import RtpStream
from siprec.client.options import CallOptions
from siprec.client.src import RecordingClient
from tests.failover.figures import Row
from tests.support.server import Line, Server

AUDIO_SECONDS = 4.0
"""Length of the conversation, which is sent again and again: only the number in a packet matters here."""

SETTLE_SECONDS = 1.0
"""Before the first failure: every stream has packets on disk then."""

RENDER_SECONDS = 120.0

TOLD_MS = 100
"""A recording tells of audio by the sample, we count packets, and the longest gap need not be of one stream."""


class Calls:
    """Live calls of one client, and what they are."""

    def __init__(self, client: RecordingClient, live: list[LiveCall]) -> None:
        self.client = client
        self.live = live
        self.streams: list[RtpStream] = [stream for call in live for stream in call.streams]

    def ports(self) -> list[int]:
        """Where the streams are sent to."""
        return [stream.remote.port if stream.remote else 0 for stream in self.streams]

    async def bye(self, row: Row) -> None:
        """End all calls; each BYE must be answered 200."""
        results = await asyncio.gather(*(call.bye() for call in self.live))
        statuses = [each.bye_status for each in results]
        row.details["byes_answered_200"] = statuses.count(200)
        row.expect(statuses.count(200) == len(self.live), f"BYE was answered {statuses}")


@asynccontextmanager
async def calling(uri: str, count: int, **wanted: Any) -> AsyncIterator[Calls]:
    """`count` answered calls of two streams each, whose audio flows; without BYE they are cut when the block ends."""
    async with RecordingClient.towards(uri) as client:
        live = [await client.start(counted(uri, number, **wanted), voices=0) for number in range(count)]
        refused = [call.result.problem for call in live if not call.result.ok]
        assert not refused, f"calls that should live were refused: {refused}"
        await asyncio.sleep(SETTLE_SECONDS)
        yield Calls(client, live)


def counted(uri: str, number: int, **wanted: Any) -> CallOptions:
    """Call `number`, as it is asked for."""
    return CallOptions(**{"target": uri, "duration": AUDIO_SECONDS, "seed": number + 1, "counter": True, **wanted})


async def heard(server: Server, event: str, **where: Any) -> Line:
    """The next log line of this `event` with these values; audio flows while it is waited for."""
    matches = lambda line: all(line.get(name) == value for name, value in where.items())  # noqa: E731
    return await asyncio.to_thread(server.wait_for, event, where=matches, seconds=RENDER_SECONDS)


async def rendered(server: Server, count: int) -> None:
    """Wait for `count` recordings to be finished."""
    for _ in range(count):
        await heard(server, "recording ready")


def expect_told(row: Row) -> None:
    """What the recordings say of the gap is what was counted."""
    told = row.details["recording_says_ms"]
    row.expect(abs(told - max(row.milliseconds)) <= TOLD_MS, f"the recording tells of {told} ms")


def expect_one_each(row: Row, server: Server, before: Sequence[str], *, how: str | None) -> None:
    """Every session kept its id, and the way it came back is told in its one recording."""
    folders = server.recordings()
    ids = [folder.session_id for folder in folders]
    row.expect(sorted(ids) == sorted(before), f"{len(before)} sessions became {len(ids)} recordings")
    manifests = [folder.read() for folder in folders]
    row.expect(all(each.state == "ended" for each in manifests), f"states: {[each.state for each in manifests]}")
    if how is not None:
        told = [[each.how for each in manifest.recoveries] for manifest in manifests]
        row.expect(all(how in each for each in told), f"recoveries: {told}")
        gaps = [each.gap_ms or 0 for manifest in manifests for each in manifest.recoveries]
        row.details["recording_says_ms"] = max(gaps, default=0)
