"""Sockets that outlive this process: systemd's store of descriptors, or the keeper, which speaks the same protocol.

What we say goes as one datagram each to NOTIFY_SOCKET (sd_notify(3)); what an earlier life of this process put there
comes back as descriptors 3, 4, ... named by LISTEN_FDNAMES (sd_listen_fds(3)).

A socket is safe from the moment `put` returns: it then lies in the kernel's queue or with the receiver, both of which
outlive us, and both receivers read their queue before they take note of our end. So nothing waits for `barrier` on the
way to an answer.

Names are short, since those of all sockets come back in one environment string, which Linux limits to 128 KiB:
`10000` the RTP and RTCP sockets of a pair by its lower port (`s10000` over IPv6), `u0` and `t0` the first UDP and TCP
listener, `l0` the lock of STATE_DIR, `m0` memory with what was read and not yet written. A name may stand for several
sockets, put with one message; in which order they come back nobody promises.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import sys
from collections.abc import Iterator, Mapping, MutableMapping, Sequence

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: after standard input, output and error."""

NAMES_BYTES = 128 * 1024 - len("LISTEN_FDNAMES=") - 1
"""MAX_ARG_STRLEN of Linux for one environment string: 21 800 sockets named by their port."""

SEND_SECONDS = 0.1
"""A receiver reads within a millisecond; one that does not is stuck, and nobody shall wait for it twice."""

EXIT_REPLACE = 75
"""EX_TEMPFAIL of sysexits.h: a worker that handed over ends with it, and is started again at once."""

AGAIN_SECONDS = 1.0
"""A second request to stop counts as "now" only so long after the first: who signals a whole group (systemd, `timeout`,
pkill) signals keeper and worker at once, and the keeper's relay is no second wish.
"""

MESSAGE_BYTES = 4096
"""The longest datagram either side reads: a status line is a few dozen bytes."""


_SEND_TIME = struct.pack("ll", 0, int(SEND_SECONDS * 1e6))  # struct timeval

_EXTRA_BYTES = socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4 * 4)  # who sent it, and up to four descriptors


