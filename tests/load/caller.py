"""Many calls at a steady rate with little effort of its own: SIP by templates, RTP by `call_generator.c`.

    python -m tests.load.caller GENERATOR SIP_PORT RTP_ADDRESS CALLS CALL_SECONDS RAMP_SECONDS SECONDS

So many CALLS are up at once after RAMP_SECONDS, and it stays so for SECONDS: as many end as begin, one after the other,
as calls of CALL_SECONDS would; those of the ramp are shorter the earlier they began, at least RAMP_SECONDS. Then all
are ended. Prints "steady" when all are up, and at the end one line of JSON (`Outcome`).
Requests are repeated as RFC 3261 section 17.1 wants, and counted; a server that refuses, or is silent for 8 s, fails
the call.
"""

from __future__ import annotations

import heapq
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial

from siprec.client.options import PARTIES
from siprec.client.scene import Scene
from siprec.client.tracks import CODECS
from tests.load.machine import raise_descriptor_limit

ADDRESS = "127.5.0.62"
"""Ours; one that other programs hardly use, so that the ports are free."""

FIRST_PORT, LAST_PORT, PORTS_PER_CALL = 10_000, 65_532, 4

CODEC = CODECS["PCMA"]
RATE = 50

T1_SECONDS, GIVE_UP_SECONDS = 0.5, 8.0

BUFFER_BYTES = 4 << 20

ENDING_PAUSE = 0.01
"""Seconds from one call to the next when all are ended: what a busy server still takes."""

_CALL_ID = re.compile(rb"\r\nCall-ID: *(\d+)@", re.IGNORECASE)
_METHOD = re.compile(rb"\r\nCSeq: *\d+ +(\w+)", re.IGNORECASE)
_TO = re.compile(rb"\r\n(To: *[^\r]*)", re.IGNORECASE)
_MEDIA = re.compile(rb"\r\nm=audio (\d+) ")


@dataclass(slots=True)
class Outcome:
    """Of all calls: `calls` has [begun, answered, ended], in seconds of the monotonic clock, of each that was answered.

    `sent`: RTP packets; `late_ms`: by how much RTP was late at most; `busy`: share of a core that caller and generator
    took while all calls were up; `problems`: what became of the others, with their number.
    """

    calls: list[tuple[float, float, float]] = field(default_factory=list)
    sent: int = 0
    late_ms: float = 0.0
    repeated: int = 0
    busy: float = 0.0
    problems: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Call:
    number: int
    port: int
    begun: float
    packets: int
    request: bytes = b""
    waits_for: bytes = b"INVITE"
    to: bytes = b""
    answered: float = 0.0
    streams: int = 0


