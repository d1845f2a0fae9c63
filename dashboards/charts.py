"""Where on the paper does each point of a curve lie? `templates/parts.html` only prints it.

A chart is a few kilobytes of SVG from the server: no script, it prints, and a report file can
hold it. Colours are classes of the style sheet, so that it follows the colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
WIDTH, HEIGHT = 640, 340
LEFT, RIGHT, TOP = 62, 22, 12


@dataclass(frozen=True)
class Line:
    """One curve, or a cloud of dots.

    Args:
        label: For the legend; "" leaves it out.
        points: Data coordinates; a break stands where one is not finite.
        look: Classes of the style sheet: "own", "own faint", "ref1", ..., "dots".
    """

    label: str
    points: Sequence[Point]
    look: str


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in pixels and what stands there, perhaps in two lines."""

    at: float
    text: str
    second: str = ""


@dataclass(frozen=True)
class Chart:
    """A chart, laid out; lengths in pixels."""

    title: str
    x_label: str
    y_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    lines: tuple[tuple[Line, str], ...]  # with its path
    bottom: float
    zero: float | None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP

    @property
    def legend(self) -> list[Line]:
        return [line for line, _ in self.lines if line.label]


def chart(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    *,
    y_range: tuple[float, float] | None = None,
    second: Callable[[float], str] | None = None,
    height: int = HEIGHT,
) -> Chart | None:
    """Lay a chart out; None when there is nothing to draw.

    Args:
        lines: Drawn in this order, the last on top.
        y_range: What is outside is cut off; all that is there, if None.
        second: Text of a second line under each mark of the x axis.
    """
    finite = [p for line in lines for p in line.points if _is_finite(p)]
    if not finite:
        return None
    low_x, high_x = _wide(min(x for x, _ in finite), max(x for x, _ in finite), 0.0)
    low_y, high_y = y_range or (min(y for _, y in finite), max(y for _, y in finite))
    low_y, high_y = _wide(low_y, high_y, 0.04)
    bottom = height - (58 if second else 44)

    def x_at(x: float) -> float:
        return LEFT + (x - low_x) / (high_x - low_x) * (WIDTH - LEFT - RIGHT)

    def y_at(y: float) -> float:
        return bottom - (y - low_y) / (high_y - low_y) * (bottom - TOP)

    xs, ys = ticks(low_x, high_x, 9), ticks(low_y, high_y, 5)
    x_texts, y_texts = _texts(xs), _texts(ys)
    return Chart(
        title,
        x_label,
        y_label,
        tuple(
            Tick(round(x_at(x), 1), text, second(x) if second else "")
            for x, text in zip(xs, x_texts, strict=True)
        ),
        tuple(Tick(round(y_at(y), 1), text) for y, text in zip(ys, y_texts, strict=True)),
        tuple((line, _path(line, x_at, y_at, bottom)) for line in lines),
        bottom,
        round(y_at(0.0), 1) if low_y < 0 < high_y else None,
        height=height,
    )


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) between two others."""
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _texts(values: Sequence[float]) -> list[str]:
    """All with as many decimals as the finest of them needs."""
    step = values[1] - values[0] if len(values) > 1 else 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 5 or max(map(abs, values), default=0) >= 1e6:
        return [f"{v:.3g}".replace("-", "−") for v in values]
    return [f"{v + 0.0:.{decimals}f}".replace("-", "−") for v in values]


def _wide(low: float, high: float, margin: float) -> tuple[float, float]:
    """A range that is not empty, with a margin on both sides."""
    if not high > low:
        low, high = low - (abs(low) or 1.0) * 0.5, high + (abs(high) or 1.0) * 0.5
    gap = (high - low) * margin
    return low - gap, high + gap


def _is_finite(point: Point) -> bool:
    return math.isfinite(point[0]) and math.isfinite(point[1])


def _path(line: Line, x_at: Callable[[float], float], y_at: Callable[[float], float], bottom: float) -> str:
    """The `d` of a path; a dot is a stroke of no length with round ends."""
    dots = "dots" in line.look
    parts: list[str] = []
    seen: set[tuple[int, int]] = set()
    pen_up = True
    for point in line.points:
        if not _is_finite(point):
            pen_up = True
            continue
        x, y = x_at(point[0]), y_at(point[1])
        y = min(max(y, -1e4), 1e4)  # far outside is cut off anyway, and this stays short
        if dots:
            if (place := (round(x), round(y))) not in seen and TOP <= y <= bottom + 1:
                seen.add(place)
                parts.append(f"M{place[0]} {place[1]}h0")
            continue
        parts.append(f"{'M' if pen_up else 'L'}{x:.1f} {y:.1f}")
        pen_up = False
    return "".join(parts)
