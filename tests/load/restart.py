"""A server with thousands of sessions is killed and started again: how soon is everything captured again?

Calls of one stream each are made until the limit of open files is reached. The store is then filled up with copies of
them whose stream was closed, so that the rest of a start (journal, dialogs, folders) is paid for all. Two deaths are
measured: keeper and worker with kill -9, the server started again; and the worker alone, under its keeper. RTP goes
on to a sample of the streams meanwhile. All seconds count from the start of the process, or the worker's kill:

    receiving   the first packet that the last stream's socket got again, by its arrival time in the capture
    capturing   the first capture on disk, and the last
    answered    200 to a BYE that is sent again and again in a restored dialog
"""

from __future__ import annotations

import asyncio
import itertools
import re
import resource
import socket
import struct
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any

from siprec.archive.folder import day_of, new_session_id
from siprec.client.options import PARTIES
from siprec.client.scene import Scene
from siprec.client.tracks import CODECS
from siprec.media import pcap
from siprec.session.transitions import State
from siprec.sip.dialog import Dialog
from siprec.store.base import SessionRecord
from siprec.store.sqlite import SqliteSessionStore
from tests.load.machine import cpu_seconds
from tests.load.spray import rtp
from tests.support.server import Line, Server, serving

SESSIONS = 10_000
CAPTURING_SECONDS = 5.0

SOCKETS_AND_FILE = 5
"""What the server reckons for a session, of which one with a single stream uses three."""

SPARE = 200

ADDRESS = "127.0.99.1"
"""For RTP: nobody else's ports are there when ours are bound again."""

WINDOW = 16
"""INVITEs on their way."""

BACK_OFF_SECONDS = 0.2
"""After a 503: the next call comes so much later."""

PACKETS_PER_SECOND = 5
"""To each stream: a tick of the drain apart. How often it is sent limits how exactly its return can be told."""

SAMPLE = 10
"""One stream of so many is sent to; of the others the capture is looked for. To send to all took a core of two."""

AGAIN_SECONDS = 0.05
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Restored:
    """Seconds after the death's end; None for what never came."""

    receiving: float | None
    first_capturing: float | None
    all_capturing: float | None
    answered: float | None
    ready: float
    cpu: float

    def told(self, death: str) -> dict[str, Any]:
        names = ("receiving", "first_capturing", "all_capturing", "answered", "ready", "cpu")
        return {f"{death}_{name}_s": None if (at := getattr(self, name)) is None else round(at, 2) for name in names}


