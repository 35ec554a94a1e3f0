"""The keeper over toy workers: a few lines of Python each, told by their first argument what to do."""

from __future__ import annotations

import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from siprec import fdstore, keeper
from siprec.keeper import FREE_STARTS

PRELUDE = """
import os, signal, socket, sys, time
from siprec import fdstore
def say(*words):
    print(*words, flush=True)
if sys.argv[-1] == "--check":
    sys.exit(os.path.exists("broken"))
store = fdstore.from_environment()
say("started", os.getpid(), *sorted(store.taken))
"""

SERVING = """
sock = store.take("u0")
if sock is None:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    store.put("u0", sock.fileno())
sock.setblocking(True)
store.ready()
say("ready", sock.getsockname()[1])
while True:
    data = sock.recv(100).decode()
    say("got", data)
    exec(data)
"""
"""Answers nothing, says what it got, and does it."""


class Kept:
    """A keeper with a toy worker. Its lines come out of `next`."""

    def __init__(self, folder: Path, script: str, *, command: str = "", **environ: str) -> None:
        self.folder = folder
        path = folder / "worker.py"
        path.write_text(PRELUDE + script)
        own = ["-c", command] if command else ["-m", "siprec.keeper"]
        self.process = subprocess.Popen(
            [sys.executable, "-P", *own, sys.executable, str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, **environ},
        )
        self.lines: list[str] = []
        self._arrived: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line)
                self._arrived.put(line)
        self._arrived.put("")

    def next(self, word: str) -> list[str]:
        """The words after `word` in the next line that begins with it, or is the keeper's own and has it somewhere."""
        while True:
            line = self._arrived.get(timeout=20)
            if not line:
                raise AssertionError(f"no {word!r} in: {''.join(self.lines)}")
            if line.startswith(word):
                return line.removeprefix(word).split()
            if line.startswith("{") and word in line:
                return line.split()

    def started(self) -> int:
        return int(self.next("started")[0])

    def ready(self) -> int:
        return int(self.next("ready")[0])

    def send(self, port: int, command: str) -> None:
        self._sender.sendto(command.encode(), ("127.0.0.1", port))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(fdstore.AGAIN_SECONDS + 0.1)
            self.signal(signal.SIGINT)  # the second kills
        elif self.process.returncode < 0:  # the worker is left
            os.kill(int([line for line in self.lines if line.startswith("started")][-1].split()[1]), signal.SIGKILL)
        self.process.wait()
        self._thread.join()
        self._sender.close()


Start = Callable[..., Kept]


def stand_still(pid: int) -> None:
    """Stop a process, and wait until it has."""
    os.kill(pid, signal.SIGSTOP)
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Start]:
    started: list[Kept] = []

    def start(script: str = SERVING, **environ: str) -> Kept:
        started.append(Kept(tmp_path, script, **environ))
        return started[-1]

    yield start
    for each in started:
        each.end()


def test_a_socket_outlives_its_worker_with_what_waits_in_it(kept: Start) -> None:
    server = kept()
    for round_ in range(3):
        worker, port = server.started(), server.ready()
        stand_still(worker)
        server.send(port, f"{round_} # while it stands still")
        os.kill(worker, signal.SIGKILL)
        server.send(port, f"{round_} # while it is dead")
        assert server.next("got") == [str(round_), "#", "while", "it", "stands", "still"]
        assert server.next("got") == [str(round_), "#", "while", "it", "is", "dead"]
        server.send(port, "1/0")  # a worker that dies by itself
        assert "exit code 1" in " ".join(server.next("worker died"))
    assert server.process.poll() is None


def test_what_was_put_just_before_a_kill_is_kept(kept: Start) -> None:
    server = kept(
        """
if not store.taken:
    for name in ("1000", "1001", "1002"):
        store.put(name, os.open(os.devnull, os.O_RDONLY))
    store.remove("1001")
    os.kill(os.getpid(), signal.SIGKILL)
store.ready()
signal.pause()
"""
    )
    server.next("started")
    assert server.next("started")[1:] == ["1000", "1002"]


