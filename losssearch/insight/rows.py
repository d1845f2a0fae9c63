"""How does a loss look along the lines of its space? One row a line: value, gradient, curvature.

Curves are as the formula has them, not scaled; values are counted from their lowest in view. A loss that does
not read what a line moves is not in its row.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from losssearch.insight.along import ASIDE, along, lines_of, positions
from losssearch.insight.figure import POINTS, colour_of, empty, from_lowest, label, name_in, write_title
from losssearch.insight.panels import draw_curves
from losssearch.insight.profile import Profile
from losssearch.insight.style import INK, PLAIN, SMALL
from losssearch.lines import Line

if TYPE_CHECKING:
    from losssearch.insight.insight import Insight

ROW_IN, TITLE_IN = 2.75, 0.9  # height of a row, and of what stands above the first
QUANTITIES: tuple[tuple[str, str, Callable[[Profile], Sequence[float]]], ...] = (
    ("Value", "of the batch, from its lowest", from_lowest),
    ("Gradient", "by x", lambda p: p.slope),
    ("Curvature", "slope of the gradient", lambda p: p.curvature),
)


def rows(insight: Insight) -> Figure:
    """The picture; `insight` has lines."""
    lines = list(insight.lines.values())
    height = TITLE_IN + ROW_IN * len(lines)
    figure, canvas = empty(height)
    top = write_title(insight, figure, height) - 0.4 / height
    panels = figure.subplots(len(lines), 3, squeeze=False)
    figure.subplots_adjust(
        left=0.075, right=0.98, bottom=0.55 / height, top=top, hspace=1.35 / (ROW_IN - 1.35), wspace=0.28
    )
    for line, row in zip(lines, panels, strict=True):
        x = positions(line, POINTS, ASIDE)
        curves = [
            (name_in(insight, i), colour_of(insight, i), along(each.program, line, x))
            for i, each in enumerate(insight.shown)
            if lines_of(each.program, {"": line})
        ]
        for panel, (title, what, of) in zip(row, QUANTITIES, strict=True):
            draw_curves(panel, title, what, curves, of)
            panel.set_xlim(line.low, line.high)
        _name(figure, row[0].get_position().y1, height, line)
        row[1].set_xlabel(f"x: {line.x}", fontsize=SMALL)
    label(canvas, list(panels.flat))
    return figure


def _name(figure: Figure, top: float, height: float, line: Line) -> None:
    """What the batch of a row is, above its panels."""
    text = textwrap.shorten(line.title, 110, placeholder="…")
    figure.text(
        0.03, top + 0.45 / height, text, fontsize=PLAIN, fontweight="bold", color=INK, parse_math=False
    )
