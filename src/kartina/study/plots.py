"""Plots as SVG text, for a page that is read in the light, in the dark and on paper.

Colours are classes (`s0`, `s1`, ...) that the page's style sheet gives values to for each theme; text and axes take the
page's own colour. A series differs from its neighbours by its mark too, and is named where it ends, so that nothing
depends on colour alone. Words are escaped here: labels come from users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 340
LEFT, RIGHT, TOP, BOTTOM = 58, 150, 14, 44
COLOURS = 12
LINE = 13.0  # between two labels
NEAR = 150  # pixels from a label to what it names, beyond which no line leads there


@dataclass(frozen=True)
class Point:
    """A mean with what it ranges over."""

    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    label: str
    colour: int
    points: tuple[Point, ...]
    faint: tuple[tuple[float, float], ...] = ()  # single runs, drawn small


@dataclass(frozen=True)
class Axis:
    """From data to pixels, on a linear or logarithmic scale."""

    low: float
    high: float
    start: float  # pixels
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._at(self.low), self._at(self.high)
        return self.start + (self._at(value) - low) / (high - low) * (self.stop - self.start)

    def _at(self, value: float) -> float:
        return math.log10(max(value, 1e-300)) if self.log else value

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else linear_ticks(self.low, self.high)


@dataclass
class Canvas:
    """The parts of one picture, back to front."""

    title: str
    parts: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        self.parts.append(text)

    def svg(self) -> str:
        return (
            f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.title)}" '
            f'xmlns="http://www.w3.org/2000/svg">{"".join(self.parts)}</svg>'
        )


def curves(
    title: str, series: Sequence[Series], x_label: str, y_label: str, floor: float | None = None, log_y: bool = True
) -> str:
    """Lines with bands over a logarithmic x; `floor` is what real images score."""
    canvas, x, y = _frame(title, series, x_label, y_label, floor, log_x=True, log_y=log_y)
    for s in series:
        band = [p for p in s.points if p.y_range is not None]
        if len(band) > 1:
            upper = [(x(p.x), y(p.y_range[1])) for p in band if p.y_range]
            lower = [(x(p.x), y(p.y_range[0])) for p in band if p.y_range]
            canvas.add(f'<path class="band s{s.colour % COLOURS}" d="{_path([*upper, *reversed(lower)])}Z"/>')
    for s in series:
        if len(s.points) > 1:
            drawn = [(x(p.x), y(p.y)) for p in s.points]
            canvas.add(f'<path class="line s{s.colour % COLOURS}" d="{_path(drawn)}"/>')
        for p in s.points:
            canvas.add(mark(s.colour, x(p.x), y(p.y), 3))
    ends = [(s, x(s.points[-1].x), y(s.points[-1].y)) for s in series if s.points]
    _names(canvas, ends)
    return canvas.svg()


def scatter(
    title: str, series: Sequence[Series], x_label: str, y_label: str, *, log_x: bool = False, log_y: bool = False,
    floor: float | None = None, floor_point: tuple[float, float] | None = None, front: bool = False,
) -> str:  # fmt: skip
    """A point for each series, with what it ranges over; `front` joins those that nothing beats in both directions."""
    extra = [floor_point] if floor_point else []
    canvas, x, y = _frame(title, series, x_label, y_label, floor, log_x=log_x, log_y=log_y, extra=extra)
    if front:
        best = pareto([(s.points[0].x, s.points[0].y) for s in series if s.points])
        if len(best) > 1:
            steps: list[tuple[float, float]] = []
            for (px, py), following in zip(best, [*best[1:], None], strict=True):
                steps.append((x(px), y(py)))
                if following is not None:
                    steps.append((x(following[0]), y(py)))
            canvas.add(f'<path class="front" d="{_path(steps)}"/>')
    for s in series:
        for px, py in s.faint:
            canvas.add(f'<circle class="dot faint s{s.colour % COLOURS}" cx="{x(px):.1f}" cy="{y(py):.1f}" r="2"/>')
        for p in s.points:
            for a, b in _whiskers(p, x, y):
                canvas.add(f'<path class="whisker s{s.colour % COLOURS}" d="{_path([a, b])}"/>')
            canvas.add(mark(s.colour, x(p.x), y(p.y), 4.5))
    if floor_point:
        fx, fy = x(floor_point[0]), y(floor_point[1])
        canvas.add(f'<path class="floor" d="M{fx - 6:.1f} {fy:.1f}h12M{fx:.1f} {fy - 6:.1f}v12"/>')
        canvas.add(f'<text class="small" x="{fx - 8:.1f}" y="{fy - 6:.1f}" text-anchor="end">real images</text>')
    _names(canvas, [(s, x(s.points[0].x), y(s.points[0].y)) for s in series if s.points])
    return canvas.svg()


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those of the points (less is better) that no other one beats or equals in both directions, by x."""
    out: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not out or y < out[-1][1]:
            out.append((x, y))
    return out


def mark(colour: int, x: float, y: float, r: float) -> str:
    """One of four shapes, by the series' number: circle, square, triangle, diamond."""
    css = f'class="dot s{colour % COLOURS}"'
    match colour % 4:
        case 0:
            return f'<circle {css} cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'
        case 1:
            return f'<rect {css} x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}"/>'
        case 2:
            points = [(x, y - 1.2 * r), (x + 1.1 * r, y + 0.9 * r), (x - 1.1 * r, y + 0.9 * r)]
        case _:
            points = [(x, y - 1.3 * r), (x + 1.3 * r, y), (x, y + 1.3 * r), (x - 1.3 * r, y)]
    return f'<path {css} d="{_path(points)}Z"/>'


