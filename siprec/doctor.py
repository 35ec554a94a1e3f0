"""What on this machine would limit recording, and how to change it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from siprec import app
from siprec.config import Settings
from siprec.errors import ConfigurationError, SiprecError
from siprec.media.ports import PortPool, buffered_seconds
from siprec.media.tiers import Tier, choose
from siprec.recorder.gate import free_bytes
from siprec.recorder.intake import Ports

BUFFER_SECONDS_WANTED = 2.0
"""A disk or a garbage collector may stall a drain this long before packets are lost."""

TIERS: dict[Tier, str] = {
    "native": "the C extension, without Python for what is plainly right",
    "batch": "recvmmsg, hundreds of packets a call; the C extension (pip install with gcc) would take half the time",
    "single": "recvmsg, one packet a call",
}
"""How sockets are emptied, for people."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `siprec check`."""

    text: str
    level: str  # ok, warning, fatal

    @property
    def fatal(self) -> bool:
        return self.level == "fatal"

    @property
    def mark(self) -> str:
        return {"ok": "✔", "warning": "!", "fatal": "✘"}[self.level]

    @property
    def style(self) -> str:
        return {"ok": "green", "warning": "yellow", "fatal": "red"}[self.level]


def examine(settings: Settings) -> list[Finding]:
    """All findings, in the order in which a call would meet them."""
    groups = (_listeners, _tls, _limits, _tier, _workers, _receive_buffer, _disk)
    return [finding for group in groups for finding in group(settings)]


def _listeners(settings: Settings) -> Iterator[Finding]:
    for host in settings.SIP_HOST:
        family = socket.AF_INET if host.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((str(host), settings.SIP_PORT))
            except OSError as error:
                yield Finding(
                    f"{host}:{settings.SIP_PORT} cannot be bound ({error.strerror}): is siprec running? else change "
                    "SIP_HOST or SIP_PORT",
                    "warning",
                )
            else:
                yield Finding(f"{host}:{settings.SIP_PORT} is free", "ok")


def _tls(settings: Settings) -> Iterator[Finding]:
    try:
        contexts = app.tls_contexts(settings)
    except ConfigurationError as error:
        yield Finding(str(error), "fatal")
    else:
        if contexts is not None:
            proof = "SRCs must show a certificate" if settings.SIP_TLS_CA else "SRCs need no certificate (SIP_TLS_CA)"
            yield Finding(f"TLS on port {settings.SIP_TLS_PORT}: {proof}", "ok")


def _limits(settings: Settings) -> Iterator[Finding]:
    try:
        ports = Ports(app.port_pools(settings))
        ports.close()
        limits = app.limits_of(settings, ports, app.raise_descriptor_limit())
    except SiprecError as error:
        yield Finding(str(error), "fatal")
    else:
        yield Finding(
            f"{limits.max_sessions} sessions at once (MAX_SESSIONS, RTP_PORT_MIN, RTP_PORT_MAX, ulimit -n)", "ok"
        )


def _tier(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding(f"capture by {TIERS[choose(settings.RTP_RECEIVE)]} (RTP_RECEIVE)", "ok")
    except ConfigurationError as error:
        yield Finding(str(error), "fatal")


def _receive_buffer(settings: Settings) -> Iterator[Finding]:
    address = str(settings.rtp_addresses[0])
    try:
        pool = PortPool(address, settings.RTP_PORT_MIN, settings.RTP_PORT_MAX)
        pool.close()
        pair = pool.acquire(0.0)
    except SiprecError as error:
        yield Finding(f"RTP_BIND_IP: {error}", "fatal")
        return
    seconds = buffered_seconds(pair.receive_buffer)
    pair.close()
    text = f"a stalled reader is bridged for {seconds:.1f} s by the kernel's receive buffer"
    if seconds < BUFFER_SECONDS_WANTED:
        yield Finding(f"{text}: raise it with sysctl -w net.core.rmem_max=1048576", "warning")
    else:
        yield Finding(text, "ok")


def _workers(settings: Settings) -> Iterator[Finding]:
    workers, cores = settings.MEDIA_WORKERS, len(os.sched_getaffinity(0))
    if workers == 0:
        yield Finding(f"the process that speaks SIP captures too, on one of {cores} cores (MEDIA_WORKERS)", "ok")
    elif workers < cores:
        yield Finding(f"{workers} of {cores} cores for processes that capture (MEDIA_WORKERS)", "ok")
    else:
        text = (
            f"MEDIA_WORKERS: {workers} processes that capture leave none of {cores} cores to signalling and rendering"
        )
        yield Finding(text, "warning")


def _disk(settings: Settings) -> Iterator[Finding]:
    path = settings.recording_dir
    while not path.exists():
        path = path.parent
    free = free_bytes(path)
    text = f"{free / 2**30:.1f} GiB free in {settings.recording_dir}"
    level = "ok" if free > settings.DISK_RESERVE else "fatal"
    yield Finding(text if level == "ok" else f"{text}: less than DISK_RESERVE, calls would get 503", level)
    if not _writable(path):
        yield Finding(f"RECORDING_DIR: {path} cannot be written", "fatal")


def _writable(path: Path) -> bool:
    probe = path / ".siprec-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