class FdStore:
    """This process's side. Without an `address` (NOTIFY_SOCKET) it is a null object that keeps nothing.

    `taken`: descriptors that an earlier life put and nobody has claimed yet, by name. `several`: the other side keeps
    more than one under a name; a keeper of an earlier version, which lives on when its worker is replaced, does not.
    `watchdog_seconds`: how long the other side lets us be silent after the first `watchdog`; None when it does not
    watch.
    """

    def __init__(
        self,
        address: str | None = None,
        taken: Mapping[str, list[int]] | None = None,
        *,
        several: bool = True,
        watchdog_seconds: float | None = None,
    ) -> None:
        self.taken = dict(taken or {})
        self.several = several
        self.watchdog_seconds = watchdog_seconds
        self._names = {name: len(fds) for name, fds in self.taken.items()}
        self._names_bytes = sum((len(name) + 1) * count for name, count in self._names.items())
        self._address = address.replace("@", "\0", 1) if address and address.startswith("@") else address
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # The kernel's own time limit: Python's takes two more system calls for each message.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _SEND_TIME)
        self._flags = socket.MSG_NOSIGNAL

    @property
    def present(self) -> bool:
        """Whether there is another side that starts us again."""
        return self._socket is not None

    # ------------------------------------------------------------------ sockets

    def put(self, name: str, *fds: int) -> bool:
        """Have `fds` kept over our death. False when there is no room or nobody to keep them."""
        octets = (len(name) + 1) * len(fds)
        if name not in self._names and self._names_bytes + octets > NAMES_BYTES:
            return False
        # FDPOLL=0: an ICMP error pending on a UDP socket would make systemd drop it.
        if not self.say(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", fds):
            return False
        if name not in self._names:
            self._names[name] = len(fds)
            self._names_bytes += octets
        return True

    def remove(self, name: str) -> bool:
        """Have `name` kept no longer; its sockets stay ours to close."""
        count = self._names.pop(name, 0)
        if not count:
            return False
        self._names_bytes -= (len(name) + 1) * count
        return self.say(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def take(self, name: str) -> socket.socket | None:
        """The socket that an earlier life kept under `name`, once; it goes on being kept."""
        return next(iter(self.take_all(name)), None)

    def take_all(self, name: str) -> list[socket.socket]:
        """As `take`, where a name stands for several."""
        sockets = [socket.socket(fileno=fd) for fd in self.taken.pop(name, ())]
        for sock in sockets:
            sock.setblocking(False)
        return sockets

    def discard_unclaimed(self) -> list[str]:
        """Close and keep no longer what nobody has taken; returns the names."""
        names = list(self.taken)
        for name in names:
            self.remove(name)
            for fd in self.taken.pop(name):
                os.close(fd)
        return names

    def barrier(self, timeout: float) -> bool:
        """Wait until everything said before has been handled; False after `timeout` seconds."""
        ours, theirs = os.pipe2(os.O_CLOEXEC)
        try:
            sent = self.say("BARRIER=1", [theirs])
            os.close(theirs)
            poll = select.poll()  # select() knows no descriptor above 1023
            poll.register(ours, 0)  # hang-up is always told
            return sent and bool(poll.poll(timeout * 1000))
        finally:
            os.close(ours)

    # ------------------------------------------------------------------ how we are

    def ready(self) -> bool:
        return self.say("READY=1")

    def status(self, text: str) -> bool:
        """One line for whoever asks `systemctl status`."""
        return self.say(f"STATUS={text}")

    def extend(self, seconds: float) -> bool:
        """Ask for so much time from now on, to end or to hand over in."""
        return self.say(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def stopping(self) -> bool:
        return self.say("STOPPING=1")

    def watchdog(self) -> bool:
        """Tell that we live. False when nobody listens any more."""
        return self.say("WATCHDOG=1")

    def say(self, text: str, fds: Sequence[int] = ()) -> bool:
        """Any message of sd_notify(3). False when it did not get there."""
        if self._socket is None or self._address is None:
            return False
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([text.encode()], rights, self._flags, self._address)
        except BlockingIOError:
            self._flags |= socket.MSG_DONTWAIT
            return False
        except OSError:  # its socket is gone
            return False
        self._flags &= ~socket.MSG_DONTWAIT
        return True

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()


class Inbox:
    """The keeper's side: a datagram socket of a name that the kernel picks, told apart by the sender's process id."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind("")

    @property
    def address(self) -> str:
        """For NOTIFY_SOCKET; `@` begins an abstract name."""
        name = self._socket.getsockname()
        text: str = name.decode() if isinstance(name, bytes) else name
        return text.replace("\0", "@", 1)

    def fileno(self) -> int:
        return self._socket.fileno()

    def messages(self) -> Iterator[tuple[int, dict[str, str], list[int]]]:
        """Process id of the sender, what it says, and its descriptors, which are the caller's to close."""
        while True:
            try:
                data, extra, *_ = self._socket.recvmsg(MESSAGE_BYTES, _EXTRA_BYTES, socket.MSG_CMSG_CLOEXEC)
            except OSError:  # nothing more
                return
            sender, fds = 0, array.array("i")
            for level, kind, value in extra:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
                elif (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                    sender = int.from_bytes(value[:4], sys.byteorder)
            lines = data.decode("utf-8", "replace").splitlines()
            yield sender, dict(line.split("=", 1) for line in lines if "=" in line), list(fds)

    def close(self) -> None:
        self._socket.close()


def from_environment(environ: MutableMapping[str, str] | None = None) -> FdStore:
    """The store this process was started with. Its variables are taken out, so that no child believes them its own."""
    environ = os.environ if environ is None else environ
    address = environ.pop("NOTIFY_SOCKET", None)
    own = str(os.getpid())
    listening = {each: environ.pop(f"LISTEN_{each}", "") for each in ("PID", "FDS", "FDNAMES")}
    names = listening["FDNAMES"].split(":") if listening["PID"] == own and listening["FDNAMES"] else []
    taken: dict[str, list[int]] = {}
    for fd, name in enumerate(names[: _number(listening["FDS"])], FIRST_DESCRIPTOR):
        taken.setdefault(name, []).append(fd)
        os.set_inheritable(fd, False)
    watched = environ.pop("WATCHDOG_PID", own) == own
    microseconds = _number(environ.pop("WATCHDOG_USEC", ""))
    return FdStore(
        address,
        taken,
        several=_number(environ.pop("FDSTORE", "")) > 0,
        watchdog_seconds=microseconds / 1e6 if watched and microseconds else None,
    )


def provided(environ: Mapping[str, str]) -> bool:
    """Whether whoever started us keeps descriptors (systemd with FileDescriptorStoreMax tells so by FDSTORE, as the
    keeper does).
    """
    return bool(environ.get("NOTIFY_SOCKET")) and _number(environ.get("FDSTORE", "")) > 0


def _number(text: str) -> int:
    with contextlib.suppress(ValueError):
        return max(0, int(text))
    return 0
