"""A real redis-server on a free loopback port, which tests start, stop, kill and pause."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 10.0

MISSING = "redis-server is not installed (Debian: redis-server)"


def installed() -> bool:
    """Whether there is a redis-server to start."""
    return shutil.which("redis-server") is not None


class RedisServer:
    """A redis-server that keeps nothing on disk, unless `saved` is set: then a stop or restart keeps the data."""

    def __init__(self, folder: Path, *, options: tuple[str, ...] = (), saved: bool = False) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self._options = options
        self._saved = saved
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        self._process = subprocess.Popen(
            ["redis-server", *self._role(), *where, *self._options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                if self.ask("PING") == b"+PONG":
                    return
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError("redis-server did not start")
            time.sleep(0.005)

    def _role(self) -> list[str]:
        kept = "yes" if self._saved else "no"
        return ["--save", "", "--appendonly", kept, "--appendfsync", "always"]

    def ask(self, *words: str) -> bytes:
        """Send one command over a connection of its own; returns the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            text = "".join(f"${len(each.encode())}\r\n{each}\r\n" for each in words)
            connection.sendall(f"*{len(words)}\r\n{text}".encode())
            return connection.makefile("rb").readline().rstrip()

    def kill(self) -> None:
        """End it as a crash does (also while it is paused)."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it in good order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


class Sentinel(RedisServer):
    """A sentinel: it knows where the masters are that it was told of."""

    def _role(self) -> list[str]:
        config = self._folder / "sentinel.conf"
        config.touch()
        return [str(config), "--sentinel"]


@contextmanager
def running(
    *, options: tuple[str, ...] = (), saved: bool = False, kind: type[RedisServer] = RedisServer
) -> Iterator[RedisServer]:
    """A server for the time of a test, or of many."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = kind(Path(folder), options=options, saved=saved)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
