"""A real `siprec serve` for tests, keeper and worker: started on free ports, watched by its log."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from siprec.archive.folder import RecordingFolder, walk

Line = dict[str, Any]

START_SECONDS = 30.0
EVENT_SECONDS = 30.0

COMMAND = (sys.executable, "-m", "siprec.cli")


class Server:
    """A running server. `port` is its SIP port, `log` every line so far, `process` the keeper."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.root = root
        self.log: list[Line] = []
        self._arrived: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        settings = {"SIP_HOST": "127.0.0.1", "SIP_PORT": "0", "RECORDING_DIR": str(root), "LOG_FORMAT": "json"}
        self.process = subprocess.Popen(
            [*COMMAND, "serve"],
            env={**os.environ, **settings, "DISK_RESERVE": "0", **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=root,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.wait_for("listening", seconds=START_SECONDS)["sip"].rpartition(":")[2])

    @property
    def uri(self) -> str:
        return f"sip:127.0.0.1:{self.port}"

    def wait_for(
        self, event: str, *others: str, where: Callable[[Line], bool] = lambda _: True, seconds: float = EVENT_SECONDS
    ) -> Line:
        """The next log line of this `event`, or one of `others`, that satisfies `where`; those before it are passed
        over.
        """
        while True:
            try:
                line = self._arrived.get(timeout=seconds)
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"no {event!r} came; the log was:\n" + "\n".join(map(str, self.log)))
            if line.get("event") in {event, *others} and where(line):
                return line

    @property
    def worker(self) -> int:
        """Process id of the worker that was last ready."""
        limit = time.monotonic() + START_SECONDS
        while not (ready := [each for each in self.log if each["event"] == "ready to record"]):
            assert time.monotonic() < limit, "no worker was ever ready"
            time.sleep(0.01)
        return int(ready[-1]["pid"])

    def media_workers(self) -> list[int]:
        """Process ids of those that capture for the worker."""
        found = []
        for pid in _children(self.worker):
            with suppress(OSError):
                if b"siprec.media.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)

    def recordings(self) -> list[RecordingFolder]:
        """All recordings so far, oldest first."""
        return list(walk(self.root))

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = EVENT_SECONDS) -> int:
        """Signal the server and wait for its end; returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill_worker(self) -> None:
        """Kill the worker; the keeper starts another (`wait_for("ready to record")`)."""
        os.kill(self.worker, signal.SIGKILL)

    def kill_all(self) -> None:
        """Kill keeper and worker, also one that is just starting, and wait for the keeper's end."""
        self.process.send_signal(signal.SIGSTOP)  # it starts no other meanwhile
        for each in (self.process.pid, *_children(self.process.pid)):
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Take up what is left of a process that has ended. Renderers share its output, so they end first."""
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            if b"warnings.warn" in raw:  # the second line of what the resource tracker says
                continue
            for line in _lines(raw):
                self.log.append(line)
                self._arrived.put(line)
        self._arrived.put(None)


def _children(pid: int) -> list[int]:
    """Not every kernel has /proc/PID/task/PID/children."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def _lines(raw: bytes) -> Iterator[Line]:
    """What a line of output says: usually one thing. A killed worker may not have come to its line's end."""
    text = raw.decode("utf-8", "replace").strip()
    decoder = json.JSONDecoder()
    while text:
        try:
            line, end = decoder.raw_decode(text)
        except ValueError:
            line, end = {"event": "not json", "text": text}, len(text)
        yield line
        text = text[end:].strip()


@contextmanager
def serving(root: Path, **environ: str) -> Iterator[Server]:
    """A server that is gone when the block ends. No line of its log may tell of a defect, or be anything but JSON."""
    server = Server(root, **environ)
    try:
        yield server
        wrong = [each for each in server.log if each["event"] in {"not json", "defect", "call failed"}]
        assert not wrong
    finally:
        if server.process.poll() is None:
            server.kill_all()
        server.close()
