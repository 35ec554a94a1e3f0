"""The descriptor store between a worker's side and an inbox like the keeper's."""

from __future__ import annotations

import os
import select
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from siprec.fdstore import NAMES_BYTES, FdStore, Inbox, from_environment, provided


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    opened = Inbox()
    yield opened
    opened.close()


@pytest.fixture
def store(inbox: Inbox) -> Iterator[FdStore]:
    opened = FdStore(inbox.address)
    yield opened
    opened.close()


def descriptor() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def test_a_socket_arrives_with_its_name_and_sender(inbox: Inbox, store: FdStore) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        assert store.put("u0", sock.fileno())
        ((sender, said, fds),) = inbox.messages()
        with socket.socket(fileno=fds[0]) as copy:
            assert copy.getsockname() == sock.getsockname()
            assert not copy.get_inheritable()
    assert sender == os.getpid()
    assert said == {"FDSTORE": "1", "FDNAME": "u0", "FDPOLL": "0"}


def test_several_sockets_have_one_name_and_one_message(inbox: Inbox, store: FdStore) -> None:
    fds = [descriptor(), descriptor()]
    assert store.put("10000", *fds)
    ((_, said, came),) = inbox.messages()
    assert said["FDNAME"] == "10000"
    assert len(came) == 2
    for fd in fds + came:
        os.close(fd)


def test_what_is_said_has_the_words_of_sd_notify(inbox: Inbox, store: FdStore) -> None:
    assert all([store.ready(), store.status("3 calls"), store.watchdog(), store.stopping()])
    said = [words for _, words, _ in inbox.messages()]
    assert said == [{"READY": "1"}, {"STATUS": "3 calls"}, {"WATCHDOG": "1"}, {"STOPPING": "1"}]


def test_only_what_is_kept_is_removed(inbox: Inbox, store: FdStore) -> None:
    fd = descriptor()
    assert store.put("10000", fd)
    assert store.remove("10000")
    assert not store.remove("10000")
    assert [each["FDNAME"] for _, each, _ in inbox.messages()] == ["10000", "10000"]
    os.close(fd)


def close_all(inbox: Inbox) -> int:
    """Close every descriptor that has come; returns how many."""
    fds = [fd for _, _, fds in inbox.messages() for fd in fds]
    for fd in fds:
        os.close(fd)
    return len(fds)


def test_a_barrier_ends_when_its_descriptor_is_closed(inbox: Inbox, store: FdStore) -> None:
    assert not store.barrier(0.01)
    assert close_all(inbox) == 1

    def handle() -> None:
        select.select([inbox], [], [], 10)
        assert close_all(inbox) == 1

    thread = threading.Thread(target=handle)
    thread.start()
    assert store.barrier(5.0)
    thread.join()


def test_nobody_there_keeps_nothing(inbox: Inbox) -> None:
    absent, address = FdStore(), inbox.address
    assert not absent.present
    assert not absent.put("u0", 0)
    assert not absent.barrier(1.0)
    assert not absent.ready()
    inbox.close()
    gone = FdStore(address)
    assert gone.present
    assert not gone.put("u0", 0)
    assert not gone.watchdog()
    gone.close()


def test_who_does_not_read_is_waited_for_once(inbox: Inbox, store: FdStore) -> None:
    sent = 0
    while store.ready():
        sent += 1
    assert store._socket is not None
    store._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 0))  # who waited: for ever
    assert not any(store.ready() for _ in range(100))
    assert len(list(inbox.messages())) == sent
    assert store.ready()


def test_names_end_where_one_environment_string_ends(inbox: Inbox, store: FdStore) -> None:
    full = FdStore(inbox.address, {f"{each:05}": [-1] for each in range(NAMES_BYTES // 6)})
    room = NAMES_BYTES % 6
    fd = descriptor()
    assert not full.put("u" * room, fd)
    assert full.put("u" * (room - 1), fd)
    assert not full.put("t0", fd)
    full.remove("00007")
    assert not full.put("t0", fd, fd, fd)
    assert full.put("t0", fd, fd)
    assert not full.put("t1", fd)
    assert close_all(inbox) == 3
    os.close(fd)
    full.close()


def test_the_environment_names_what_was_kept() -> None:
    # Descriptors of this very process: 3 and 4 are somebody else's, so only names and numbers are looked at.
    own = str(os.getpid())
    environ = {"LISTEN_PID": own, "LISTEN_FDS": "0", "LISTEN_FDNAMES": "u0", "WATCHDOG_USEC": "5000000", "HOME": "/"}
    environ["FDSTORE"] = "21000"
    store = from_environment(environ)
    assert store.taken == {}
    assert store.watchdog_seconds == 5.0
    assert store.several
    assert not store.present
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "environ",
    [
        {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "u0"},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "u0"},
        {"LISTEN_PID": "x", "LISTEN_FDS": "-1", "LISTEN_FDNAMES": ""},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"},
    ],
)
def test_what_was_meant_for_another_process_is_left_alone(environ: dict[str, str]) -> None:
    store = from_environment(environ)
    assert store.taken == {}
    assert store.watchdog_seconds is None
    assert not store.several


def test_unclaimed_sockets_are_closed_and_removed(inbox: Inbox) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as kept:
        kept.bind(("127.0.0.1", 0))
        address = kept.getsockname()
        store = FdStore(inbox.address, {"10000": [kept.detach()], "10001": [descriptor(), descriptor()]})
    taken = store.take("10000")
    assert taken is not None
    assert (taken.getsockname(), taken.getblocking()) == (address, False)
    assert store.take("10000") is None
    assert store.discard_unclaimed() == ["10001"]
    assert store.taken == {}
    assert [each for _, each, _ in inbox.messages()] == [{"FDSTOREREMOVE": "1", "FDNAME": "10001"}]
    taken.close()
    store.close()


def test_systemd_tells_that_it_keeps_descriptors() -> None:
    assert provided({"NOTIFY_SOCKET": "/run/systemd/notify", "FDSTORE": "18000"})
    assert not provided({"NOTIFY_SOCKET": "/run/systemd/notify"})
    assert not provided({"NOTIFY_SOCKET": "/run/systemd/notify", "FDSTORE": "0"})
    assert not provided({"FDSTORE": "18000"})


def test_systemd_is_told_to_keep_as_many_as_names_fit() -> None:
    unit = (Path(__file__).parents[2] / "config" / "siprec.service").read_text()
    told = [int(line.rpartition("=")[2]) for line in unit.splitlines() if "FDSTORE=" in line or "StoreMax=" in line]
    assert told == [21_000, 21_000]
    assert 21_000 * len("10000:") <= NAMES_BYTES


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = (Path(__file__).parents[2] / "config" / "siprec.service").read_text()
    here = unit.replace("/opt/siprec/bin/siprec", sys.executable).replace("User=siprec\nGroup=siprec\n", "")
    (tmp_path / "siprec.service").write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / "siprec.service"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