def test_sockets_come_back_by_name_whatever_their_number(kept: Start) -> None:
    server = kept(
        """
if not store.taken:
    for number in range(40):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(("127.0.0.1", 0))
        store.put(str(sock.getsockname()[1]), sock.fileno())
        if number % 3 == 0:
            store.remove(str(sock.getsockname()[1]))
    os.kill(os.getpid(), signal.SIGKILL)
for name in list(store.taken):
    assert store.take(name).getsockname()[1] == int(name)
store.ready()
say("checked", sorted(map(int, os.listdir("/proc/self/fd")))[-2])
signal.pause()
"""
    )
    (highest,) = server.next("checked")
    assert int(highest) < 3 + 26 + 5  # nothing but them, and no hole


def test_a_name_may_stand_for_several_sockets(kept: Start) -> None:
    server = kept(
        """
if not store.taken:
    assert store.several
    for name in ("1000", "1002"):
        store.put(name, *(os.open(os.devnull, os.O_RDONLY) for _ in range(2)))
    store.remove("1002")
    os.kill(os.getpid(), signal.SIGKILL)
store.ready()
say("ready", *(len(fds) for fds in store.taken.values()))
signal.pause()
"""
    )
    server.next("started")
    assert server.next("started")[1:] == ["1000"]
    assert server.next("ready") == ["2"]


def test_a_worker_that_cannot_start_passes_its_code_on(kept: Start) -> None:
    for code in (78, 1):
        server = kept(f"sys.exit({code})")
        assert server.process.wait(10) == code
        assert len([line for line in server.lines if line.startswith("started")]) == 1


def test_a_later_worker_that_cannot_start_is_tried_again(kept: Start) -> None:
    server = kept("if os.path.exists('broken') and not os.path.exists('fixed'): sys.exit(78)\n" + SERVING)
    worker, port = server.started(), server.ready()
    (server.folder / "broken").touch()
    os.kill(worker, signal.SIGKILL)
    for _ in range(FREE_STARTS - 1):
        assert '"restart_in_s": 0.0' in " ".join(server.next("exit code 78"))
    assert '"restart_in_s": 0.25' in " ".join(server.next("exit code 78"))
    assert '"restart_in_s": 0.5' in " ".join(server.next("exit code 78"))
    (server.folder / "fixed").touch()
    assert server.ready() == port


def test_a_worker_that_ends_on_purpose_ends_the_keeper(kept: Start) -> None:
    server = kept()
    server.send(server.ready(), "sys.exit(0)")
    assert server.process.wait(10) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_reaches_the_worker(kept: Start, number: signal.Signals) -> None:
    server = kept("signal.signal(signal.SIGTERM, lambda *_: (say('stopping'), sys.exit(7)))\n" + SERVING)
    server.ready()
    server.signal(number)
    server.next("stopping")
    assert server.process.wait(10) == 7


STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: say('stopping'))\n" + SERVING


def test_a_second_stop_kills(kept: Start) -> None:
    server = kept(STUBBORN, command=impatient("fdstore.AGAIN_SECONDS = 0.0"))
    server.ready()
    server.signal(signal.SIGINT)
    server.next("stopping")
    server.signal(signal.SIGINT)
    assert server.process.wait(10) == keeper.EXIT_FAILED


def test_a_second_stop_at_once_is_no_second_wish(kept: Start) -> None:
    """A group was signalled, and we among it. "At once" is an hour here, for a machine that is slow."""
    server = kept(STUBBORN, command=impatient("fdstore.AGAIN_SECONDS = 3600.0"))
    port = server.ready()
    server.signal(signal.SIGINT)
    server.next("stopping")
    server.signal(signal.SIGINT)
    for _ in range(2):  # a barrier passes before signals are looked at, so the second tells that they were
        server.send(port, "store.barrier(20); say('heard')")
        server.next("heard")
    server.send(port, "sys.exit(0)")
    assert server.process.wait(10) == 0


def test_a_stop_of_a_worker_that_cannot_listen_yet_is_in_order(kept: Start) -> None:
    server = kept("time.sleep(60)")
    server.started()
    server.signal(signal.SIGTERM)
    assert server.process.wait(10) == 0