# -- frame -----------------------------------------------------------------------------------------------------------


def _frame(
    title: str, series: Sequence[Series], x_label: str, y_label: str, floor: float | None, *,
    log_x: bool, log_y: bool, extra: Sequence[tuple[float, float]] = (),
) -> tuple[Canvas, Axis, Axis]:  # fmt: skip
    """Axes that hold every point, with grid lines, ticks and labels; the floor as a dashed line."""
    points = [p for s in series for p in s.points]
    xs = [v for p in points for v in (p.x, *(p.x_range or ()))] + [v for s in series for v, _ in s.faint]
    ys = [v for p in points for v in (p.y, *(p.y_range or ()))] + [v for s in series for _, v in s.faint]
    xs, ys = xs + [v for v, _ in extra], ys + [v for _, v in extra]
    log_x, log_y = log_x and bool(xs) and min(xs) > 0, log_y and bool(ys) and min(ys) > 0
    below = floor is not None and log_y and floor <= 0  # an unbiased estimate of nearly nothing
    ys += [floor] if floor is not None and not below else []
    x = Axis(*_room(xs, log_x), LEFT, WIDTH - RIGHT, log_x)
    y = Axis(*_room(ys, log_y), HEIGHT - BOTTOM, TOP, log_y)
    canvas = Canvas(title)
    for tick in y.ticks():
        at = y(tick)
        canvas.add(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        canvas.add(f'<text class="tick" x="{LEFT - 7}" y="{at + 3.5:.1f}" text-anchor="end">{short(tick)}</text>')
    for tick in x.ticks():
        at, under = x(tick), HEIGHT - BOTTOM + 15
        canvas.add(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        canvas.add(f'<text class="tick" x="{at:.1f}" y="{under}" text-anchor="middle">{short(tick)}</text>')
    canvas.add(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    canvas.add(f'<text class="label" x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>')
    turned = f'transform="translate(13 {(TOP + HEIGHT - BOTTOM) / 2:.0f}) rotate(-90)" text-anchor="middle"'
    canvas.add(f'<text class="label" {turned}>{escape(y_label)}</text>')
    if floor is not None:
        at = HEIGHT - BOTTOM if below else y(floor)
        says = f"real images: {short(round(floor, 4))}, below the axis" if below else "real images"
        canvas.add("" if below else f'<path class="floor" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        canvas.add(f'<text class="small" x="{LEFT + 5}" y="{at - 4:.1f}">{says}</text>')
    return canvas, x, y


def _room(values: Sequence[float], log: bool) -> tuple[float, float]:
    """The range of the values with some room at both ends."""
    if not values:
        return (1.0, 10.0) if log else (0.0, 1.0)
    low, high = min(values), max(values)
    if log:
        pad = max(0.04 * math.log10(high / low), 0.02)
        return low / 10**pad, high * 10**pad
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
    return low - pad, high + pad


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high]; powers alone where that would be many; linear where few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1,)):
        found = [round(m * 10.0**k, 12) for k in powers for m in digits if low <= m * 10.0**k <= high]
        if len(found) <= 7:
            break
    return found if len(found) > 1 else [t for t in linear_ticks(low, high, 4) if t > 0]


def short(value: float) -> str:
    """12500 -> 12.5k, 0.0002 -> 0.0002: few characters, no exponent for usual numbers."""
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:.3g}M"
    if size >= 1e4:
        return f"{value / 1e3:.3g}k"
    if size >= 1e-4 or value == 0:
        return f"{value:.10f}".rstrip("0").rstrip(".") if size < 1 else f"{value:.4g}"
    return f"{value:.0e}".replace("e-0", "e-")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in points)


def _whiskers(p: Point, x: Axis, y: Axis) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    out = []
    if p.x_range is not None:
        out.append(((x(p.x_range[0]), y(p.y)), (x(p.x_range[1]), y(p.y))))
    if p.y_range is not None:
        out.append(((x(p.x), y(p.y_range[0])), (x(p.x), y(p.y_range[1]))))
    return out


def apart(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Places as near to the wanted ones as it goes, in their order, `gap` apart, within [low, high]."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    placed = [0.0] * len(wanted)
    at = low - gap
    for i in order:
        at = placed[i] = max(wanted[i], at + gap)
    over = high
    for i in reversed(order):
        over = placed[i] = min(placed[i], over)
        over -= gap
    return placed


def _names(canvas: Canvas, ends: Sequence[tuple[Series, float, float]]) -> None:
    """Each series' name beside the plot, level with where it ends; a thin line leads there where it is near."""
    edge = WIDTH - RIGHT + 14
    places = apart([y for _, _, y in ends], TOP + 4, HEIGHT - BOTTOM - 2)
    for (s, x, y), at in zip(ends, places, strict=True):
        css = f"s{s.colour % COLOURS}"
        if edge - x < NEAR:
            canvas.add(f'<path class="leader" d="M{x + 5:.1f} {y:.1f}L{edge - 3} {at:.1f}"/>')
        canvas.add(mark(s.colour, edge + 3, at, 3))
        text = s.label if len(s.label) <= 20 else s.label[:19] + "…"
        canvas.add(f'<text class="name {css}" x="{edge + 11}" y="{at + 3.5:.1f}">{escape(text)}</text>')
