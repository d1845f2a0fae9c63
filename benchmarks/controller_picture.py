"""How do scores rise with the budget? One small panel a controller, with random search behind each.

The line is the interquartile mean, the band its 95 % interval; grey is random search. Panels stand in the
order of the last checkpoint, all on one scale, so that the eye compares along rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from benchmarks.controller_scores import Line
from losssearch.insight.style import DIM, DPI, INK, LARGE, OTHERS, OWN, PLAIN, REFERENCE, STYLE, WIDTH_IN

COLUMNS = 4
PANEL_IN = 2.0
COLOURS = {"beats random": OWN, "loses to random": OTHERS[0]}


def draw(
    lines: Sequence[Line], control: str, checkpoints: Sequence[float], title: str, unit: str, place: Path
) -> None:
    """Write `place`.png and `place`.svg.

    Args:
        lines: Of all controllers; that of the control lies behind every other.
        checkpoints: Where the curves have points; those at 0 cannot stand on the axis.
        unit: What the budget is counted in.
    """
    ordered = sorted(lines, key=lambda line: -line.curve[-1].middle)
    behind = next((line for line in lines if line.controller == control), None)
    shown = [line for line in ordered if line is not behind] or list(lines)
    rows = math.ceil(len(shown) / COLUMNS)
    with mpl.rc_context(STYLE):
        figure = Figure((WIDTH_IN, PANEL_IN * rows + 0.9), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title, x=0.01, ha="left", fontsize=LARGE, color=INK)
        grid = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False)
        for axes, line in zip(grid.flat, shown, strict=False):
            if behind is not None:
                _curve(axes, behind, checkpoints, REFERENCE)
            colour = COLOURS.get(line.verdict, INK)
            _curve(axes, line, checkpoints, colour)
            axes.set_title(line.controller, color=colour, fontsize=PLAIN + 1, pad=14)
            axes.text(0, 1.02, line.verdict, transform=axes.transAxes, color=DIM, fontsize=PLAIN)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(FixedLocator(list(checkpoints)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticks(checkpoints, [f"{c:g}" for c in checkpoints])
        for number, axes in enumerate(grid.flat):
            if number >= len(shown):
                axes.set_axis_off()
            elif number + COLUMNS >= len(shown):  # the last of its column
                axes.tick_params(labelbottom=True)
        figure.supxlabel(f"{unit}; grey is random search", fontsize=PLAIN, color=INK)
        figure.supylabel("0 = start loss, 1 = best that people know", fontsize=PLAIN, color=INK)
        for suffix in (".png", ".svg"):
            figure.savefig(
                place.with_suffix(suffix), dpi=DPI, metadata={"Date": None} if suffix == ".svg" else None
            )


def _curve(axes: Axes, line: Line, checkpoints: Sequence[float], colour: str) -> None:
    axes.plot(
        checkpoints, [p.middle for p in line.curve], color=colour, linewidth=1.8, marker="o", markersize=3
    )
    low, high = [p.low for p in line.curve], [p.high for p in line.curve]
    axes.fill_between(checkpoints, low, high, color=colour, alpha=0.15, linewidth=0)