def test_no_signal_of_a_worker_is_blocked(kept: Start) -> None:
    server = kept("say('mask', len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))")
    assert server.next("mask") == ["0"]


def test_a_stop_between_two_workers_ends_at_once(kept: Start) -> None:
    server = kept("if os.path.exists('broken'): sys.exit(1)\n" + SERVING)
    worker = server.started()
    server.ready()
    (server.folder / "broken").touch()
    os.kill(worker, signal.SIGKILL)
    server.next('"restart_in_s": 0.5')
    server.signal(signal.SIGTERM)
    assert server.process.wait(10) == 0


def impatient(setting: str) -> str:
    """A keeper with one of its limits shortened."""
    return f"import sys; from siprec import keeper; keeper.{setting}; sys.exit(keeper.main())"


HANDING_OVER = "signal.signal(signal.SIGUSR1, lambda *_: (say('handing over'), os._exit(75)))\n" + SERVING


def test_a_hang_up_replaces_the_worker(kept: Start) -> None:
    server = kept(HANDING_OVER)
    first, port = server.started(), server.ready()
    server.signal(signal.SIGHUP)
    server.next("handing over")
    second = server.started()
    assert (server.ready(), second != first) == (port, True)
    server.send(port, "7")
    server.next("got")
    assert not [line for line in server.lines if "worker died" in line]


def test_a_closed_terminal_is_a_stop(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(
        PRELUDE
        + """
signal.signal(signal.SIGTERM, lambda *_: (open("stopped", "w").close(), os._exit(0)))
say("ready")
while True: signal.pause()
"""
    )
    # In a session of its own, with the terminal as its own, as a shell has it.
    command = "import fcntl, sys, termios; from siprec import keeper; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", command + "sys.exit(keeper.main())", sys.executable, "worker.py"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        start_new_session=True,
    )
    os.close(theirs)
    said = b""
    while b"ready\r\n" not in said:  # all of it: who is still writing when the terminal closes dies of that
        said += os.read(ours, 100)
    os.close(ours)
    assert process.wait(10) == 0
    assert (tmp_path / "stopped").exists()


def test_a_worker_is_not_replaced_by_one_that_would_not_start(kept: Start) -> None:
    server = kept(HANDING_OVER)
    port = server.ready()
    (server.folder / "broken").touch()
    server.signal(signal.SIGHUP)
    server.next("worker not replaced")
    server.send(port, "7")
    server.next("got")


def test_a_worker_that_does_not_hand_over_is_killed(kept: Start) -> None:
    script = "signal.signal(signal.SIGUSR1, signal.SIG_IGN)\n" + SERVING
    server = kept(script, command=impatient("HAND_OVER_SECONDS = 0.3"))
    port = server.ready()
    server.signal(signal.SIGHUP)
    server.next("worker is stuck")
    assert server.ready() == port


def test_a_worker_may_ask_for_time_to_hand_over(kept: Start) -> None:
    """Its disk takes nothing for now; another hang-up meanwhile changes nothing."""
    hand_over = (
        "def hand_over(*_):\n    store.extend(30); say('asked')\n    time.sleep(0.6); os._exit(fdstore.EXIT_REPLACE)\n"
        "signal.signal(signal.SIGUSR1, hand_over)\n"
    )
    server = kept(hand_over + SERVING, command=impatient("HAND_OVER_SECONDS = 0.3"))
    port = server.ready()
    server.signal(signal.SIGHUP)
    server.next("asked")
    server.signal(signal.SIGHUP)
    assert server.ready() == port
    assert not [line for line in server.lines if "stuck" in line]


BEAT = "store.watchdog(); store.barrier(20); say('heard')"

BEATING = (
    "import threading\n"
    + "def beat():\n    while store.watchdog(): time.sleep(0.2)\n"
    + SERVING.replace("store.ready()", "store.ready(); threading.Thread(target=beat, daemon=True).start()")
)


def test_stillness_is_borne_for_five_seconds_and_no_longer(kept: Start) -> None:
    server = kept()
    worker, port = server.started(), server.ready()
    said = time.monotonic()
    server.send(port, BEAT)
    server.next("heard")
    stand_still(worker)
    server.next("worker is stuck")
    assert time.monotonic() - said >= keeper.WATCHDOG_SECONDS  # never sooner; how much later is the machine's affair
    assert server.ready() == port


