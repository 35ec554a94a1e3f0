"""SIPp as an SRC that shares no line of code with us: one run of one scenario, and what came of it.

A scenario file is SIPp's own XML with two additions, so that twenty of them need not repeat one INVITE twenty
times: `{{name key=value ...}}` stands for the file `name` of the pieces folder, in which `{{key}}` stands for the
value, `{{key|default}}` for the default when none is given. A value `@name` is a piece itself. Pieces may use
pieces; keys reach down into them.
"""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

BINARY = shutil.which("sipp")
MISSING = "sipp is not installed (Debian: apt install sip-tester)"

RUN_SECONDS = 20
"""No scenario takes longer, however busy the machine is."""

PORTS = range(30_000, 32_768, 8)
"""Where blocks of free ports are looked for: above those of a server by default, below those that Linux gives out."""

BLOCK = 8
"""Ports of one run: one for SIP, and from the next even one on those of its RTP."""

ENVIRON = {"TERM": "dumb", "LC_ALL": "C"}
"""Not our own, which pytest changes while another thread starts a process from it."""

TOLD_MESSAGES = 40
"""A scenario has fewer; more is SIPp and server repeating themselves."""

TOLD_CHARACTERS = 4000
"""Of each of SIPp's logs; the beginning tells what went wrong first."""

