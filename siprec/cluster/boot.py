"""The boot id: which life of a node this is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

BOOT_FILE = "boot_id"

BOOT_LIMIT = 64
"""Characters of a boot id that are read back; ours have 16."""


@dataclass(frozen=True, slots=True)
class Boot:
    """`current` names this process' life. `previous` is the life before on this machine: it is over, since only one
    server at a time may use a state directory."""

    current: str
    previous: str = ""


def begin(state_dir: Path, token: Callable[[], str]) -> Boot:
    """Begin a new life and note it in the state directory. A directory that cannot be written costs the note only."""
    path = state_dir / BOOT_FILE
    boot = Boot(token(), _read(path))
    fresh = path.with_suffix(".new")
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        fresh.write_text(boot.current, encoding="ascii")
        os.replace(fresh, path)
    except OSError:
        pass
    return boot


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")[:BOOT_LIMIT].strip()
    except (OSError, ValueError):
        return ""
