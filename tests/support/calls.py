"""Calls of our own client, for tests of the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from siprec.client.call import LiveCall
from siprec.client.options import CallOptions, CallResult
from siprec.client.src import RecordingClient
from tests.support.server import Server


def options(server: Server, **wanted: Any) -> CallOptions:
    return CallOptions(**{"target": server.uri, "duration": 2.0, **wanted})


async def place(server: Server, **wanted: Any) -> CallResult:
    """A whole call, from INVITE to BYE."""
    chosen = options(server, **wanted)
    async with RecordingClient.towards(server.uri, transport=chosen.transport) as client:
        return await client.call(chosen)


@asynccontextmanager
async def live(server: Server, **wanted: Any) -> AsyncIterator[LiveCall]:
    """An answered call whose audio flows; the client goes away without BYE when the block ends, unless one was sent."""
    chosen = options(server, **wanted)
    async with RecordingClient.towards(server.uri, transport=chosen.transport) as client:
        yield await client.start(chosen)
