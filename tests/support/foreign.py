"""A foreign host: a network namespace with an address of its own, joined to us by a veth pair. Root only."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

NAMESPACE = f"siprec-foreign-{os.getpid()}"
OURS, THEIRS = f"srs{os.getpid()}"[:15], f"frn{os.getpid()}"[:15]
NET = f"10.{200 + os.getpid() % 50}.{os.getpid() // 50 % 250}"
"""Some network that two tests at once do not share."""


@dataclass(frozen=True, slots=True)
class ForeignHost:
    """`ours` is our address on the way to it, `theirs` its own."""

    ours: str
    theirs: str
    namespace: str

    def command(self, *arguments: str) -> list[str]:
        """`arguments` as a command line that runs over there."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def missing() -> str | None:
    """Why there can be no foreign host here, None when there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "there is no `ip` command"
    tried = _run(["ip", "netns", "add", NAMESPACE])
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _run(["ip", "netns", "delete", NAMESPACE])
    return None


@contextmanager
def foreign_host() -> Iterator[ForeignHost]:
    """A host that is gone when the block ends."""
    host = ForeignHost(f"{NET}.1", f"{NET}.2", NAMESPACE)
    steps = [
        ["ip", "netns", "add", NAMESPACE],
        ["ip", "link", "add", OURS, "type", "veth", "peer", "name", THEIRS, "netns", NAMESPACE],
        ["ip", "address", "add", f"{host.ours}/24", "dev", OURS],
        ["ip", "link", "set", OURS, "up"],
        host.command("ip", "address", "add", f"{host.theirs}/24", "dev", THEIRS),
        host.command("ip", "link", "set", THEIRS, "up"),
        host.command("ip", "link", "set", "lo", "up"),
    ]
    try:
        for step in steps:
            done = _run(step)
            assert done.returncode == 0, f"{' '.join(step)}: {done.stderr}"
        yield host
    finally:
        _run(["ip", "link", "delete", OURS])
        _run(["ip", "netns", "delete", NAMESPACE])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)