_PLACEHOLDER = re.compile(r"\{\{([\w-]+)(\|[^\s}]*)?((?:\s+[\w-]+=[^\s}]*)*)\}\}")
_DEPTH = 10  # pieces in pieces; more is a circle
_STAMP = re.compile(r"^-{10,} .*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Message:
    """A SIP message of the trace; `sent` by SIPp or received by it."""

    sent: bool
    text: str

    @property
    def first_line(self) -> str:
        return self.text.partition("\n")[0].strip()

    def is_answer(self, status: int, method: str) -> bool:
        """Whether this is a response of `status` to a request of `method` that came in."""
        cseq = re.search(r"^CSeq:\s*\d+ (\w+)", self.text, re.MULTILINE)
        return not self.sent and self.first_line.startswith(f"SIP/2.0 {status} ") and bool(cseq and cseq[1] == method)


@dataclass(frozen=True, slots=True)
class Run:
    """What SIPp did: its exit code (0: every call went as the scenario says), and all it wrote."""

    name: str
    code: int
    errors: str
    messages: tuple[Message, ...]

    @property
    def call_ids(self) -> list[str]:
        """The Call-IDs of its calls, in order."""
        found = (re.search(r"^Call-ID:\s*(\S+)", each.text, re.MULTILINE) for each in self.messages)
        return list(dict.fromkeys(each[1] for each in found if each))

    def answers(self, status: int, method: str) -> int:
        """How many responses of `status` to `method` came in, repetitions too."""
        return sum(each.is_answer(status, method) for each in self.messages)

    def explain(self) -> str:
        """All that helps to see why a scenario failed."""
        told = "\n\n".join(f"{'>>>' if each.sent else '<<<'} {each.text}" for each in self.messages[:TOLD_MESSAGES])
        return f"sipp {self.name} ended with {self.code}\n{self.errors}\n{told}"


class Running:
    """A SIPp that plays a scenario, in a folder of its own."""

    def __init__(self, name: str, folder: Path, command: Sequence[str]) -> None:
        self._name, self._folder = name, folder
        with (folder / "screen.log").open("wb") as screen:
            self._process = subprocess.Popen(
                command, cwd=folder, env=ENVIRON, stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT
            )

    def messages(self) -> tuple[Message, ...]:
        """What was sent and received so far."""
        return trace(self._folder / "messages.log")

    def finish(self) -> Run:
        """Wait for the end, which comes by SIPp's own timeout at the latest."""
        try:
            code = self._process.wait(RUN_SECONDS + 5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return Run(
            self._name, code, self._read("errors.log") + (self._read("screen.log") if code else ""), self.messages()
        )

    def _read(self, name: str) -> str:
        path = self._folder / name
        return path.read_text(errors="replace")[:TOLD_CHARACTERS] if path.exists() else ""


class Sipp:
    """Plays scenarios of one folder; runs leave their files in `work`. Safe to use from threads."""

    def __init__(self, scenarios: Path, pieces: Path, work: Path) -> None:
        self._scenarios, self._pieces, self._work = scenarios, pieces, work

    def start(
        self,
        name: str,
        port: int,
        *,
        transport: str = "udp",
        calls: int = 1,
        keys: Mapping[str, str] | None = None,
        repeats: bool = True,
    ) -> Running:
        """Begin to play scenario `name` against `port` of the loopback, with `calls` calls at once.

        Without `repeats` SIPp repeats nothing, and takes repetitions for messages that the scenario must expect.
        """
        assert BINARY is not None, MISSING
        local = free_ports(BLOCK)
        folder = self._work / f"{name}-{local}"
        folder.mkdir()
        scenario = folder / "scenario.xml"
        scenario.write_text(expand((self._scenarios / f"{name}.xml").read_text(), self._pieces, keys or {}))
        command = [
            BINARY, f"127.0.0.1:{port}", "-sf", str(scenario), "-t", "u1" if transport == "udp" else "t1",
            "-i", "127.0.0.1", "-p", str(local), "-mi", "127.0.0.1", "-mp", str(local + 2),
            "-m", str(calls), "-l", str(calls), "-r", str(calls), "-rp", "100", "-cid_str", f"%u-{name}-%p@%s",
            "-timeout", f"{RUN_SECONDS}s", "-timeout_error", "-recv_timeout", "10000", "-nostdin",
            "-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log",
        ]  # fmt: skip
        return Running(name, folder, command if repeats else [*command, "-nr"])

    def run(
        self,
        name: str,
        port: int,
        *,
        transport: str = "udp",
        calls: int = 1,
        keys: Mapping[str, str] | None = None,
        repeats: bool = True,
    ) -> Run:
        """`start`, and wait for the end."""
        return self.start(name, port, transport=transport, calls=calls, keys=keys, repeats=repeats).finish()


def expand(text: str, pieces: Path, keys: Mapping[str, str], *, depth: int = 0) -> str:
    """`text` with pieces and keys put in. Raises KeyError for a name that is neither."""
    assert depth < _DEPTH, "pieces use each other in a circle"

    def put_in(found: re.Match[str]) -> str:
        name, default, given = found.groups()
        value = keys.get(name, default[1:] if default else f"@{name}")
        if not value.startswith("@"):
            return value
        piece = next(pieces.glob(f"{value[1:]}.*"), None)
        if piece is None:
            raise KeyError(f"there is neither a key nor a piece {value!r}")
        own = dict(pair.split("=", 1) for pair in given.split())
        return expand(piece.read_text().strip("\n"), pieces, {**keys, **own}, depth=depth + 1)

    return _PLACEHOLDER.sub(put_in, text)


def trace(log: Path) -> tuple[Message, ...]:
    """The messages of a message log, which may still grow."""
    if not log.exists():
        return ()
    found = []
    for block in _STAMP.split(log.read_text(errors="replace"))[1:]:
        head, _, text = block.strip().partition("\n\n")
        found.append(Message("sent" in head.partition("\n")[0], text.strip()))
    return tuple(found)


def free_ports(count: int) -> int:
    """The first of `count` neighbouring ports of the loopback that nobody uses, UDP or TCP; never the same twice."""
    assert count <= PORTS.step
    with _lock:
        while True:
            low = _candidates.pop()
            if all(_is_free(port) for port in range(low, low + count)):
                return low


_lock = threading.Lock()  # runs are started from threads
_candidates = random.sample(PORTS, len(PORTS))


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                return False
    return True
