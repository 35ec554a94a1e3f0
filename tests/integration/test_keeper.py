"""A server whose worker is killed, replaced, frozen, orphaned: what its peers notice."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.calls import live
from tests.support.server import COMMAND, Server, serving

WAIT_SECONDS = 20.0
"""For answers: a restart takes one, several on a busy machine."""


def options(number: int, port: int, local: int, transport: str = "UDP") -> bytes:
    lines = [
        f"OPTIONS sip:recorder@127.0.0.1:{port} SIP/2.0",
        f"Via: SIP/2.0/{transport} 127.0.0.1:{local};branch=z9hG4bK-{number}",
        "Max-Forwards: 70",
        "From: <sip:alice@example.com>;tag=a1",
        "To: <sip:recorder@example.com>",
        f"Call-ID: probe-{number}@example.com",
        f"CSeq: {number} OPTIONS",
        "Content-Length: 0",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


class Prober:
    """Sends OPTIONS every 20 ms over one connected UDP socket: a closed port would show as ECONNREFUSED."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.connect(("127.0.0.1", port))
        self._socket.settimeout(0.1)
        self._stop = threading.Event()
        self.sent = 0
        self.refused = 0
        self.answered: dict[int, float] = {}
        """Seconds that each answer took."""
        self._at: dict[int, float] = {}
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]
        for each in self._threads:
            each.start()

    def _send(self) -> None:
        local = self._socket.getsockname()[1]
        while not self._stop.wait(0.02):
            self.sent += 1
            self._at[self.sent] = time.monotonic()
            try:
                self._socket.send(options(self.sent, self._port, local))
            except ConnectionRefusedError:
                self.refused += 1

    def _receive(self) -> None:
        last = time.monotonic()
        while not (self._stop.is_set() and (len(self.answered) == self.sent or time.monotonic() > last + 3.0)):
            try:
                answer = self._socket.recv(65_536)
            except ConnectionRefusedError:
                self.refused += 1
                continue
            except TimeoutError:
                continue
            found = re.search(rb"\r\nCSeq: *(\d+) ", answer)
            assert found is not None
            assert answer.startswith(b"SIP/2.0 200 ")
            last = time.monotonic()
            self.answered[int(found[1])] = last - self._at[int(found[1])]

    def catch_up(self) -> None:
        """Wait until what was sent last is answered."""
        due, until = self.sent, time.monotonic() + WAIT_SECONDS
        while max(self.answered, default=0) < due:
            assert time.monotonic() < until
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop sending and wait for the answers still due."""
        self._stop.set()
        for each in self._threads:
            each.join()
        self._socket.close()


@contextmanager
def probing(server: Server) -> Iterator[Prober]:
    prober = Prober(server.port)
    try:
        yield prober
    finally:
        prober.stop()


def test_no_request_is_refused_or_lost_while_workers_are_killed(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        killed = []
        with probing(server) as prober:
            for _ in range(3):
                server.wait_for("ready to record")
                prober.catch_up()
                killed.append(server.worker)
                server.kill_worker()
            server.wait_for("ready to record")
            prober.catch_up()
        assert len({*killed, server.worker}) == 4
        assert server.stop() == 0
    print(f"{prober.sent} OPTIONS, longest wait {max(prober.answered.values()):.2f} s")
    assert prober.refused == 0
    assert prober.sent - len(prober.answered) <= 3  # each kill may hit one that was read and not yet answered


def test_no_request_is_lost_while_workers_are_replaced(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        workers = set()
        server.wait_for("ready to record")
        with probing(server) as prober:
            for _ in range(2):
                workers.add(server.worker)
                server.process.send_signal(signal.SIGHUP)
                server.wait_for("handing over")
                server.wait_for("ready to record")
            prober.catch_up()
        assert server.worker not in workers
        assert server.stop() == 0
    print(f"{prober.sent} OPTIONS, longest wait {max(prober.answered.values()):.2f} s")
    assert (prober.refused, len(prober.answered)) == (0, prober.sent)


def test_a_connection_made_while_no_worker_lives_is_answered(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.wait_for("ready to record")
        server.kill_worker()
        server.wait_for("worker died")
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(options(1, server.port, connection.getsockname()[1], "TCP"))
            assert connection.recv(65_536).startswith(b"SIP/2.0 200 ")
        server.wait_for("ready to record")


async def test_media_is_never_refused_while_a_worker_is_killed(tmp_path: Path) -> None:
    """Its sockets stay bound: who sends to them gets no ICMP, and nobody else can have them."""
    with serving(tmp_path) as server:
        async with live(server) as call:
            await call.run(0.3)
            ports = bound_by(server.worker)
            server.kill_worker()
            server.wait_for("worker died")
            assert ports
            for port in ports:
                with (
                    socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
                    pytest.raises(OSError, match="in use"),
                ):
                    other.bind(("127.0.0.1", port))
            server.wait_for("ready to record")


def bound_by(pid: int) -> list[int]:
    """UDP ports of 127.0.0.1 in the range of RTP that a process holds."""
    links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir() if each.is_symlink()]
    inodes = {each[8:-1] for each in links if each.startswith("socket:[")}
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    ports = [int(row[1].partition(":")[2], 16) for row in rows if row[9] in inodes]
    return [port for port in ports if 10_000 <= port <= 29_999]


def test_a_new_server_refuses_to_start_while_a_worker_is_being_replaced(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.wait_for("ready to record")
        server.kill_worker()
        server.wait_for("worker died")
        found = another(tmp_path)
        assert found.returncode == 78
        assert "STATE_DIR" in found.stderr


def test_a_keeper_s_death_is_told_and_changes_nothing_else(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.wait_for("ready to record")
        server.process.kill()
        assert server.wait_for("keeper is gone")["pid"] == server.worker
        with probing(server) as prober:
            assert another(tmp_path).returncode == 78
            os.kill(server.worker, signal.SIGHUP)
            server.wait_for("not replaced")
        assert prober.refused == 0
        assert len(prober.answered) == prober.sent
        os.kill(server.worker, signal.SIGTERM)
        server.wait_for("stopped")


def test_settings_that_cannot_work_do_not_replace_those_that_do(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        server.wait_for("ready to record")
        (tmp_path / ".env").write_text("RTP_TIMEOUT=soon\n")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("worker not replaced: the new one would not start")
        with probing(server) as prober:
            pass
        assert len(prober.answered) == prober.sent
        assert server.stop() == 0
        server.log[:] = [each for each in server.log if "RTP_TIMEOUT" not in each.get("text", "")]


def test_new_settings_come_with_a_new_worker(tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serving(tmp_path, SIP_PORT="") as server:  # the default, unless .env says otherwise
        assert server.port == 5060
        (tmp_path / ".env").write_text(f"SIP_PORT={port}\n")
        server.process.send_signal(signal.SIGHUP)
        assert server.wait_for("listening")["sip"] == f"sip:127.0.0.1:{port}"
        server.wait_for("ready to record")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as old:
            old.bind(("127.0.0.1", 5060))  # nobody keeps the old one
        assert server.stop() == 0


def test_systemd_s_own_store_needs_no_keeper(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        path = str(tmp_path / "notify")
        systemd.bind(path)
        systemd.settimeout(WAIT_SECONDS)
        with serving(tmp_path, NOTIFY_SOCKET=path, FDSTORE="18000", WATCHDOG_USEC="5000000") as server:
            names, said = [], b""
            while said != b"READY=1":
                said, fds, *_ = socket.recv_fds(systemd, 4096, 4)
                names += re.findall(rb"FDNAME=(\w+)", said)
                for fd in fds:
                    os.close(fd)
            assert names == [b"l0", b"m0", b"u0", b"t0"]
            server.wait_for("ready to record")
            assert server.worker == server.process.pid
            heard = threading.Event()

            def listen() -> None:
                while not heard.is_set():
                    systemd.recv(4096)

            thread = threading.Thread(target=listen)
            thread.start()
            assert server.stop(signal.SIGHUP) == 75
            heard.set()
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", path)
            thread.join()


def another(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "serve"],
        env={**os.environ, "RECORDING_DIR": str(root), "SIP_HOST": "127.0.0.1", "SIP_PORT": "0", "LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        cwd=root,
        timeout=WAIT_SECONDS,
        check=False,
    )
