"""docs/performance.md and its plots from the figures of the benchmarks.

    scripts/bench all | scripts/bench report    measure everything and write the page
    scripts/bench report figures.jsonl          from figures that were kept; of several for one thing the last counts

What stands between `<!-- figures: NAME -->` and `<!-- end -->` is written anew, where there are figures for it. The
rest of the page is for people to write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.load.machine import BUSY, ROOT
from tests.load.plot import Plot, Series

Figure = Mapping[str, Any]

MISSING = "–"

_BLOCK = re.compile(r"(<!-- figures: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Column:
    """`path`: where the value is in a figure, with dots into inner objects."""

    heading: str
    path: str
    decimals: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """The first `keys` columns tell what a row is about. A column without any value is left out.

    `bench`: whose figures these are, where the place has another name; its requirements stand in its own place.
    """

    keys: int
    columns: tuple[Column, ...]
    bench: str = ""


C = Column

TABLES: Mapping[str, Table] = {
    "capture": Table(
        2,
        (
            C("streams", "streams"),
            C("tier", "tier"),
            C("siprec", "s_per_million", 2),
            C("bare", "bare", 2),
            C("epoll", "epoll", 2),
            C("siprec / bare", "ratio_bare", 2),
            C("siprec / epoll", "ratio_epoll", 2),
            C("calls per core", "calls_per_core"),
            C("grown MiB", "grown_mib", 1),
            C("lost", "lost"),
            C("spread", "spread", 2),
        ),
    ),
    "render": Table(
        1,
        (
            C("minutes", "minutes"),
            C("CPU ms, first of a process", "cpu_ms", 1),
            C("CPU ms, the following", "cpu_ms_again", 1),
            C("peak MiB", "peak_mib", 1),
        ),
    ),
    "render-memory": Table(
        1,
        (
            C("hours", "hours"),
            C("CPU s", "cpu_s", 1),
            C("peak MiB", "peak_mib", 1),
            C("peak MiB of the short call", "peak_mib_short", 1),
            C("of the interpreter", "peak_mib_idle", 1),
        ),
    ),
    "whole": Table(
        1,
        (
            C("calls", "calls"),
            C("ms / call-second", "cpu_ms_per_call_second", 3),
            C("of it worker", "cpu_ms.worker", 3),
            C("renderers", "cpu_ms.renderers", 3),
            C("keeper", "cpu_ms.keeper", 3),
            C("calls per core", "calls_per_core"),
            C("bare", "bare", 3),
            C("epoll", "epoll", 3),
            C("siprec / epoll", "ratio_epoll", 1),
            C("core busy", "core_busy", 2),
        ),
    ),
    "whole-service": Table(
        1,
        (
            C("calls", "calls"),
            C("lost", "lost"),
            C("set-up p50 ms", "setup_ms_p50", 1),
            C("p99 ms", "setup_ms_p99", 1),
            C("rendered after p50 s", "render_lag_s_p50", 2),
            C("p99 s", "render_lag_s_p99", 2),
            C("KiB a call", "kib_per_call", 1),
            C("of it worker", "kib.worker", 1),
            C("open files", "descriptors"),
        ),
        bench="whole",
    ),
    "whole-limit": Table(
        0,
        (
            C("most calls without fault", "held"),
            C("too many", "too_many"),
            C("limit", "limit"),
            C("by ports and open files", "most_by_ports_and_descriptors"),
            C("cost of the most / of the fewest", "cost_last_to_first", 2),
        ),
    ),
    "store": Table(
        1,
        (
            C("store", "store"),
            *(
                column
                for stage in ("create", "save", "load", "find", "end")
                for column in (C(f"{stage} /s", f"{stage}.per_second"), C("p99 ms", f"{stage}.p99_ms", 2))
            ),
            C("create / bare", "ratio_create", 3),
            C("load / bare", "ratio_load", 3),
        ),
    ),
    "store-size": Table(
        1,
        (
            C("store", "store"),
            C("memory", "ram_bytes"),
            C("without SDP and metadata", "ram_bytes_without_bodies"),
            C("on disk", "disk_bytes"),
            C("in Redis", "redis_bytes"),
        ),
        bench="store",
    ),
    "signalling": Table(
        1,
        (
            C("store", "store"),
            C("calls /s", "calls_per_second"),
            C("with rendering /s", "finished_per_second"),
            C("CPU ms a call", "cpu_ms_per_call", 2),
            C("of it worker", "cpu_ms.worker", 2),
            C("renderers", "cpu_ms.renderers", 2),
            C("at /s", "half.rate"),
            C("p50 ms", "half.p50_ms", 1),
            C("p99 ms", "half.p99_ms", 1),
            C("at /s", "open.rate"),
            C("p50 ms", "open.p50_ms", 1),
            C("p99 ms", "open.p99_ms", 1),
            C("siprec / bare", "ratio_bare", 1),
        ),
    ),
    "overload": Table(
        1,
        (
            C("store", "store"),
            C("offered /s", "rate"),
            C("begun", "begun"),
            C("answered", "answered"),
            C("refused (503)", "refused"),
            C("harmed", "harmed"),
            C("recovered after ms", "recovered_after_ms"),
            C("RTP lost", "talking.lost"),
        ),
    ),
}
"""By the place in the page, which has the name of the bench unless the table says otherwise."""


PAGE = ROOT / "docs" / "performance.md"


def publish(figures: Sequence[Figure]) -> list[str]:
    """Write the page and its plots; what of it changed, and what there was no place for, in sentences."""
    before = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page(before, figures), encoding="utf-8")
    for name, svg in plots(figures).items():
        (PAGE.parent / name).write_text(svg, encoding="utf-8")
    places = {match[2] for match in _BLOCK.finditer(before)} & {"machine", *TABLES}
    found = list(dict.fromkeys(str(each["bench"]) for each in figures))
    written = [name for name in found if name in places]
    return [
        f"written to {PAGE.name}: {', '.join(written) or 'nothing'}",
        *(f"no place for figures of {name!r} in {PAGE.name}" for name in found if name not in places),
    ]


def read(lines: Iterable[str]) -> list[Figure]:
    """The figures of JSON lines. Raises ValueError for a line that is none."""
    found: list[Figure] = []
    for line in filter(None, map(str.strip, lines)):
        figure = json.loads(line)
        if not isinstance(figure, dict) or "bench" not in figure:
            raise ValueError(f"no figure: {line[:60]}")
        found.append(figure)
    return found


def page(text: str, figures: Sequence[Figure]) -> str:
    """`text` with what the figures say in its places."""

    def place(match: re.Match[str]) -> str:
        written = block(match[2], figures)
        return f"{match[1]}{written}{match[3]}" if written else match[0]

    return _BLOCK.sub(place, text)


def block(name: str, figures: Sequence[Figure]) -> str:
    """What stands in the place `name`; empty when no figure speaks of it."""
    table = TABLES.get(name)
    chosen = [each for each in figures if each["bench"] == ((table and table.bench) or name)]
    if not chosen:
        return ""
    if table is None:
        return _machine(chosen[-1])
    rows = _rows(table, chosen)
    parts = ["\n".join(_markdown(table, rows))]
    parts += [] if table.bench else _requirements(name, rows)
    if name in PLOTS:
        file, draw = PLOTS[name]
        parts.append(f"![{draw(rows).title}]({file})")
    return "\n\n".join(parts) + "\n"


def plots(figures: Sequence[Figure]) -> dict[str, str]:
    """SVG by the name of the file, for what has figures."""
    found = {}
    for name, (file, draw) in PLOTS.items():
        rows = _rows(TABLES[name], [each for each in figures if each["bench"] == name])
        if rows:
            found[file] = draw(rows).svg()
    return found


# ---------------------------------------------------------------------- tables


def _value(figure: Figure, path: str) -> Any:
    found: Any = figure
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _key(table: Table, figure: Figure) -> tuple[Any, ...]:
    return tuple(_value(figure, column.path) for column in table.columns[: table.keys])


def _rows(table: Table, figures: Sequence[Figure]) -> list[Figure]:
    """One for each key, the last one; numbers rise, else they stay in the order in which they first came."""
    found = {_key(table, figure): figure for figure in figures}
    return [
        found[key] for key in sorted(found, key=lambda key: [each for each in key if isinstance(each, int | float)])
    ]


def _markdown(table: Table, rows: Sequence[Figure]) -> Iterator[str]:
    columns = [each for each in table.columns if any(_value(row, each.path) is not None for row in rows)]
    yield f"| {' | '.join(each.heading for each in columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(_written(_value(row, each.path), each.decimals) for each in columns)} |"


def _written(value: Any, decimals: int) -> str:
    if value is None:
        return MISSING
    if not isinstance(value, int | float):
        return str(value)
    shown = f"{value:,.{decimals}f}" if decimals else f"{value:,.10g}"
    return shown.replace(",", " ")


def _most(value: Any) -> str:
    """A requirement: a number is the most that is allowed."""
    bound = "≤ " if isinstance(value, int | float) and value else ""
    return f"{bound}{_written(value, 0)}"


def _requirements(name: str, rows: Sequence[Figure]) -> Iterator[str]:
    """What is required and of which rows it is not true, in a sentence for each set of requirements."""
    table = TABLES[name]
    columns = [column for each, other in TABLES.items() if name in {each, other.bench} for column in other.columns]
    headings = {column.path: column.heading for column in columns}
    sets: dict[str, list[Figure]] = {}
    for row in rows:
        wanted = row.get("required") or {}
        text = ", ".join(f"{headings.get(path, path)} {_most(each)}" for path, each in wanted.items())
        sets.setdefault(text, []).append(row)
    for text, concerned in sets.items():
        missed = [" ".join(_written(each, 0) for each in _key(table, row)) for row in concerned if not row.get("met")]
        if text:
            verdict = f"Not met: {', '.join(missed)}." if missed else "Met."
            yield f"Required: {text}. {verdict}"


def _machine(figure: Figure) -> str:
    cores, load = figure["cores"], figure.get("load")
    said = (
        f"{cores} cores of an {figure['cpu']}, {figure['memory_gib']} GiB, Linux {figure['linux']}, "
        f"Python {figure['python']}{', ' + figure['date'] if 'date' in figure else ''}.\n"
    )
    if load is not None and load / cores >= BUSY:
        said += f"\n**Disturbed**: the machine was busy with something else (load {load:.2f}).\n"
    return said


# ---------------------------------------------------------------------- plots


def _packets(rows: Sequence[Figure]) -> Plot:
    """Cost of capture, per packet."""
    tiers = list(dict.fromkeys(row.get("tier") for row in rows))
    ours = [
        Series(
            " ".join(filter(None, ("siprec", tier))),
            _points([row for row in rows if row.get("tier") == tier], "streams", "s_per_million"),
        )
        for tier in tiers
    ]
    theirs = [Series(f"C, {name}", _points(rows, "streams", name)) for name in ("epoll", "bare")]
    series = tuple(each for each in (*ours, *theirs) if each.points)
    return Plot("Cost of capture by number of streams", "streams", "µs of CPU per packet", series)


def _calls(rows: Sequence[Figure]) -> Plot:
    """Cost of everything, per second of a call."""
    lines = {
        "siprec, everything": "cpu_ms_per_call_second",
        "its worker": "cpu_ms.worker",
        "its renderers": "cpu_ms.renderers",
        "C, epoll: RTP only": "epoll",
        "C, bare: RTP only": "bare",
    }
    series = (Series(name, _points(rows, "calls", path)) for name, path in lines.items())
    title = "Cost of a call by number of calls at once"
    return Plot(title, "calls at once", "ms of CPU per second of a call", tuple(each for each in series if each.points))


def _points(rows: Sequence[Figure], x: str, y: str) -> tuple[tuple[float, float], ...]:
    found = {float(_value(row, x)): float(_value(row, y)) for row in rows if _value(row, y) is not None}
    return tuple(sorted(found.items()))


PLOTS: Mapping[str, tuple[str, Callable[[Sequence[Figure]], Plot]]] = {
    "capture": ("performance-packets.svg", _packets),
    "whole": ("performance-calls.svg", _calls),
}
"""By bench: the file beside the page, and what draws it."""
