"""The composition root: builds all parts from the settings, starts them, stops them in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import random
import resource
import secrets
import socket
import ssl
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from siprec import clock, log
from siprec.cluster.base import Cluster, open_cluster
from siprec.cluster.boot import Boot, begin
from siprec.config import Configuration, Settings
from siprec.errors import ConfigurationError, ListenError
from siprec.fdstore import FdStore, from_environment
from siprec.media import rooms
from siprec.media.capture import Capture
from siprec.media.local import LocalCapture
from siprec.media.ports import PortPool
from siprec.media.source import SourcePolicy
from siprec.media.threads import Fault
from siprec.media.workers.remote import RemoteCapture
from siprec.net import tls
from siprec.net.address import bound_socket
from siprec.net.signalling import Pump
from siprec.net.tcp import TcpListener
from siprec.net.udp import UdpListener
from siprec.process import Ending, collecting_later, ended_by_signals, freeze_modules, locked, pulse
from siprec.recorder.facilities import Facilities, Policy
from siprec.recorder.finish import FinishOptions
from siprec.recorder.gate import Limits, free_bytes
from siprec.recorder.intake import BARRIER_SECONDS, Ports
from siprec.recorder.pool import RenderPool
from siprec.recorder.service import Recorder, observers
from siprec.session import bodies
from siprec.session.admission import RecordingSource
from siprec.session.keyring import SECRET_BYTES, Keyring
from siprec.sip.endpoint import Endpoint
from siprec.sip.flow import Flow
from siprec.sip.timers import Timings
from siprec.store.base import SessionStore
from siprec.store.opening import open_store

DESCRIPTORS_SPARE = 200
"""Descriptors kept for logs, files being written, connections and the interpreter."""

DESCRIPTORS_PER_SESSION = 5
"""Two port pairs and a capture file."""

PORTS_PER_SESSION = 4

ROOMS = "m0"
"""What memory with packets that are not written yet is called in the store."""

PORT_ATTEMPTS = 16
"""Free ports tried for SIP_PORT=0 until one is free for both UDP and TCP."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that serves; for the demo and tests, which need to know where."""

    recorder: Recorder
    settings: Settings
    sip_port: int


async def serve(configuration: Configuration, store: FdStore) -> int:
    """Serve until a signal or cancellation, then stop in order, or hand over to a successor. Returns the exit code.

    Raises ConfigurationError, ListenError before anything is answered.
    """
    ending = Ending()
    freeze_modules()
    with folders_held(configuration.settings, store), ended_by_signals(ending, store):
        async with AsyncExitStack() as stack:
            await start(configuration, stack, store=store, ending=ending)
            await ending.wait()
    return ending.exit_code


async def start(
    configuration: Configuration,
    stack: AsyncExitStack,
    *,
    timings: Timings | None = None,
    store: FdStore | None = None,
    ending: Ending | None = None,
) -> Running:
    """Build and start all parts; `stack` stops them, last started first, as `ending` says.

    `timings`: other SIP timers than the RFC's. `store`: who keeps our sockets, and what it kept.
    """
    settings = configuration.settings
    store, ending = store or FdStore(), ending or Ending()
    await stack.enter_async_context(pulse(store))
    descriptors = raise_descriptor_limit()
    node, logger = node_id(settings), log.get()
    ports = Ports(port_pools(settings), store)
    stack.callback(ports.close)
    contexts = tls_contexts(settings)
    secure: list[TcpListener] = []
    later = Later()
    with collecting_later():
        capture = _capture(settings, store)
        facilities = await _facilities(settings, stack, later, node=node, ports=ports, capture=capture, timings=timings)
        limits = limits_of(settings, ports, descriptors)
        recorder = later.recorder = Recorder(facilities, limits, subject_of=lambda flow: subject_of(flow, secure))
        pump = later.pump = Pump(
            facilities.endpoint,
            recorder.handle,
            clock=clock.monotonic,
            on_defect=lambda error, event: logger.error("defect", event_type=type(event).__name__, exc_info=error),
        )
        stack.callback(pump.close)
        # Sessions of an earlier life come back here, before any request for them can, and take their sockets.
        standing = asyncio.all_tasks()
        await recorder.restore()
    calling = asyncio.all_tasks()
    await facilities.cluster.start()
    standing |= asyncio.all_tasks() - calling
    stack.push_async_callback(facilities.cluster.close)
    await recorder.restore_shared()
    listeners = stack.enter_context(ExitStack())
    sip_port = _listen(settings, pump, recorder, listeners, store)
    secure += _listen_tls(settings, pump, recorder, listeners, store, contexts=contexts)
    stack.push_async_callback(_stop, recorder, settings.SHUTDOWN_TIMEOUT, store, ending, listeners, standing)
    tls_port = secure[0].address[1] if secure else None
    banner(configuration, node=node, limits=limits, sip_port=sip_port, tls_port=tls_port)
    unclaimed = store.discard_unclaimed()
    if unclaimed:
        logger.warning("sockets without a session closed", count=len(unclaimed))
    store.ready()
    recorder.salvage()
    recorder.watch(settings.SESSION_CHECK_INTERVAL)
    return Running(recorder, settings, sip_port)


