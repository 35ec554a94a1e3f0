"""Structured logs: one event a line, coloured on a terminal, JSON elsewhere.

Text from the network reaches a line only as a value, with control characters escaped and at most
`FIELD_LIMIT` characters kept, of a list in all, so that no peer can forge a line or flood the log with one field.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import MutableMapping, Sequence
from typing import Any, Literal, TextIO, cast

import structlog

FIELD_LIMIT = 256
"""Characters of one value: enough for any URI worth reading, too few to hide a message in."""

_AROUND_ITEM = 4
"""Characters of a line that an item of a list takes beside its own: quotes, comma, space."""

Logger = structlog.typing.FilteringBoundLogger


def configure(level: str, style: Literal["console", "json"] | None, stream: TextIO | None = None) -> None:
    """Send all logs to `stream` (standard output when None); `style` None is console on a terminal, else JSON."""
    out = _Steadfast(stream or sys.stdout)
    console = style == "console" or (style is None and out.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), pad_event_to=28, sort_keys=False) if console else _json
    )
    writer = structlog.WriteLogger(cast(TextIO, out))  # one for all: each would hold its own ways to the stream
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if console else "iso", utc=not console, key="ts"),
            structlog.processors.format_exc_info,
            _tame,
            *([_for_console] if console else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=False,
    )


_encode = json.JSONEncoder(default=repr).encode
"""One for all: making one costs as much as a line."""


def _json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    return _encode(event)


class _Steadfast:
    """A stream that fails in silence: a full disk or a closed terminal under the log must not end a call."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.isatty = stream.isatty

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def get(**context: Any) -> Logger:
    """A logger that adds `context` to each of its lines."""
    logger: Logger = structlog.get_logger().bind(**context)  # bound now, not once more for each line
    return logger


def tame(text: str, limit: int = FIELD_LIMIT) -> str:
    """`text` with control characters escaped and cut to `limit` characters; safe in a log line or on a terminal."""
    kept = text if len(text) <= limit else text[: limit - 1] + "…"
    if kept.isprintable():
        return kept
    return "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in kept)


def _tame(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = tame(value)
        elif isinstance(value, list | tuple):
            event[key] = _tame_items(value)
    return event


def _tame_items(items: Sequence[Any]) -> list[Any]:
    """Of `items`, tamed, as many as may be, at least the first, and how many more there are."""
    kept: list[Any] = []
    room = FIELD_LIMIT
    for item in items:
        told = item if isinstance(item, str) else repr(item)
        room -= len(told) + _AROUND_ITEM
        if room < 0 and kept:
            return [*kept, f"… {len(items) - len(kept)} more"]
        kept.append(item if isinstance(item, int | float) else tame(told))
    return kept


def _for_console(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["timestamp"] = event.pop("ts")[:-3]
    if "exception" in event:  # JSON alone would escape it; indented, no line of it looks like one of ours
        event["exception"] = "\n".join(f"    {tame(line)}" for line in event["exception"].split("\n"))
    return event
