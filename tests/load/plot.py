"""Line plots as SVG: readable in light and dark, with nothing but what a browser has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 190, 52, 58

LINE = 17
"""Pixels between two lines of text."""

TICKS = 5
"""Lines of the grid at most."""

STYLES = 5
"""Lines told apart by colour, dash and marker; the colours are Okabe and Ito's, which the colour-blind can tell."""

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222 }
  .title { font-size: 15px; font-weight: 600 }
  .back { fill: #fff } .grid { stroke: #ddd } .axis { stroke: #777 }
  polyline, .key { fill: none; stroke-width: 2.5; stroke-linejoin: round }
  .s0 { stroke: #0072b2; color: #0072b2 } .s1 { stroke: #d55e00; color: #d55e00; stroke-dasharray: 8 4 }
  .s2 { stroke: #009e73; color: #009e73; stroke-dasharray: 2 4 } .s4 { stroke: #777; color: #777 }
  .s3 { stroke: #aa4499; color: #aa4499; stroke-dasharray: 12 4 2 4 } .s4 { stroke-dasharray: 5 5 }
  circle { fill: currentColor; stroke: none }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6e6e6 } .back { fill: #16191d } .grid { stroke: #333a42 } .axis { stroke: #99a }
    .s0 { stroke: #56b4e9; color: #56b4e9 } .s1 { stroke: #e69f00; color: #e69f00 }
    .s2 { stroke: #2fc795; color: #2fc795 } .s3 { stroke: #e58ac6; color: #e58ac6 } .s4 { stroke: #aaa; color: #aaa }
  }
"""


@dataclass(frozen=True, slots=True)
class Series:
    """A line; `points` are (x, y), x above 0, y not below."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """`x` and `y` name the axes with their units. x is logarithmic, y begins at 0."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...]

    def svg(self) -> str:
        """Raises ValueError without a point, or with more series than STYLES."""
        if not any(each.points for each in self.series) or len(self.series) > STYLES:
            raise ValueError(f"{self.title}: from 1 to {STYLES} series can be shown")
        body = "\n".join(self._elements())
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t">\n'
            f'<title id="t">{escape(self.title)}</title>\n<style>{STYLE}</style>\n{body}\n</svg>\n'
        )

    # ------------------------------------------------------------------ scales

    @property
    def _xs(self) -> list[float]:
        return sorted({x for each in self.series for x, _ in each.points})

    @property
    def _step(self) -> float:
        """Between two lines of the grid: 1, 2 or 5 times a power of ten."""
        most = max(y for each in self.series for _, y in each.points) or 1.0
        power = 10.0 ** math.floor(math.log10(most / TICKS))
        return next(power * times for times in (1, 2, 5, 10) if most <= power * times * TICKS)

    @property
    def _lines(self) -> int:
        """Of the grid above the floor: as many as the highest point needs."""
        return max(1, math.ceil(max(y for each in self.series for _, y in each.points) / self._step))

    def _across(self, x: float) -> float:
        first, last = self._xs[0], self._xs[-1]
        share = math.log(x / first) / math.log(last / first) if last > first else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def _down(self, y: float) -> float:
        return HEIGHT - BOTTOM - y / (self._lines * self._step) * (HEIGHT - TOP - BOTTOM)

    # ------------------------------------------------------------------ what is drawn

    def _elements(self) -> Iterator[str]:
        yield f'<rect class="back" width="{WIDTH}" height="{HEIGHT}" rx="6"/>'
        yield _text(LEFT, 28, self.title, kind="title")
        yield from self._axes()
        for number, each in enumerate(self.series):
            yield from self._line(number, each)
        yield from self._names()

    def _axes(self) -> Iterator[str]:
        right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
        for number in range(self._lines + 1):
            value = number * self._step
            y = self._down(value)
            yield f'<line class="{"grid" if number else "axis"}" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield _text(LEFT - 8, y + 4, f"{value:.10g}", anchor="end")
        for x in self._xs:
            across = self._across(x)
            yield f'<line class="axis" x1="{across:.1f}" x2="{across:.1f}" y1="{floor}" y2="{floor + 5}"/>'
            yield _text(across, floor + 20, f"{x:,.10g}".replace(",", "\u202f"), anchor="middle")
        yield _text((LEFT + right) / 2, HEIGHT - 14, self.x, anchor="middle")
        middle = (TOP + floor) / 2
        yield _text(20, middle, self.y, anchor="middle", turned=True)

    def _line(self, number: int, series: Series) -> Iterator[str]:
        places = [(self._across(x), self._down(y)) for x, y in sorted(series.points)]
        yield f'<polyline class="s{number}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'
        for x, y in places:
            yield f'<circle class="s{number}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'

    def _names(self) -> Iterator[str]:
        """Beside the end of each line, pushed apart where lines end close to each other."""
        ends = [(self._down(max(each.points)[1]), number) for number, each in enumerate(self.series) if each.points]
        wanted = sorted(ends)
        heights = _apart([y for y, _ in wanted])
        across = WIDTH - RIGHT + 14
        for height, (_, number) in zip(heights, wanted, strict=True):
            yield f'<line class="key s{number}" x1="{across}" x2="{across + 26}" y1="{height:.1f}" y2="{height:.1f}"/>'
            yield _text(across + 32, height + 4, self.series[number].name)


def _apart(heights: Sequence[float]) -> list[float]:
    """Rising heights, moved as little as it takes to be a LINE apart and above the floor."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + LINE) if found else height)
    over = max(0.0, found[-1] - (HEIGHT - BOTTOM)) if found else 0.0
    for index in range(len(found) - 1, -1, -1):
        above = found[index + 1] - LINE if index + 1 < len(found) else found[index] - over
        found[index] = min(found[index], above)
    return found


def _text(x: float, y: float, text: str, *, anchor: str = "start", kind: str = "", turned: bool = False) -> str:
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}{turn}>{escape(text)}</text>'