class Later:
    """Endpoint, stores, recorder and pump need each other: what is built later is looked up when it is called."""

    recorder: Recorder
    pump: Pump


async def _facilities(
    settings: Settings,
    stack: AsyncExitStack,
    later: Later,
    *,
    node: str,
    ports: Ports,
    capture: Capture,
    timings: Timings | None,
) -> Facilities:
    """What every call works with, started; `stack` stops it."""
    files = ThreadPoolExecutor(max_workers=4, thread_name_prefix="files")
    stack.callback(files.shutdown, wait=False)
    pool = RenderPool()
    stack.callback(pool.close)
    capture.start()
    stack.callback(capture.stop)
    boot = begin(settings.state_dir, lambda: secrets.token_hex(8))
    sessions, cluster = await _shared_state(settings, stack, later, node=node, boot=boot)
    return Facilities(
        policy=replace(policy(settings, node), former=former_name(settings.state_dir, node)),
        endpoint=Endpoint(
            token=lambda: secrets.token_hex(10),
            accept=bodies.ACCEPT,
            timings=timings,
            admission=lambda request, flow, now: later.recorder.gate.admit(request, flow, now),
            ask_unknown=True,
            may_send_to=lambda address: later.recorder.gate.is_listed(address),
        ),
        capture=capture,
        ports=ports,
        store=sessions,
        pool=pool,
        files=files,
        entropy=secrets.token_bytes,
        keyring=Keyring(node_secret(settings)),
        flush=lambda: later.pump.flush(),
        observers=observers(),
        boot=boot.current,
        cluster=cluster,
    )


def _capture(settings: Settings, store: FdStore) -> Capture:
    """In this process, or in MEDIA_WORKERS of their own. Raises ConfigurationError for a tier that cannot run here."""
    redo_left(store)
    if settings.MEDIA_WORKERS:
        workers, backlog = settings.MEDIA_WORKERS, settings.RTP_BACKLOG
        return RemoteCapture(workers, receive=settings.RTP_RECEIVE, backlog_bytes=backlog, on_fault=tell_fault)
    memory = lasting_memory(store)
    return LocalCapture(
        receive=settings.RTP_RECEIVE, backlog_bytes=settings.RTP_BACKLOG, on_fault=tell_fault, memory=memory
    )


def redo_left(store: FdStore) -> None:
    """Write what a process before us had read and not yet written, where `store` has kept it."""
    for earlier in store.taken.pop(ROOMS, ()):
        if packets := rooms.redo(earlier):
            log.get().info("packets saved that had not been written", packets=packets)
        os.close(earlier)
    store.remove(ROOMS)


def lasting_memory(store: FdStore) -> int | None:
    """Memory for what is read and not yet written, which outlives us; None where nobody keeps it."""
    if not store.present:
        return None
    try:
        memory = rooms.create_memory()
    except OSError as error:
        log.get().warning("no memory outlives this process", reason=error.strerror, effect="a kill may cost a tick")
        return None
    store.put(ROOMS, memory)
    return memory


