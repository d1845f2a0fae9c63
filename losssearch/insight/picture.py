"""What does a loss look like? Six panels in one file, readable at 800 pixels.

value       gradient          curves are as the formula has them, not scaled; values are counted
curvature   value ratio       from their lowest in view. Ratios are to the reference, on a
gradient ratio  weights       logarithmic axis, and by size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from losssearch.insight.figure import (
    POINTS,
    colour_of,
    empty,
    from_lowest,
    label,
    name_in,
    plain,
    write_title,
)
from losssearch.insight.panels import draw_curves, head, walk_axis
from losssearch.insight.profile import Profile, profile
from losssearch.insight.style import HEIGHT_IN, INK, SMALL
from losssearch.insight.walk import SHOWN
from losssearch.insight.weights import Weights, ratio, usual_groups

if TYPE_CHECKING:
    from losssearch.insight.insight import Insight

Quantity = Callable[[Profile], Sequence[float]]


def six_panels(insight: Insight) -> Figure:
    figure, canvas = empty(HEIGHT_IN)
    top = write_title(insight, figure, HEIGHT_IN)
    panels = figure.subplots(3, 2)
    figure.subplots_adjust(left=0.085, right=0.97, bottom=0.06, top=top, hspace=0.47, wspace=0.24)
    x = _positions(insight)
    curves = [
        (name_in(insight, i), colour_of(insight, i), profile(each.program, insight.walk, x))
        for i, each in enumerate(insight.shown)
    ]
    base = profile(insight.reference.program, insight.walk, x)
    to_base = f"to {plain(insight.reference.candidate.name or 'reference')}, whatever the sign"
    labels = insight.walk.task != "regression"
    toward = "pull towards the true answer (−gradient)" if labels else "gradient in the prediction"
    sign = -1.0 if labels else 1.0
    quantities: tuple[tuple[str, str, Quantity], ...] = (
        ("Value", "loss of one sample, from its lowest", from_lowest),
        ("Gradient", toward, lambda p: [sign * s for s in p.slope]),
        ("Curvature", "slope of the gradient", lambda p: p.curvature),
        ("Value ratio", to_base, lambda p: ratio(p.value, base.value)),
        ("Gradient ratio", to_base, lambda p: ratio(p.slope, base.slope)),
    )
    for panel, (title, what, of) in zip(panels.flat, quantities, strict=False):
        draw_curves(panel, title, what, curves, of, logarithmic=what == to_base)
        walk_axis(panel, insight.walk)
    _weights(panels[2, 1], insight)
    label(canvas, panels.flat[:5])
    return figure


def _positions(insight: Insight) -> list[float]:
    low, high = SHOWN[insight.walk.task]
    shift = 1e-9  # a kink at a round number would draw a point between its two sides
    return [low + (high - low) * i / (POINTS - 1) + shift for i in range(POINTS)]


def _weights(panel: Axes, insight: Insight) -> None:
    """Bars of the effective number, by value above and by gradient below, with the entropy beside."""
    samples = sum(group.count for group in usual_groups(insight.walk.task))
    base = plain(insight.reference.candidate.name or "reference")
    head(panel, "Effective number of samples", f"of {samples:,}; all weigh the same under {base}")
    panel.grid(visible=False)
    y = 0.0
    for i, row in enumerate(insight.weights.values()):
        if insight.shown[i].key == insight.reference.key and len(insight.shown) > 1:
            continue
        colour = colour_of(insight, i)
        for by, strength in (("value", 1.0), ("gradient", 0.55)):
            w = row[by]
            n, told = 0.0, f"by {by} undefined"
            if isinstance(w, Weights):
                n = w.effective
                told = f"by {by} {f'{n:.0f}' if n >= 100 else f'{n:.3g}'}, entropy {w.entropy:.2f}"
            panel.barh(y, n, height=0.8, color=colour, alpha=strength, zorder=2)
            inside = n > 0.55 * samples
            panel.text(
                n - 0.015 * samples if inside else n + 0.015 * samples,
                y,
                told,
                fontsize=SMALL,
                va="center",
                ha="right" if inside else "left",
                color="white" if inside and by == "value" else INK,
            )
            y += 1
        panel.text(
            0,
            y - 2.5,
            name_in(insight, i),
            fontsize=SMALL,
            color=colour,
            va="bottom",
            fontweight="bold",
            parse_math=False,
        )
        y += 1.1
    panel.set_ylim(max(y, 4.5) - 0.9, -1.6)
    panel.set_xlim(0, samples)
    panel.yaxis.set_major_locator(NullLocator())
    panel.spines["left"].set_visible(False)
    panel.tick_params(length=3)
    whole = math.log(samples)
    panel.set_xlabel(f"effective number; the entropy is at most {whole:.2f} nats", fontsize=SMALL)
