"""Two nodes adopt the same session at the same moment, again and again: each time exactly one must get it.

`python -m tests.load.adopters --rounds 1000` prints one JSON line and fails when one session had two owners or none.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass

from siprec.errors import Conflict
from siprec.store.redis import RedisSessionStore
from tests.support import redis_server
from tests.support.redis_server import RedisServer
from tests.support.sessions import record, session_id
from tests.support.stores import node, settled

ROUNDS = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """How often each node got the session, and how often both or none did."""

    rounds: int
    won_by_b: int
    won_by_c: int
    both: int
    none: int
    seconds: float

    @property
    def good(self) -> bool:
        return not self.both and not self.none


async def race(server: RedisServer, rounds: int) -> Result:
    """Let nodes b and c race for `rounds` sessions of node a."""
    begun = time.monotonic()
    winners: list[tuple[bool, bool]] = []
    async with node(server, "a") as first, node(server, "b") as second, node(server, "c") as third:
        for number in range(rounds):
            await first.create(record(number))
        await settled(first)
        for number in range(rounds):
            # Neither is always asked first: who is sent first mostly wins.
            pair = (second, third) if number % 2 else (third, second)
            won = await asyncio.gather(*(_adopt(each, session_id(number), each is second) for each in pair))
            winners.append((won[0], won[1]) if number % 2 else (won[1], won[0]))
        for number, (b_won, _) in enumerate(winners):
            loser = third if b_won else second  # it has no memory of the session: it asks Redis
            assert (await loser.load(session_id(number))).call.node == ("b" if b_won else "c")
    return Result(
        rounds,
        sum(b and not c for b, c in winners),
        sum(c and not b for b, c in winners),
        sum(b and c for b, c in winners),
        sum(not b and not c for b, c in winners),
        round(time.monotonic() - begun, 2),
    )


async def _adopt(store: RedisSessionStore, wanted: str, is_b: bool) -> bool:
    name = "b" if is_b else "c"
    with contextlib.suppress(Conflict):
        adopted = await store.adopt(wanted, name, f"{name}-boot", 1)
        return adopted.call.node == name and adopted.call.fence == 2
    return False


def measure(rounds: int) -> Result:
    """A race over a Redis of its own."""
    with redis_server.running() as server:
        return asyncio.run(race(server, rounds))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args(arguments)
    result = measure(options.rounds)
    print(json.dumps({"measure": "adopters", **asdict(result)}))
    return 0 if result.good else 1


if __name__ == "__main__":
    sys.exit(main())