async def _shared_state(
    settings: Settings, stack: AsyncExitStack, later: Later, *, node: str, boot: Boot
) -> tuple[SessionStore, Cluster]:
    """The store of REDUNDANCY_STORAGE_TYPE (ENABLE_REDUNDANCY=false wins over it), and the nodes that share it.

    Raises ConfigurationError for a REDIS_URL that makes no sense.
    """
    kind = settings.REDUNDANCY_STORAGE_TYPE if settings.ENABLE_REDUNDANCY else "noop"
    redis_url = settings.REDIS_URL.get_secret_value() if kind == "redis" and settings.REDIS_URL else None
    try:
        sessions = await open_store(
            kind,
            settings.state_dir,
            node=node,
            boot=boot.current,
            redis_url=redis_url,
            lost=lambda session_id: later.recorder.neighbours.lost(session_id),
        )
        stack.push_async_callback(sessions.close)
        cluster = open_cluster(
            redis_url,
            sessions,
            lambda session_id, asker, wish: later.recorder.neighbours.release(session_id, asker, wish),
            node=node,
            boot=boot.current,
            previous=boot.previous,
        )
    except ValueError as error:
        raise ConfigurationError([f"REDIS_URL: {error}"]) from error
    return sessions, cluster


async def _stop(
    recorder: Recorder,
    timeout: float,
    store: FdStore,
    ending: Ending,
    listeners: ExitStack,
    standing: set[asyncio.Task[Any]],
) -> None:
    """`standing`: tasks that end with what is below the recorder."""
    if ending.hand_over:
        await recorder.await_disk(store, still=lambda: ending.hand_over)
    if ending.hand_over:
        listeners.close()  # what comes from now on waits in the kernel for our successor
        await recorder.hand_over()
        log.get().info("handing over")
        return
    store.stopping()
    left = await recorder.stop(timeout, store)
    tasks = len(asyncio.all_tasks() - standing - {asyncio.current_task()})
    log.get().info("stopped", recordings_left_for_next_start=left, tasks_left=tasks)


def _listen(settings: Settings, pump: Pump, recorder: Recorder, stack: ExitStack, store: FdStore) -> int:
    """UDP and TCP on each SIP_HOST; port 0 takes a free one, the same for all. Raises ListenError."""
    port = settings.SIP_PORT
    for number, host in enumerate(map(str, settings.SIP_HOST)):
        datagrams, streams = _both(store, number, host, port)
        port = datagrams.getsockname()[1]
        allow, refused = recorder.gate.is_listed, recorder.gate.count_refused
        udp = UdpListener(host, port, pump=pump, allow=allow, refused=refused, sock=datagrams)
        stack.callback(udp.close)
        tcp = TcpListener(host, port, pump=pump, allow=allow, refused=refused, sock=streams)
        stack.callback(tcp.close)
    return port


def _both(store: FdStore, number: int, host: str, port: int) -> tuple[socket.socket, socket.socket]:
    """UDP and TCP sockets on one port; a free one that only UDP has is drawn again. Raises ListenError."""
    setting = "SIP_HOST, SIP_PORT"
    for attempt in range(PORT_ATTEMPTS):
        datagrams = kept_socket(store, f"u{number}", socket.SOCK_DGRAM, host, port, setting=setting)
        try:
            wanted = datagrams.getsockname()[1]
            return datagrams, kept_socket(store, f"t{number}", socket.SOCK_STREAM, host, wanted, setting=setting)
        except ListenError:
            store.remove(f"u{number}")
            datagrams.close()
            if port or attempt == PORT_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _listen_tls(
    settings: Settings,
    pump: Pump,
    recorder: Recorder,
    stack: ExitStack,
    store: FdStore,
    *,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None,
) -> list[TcpListener]:
    """TLS on each SIP_HOST if there are `contexts`; port 0 as in `_listen`. Raises ListenError."""
    port, found = settings.SIP_TLS_PORT, []
    for number, host in enumerate(map(str, settings.SIP_HOST) if contexts else ()):
        sock = kept_socket(store, f"s{number}", socket.SOCK_STREAM, host, port, setting="SIP_HOST, SIP_TLS_PORT")
        listener = TcpListener(
            host,
            port,
            pump=pump,
            allow=recorder.gate.is_listed,
            refused=recorder.gate.count_refused,
            tls=contexts[0] if contexts else None,
            tls_client=contexts[1] if contexts else None,
            sock=sock,
        )
        stack.callback(listener.close)
        found.append(listener)
        port = listener.address[1]
    return found


def tls_contexts(settings: Settings) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """For connections to us and by us, None without a certificate. Raises ConfigurationError."""
    certificate, key, ca = settings.SIP_TLS_CERT, settings.SIP_TLS_KEY, settings.SIP_TLS_CA
    if certificate is None or key is None:
        return None
    return tls.server_context(certificate, key, ca=ca), tls.client_context(certificate, key, ca=ca)


