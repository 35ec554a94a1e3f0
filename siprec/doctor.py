"""What on this machine would limit recording, and how to change it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from siprec import app
from siprec.config import Settings
from siprec.errors import ConfigurationError, ListenError, SiprecError
from siprec.media.ports import PortPool, buffered_seconds
from siprec.media.tiers import Tier, choose
from siprec.net.address import bound_socket
from siprec.recorder.gate import free_bytes
from siprec.recorder.intake import Ports
from siprec.store.redis import connect

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
    configuration: bool = False
    """A mistake in the settings, for which `siprec serve` would not start."""

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
    groups = (_listeners, _tls, _limits, _media, _redis, _tier, _workers, _receive_buffer, _disk)
    return [finding for group in groups for finding in group(settings)]


def _listeners(settings: Settings) -> Iterator[Finding]:
    wanted = [(settings.SIP_PORT, "SIP_HOST, SIP_PORT", {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM})]
    if settings.SIP_TLS_CERT is not None:
        wanted.append((settings.SIP_TLS_PORT, "SIP_HOST, SIP_TLS_PORT", {"tls": socket.SOCK_STREAM}))
    for host in map(str, settings.SIP_HOST):
        for port, setting, kinds in wanted:
            taken = False
            for name, kind in kinds.items():
                try:
                    bound_socket(kind, host, port, setting=setting).close()
                except ListenError as error:
                    taken = True
                    yield Finding(f"{error} ({name}): is siprec running? else change one", "warning")
            if not taken:
                yield Finding(f"{host}:{port} is free ({', '.join(kinds)})", "ok")


def _tls(settings: Settings) -> Iterator[Finding]:
    try:
        contexts = app.tls_contexts(settings)
    except ConfigurationError as error:
        yield Finding(str(error), "fatal", configuration=True)
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
        yield Finding(str(error), "fatal", isinstance(error, ConfigurationError))
    else:
        yield Finding(
            f"{limits.max_sessions} sessions at once (MAX_SESSIONS, RTP_PORT_MIN, RTP_PORT_MAX, ulimit -n)", "ok"
        )


def _media(settings: Settings) -> Iterator[Finding]:
    """What SDP will name, as `recorder.negotiation` chooses it."""
    external = {each.version: each for each in settings.EXTERNAL_IP}
    setting = "RTP_BIND_IP" if settings.RTP_BIND_IP else "SIP_HOST"
    for version, (bound, *others) in sorted(settings.rtp_addresses_by_family.items()):
        if version in external:
            text = f"{external[version]} (EXTERNAL_IP)"
        elif bound.is_unspecified:
            text = "the address that a call comes to"
        elif others:
            several = ", ".join(map(str, (bound, *others)))
            text = f"of {several} the one that a call comes to, else the first ({setting})"
        else:
            text = f"{bound} ({setting})"
        yield Finding(f"SDP names for IPv{version}: {text}", "ok")


def _redis(settings: Settings) -> Iterator[Finding]:
    if settings.ENABLE_REDUNDANCY and settings.REDUNDANCY_STORAGE_TYPE == "redis" and settings.REDIS_URL:
        try:
            connect(settings.REDIS_URL.get_secret_value())
        except ValueError as error:
            yield Finding(f"REDIS_URL: {error}", "fatal", configuration=True)


def _tier(settings: Settings) -> Iterator[Finding]:
    try:
        yield Finding(f"capture by {TIERS[choose(settings.RTP_RECEIVE)]} (RTP_RECEIVE)", "ok")
    except ConfigurationError as error:
        yield Finding(str(error), "fatal", configuration=True)


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
    free = free_bytes(_existing(settings.recording_dir))
    text = f"{free / 2**30:.1f} GiB free in {settings.recording_dir}"
    level = "ok" if free > settings.DISK_RESERVE else "fatal"
    yield Finding(text if level == "ok" else f"{text}: less than DISK_RESERVE, calls would get 503", level)
    for name, wanted in (("RECORDING_DIR", settings.recording_dir), ("STATE_DIR", settings.state_dir)):
        path = _existing(wanted)
        if not _writable(path):
            yield Finding(f"{name}: {path} cannot be written", "fatal", configuration=True)


def _existing(path: Path) -> Path:
    """The folder itself, or that in which it will be made."""
    while not os.path.exists(path):  # Path.exists raises where it may not look
        path = path.parent
    return path


def _writable(path: Path) -> bool:
    probe = path / ".siprec-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True
