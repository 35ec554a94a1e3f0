"""The performance page and its plots, from figures as the benchmarks print them."""

import json
import xml.etree.ElementTree as ET
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.load import report
from tests.load.plot import LINE, STYLES, Plot, Series

SVG = "{http://www.w3.org/2000/svg}"

MACHINE = {"bench": "machine", "cpu": "CPU", "cores": 2, "linux": "6.1", "python": "3.11.7", "memory_gib": 4}


def capture(streams: int, cost: float, *, tier: str = "native", **more: Any) -> dict[str, Any]:
    figure = {"bench": "capture", "tier": tier, "streams": streams, "s_per_million": cost, "bare": 0.6, "epoll": 2.5}
    return figure | {"required": {"ratio_bare": 1.8, "lost": 0}, "met": True} | more


def whole(calls: int, cost: float) -> dict[str, Any]:
    return {
        "bench": "whole",
        "calls": calls,
        "cpu_ms_per_call_second": cost,
        "cpu_ms": {"worker": cost / 2},
        "bare": 0.1,
    }


def place(name: str, text: str = "old\n") -> str:
    return f"<!-- figures: {name} -->\n{text}<!-- end -->\n"


# ---------------------------------------------------------------------- the page


def test_prose_stays_and_figures_are_replaced() -> None:
    text = f"# Title\n\nBefore.\n\n{place('capture')}\nAfter.\n"
    written = report.page(text, [capture(200, 1.5)])
    assert written.startswith("# Title\n\nBefore.\n\n<!-- figures: capture -->\n| streams |")
    assert written.endswith("<!-- end -->\n\nAfter.\n")
    assert "old" not in written
    assert report.page(written, [capture(200, 1.5)]) == written


def test_what_was_not_measured_keeps_its_figures() -> None:
    text = place("render") + place("capture")
    assert report.page(text, [capture(200, 1.5)]).startswith(place("render"))
    assert report.page(text, [MACHINE]) == text


def test_rows_are_told_apart_by_their_keys_and_the_last_counts() -> None:
    figures = [capture(4000, 1.0), capture(200, 1.5), capture(200, 2.5, tier="batch"), capture(200, 1.25)]
    rows = [line for line in report.block("capture", figures).splitlines() if line[2:3].isdigit()]
    assert rows == [
        "| 200 | native | 1.25 | 0.60 | 2.50 |",
        "| 200 | batch | 2.50 | 0.60 | 2.50 |",
        "| 4 000 | native | 1.00 | 0.60 | 2.50 |",
    ]


def test_a_value_that_one_row_lacks_is_a_dash() -> None:
    table = report.block("capture", [capture(200, 1.5), capture(4000, 1.0, lost=0)])
    assert "| 200 | native | 1.50 | 0.60 | 2.50 | – |" in table
    assert "| 4 000 | native | 1.00 | 0.60 | 2.50 | 0 |" in table


def test_requirements_name_who_does_not_meet_them() -> None:
    figures = [capture(200, 1.5, met=False), capture(400, 1.2), capture(200, 2.5, tier="batch", required={"lost": 0})]
    written = report.block("capture", figures)
    assert "Required: siprec / bare ≤ 1.8, lost 0. Not met: 200 native.\n" in written
    assert "Required: lost 0. Met.\n" in written


def test_one_bench_may_have_two_places() -> None:
    figure = {"bench": "store", "store": "sqlite", "create": {"per_second": 2000, "p99_ms": 1.0}, "disk_bytes": 2700}
    assert "| sqlite | 2 000 | 1.00 |" in report.block("store", [figure])
    assert "| sqlite | 2 700 |" in report.block("store-size", [figure])


def test_a_busy_machine_is_said() -> None:
    assert "Disturbed" not in report.block("machine", [MACHINE | {"load": 0.1}])
    assert "**Disturbed**" in report.block("machine", [MACHINE | {"load": 3.5}])


def test_what_is_no_figure_is_refused() -> None:
    assert report.read([json.dumps(MACHINE), "", "  "]) == [MACHINE]
    for line in ("hello", "[]", '{"calls": 1}'):
        with pytest.raises(ValueError, match=r"Expecting value|no figure"):
            report.read([line])


def test_the_page_has_a_place_for_everything() -> None:
    text = Path(report.PAGE).read_text(encoding="utf-8")
    for name in ("machine", *report.TABLES):
        assert text.count(f"<!-- figures: {name} -->\n") == 1, name
    assert text.count("<!-- end -->") == len(report.TABLES) + 1


# ---------------------------------------------------------------------- plots


def test_plots_are_drawn_of_what_was_measured() -> None:
    assert report.plots([MACHINE]) == {}
    drawn = report.plots([capture(200, 1.5), capture(200, 2.5, tier="batch"), capture(4000, 1.0), whole(100, 0.6)])
    assert set(drawn) == {"performance-packets.svg", "performance-calls.svg"}
    assert [len(line) for line in _lines(drawn["performance-packets.svg"])] == [2, 1, 2, 2]
    assert "siprec batch" in drawn["performance-packets.svg"]


def test_a_higher_cost_is_drawn_higher_and_more_calls_further_right() -> None:
    plot = Plot("t", "x", "y", (Series("a", ((100, 1.0), (1000, 3.0), (2000, 2.0))),))
    (points,) = _lines(plot.svg())
    (x1, y1), (x2, y2), (x3, y3) = points
    assert x1 < x2 < x3
    assert y2 < y3 < y1


def test_names_do_not_cover_each_other() -> None:
    series = tuple(Series(f"s{index}", ((1, 1.0), (2, index * 0.001))) for index in range(STYLES))
    root = ET.fromstring(Plot("t", "x", "y", series).svg())
    names = {each.text: float(each.get("y", "")) for each in root.iter(f"{SVG}text")}
    heights = sorted(names[each.name] for each in series)
    assert all(below - above >= LINE - 0.2 for above, below in pairwise(heights))
    assert heights[-1] <= float(root.get("viewBox", "").split()[3])


def test_one_point_and_no_cost_can_be_drawn_and_text_is_escaped() -> None:
    root = ET.fromstring(Plot("a < b & c", "x", "y", (Series('"<s>"', ((5, 0.0),)),)).svg())
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"a < b & c", '"<s>"', "5"} <= set(texts)


def test_what_cannot_be_drawn_is_refused() -> None:
    for series in ((), (Series("s", ()),), (Series("s", ((1, 1.0),)),) * (STYLES + 1)):
        with pytest.raises(ValueError, match="series"):
            Plot("t", "x", "y", series).svg()


def _lines(svg: str) -> list[list[tuple[float, float]]]:
    found = [each.get("points", "").split() for each in ET.fromstring(svg).iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, _, y in (point.partition(",") for point in points)] for points in found]
