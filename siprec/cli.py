"""The commands of siprec, one function each.

Each imports what it needs when it is called: `serve` shall become the keeper without loading what only the worker uses.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from siprec import fdstore, keeper
from siprec.errors import ArchiveError, ConfigurationError, SiprecError

if TYPE_CHECKING:
    from siprec.archive.folder import RecordingFolder
    from siprec.config import Configuration, Settings

EXIT_FAILED = 1
EXIT_CONFIGURATION = 78
"""EX_CONFIG of sysexits.h: supervisors do not restart on it."""

DEMO_SECONDS = 10.0

main = typer.Typer(
    name="siprec",
    help="A SIPREC recording server (RFC 7866). Settings come from the environment: `siprec check` shows them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(highlight=False, markup=False, emoji=False)


def _seconds(text: str) -> float:
    """An option that is a duration, written as in a setting."""
    from siprec.config import parse_duration

    try:
        return float(parse_duration(text))
    except ValueError as problem:
        raise typer.BadParameter(f"{text} {problem}") from problem


class Transport(StrEnum):
    """How SIP goes to the server."""

    UDP = "udp"
    TCP = "tcp"
    TLS = "tls"


class Suite(StrEnum):
    """Suites of SRTP."""

    AES_128 = "AES_CM_128_HMAC_SHA1_80"
    AES_128_SHORT = "AES_CM_128_HMAC_SHA1_32"
    GCM_128 = "AEAD_AES_128_GCM"
    GCM_256 = "AEAD_AES_256_GCM"


class Style(StrEnum):
    """How a call goes to another server (siprec.client.failover)."""

    REPLACES = "replaces"
    FRESH = "fresh"
    REINVITE = "reinvite"


RecordingId = Annotated[str, typer.Argument(help="the id, or as much of its beginning or end as is unique")]


@main.command()
def serve(
    worker: Annotated[bool, typer.Option("--worker", hidden=True, help="serve in this process")] = False,
    check: Annotated[bool, typer.Option("--check", help="only tell whether settings and code would load")] = False,
) -> None:
    """Record the calls that SBCs send, until SIGTERM or Ctrl-C.

    A small process, the keeper, holds all sockets and runs this one as its child, so that a crash costs nothing;
    SIGHUP replaces the child by new code. Under systemd with FileDescriptorStoreMax systemd is the keeper.
    """
    if not (worker or check or fdstore.provided(os.environ)):
        # A heap for each of a dozen threads, or one for them all, would be kept at its high-water mark for ever.
        os.environ.setdefault("MALLOC_ARENA_MAX", "1")
        # And each thread would keep seven pieces of each size, each in a page of its own after a flood.
        os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0")
        # The interpreter's own allocator gives a MiB back only when nothing is left in it: never, after a flood.
        os.environ.setdefault("PYTHONMALLOC", "malloc")
        # What cleans up behind a process pool whose owner was killed is no line of our log.
        quiet = ["-W", "ignore::UserWarning:multiprocessing.resource_tracker"]
        keeper.become([sys.executable, "-P", *quiet, "-m", "siprec.cli", "serve", "--worker"])
    # Those that render and capture for us hold nothing that comes and goes: for them that allocator is the faster one.
    os.environ.pop("PYTHONMALLOC", None)
    with _sentences():
        from siprec import app

        configuration = _configure()
        if not check:
            raise typer.Exit(app.run(configuration))
        app.tls_contexts(configuration.settings)


@main.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="end after the call instead of serving on")] = False,
    duration: Annotated[
        float,
        typer.Option(
            parser=_seconds, metavar="DURATION", show_default="10s", help="length of the call, such as 10s or 2m"
        ),
    ] = DEMO_SECONDS,
    failover: Annotated[bool, typer.Option("--failover", help="two nodes; one is killed under the call")] = False,
) -> None:
    """Serve, place one real call of two synthesised voices, and show where its recording lies.

    With --failover two nodes serve, the one with the call is killed, its SRC goes to the other, and all ends there.
    """
    from siprec import view
    from siprec.client.load import EXIT_USAGE, mistakes
    from siprec.client.options import CallOptions
    from siprec.demo import call as demonstration
    from siprec.demo import failover as play

    with _sentences():
        configuration = _configure()
        options = CallOptions(duration=duration)
        wrong = list(mistakes(options))
        if wrong:
            _fail(wrong, EXIT_USAGE)
        if failover:
            folder = asyncio.run(play.demo(configuration, options, report=_step))
        else:
            folder = asyncio.run(demonstration.demo(configuration, options, once=once, report=_step))
        if once or failover:
            console.print(view.details(folder))


@main.command()
def call(
    target: Annotated[str, typer.Option(help="SIP URI of the recording server")] = "sip:127.0.0.1:5060",
    transport: Annotated[Transport, typer.Option(help="udp, tcp or tls")] = Transport.UDP,
    srtp: Annotated[Suite | None, typer.Option(help="encrypt the audio under this suite")] = None,
    codec: Annotated[str, typer.Option(help="PCMU, PCMA, G722 or L16")] = "PCMU",
    duration: Annotated[
        float,
        typer.Option(
            parser=_seconds, metavar="DURATION", show_default="10s", help="audio in each call, such as 10s or 2m"
        ),
    ] = DEMO_SECONDS,
    calls: Annotated[int, typer.Option(min=1, help="how many calls")] = 1,
    rate: Annotated[float, typer.Option(min=0.01, help="new calls a second")] = 10.0,
    one_way: Annotated[bool, typer.Option("--one-way", help="only the first party is heard")] = False,
    loss: Annotated[float, typer.Option(min=0, max=100, help="percent of packets withheld")] = 0.0,
    duplicate: Annotated[float, typer.Option(min=0, max=100, help="percent of packets sent twice")] = 0.0,
    reorder: Annotated[int, typer.Option(min=0, help="depth of reordering in packets")] = 0,
    jitter: Annotated[float, typer.Option(min=0, help="jitter in milliseconds")] = 0.0,
    seed: Annotated[int, typer.Option(help="fixes voices, SSRCs and impairments")] = 1,
    local: Annotated[str | None, typer.Option(help="our address; by default the one of the route")] = None,
    failover: Annotated[str | None, typer.Option(help="SIP URI to go to when the target is lost")] = None,
    failover_style: Annotated[
        Style, typer.Option(help="INVITE with Replaces, fresh INVITE, re-INVITE")
    ] = Style.REPLACES,
) -> None:
    """Be a SIPREC client (SRC): place one call or many to any recording server and tell what it answered."""
    from siprec.client.load import run as run_calls
    from siprec.client.options import CallOptions, Failover

    options = CallOptions(
        target=target,
        transport=transport.value,
        srtp=srtp.value if srtp else None,
        local=local,
        codec=codec,
        duration=duration,
        calls=calls,
        rate=rate,
        one_way=one_way,
        loss=loss,
        duplicate=duplicate,
        reorder=reorder,
        jitter_ms=jitter,
        seed=seed,
        failover=Failover(failover, failover_style.value) if failover else None,
    )
    raise typer.Exit(run_calls(options, lambda line: console.print(line, soft_wrap=True)))


@main.command()
def ls(
    last: Annotated[int, typer.Option(min=1, help="how many, newest last")] = 50,
) -> None:
    """List recordings, newest last."""
    from siprec import view
    from siprec.archive.folder import walk

    with _sentences():
        folders = list(walk(_recordings()))
        console.print(view.listing(folders[-last:]))
        if not folders:
            console.print("no recordings yet: place a call with `siprec call`", style="dim")


@main.command()
def show(recording: RecordingId) -> None:
    """Show one recording: participants, waveforms, gaps, where it lies."""
    from siprec import view

    with _sentences():
        console.print(view.details(_find(recording)))


@main.command()
def inspect(recording: RecordingId) -> None:
    """Show how the server stands to one session: state, history, what may happen next, owner, dialogs, recoveries.

    Reads the journal beside the running server and changes nothing.
    """
    from siprec import clock, view
    from siprec.store import peek
    from siprec.store.sqlite import JOURNAL

    with _sentences():
        folder = _find(recording)
        row = peek.row(_settings().state_dir / JOURNAL, folder.session_id)
        console.print(view.inspection(folder, row, clock.wall_ns()))


@main.command()
def render(
    recordings: Annotated[list[str], typer.Argument(help="ids, or folders of recordings")],
) -> None:
    """Make the audio of recordings again from their kept captures (CAPTURE_KEEP).

    Folders of one session, as nodes without a shared disk keep them, become one recording in the first of them.
    """
    from siprec import view
    from siprec.archive.folder import RecordingFolder
    from siprec.recorder.finish import FinishOptions, finish

    with _sentences():
        settings = _settings()
        options = FinishOptions(settings.AUDIO_FORMAT, "always")
        sessions: dict[str, list[Path]] = {}
        for each in recordings:
            folder = RecordingFolder(Path(each).resolve()) if Path(each).is_dir() else _find(each)
            sessions.setdefault(folder.session_id, []).append(folder.path)
        for first, *beside in sessions.values():
            _at_rest(first, *beside)
            done = finish(first, options, beside)
            console.print(f"{done.audio}  {view.clock_time(done.duration)}  {done.verdict}: {done.reason}")


@main.command()
def verify(recording: RecordingId) -> None:
    """Compare the files of a recording with the hashes taken when it ended."""
    from siprec.archive.manifest import verify as verify_files

    with _sentences():
        folder = _find(recording)
        manifest = folder.read()
        if not manifest.files:
            why = (
                "was not rendered"
                if manifest.state in {"ended", "failed"}
                else f"has not ended (it is {manifest.state})"
            )
            _fail([f"{manifest.id} {why}: there are no hashes to compare with"], EXIT_FAILED)
        wrong = verify_files(manifest, folder.path)
        for each in wrong:
            console.print(each, style="red")
        if wrong:
            raise typer.Exit(EXIT_FAILED)
        console.print(f"{len(manifest.files)} files are as they were when the recording ended")


@main.command()
def check() -> None:
    """Show the effective settings, where each came from, and what on this machine would limit recording."""
    from siprec import config
    from siprec.doctor import examine

    with _sentences():
        configuration = config.read()
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("setting", "value", "from"):
            table.add_column(column, overflow="fold")
        for name, value in config.shown(configuration.settings).items():
            table.add_row(name, value, configuration.origins[name])
        console.print(table)
        for warning in configuration.warnings:
            console.print(f"! {warning}", style="yellow")
        findings = examine(configuration.settings)
        for finding in findings:
            console.print(f"{finding.mark} {finding.text}", style=finding.style)
        if any(finding.fatal for finding in findings):
            wrong = any(finding.configuration for finding in findings)
            raise typer.Exit(EXIT_CONFIGURATION if wrong else EXIT_FAILED)


# ---------------------------------------------------------------------- shared by the commands


def _configure() -> Configuration:
    from siprec import config, log

    configuration = config.read()
    log.configure(configuration.settings.LOG_LEVEL, configuration.settings.LOG_FORMAT)
    return configuration


def _settings() -> Settings:
    from siprec import config

    return config.read().settings


def _find(recording: str) -> RecordingFolder:
    from siprec.archive.folder import find

    return find(_recordings(), recording)


def _recordings() -> Path:
    """RECORDING_DIR. Raises OSError when it may not be read: searching it would find nothing, and say no more."""
    root = _settings().recording_dir
    with suppress(FileNotFoundError):
        os.scandir(root).close()
    return root


def _at_rest(*paths: Path) -> None:
    """Raises ArchiveError when one of these folders of a session is being recorded into."""
    from siprec.archive.folder import RecordingFolder

    if any(part.held_elsewhere() for path in paths for part in RecordingFolder(path).parts()):
        raise ArchiveError(f"{paths[0].name} is being recorded: its server renders it when it ends")


def _step(text: str) -> None:
    console.print(f"> {text}", style="bold cyan", soft_wrap=True)


@contextmanager
def _sentences() -> Iterator[None]:
    """Errors raised on purpose, and files that cannot be used, become a sentence and an exit code, not a traceback."""
    try:
        yield
    except ConfigurationError as error:
        _fail([f"configuration: {each}" for each in error.problems], EXIT_CONFIGURATION)
    except SiprecError as error:
        _fail([str(error)], EXIT_FAILED)
    except OSError as error:
        if error.filename is None:  # no file of the user's: a defect of ours, or a reader of our output that has gone
            raise
        _fail([f"{error.filename}: {error.strerror}"], EXIT_FAILED)


def _fail(lines: list[str], code: int) -> NoReturn:
    for line in lines:
        print(line, file=sys.stderr)
    raise typer.Exit(code)


Report = Callable[[str], None]

if __name__ == "__main__":
    main()
