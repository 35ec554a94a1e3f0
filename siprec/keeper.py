"""The keeper: parent of the worker, small and dull, so that it does not die when the worker does.

    siprec serve --exec--> keeper --fork, exec--> siprec serve --worker

It holds every socket that the worker puts (siprec.fdstore), starts the worker again when it ends, and gives it all
sockets back. While nobody reads, packets wait in the kernel: a default buffer holds 5 s of a call. It knows nothing of
SIP, RTP or settings. Under systemd with FileDescriptorStoreMax the same worker runs without a keeper.

    worker ends                 started again at once; after 3 ends before READY=1 a little later each time
    before the first READY=1    its exit code is passed on: it has said what is wrong
    worker exits 0              so do we: somebody told it to stop
    silent for 5 s              (once it has said WATCHDOG=1) killed and started again
    SIGHUP                      if the new code and settings load: SIGUSR1 to the worker, which hands over (exit 75)
    SIGTERM, SIGINT             passed on as SIGTERM, and so is SIGHUP of a closed terminal; 1 s later a second kills
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from siprec import fdstore

WATCHDOG_SECONDS = 5.0
"""A default receive buffer holds 5.1 s of a call: a worker that stands still for 4 s has lost nothing yet."""

FREE_STARTS = 3
"""Ends before READY=1 that are answered at once; only what never gets ready is made to wait."""

FIRST_DELAY, LAST_DELAY = 0.25, 5.0
"""Seconds before the next start then; doubled each time."""

HAND_OVER_SECONDS = 5.0
"""A worker that has not ended by then, nor asked for more time (its disk takes nothing), is killed: what it has not
written yet is a tick of packets at most.
"""

PAUSED_SECONDS = 0.5
"""When we ourselves wake this much too late, the whole machine stood still, and the worker is not to blame."""

OOM_ADJUSTMENT = 300
"""Of 1000: the worker comes first when memory is short, and we, without whom all would be lost, last."""

EXIT_FAILED = 1

HANDLED = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)

RELAYED = frozenset({"READY", "STATUS", "WATCHDOG", "EXTEND_TIMEOUT_USEC"})
"""What a systemd above us, that keeps no sockets, wants to hear."""


class Keeper:
    """Runs `command` (`command --check` tells whether it would load) until it is told to stop, or gives up."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = list(command)
        self._held: dict[str, list[int]] = {}
        self._names_bytes = 0
        self._worker = 0  # process ids, 0 for none
        self._checker = 0
        self._ready = False
        self._was_ready = False
        self._failures = 0
        self._told_at: float | None = None  # when we were told to stop
        self._exit: int | None = None
        self._start_at: float | None = None
        self._kill_at: float | None = None  # unless it speaks (watchdog) or ends (hand-over) before
        self._watching = False
        self._above = fdstore.FdStore(os.environ.pop("NOTIFY_SOCKET", None))
        self._inbox = fdstore.Inbox()
        self._signals, self._wakeup = socket.socketpair()
        self._poll = select.poll()
        for end in (self._signals, self._wakeup):
            end.setblocking(False)
        for readable in (self._inbox, self._signals):
            self._poll.register(readable, select.POLLIN)

    def run(self) -> int:
        """Returns the exit code."""
        signal.set_wakeup_fd(self._wakeup.fileno())
        for number in HANDLED:
            signal.signal(number, lambda *_: None)
        self._start()
        while self._exit is None:
            ready = self._wait()
            self._read_messages()
            if self._signals.fileno() in ready:
                self._read_signals()
                self._reap()
            self._keep_time()
        return self._exit

    # ------------------------------------------------------------------ events

    def _wait(self) -> set[int]:
        """The descriptors that have something to say."""
        due = [each for each in (self._start_at, self._kill_at) if each is not None]
        before = time.monotonic()
        if not due:
            return {fd for fd, _ in self._poll.poll()}
        timeout = min(max(0.0, min(due) - before), PAUSED_SECONDS)
        ready = {fd for fd, _ in self._poll.poll(timeout * 1000 + 1)}
        late = time.monotonic() - before - timeout
        if late > PAUSED_SECONDS and self._kill_at is not None:
            self._kill_at += late
        return ready

    def _read_messages(self) -> None:
        for sender, said, fds in self._inbox.messages():
            if sender != self._worker or not self._heard(said, fds):
                for fd in fds:  # closing ours is also what a barrier waits for
                    os.close(fd)

    def _heard(self, said: dict[str, str], fds: list[int]) -> bool:
        """Act on what the worker says; whether its descriptors are kept."""
        if said.get("READY") == "1":
            self._ready = self._was_ready = True
        if said.get("WATCHDOG") == "1" and (self._kill_at is None or self._watching):
            self._watching = True
            self._kill_at = time.monotonic() + WATCHDOG_SECONDS
        if said.get("STOPPING") == "1" and self._watching:  # it renders on, and has time limits of its own
            self._watching, self._kill_at = False, None
        if (extended := said.get("EXTEND_TIMEOUT_USEC", "")).isdecimal() and self._handing_over:
            self._kill_at = time.monotonic() + int(extended) / 1e6
        for key in RELAYED & said.keys():
            self._above.say(f"{key}={said[key]}")
        name = said.get("FDNAME", "")
        if said.get("FDSTOREREMOVE") == "1":
            self._forget(name)
        elif said.get("FDSTORE") == "1" and fds and name.isalnum():
            return self._hold(name, fds)
        return False

    def _read_signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._signals.recv(256):
                if number in (signal.SIGTERM, signal.SIGINT) or (number == signal.SIGHUP and terminal_is_gone()):
                    self._stop()
                elif number == signal.SIGHUP and self._worker and not (self._checker or self._told_at is not None):
                    self._checker = self._spawn([*self._command, "--check"], quiet=True)

    def _reap(self) -> None:
        """Every child that ended, also those that are ours only because we are PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            if pid == self._worker:
                self._ended(code)
            elif pid == self._checker:
                self._checked(code)

    def _keep_time(self) -> None:
        now = time.monotonic()
        if self._start_at is not None and now >= self._start_at:
            self._start()
        if self._kill_at is not None and now >= self._kill_at:
            say("worker is stuck: killed", pid=self._worker)
            self._kill_at = None
            os.kill(self._worker, signal.SIGKILL)

    # ------------------------------------------------------------------ the worker

    def _start(self) -> None:
        self._start_at, self._ready = None, False
        self._worker = self._spawn(self._command)

    def _spawn(self, command: list[str], *, quiet: bool = False) -> int:
        """Start `command`, with all sockets, or (`quiet`) with none and no output; returns its process id."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)  # a child with our handlers would lose its signals to us
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in HANDLED:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
            os.setpgid(0, 0)  # Ctrl-C reaches us alone, and the worker only by us
            with contextlib.suppress(OSError):
                _adjust_oom(OOM_ADJUSTMENT)
            environ = dict(os.environ)
            if quiet:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            else:
                environ |= self._environment()
                arrange([fd for fds in self._held.values() for fd in fds])
            os.execve(command[0], command, environ)  # noqa: S606  no shell is wanted
        except OSError as error:
            say("cannot start", command=command[0], error=str(error))
        finally:
            os._exit(EXIT_FAILED)

    def _environment(self) -> dict[str, str]:
        environ = {
            "NOTIFY_SOCKET": self._inbox.address,
            "WATCHDOG_USEC": str(int(WATCHDOG_SECONDS * 1e6)),
            "WATCHDOG_PID": str(os.getpid()),
            "FDSTORE": str(fdstore.NAMES_BYTES),  # more than there can be names
        }
        names = [name for name, fds in self._held.items() for _ in fds]
        if names:
            environ |= {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(names)),
                "LISTEN_FDNAMES": ":".join(names),
            }
        return environ

    def _ended(self, code: int) -> None:
        self._read_messages()  # what it said last
        pid, self._worker = self._worker, 0
        self._kill_at, self._watching = None, False
        if self._told_at is not None:
            early = code == -signal.SIGTERM  # it could not listen yet: what it had to take up waits for the next start
            self._exit = 0 if early else code if code >= 0 else EXIT_FAILED
        elif code == 0 or (code > 0 and code != fdstore.EXIT_REPLACE and not self._was_ready):
            self._exit = code
        else:
            self._failures = 0 if self._ready else self._failures + 1
            steps = self._failures - FREE_STARTS
            delay = 0.0 if steps < 0 else min(LAST_DELAY, FIRST_DELAY * 2.0 ** min(steps, 10))
            self._start_at = time.monotonic() + delay
            if code != fdstore.EXIT_REPLACE:
                cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                say(
                    "worker died",
                    pid=pid,
                    cause=cause,
                    sockets_held=sum(map(len, self._held.values())),
                    restart_in_s=delay,
                )

    def _checked(self, code: int) -> None:
        self._checker = 0
        if code != 0:
            say("worker not replaced: the new one would not start", exit_code=code)
        elif self._worker and self._told_at is None and not self._handing_over:
            self._watching, self._kill_at = False, time.monotonic() + HAND_OVER_SECONDS
            os.kill(self._worker, signal.SIGUSR1)

    @property
    def _handing_over(self) -> bool:
        return self._kill_at is not None and not self._watching

    def _stop(self) -> None:
        now = time.monotonic()
        if not self._worker:
            self._exit = 0
        elif self._told_at is None:
            os.kill(self._worker, signal.SIGTERM)
        elif now - self._told_at >= fdstore.AGAIN_SECONDS:
            os.kill(self._worker, signal.SIGKILL)
        if self._told_at is None:
            self._told_at = now

    # ------------------------------------------------------------------ sockets

    def _hold(self, name: str, fds: list[int]) -> bool:
        self._forget(name)
        octets = (len(name) + 1) * len(fds)
        if self._names_bytes + octets > fdstore.NAMES_BYTES:
            return False
        self._held[name] = fds
        self._names_bytes += octets
        return True

    def _forget(self, name: str) -> None:
        for fd in self._held.pop(name, ()):
            self._names_bytes -= len(name) + 1
            os.close(fd)