def subject_of(flow: Flow, listeners: Sequence[TcpListener]) -> str | None:
    """Who the peer of a TLS connection proved to be."""
    if flow.transport != "tls":
        return None
    return next((found for each in listeners if (found := tls.subject(each.peer_certificate(flow)))), None)


def kept_socket(
    store: FdStore, name: str, kind: socket.SocketKind, host: str, port: int, *, setting: str
) -> socket.socket:
    """The listening socket `name` of an earlier life, else a new one, which is kept then. Raises ListenError."""
    sock = store.take(name)
    if sock is not None:
        address, bound = sock.getsockname()[:2]
        if address == host and port in (0, bound):
            return sock
        sock.close()  # the settings have changed
        store.remove(name)
        store.barrier(BARRIER_SECONDS)  # until then the old one may be in the way of the new
    sock = bound_socket(kind, host, port, setting=setting)
    store.put(name, sock.fileno())
    return sock


# ---------------------------------------------------------------------- settings to plain arguments


def policy(settings: Settings, node: str) -> Policy:
    """What a call needs to know of the settings."""
    return Policy(
        root=settings.recording_dir,
        node=node,
        strict=settings.SIPREC_MODE == "strict",
        external=settings.EXTERNAL_IP,
        rtp_source=SourcePolicy(settings.RTP_SOURCE),
        segment_seconds=settings.SEGMENT_SECONDS,
        rtp_timeout=settings.RTP_TIMEOUT,
        session_timeout=settings.SESSION_TIMEOUT,
        metadata_keep=settings.METADATA_KEEP,
        finish=FinishOptions(settings.AUDIO_FORMAT, settings.CAPTURE_KEEP),
    )