def measure(root: Path, scale: float) -> tuple[dict[str, Any], list[str]]:
    """Figures and problems."""
    stored = round(SESSIONS * scale)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    live = min(stored, (hard - SPARE) // SOCKETS_AND_FILE)
    environ = {
        "RTP_BIND_IP": ADDRESS,
        "SIP_RATE": "100000",
        "MAX_SESSIONS": str(live),
        "SESSION_TIMEOUT": "10m",
        "RTP_TIMEOUT": "10m",
    }
    with ExitStack() as stack:
        first = stack.enter_context(serving(root, **environ))
        first.wait_for("ready to record")
        _call(first.port, live)
        _settle(first, live)
        first.kill_all()
        ports = asyncio.run(_fill(root / ".state", stored))
        watch = stack.enter_context(_watching(root, ports, first.port))
        again = serving(root, **environ, SIP_PORT=str(first.port))
        whole, second = watch.restored(lambda: stack.enter_context(again))
        alone, _ = watch.restored(lambda: _without_worker(second))
        second.kill_all()
    deaths = {"server": whole, "worker": alone}
    told: dict[str, Any] = {"sessions": stored, "with_sockets": live}
    steps = [line for line in second.log if line["event"] == "sessions captured again"]
    for (death, each), step in zip(deaths.items(), steps, strict=True):
        told |= each.told(death) | {f"{death}_{name}": step[name] for name in ("sockets_s", "captured_s")}
    slow = [
        f"{death}: all sessions captured after {each.all_capturing} s"
        for death, each in deaths.items()
        if each.all_capturing is None or each.all_capturing >= CAPTURING_SECONDS
    ]
    lost = [str(line["error"]) for line in second.log if line["event"] == "session cannot be restored"]
    deaf = [f"{death}: no BYE answered" for death, each in deaths.items() if each.answered is None]
    return told, slow + lost + deaf


# ---------------------------------------------------------------------- sessions


def _call(port: int, count: int) -> None:
    """Make `count` calls of one stream; each is answered 200 and acknowledged."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.connect(("127.0.0.1", port))
        sock.settimeout(10.0)
        own, numbers, waiting = sock.getsockname()[1], itertools.count(), dict[str, int]()
        made = 0
        while made < count:
            while made + len(waiting) < count and len(waiting) < WINDOW:
                number = next(numbers)
                waiting[f"restart-{number}"] = number
                sock.send(_invite(number, own))
            text = sock.recv(65_535).decode()
            status, call_id = int(text[8:11]), _header(text, "Call-ID")
            if status < 200 or call_id not in waiting:
                continue
            number = waiting.pop(call_id)
            sock.send(_request("ACK", call_id, _header(text, "To"), own, number=number))
            made += status == 200
            if status != 200:  # too fast for this machine
                time.sleep(BACK_OFF_SECONDS)


def _header(text: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*?)\r$", text, re.MULTILINE)
    assert found is not None, text
    return found[1]


def _invite(number: int, own: int) -> bytes:
    scene = Scene(ADDRESS, CODECS["PCMU"], session=uuid.UUID(int=number + 1))
    scene.join(PARTIES[0], own)
    headers, body = scene.invitation(metadata=True)
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers)
    return _request("INVITE", f"restart-{number}", "<sip:srs@127.0.0.1>", own, number=number, extra=extra, body=body)


def _request(
    method: str, call_id: str, to: str, own: int, *, number: int = 0, cseq: int = 1, extra: str = "", body: bytes = b""
) -> bytes:
    return (
        f"{method} sip:srs@127.0.0.1 SIP/2.0\r\n"
        f"Via: SIP/2.0/UDP 127.0.0.1:{own};rport;branch=z9hG4bK{method}{number}\r\n"
        f"From: <sip:alice@example.com>;tag=a\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n"
        f"Contact: <sip:alice@127.0.0.1:{own}>;+sip.src\r\nMax-Forwards: 70\r\n{extra}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _settle(server: Server, live: int) -> None:
    """Wait until the last state of all is in the journal."""
    for _ in range(live):
        server.wait_for("call recording")
    time.sleep(2.0)


@dataclass(frozen=True, slots=True)
class _Live:
    """A stored session with a socket."""

    session_id: str
    port: int
    dialog: Dialog


async def _fill(state_dir: Path, wanted: int) -> list[_Live]:
    """The sessions that were left; beside them as many without ports as are wanting to `wanted`."""
    store = await SqliteSessionStore.open(state_dir, boot=(state_dir / "boot_id").read_text().strip())
    node = (state_dir / "node_id").read_text().strip()
    records = [await store.load(each) for each in await store.owned(node)]
    found = [_Live(each.call.session_id, each.call.channels[0].port, each.dialogs[0].dialog) for each in records]
    patterns = itertools.islice(itertools.cycle(records), wanted - len(records))
    await asyncio.gather(*(store.create(_copy(each, number)) for number, each in enumerate(patterns)))
    await store.close()
    return found


def _copy(record: SessionRecord, number: int) -> SessionRecord:
    session_id = new_session_id(record.call.offered_ns, number.to_bytes(10))
    name = f"copy-{number}"
    channels = [replace(each, mode="closed", port=0, remote=None) for each in record.call.channels]
    call = replace(record.call, session_id=session_id, call_id=name, channels=channels, state=State.PAUSED)
    dialogs = [replace(each, dialog=replace(each.dialog, call_id=name)) for each in record.dialogs]
    return SessionRecord(call, dialogs, record.metadata)


# ---------------------------------------------------------------------- what is seen from outside


class _Watch:
    """Sends to all streams, and looks at what is written."""

    def __init__(self, root: Path, live: list[_Live], sip_port: int) -> None:
        self._root = root
        self._live = live
        self._sip_port = sip_port
        self._fence = 1
        self._ended: list[_Live] = []
        self._stopping = Event()
        self._thread = Thread(target=self._send, daemon=True)
        self._node = (root / ".state" / "node_id").read_text().strip()
        self._ending = iter([each for number, each in enumerate(live) if number % SAMPLE])

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def restored(self, begin: Callable[[], Server]) -> tuple[Restored, Server]:
        """Wait until all is captured again, or patience is at its end, after `begin`, which starts a process."""
        self._fence += 1
        ended = next(self._ending)  # only one is hung up
        self._ended.append(ended)
        answered: list[float] = []
        asking = Thread(target=self._ask, args=(ended, answered), daemon=True)
        asking.start()
        servers: list[Server] = []
        began = time.time()
        starting = Thread(target=lambda: servers.append(begin()))
        starting.start()
        sample = self._live[::SAMPLE]
        waiting = {self._capture(each): pcap.FILE_HEADER for each in self._live if each not in self._ended}
        waiting |= {self._capture(each): pcap.FILE_HEADER + 1 for each in sample}
        seen: list[float] = []
        limit = began + PATIENCE_SECONDS
        while waiting and time.time() < limit:
            now = time.time()
            there = [path for path, least in waiting.items() if _size(path) >= least]
            seen += [now] * len(there)
            for path in there:
                del waiting[path]
            time.sleep(0.05)
        asking.join()
        starting.join()
        cpu = cpu_seconds(servers[0].worker)
        told = servers[0].wait_for("ready to record", where=lambda line: _at(line) > began, seconds=PATIENCE_SECONDS)
        while not _rendered(servers[0], began):  # a renderer that begins while the next kill comes would complain
            assert time.time() < limit, "the session that was hung up is not rendered"
            time.sleep(0.05)
        arrived = [_first_arrival(self._capture(each)) for each in sample] if not waiting else []
        restored = Restored(
            receiving=max(arrived) - began if arrived else None,
            first_capturing=seen[0] - began if seen else None,
            all_capturing=seen[-1] - began if not waiting else None,
            answered=answered[0] - began if answered else None,
            ready=_at(told) - began,
            cpu=cpu,
        )
        return restored, servers[0]

    def _capture(self, session: _Live) -> Path:
        folder = self._root / day_of(session.session_id) / session.session_id
        return folder / "parts" / f"{self._fence:06d}-{self._node}" / "capture-0001.pcap"

    def _send(self) -> None:
        """One packet after the other to all streams, spread evenly."""
        ports = [each.port for each in self._live[::SAMPLE]]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((ADDRESS, 0))
            pause = 1 / PACKETS_PER_SECOND / 20
            for number in itertools.count():
                data = rtp(number)
                for start in range(20):
                    began = time.monotonic()
                    for port in ports[start::20]:
                        _send_anyway(sock, data, ADDRESS, port)
                    if self._stopping.wait(max(0.0, pause - (time.monotonic() - began))):
                        return

    def _ask(self, session: _Live, answered: list[float]) -> None:
        """BYE in the dialog of a session, until it is answered."""
        dialog = session.dialog
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            sock.settimeout(AGAIN_SECONDS)
            own = sock.getsockname()[1]
            to = f"<sip:srs@127.0.0.1>;tag={dialog.local_tag}"
            bye = _request("BYE", dialog.call_id, to, own, number=self._fence, cseq=10)
            limit = time.time() + PATIENCE_SECONDS
            while time.time() < limit:
                _send_anyway(sock, bye, "127.0.0.1", self._sip_port)
                try:
                    text = sock.recv(65_535)
                except OSError:
                    continue
                if text.startswith(b"SIP/2.0 200"):
                    answered.append(time.time())
                    return


@contextmanager
def _watching(root: Path, live: list[_Live], sip_port: int) -> Iterator[_Watch]:
    watch = _Watch(root, live, sip_port)
    watch.start()
    try:
        yield watch
    finally:
        watch.stop()


def _without_worker(server: Server) -> Server:
    server.kill_worker()
    return server


def _rendered(server: Server, since: float) -> bool:
    """Whether a recording was finished since then; the line may have come before one that was waited for."""
    return any(line["event"] == "recording ready" and _at(line) > since for line in list(server.log))


def _at(line: Line) -> float:
    return datetime.fromisoformat(line["ts"]).timestamp()


def _send_anyway(sock: socket.socket, data: bytes, host: str, port: int) -> None:
    with suppress(OSError):  # the other side is dead: that is what we are here for
        sock.sendto(data, (host, port))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _first_arrival(path: Path) -> float:
    """Wall clock of the first packet in a capture (seconds)."""
    with path.open("rb") as file:
        seconds, nanoseconds = struct.unpack("<II", file.read(pcap.FILE_HEADER + 8)[-8:])
    return float(seconds + nanoseconds / 1e9)