class Caller:
    """One socket, one loop. `timers` hold what is due when."""

    def __init__(self, generator: subprocess.Popen[bytes], server: tuple[str, int]) -> None:
        self.outcome = Outcome()
        self.live: dict[int, _Call] = {}
        self._generator = generator
        self._server = server
        self._token = uuid.uuid4().hex  # of these calls: others to the same server count from 1 too
        self._told = b""
        self._problems: Counter[str] = Counter()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = 0
        self._ports = deque(range(FIRST_PORT, LAST_PORT, PORTS_PER_CALL))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self._socket.bind((server[0], 0))
        self._socket.connect(server)
        self._socket.setblocking(False)
        self._local = f"{server[0]}:{self._socket.getsockname()[1]}"
        assert generator.stdout is not None
        os.set_blocking(generator.stdout.fileno(), False)

    # ------------------------------------------------------------------ the loop

    def run_until(self, ends: float) -> None:
        """Do what is due until the monotonic clock says `ends`, or, with 0, until no call is left."""
        assert self._generator.stdout is not None
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._generator.stdout, select.POLLIN)
        while (now := time.monotonic()) < ends or (not ends and self.live):
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            due = min([each[0] for each in self._timers[:1]] + ([ends] if ends else []) + [now + 1.0])
            for ready, _ in poll.poll(max(0.0, due - time.monotonic()) * 1000):
                if ready == self._socket.fileno():
                    self._receive()
                else:
                    self._hear_generator()

    def at(self, due: float, what: Callable[[], None]) -> None:
        self._numbers += 1
        heapq.heappush(self._timers, (due, self._numbers, what))

    def finish(self) -> Outcome:
        """Let the generator go. Its last word is how late it was."""
        assert self._generator.stdin is not None
        assert self._generator.stdout is not None
        os.set_blocking(self._generator.stdout.fileno(), True)
        self._generator.stdin.close()
        self.outcome.late_ms = float(self._generator.stdout.read().split()[-1])
        self.outcome.problems = dict(self._problems)
        return self.outcome

    def end_all(self) -> None:
        """End all calls one after the other, each when its streams have ended."""
        now = time.monotonic()
        for index, call in enumerate(self.live.values()):
            call.packets = min(call.packets, RATE)  # of one that is not answered yet
            self.at(now + index * ENDING_PAUSE, partial(self._tell, f"stop {call.number}\n"))

    # ------------------------------------------------------------------ a call

    def begin(self, seconds: float) -> None:
        """A new call of so many seconds, with two streams from ports of its own."""
        self._numbers += 1
        call = _Call(self._numbers, self._ports.popleft(), time.monotonic(), round(seconds * RATE))
        self.live[call.number] = call
        call.request = self._invitation(call)
        self._request(call, T1_SECONDS)
        self.at(call.begun + GIVE_UP_SECONDS, partial(self._give_up, call, "no answer to INVITE"))

    def _invitation(self, call: _Call) -> bytes:
        scene = Scene(ADDRESS, CODEC, session=uuid.uuid4())
        for index in range(2):
            scene.join(PARTIES[index], call.port + 2 * index)
        headers, body = scene.invitation(metadata=True)
        content = "".join(f"{name}: {value}\r\n" for name, value in headers)
        more = f"Contact: <sip:src@{self._local}>;+sip.src\r\nRequire: siprec\r\nSupported: siprec\r\n{content}"
        to = f"To: <sip:srs@{self._server[0]}>"
        return self._head(call, "INVITE", 1, to, f"{more}Content-Length: {len(body)}\r\n\r\n") + body

    def _head(self, call: _Call, method: str, cseq: int, to: str, rest: str = "Content-Length: 0\r\n\r\n") -> bytes:
        host, port = self._server
        return (
            f"{method} sip:{host}:{port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP {self._local};branch=z9hG4bK{method}{call.number}.{self._token}\r\nMax-Forwards: 70\r\n"
            f"From: <sip:src@{self._local}>;tag={call.number}.{self._token}\r\n{to}\r\n"
            f"Call-ID: {call.number}@{self._token}\r\nCSeq: {cseq} {method}\r\n{rest}"
        ).encode()

    def _request(self, call: _Call, again: float, waits_for: bytes = b"INVITE") -> None:
        """Send what `call` has to send, and again until it is answered."""
        if self.live.get(call.number) is call and call.waits_for == waits_for:
            self.outcome.repeated += again > T1_SECONDS
            self._socket.send(call.request)
            self.at(time.monotonic() + again, partial(self._request, call, 2 * again, waits_for))

    def _give_up(self, call: _Call, problem: str) -> None:
        if self.live.get(call.number) is call and call.waits_for:
            self._fail(call, problem)

    def _receive(self) -> None:
        while True:
            try:
                message = self._socket.recv(65536)
            except BlockingIOError:
                return
            found, method = _CALL_ID.search(message), _METHOD.search(message)
            call = self.live.get(int(found[1])) if found else None
            if message.startswith(b"SIP/2.0 ") and call is not None and method is not None:
                self._answer(call, method[1], int(message[8:11]), message)

    def _answer(self, call: _Call, method: bytes, status: int, message: bytes) -> None:
        if status < 200:
            if call.waits_for == method:
                call.waits_for = b"final"  # no more repetitions (RFC 3261 section 17.1.1.2)
        elif status >= 300:
            self._fail(call, f"{method.decode()} refused with {status}")
        elif method == b"INVITE":
            self._answered(call, message)
        else:
            self._over(call)

    def _answered(self, call: _Call, message: bytes) -> None:
        to = _TO.search(message)
        assert to is not None
        self._socket.send(self._head(call, "ACK", 1, to[1].decode()))
        if call.answered:  # its 200 again: only the ACK was wanted
            return
        call.waits_for, call.to, call.answered = b"", to[1], time.monotonic()
        for index, port in enumerate(_MEDIA.findall(message)):
            call.streams += 1
            self._tell(f"{call.number} {call.port + 2 * index} {int(port)} {CODEC.payload_type} {call.packets}\n")

    def _end(self, call: _Call) -> None:
        now = time.monotonic()
        self.outcome.calls.append((call.begun, call.answered, now))
        call.waits_for, call.request = b"BYE", self._head(call, "BYE", 2, call.to.decode())
        self._request(call, T1_SECONDS, b"BYE")
        self.at(now + GIVE_UP_SECONDS, partial(self._give_up, call, "no answer to BYE"))

    def _over(self, call: _Call) -> None:
        del self.live[call.number]
        self._ports.append(call.port)

    def _fail(self, call: _Call, problem: str) -> None:
        self._problems[problem] += 1
        self._over(call)

    # ------------------------------------------------------------------ the generator

    def _tell(self, line: str) -> None:
        assert self._generator.stdin is not None
        self._generator.stdin.write(line.encode())
        self._generator.stdin.flush()

    def _hear_generator(self) -> None:
        """Of each stream that has ended, with its number of packets; a call ends with its last stream."""
        assert self._generator.stdout is not None
        got = os.read(self._generator.stdout.fileno(), 1 << 16)
        if not got:
            raise RuntimeError("the generator ended: are its ports in use?")
        *lines, self._told = (self._told + got).split(b"\n")
        for line in lines:
            number, sent = map(int, line.split())
            self.outcome.sent += sent
            call = self.live.get(number)
            if call is not None:
                call.streams -= 1
                if not call.streams:
                    self._end(call)


def main(
    program: str, sip_port: int, rtp_address: str, calls: int, seconds_each: float, ramp: float, seconds: float
) -> None:
    raise_descriptor_limit()
    command = [program, ADDRESS, rtp_address]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as generator:
        caller = Caller(generator, ("127.0.0.1", sip_port))
        began = time.monotonic()
        for number in range(calls):
            part = number / calls
            caller.at(began + ramp * part, partial(caller.begin, ramp + (seconds_each - ramp) * part))
        for number in range(int(calls * seconds / seconds_each)):
            caller.at(began + ramp + seconds_each * number / calls, partial(caller.begin, seconds_each))
        caller.run_until(began + ramp)
        print("steady", flush=True)
        used = _cpu(generator)
        caller.run_until(began + ramp + seconds)
        caller.outcome.busy = round((_cpu(generator) - used) / seconds, 2)
        caller.end_all()
        caller.run_until(0)
        print(json.dumps(asdict(caller.finish())))


def _cpu(generator: subprocess.Popen[bytes]) -> float:
    return time.process_time() + time.clock_gettime(~generator.pid << 3 | 2)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), *map(float, sys.argv[5:8]))