def limits_of(settings: Settings, ports: Ports, descriptors: int) -> Limits:
    """What is let in. Raises ConfigurationError when MAX_SESSIONS cannot be kept."""
    by_ports = ports.capacity * 2 // PORTS_PER_SESSION
    by_descriptors = max(1, (descriptors - DESCRIPTORS_SPARE) // DESCRIPTORS_PER_SESSION)
    most = max(1, min(by_ports, by_descriptors))
    wanted = settings.MAX_SESSIONS or most
    if wanted > most:
        raise ConfigurationError(
            [
                f"MAX_SESSIONS: {wanted} is more than {most}: {by_ports} fit between RTP_PORT_MIN and RTP_PORT_MAX, "
                f"{by_descriptors} into the limit of {descriptors} open files (ulimit -n)"
            ]
        )
    return Limits(
        sources=tuple(RecordingSource(each.name, each.networks) for each in settings.SIP_ALLOW),
        max_sessions=wanted,
        rate=settings.SIP_RATE,
        disk_reserve=settings.DISK_RESERVE,
        plain_calls=settings.RECORD_PLAIN_CALLS,
        accept_unknown_replaces=settings.REPLACES_UNKNOWN == "accept",
    )


def port_pools(settings: Settings) -> dict[int, PortPool]:
    """A pool for the RTP addresses of each family."""
    low, high = settings.RTP_PORT_MIN, settings.RTP_PORT_MAX
    return {
        version: PortPool(str(first), low, high, also=[*map(str, rest)], choose=random.SystemRandom())
        for version, (first, *rest) in settings.rtp_addresses_by_family.items()
    }


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one; returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def node_secret(settings: Settings) -> bytes:
    """What seals SRTP keys in the journal, made once in STATE_DIR/secret and readable by nobody else."""
    path = settings.state_dir / "secret"
    if not path.exists() or path.stat().st_size != SECRET_BYTES:
        unborn = path.with_name("secret.new")
        unborn.unlink(missing_ok=True)
        unborn.touch(mode=0o600)
        unborn.write_bytes(secrets.token_bytes(SECRET_BYTES))
        unborn.replace(path)
    return path.read_bytes()


def node_id(settings: Settings) -> str:
    """NODE_ID, or the name made once in STATE_DIR/node_id. Raises ConfigurationError when that holds no such name."""
    if settings.NODE_ID:
        return settings.NODE_ID
    path = settings.state_dir / "node_id"
    found = path.read_text(encoding="ascii", errors="replace").strip() if path.exists() else None
    if not found:
        made = _new_node_id()
        _write_node_id(path, made)
        if found is not None:
            log.get().warning("node named anew", node=made, reason=f"{path} was empty")
        return made
    rule: Any = Settings.model_fields["NODE_ID"].annotation
    try:
        TypeAdapter(rule).validate_python(found)
    except ValidationError as error:
        problem = f"NODE_ID: {path} holds {log.tame(found, 40)!r}, which is no name of a node: mend or remove it"
        raise ConfigurationError([problem]) from error
    return found


def former_name(state_dir: Path, node: str) -> str | None:
    """The name that the server bore which used `state_dir` last, if it was another than `node`, which is noted now."""
    path = state_dir / "last_node_id"
    known = [each for each in (path, state_dir / "node_id") if each.exists()]
    found = known[0].read_text(encoding="ascii", errors="replace").strip() if known else node
    if found != node or path not in known:
        with contextlib.suppress(OSError):  # a full disk keeps no server from starting
            _write_node_id(path, node)
    return found if found != node else None


def _new_node_id() -> str:
    host = socket.gethostname().partition(".")[0]
    plain = "".join(each if each.isascii() and each.isalnum() else "-" for each in host)[:20]
    return f"{plain.strip('-') or 'node'}-{secrets.token_hex(3)}"


def _write_node_id(path: Path, name: str) -> None:
    """On the disk before anything bears the name: a name that a crash takes away would orphan all recordings."""
    unborn = path.with_name(f"{path.name}.new")
    with unborn.open("w", encoding="ascii") as file:
        file.write(f"{name}\n")
        file.flush()
        os.fsync(file.fileno())
    unborn.replace(path)


@contextmanager
def folders_held(settings: Settings, store: FdStore | None = None) -> Iterator[None]:
    """Hold STATE_DIR for this process alone. Raises ConfigurationError when it, or RECORDING_DIR, is unusable."""
    for name, path in (("RECORDING_DIR", settings.recording_dir), ("STATE_DIR", settings.state_dir)):
        try:
            path.mkdir(mode=0o750, parents=True, exist_ok=True)
            probe = path / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise ConfigurationError([f"{name}: {path} cannot be written ({error.strerror})"]) from error
    with locked(settings.state_dir, store or FdStore()):
        yield


# ---------------------------------------------------------------------- what the operator sees first


def banner(
    configuration: Configuration, *, node: str, limits: Limits, sip_port: int, tls_port: int | None = None
) -> None:
    """Listeners, limits, folder, and what is off with the variable that turns it on."""
    settings = configuration.settings
    logger = log.get()
    for warning in configuration.warnings:
        logger.warning("setting", hint=warning)
    for host in settings.SIP_HOST:
        shown = f"[{host}]" if host.version == 6 else str(host)
        logger.info("listening", sip=f"sip:{shown}:{sip_port}", transport="udp,tcp", node=node)
        if tls_port is not None:
            told = f"sip:{shown}:{tls_port};transport=tls"
            logger.info("listening", sip=told, transport="tls", mutual=settings.SIP_TLS_CA is not None, node=node)
    logger.info(
        "ready to record",
        recordings=str(settings.recording_dir),
        free_gib=round(free_bytes(settings.recording_dir) / 2**30, 1),
        max_sessions=limits.max_sessions,
        rtp=f"{settings.RTP_PORT_MIN}-{settings.RTP_PORT_MAX}",
        allow=",".join(each.name for each in limits.sources),
        python=platform.python_version(),
        pid=os.getpid(),
    )
    for text, variable in switched_off(settings):
        logger.info("off", feature=text, turn_on_with=variable)


def switched_off(settings: Settings) -> Iterator[tuple[str, str]]:
    """What is off by choice, and the variable that turns it on."""
    if not settings.RECORD_PLAIN_CALLS:
        yield "recording of calls that are no recording session", "RECORD_PLAIN_CALLS=true"
    if settings.SIP_TLS_CERT is None:
        yield "SIP over TLS", "SIP_TLS_CERT, SIP_TLS_KEY"
    if settings.CAPTURE_KEEP != "always":
        yield "keeping the capture of faultless recordings", "CAPTURE_KEEP=always"


def tell_fault(fault: Fault) -> None:
    """Log trouble of the capture when it begins and when it is over. Called by the capture's threads."""
    if fault.active:
        log.get().error("capture in trouble", cause=fault.cause, detail=fault.detail)
    else:
        log.get().warning("capture out of trouble", cause=fault.cause, detail=fault.detail)


def run(configuration: Configuration) -> int:
    """`serve` in an event loop of its own, as whoever started us asks. Returns the exit code."""
    return asyncio.run(serve(configuration, from_environment()))
