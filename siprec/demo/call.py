"""`siprec demo`: the server as `serve` runs it, one real call into it, and where the recording lies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from siprec import app
from siprec.archive.folder import RecordingFolder, find
from siprec.client import load
from siprec.client.options import CallOptions, CallResult
from siprec.client.src import RecordingClient
from siprec.config import Configuration
from siprec.errors import LocalError
from siprec.fdstore import FdStore
from siprec.process import Ending, ended_by_signals
from siprec.store.base import SessionRecord

RENDER_SECONDS = 60.0
"""Far more than a call of some seconds takes to render, also where the renderer has to start first."""


async def demo(
    configuration: Configuration, options: CallOptions, *, once: bool, report: Callable[[str], None]
) -> RecordingFolder:
    """Serve, place the call of `options` into this server, and report each step; go on serving unless `once`.

    Returns the folder of the recording. Raises ConfigurationError, ListenError, LocalError when the call failed.
    """
    settings = configuration.settings
    ending = Ending()
    with app.folders_held(settings), ended_by_signals(ending, FdStore()):
        async with AsyncExitStack() as stack:
            running = await app.start(configuration, stack)
            report(f"server   sip:127.0.0.1:{running.sip_port} (udp, tcp), recordings go to {settings.recording_dir}")
            ended: asyncio.Queue[SessionRecord] = asyncio.Queue()
            running.recorder.observe_end(ended.put_nowait)
            result = await _place(replace(options, target=f"sip:127.0.0.1:{running.sip_port}"), ending, report)
            if not result.ok:
                raise LocalError(result.problem or f"the call was answered {result.status} {result.reason}")
            record = await asyncio.wait_for(ended.get(), RENDER_SECONDS)
            folder = find(settings.recording_dir, record.call.session_id)
            manifest = folder.read()
            report(f"verdict  {manifest.verdict}: {manifest.verdict_reason}")
            report(f"folder   {folder.path}")
            if not once:
                report("serving on; place your own call with `siprec call`, stop with Ctrl-C")
                await ending.wait()
    return folder


async def _place(options: CallOptions, ending: Ending, report: Callable[[str], None]) -> CallResult:
    """The call; it ends early, with its BYE, when we are told to end."""
    async with RecordingClient.towards(options.target, transport=options.transport) as client:

        async def hang_up() -> None:
            await ending.wait()
            client.hang_up()

        told = asyncio.create_task(hang_up())
        try:
            return await load.one(client, options, report)
        finally:
            told.cancel()
