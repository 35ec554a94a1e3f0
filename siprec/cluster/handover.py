"""Asking the owner of a session to release it, because its SRC has come here.

A question is a message on the owner's channel, answered on the asker's. When nobody listens, or nobody answers in time,
the asker goes ahead: the SRC has chosen, and the compare-and-swap of the session's fence decides.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from siprec import log
from siprec.cluster.base import Release, Wish
from siprec.errors import StoreUnavailable
from siprec.store import layout
from siprec.store.base import SessionStore
from siprec.store.redis import Shared, disconnect

ANSWER_SECONDS = 0.3
"""How long an owner may take: the INVITE behind the question is waiting, with only a 100 Trying."""

MESSAGE_LIMIT = 1024
"""Bytes of a message that are read; ours have 200."""

RETRY_SECONDS = 0.5
"""Pause before the channel is subscribed to again."""

QUESTIONS_LIMIT = 256
"""Questions being answered at once; more than that many moves within 300 ms are a storm, left to the time limit."""

Outcome = Literal["released", "refused", "silent", "ours", "unknown"]


@dataclass(frozen=True, slots=True)
class Message:
    """A question (`session` set; `ask` is for its release), or the answer to one. `asker`: the node that asked."""

    kind: Literal["ask", "end", "alive", "answer"]
    number: int
    asker: str
    boot: str
    session: str = ""
    granted: bool = False


class HandOver:
    """Asks, and answers by `release`, for one boot of a node. `listener` is a client of its own, as Redis demands."""

    def __init__(
        self, shared: Shared, listener: Redis, store: SessionStore, release: Release, *, node: str, boot: str
    ) -> None:
        self._shared = shared
        self._listener = listener
        self._store = store
        self._release = release
        self._node = node
        self._boot = boot
        self._log = log.get(part="cluster")
        self._number = 0
        self._open: dict[int, asyncio.Future[bool]] = {}
        self._answering: set[asyncio.Task[None]] = set()
        self._listening = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen; Redis need not be there yet."""
        self._task = asyncio.create_task(self._listen())

    async def close(self) -> None:
        """Listen no more."""
        self._closing = True  # the client may swallow the cancellation
        tasks = [*self._answering, *([self._task] if self._task is not None else [])]
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await disconnect(self._listener)

    async def ready(self) -> None:
        """Wait until questions reach this node."""
        await self._listening.wait()

    # ---- asking

    async def ask(self, session_id: str, wish: Wish = "release") -> Outcome:
        """Ask the owner of a session to release it, or something else of it. Raises StoreUnavailable."""
        owner = await self._shared.call(lambda client: _owner(client, session_id), probe=True)
        if owner is None:
            return "unknown"
        if owner == self._node:
            return "ours"
        self._number += 1
        number = self._number
        message = Message("ask" if wish == "release" else wish, number, self._node, self._boot, session_id)
        self._open[number] = answer = asyncio.get_running_loop().create_future()
        try:
            if not await self._send(owner, message):
                return "silent"
            async with asyncio.timeout(ANSWER_SECONDS):
                return "released" if await answer else "refused"
        except TimeoutError:
            return "silent"
        finally:
            del self._open[number]

    async def _send(self, node: str, message: Message) -> int:
        """Returns how many listened."""
        text = json.dumps(asdict(message))
        return await self._shared.call(lambda client: client.publish(layout.channel(node), text))

    # ---- answering

    async def _listen(self) -> None:
        while not self._closing:
            with suppress(RedisError, OSError, TimeoutError):
                await self._subscribed()
            self._listening.clear()
            await asyncio.sleep(RETRY_SECONDS)

    async def _subscribed(self) -> None:
        async with self._listener.pubsub() as channel:
            await channel.subscribe(layout.channel(self._node))
            while True:
                message = await channel.get_message(timeout=None)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self._listening.set()
                elif message["type"] == "message":
                    self._take(message["data"])

    def _take(self, data: Any) -> None:
        message = _parse(data)
        if message is None:
            self._log.warning("message of another node not understood")
        elif message.kind != "answer":
            self._spawn(message)
        elif message.boot == self._boot and message.number in self._open and not self._open[message.number].done():
            self._open[message.number].set_result(message.granted)

    def _spawn(self, message: Message) -> None:
        if len(self._answering) < QUESTIONS_LIMIT:
            task = asyncio.create_task(self._answer(message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)

    async def _answer(self, question: Message) -> None:
        """Let go, have the last state seen by all, and only then say so."""
        with suppress(StoreUnavailable):
            wish: Wish = "end" if question.kind == "end" else "alive" if question.kind == "alive" else "release"
            granted = await self._release(question.session, question.asker, wish)
            if granted:
                with suppress(StoreUnavailable):  # the asker carries on from what it can see
                    await self._store.publish()
            answer = Message("answer", question.number, question.asker, question.boot, question.session, granted)
            await self._send(question.asker, answer)


async def _owner(client: Redis, session_id: str) -> str | None:
    owner = await cast(Awaitable["bytes | None"], client.hget(layout.session(session_id), "own"))
    return owner.decode("ascii", "replace") if owner is not None else None


def _parse(data: object) -> Message | None:
    """A message, checked: anybody who reaches Redis may have written it."""
    if not isinstance(data, bytes) or len(data) > MESSAGE_LIMIT:
        return None
    try:
        message = Message(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        return None
    texts = (message.asker, message.boot, message.session)
    sound = message.kind in {"ask", "end", "alive", "answer"} and all(isinstance(each, str) for each in texts)
    return message if sound and type(message.number) is int and type(message.granted) is bool else None