def test_a_worker_that_stood_still_goes_on(kept: Start) -> None:
    """Each beat counts anew; the limit is one that no machine is too slow for."""
    server = kept(command=impatient("WATCHDOG_SECONDS = 3600.0"))
    worker, port = server.started(), server.ready()
    for _ in range(2):
        server.send(port, BEAT)
        server.next("heard")
        stand_still(worker)
        os.kill(worker, signal.SIGCONT)
    server.send(port, BEAT)
    server.next("heard")
    assert not [line for line in server.lines if "stuck" in line]


def test_a_machine_that_stood_still_is_no_fault_of_the_worker(kept: Start) -> None:
    server = kept(BEATING, command=impatient("WATCHDOG_SECONDS = 3.0"))
    worker, port = server.started(), server.ready()
    server.send(port, "store.barrier(5); say('heard')")
    server.next("heard")
    for pid in (server.process.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(5.0)
    for pid in (worker, server.process.pid):
        os.kill(pid, signal.SIGCONT)
    server.send(port, "store.barrier(5); say('heard')")
    server.next("heard")
    assert not [line for line in server.lines if "stuck" in line]


def test_a_keeper_s_death_leaves_the_worker_at_work(kept: Start) -> None:
    server = kept()
    port = server.ready()
    server.process.kill()
    server.process.wait()
    server.send(port, "say('alive', store.watchdog())")
    assert server.next("alive") == ["False"]


def test_strangers_are_not_heard(kept: Start) -> None:
    """Its other children, for example, which have its environment."""
    server = kept(
        SERVING.replace("while True", "signal.signal(signal.SIGCHLD, lambda *_: say('child ended'))\nwhile True")
    )
    worker, port = server.started(), server.ready()
    server.send(port, "if os.fork() == 0: store.remove('u0'); os._exit(0)")
    server.next("child ended")
    server.send(port, "store.barrier(5)")
    server.next("got")
    server.send(port, "7")
    server.next("got")
    os.kill(worker, signal.SIGKILL)
    assert server.next("started")[1:] == ["u0"]


def test_the_init_above_hears_what_it_wants_to(kept: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as above:
        above.bind(str(tmp_path / "notify"))
        above.settimeout(10)
        server = kept(NOTIFY_SOCKET=str(tmp_path / "notify"))
        server.send(server.ready(), "store.put('m0', 0); store.status('1 call')")
        assert [above.recv(100), above.recv(100)] == [b"READY=1", b"STATUS=1 call"]


def test_orphans_are_reaped(kept: Start) -> None:
    """As PID 1 it inherits them; here it is made to as their subreaper."""
    server = kept(
        SERVING,
        command="""
import ctypes, sys
from siprec.keeper import Keeper
ctypes.CDLL(None).prctl(36, 1)
sys.exit(Keeper(sys.argv[1:]).run())
""",
    )
    port = server.ready()
    server.send(port, "if os.fork() == 0: (pid := os.fork()) or os._exit(0); say('orphan', pid); os._exit(3)")
    orphan = int(server.next("orphan")[0])
    server.send(port, "os.wait()")  # the child is the worker's own; the grandchild is nobody's
    while Path(f"/proc/{orphan}").exists():
        time.sleep(0.01)
    server.send(port, "sys.exit(0)")
    assert server.process.wait(10) == 0


ARRANGING = """
import os, sys
from siprec.keeper import arrange
order = [int(each) for each in sys.argv[1:]]
files = [os.memfd_create(str(each)) for each in range(len(order))]
assert files[0] == 3, files
arrange([files[each] for each in order])
for number in range(3, 3 + len(order)):
    assert os.get_inheritable(number)
    print(os.readlink(f"/proc/self/fd/{number}"))
"""


@pytest.mark.parametrize("order", ["0 1 2 3", "3 2 1 0", "1 2 3 0", "2 0 3 1", "1 0 3 2"])
def test_descriptors_are_arranged_in_any_order(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", ARRANGING, *order.split()], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"/memfd:{each} (deleted)" for each in order.split()]