def arrange(fds: list[int]) -> None:
    """Make `fds` the descriptors 3, 4, ... of this process, to be inherited; what else was there is closed."""
    where = {fd: index for index, fd in enumerate(fds)}  # those not in their place yet
    for index in range(len(fds)):
        fd, target = fds[index], fdstore.FIRST_DESCRIPTOR + index
        del where[fd]
        if fd == target:
            os.set_inheritable(fd, True)
            continue
        displaced = where.pop(target, None)
        if displaced is not None:
            fds[displaced] = fcntl.fcntl(target, fcntl.F_DUPFD_CLOEXEC, target + 1)
            where[fds[displaced]] = displaced
        os.dup2(fd, target)
        os.close(fd)


def terminal_is_gone() -> bool:
    """Whether we ran in a terminal that was closed: then SIGHUP is no wish for new code."""
    try:
        os.tcgetpgrp(sys.stdout.fileno())
    except OSError as error:
        return error.errno == errno.EIO
    return False


def say(event: str, **details: Any) -> None:
    """A line of log in the form of the worker's."""
    ts = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    line = json.dumps({"event": event, "level": "warning", "ts": f"{ts}Z", **details})
    if (os.environ.get("LOG_FORMAT") or ("console" if sys.stdout.isatty() else "json")) == "console":
        line = f"keeper: {event} " + " ".join(f"{key}={value}" for key, value in details.items())
    with contextlib.suppress(OSError):  # nobody reads our output any more: no reason to stop
        print(f"{line}\n", end="", flush=True)  # one write: others share our output and must not come between


def become(command: Sequence[str]) -> NoReturn:
    """Turn this process into the keeper of `command`: a fresh interpreter, small in memory, the same process id."""
    keeper = [sys.executable, "-P", "-m", "siprec.keeper"]
    os.execv(sys.executable, [*keeper, *command])  # noqa: S606  no shell is wanted


def _adjust_oom(by: int) -> None:
    with open("/proc/self/oom_score_adj", "r+") as file:
        score = int(file.read())
        file.seek(0)
        file.write(str(max(-1000, min(1000, score + by))))


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.suppress(OSError):  # lowering is root's
        _adjust_oom(-OOM_ADJUSTMENT)
    return Keeper(sys.argv[1:]).run()


if __name__ == "__main__":
    sys.exit(main())
