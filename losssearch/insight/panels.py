"""How is one quantity drawn along the walk? Curves, and axes that show the loss itself whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from losssearch.insight.profile import Profile
from losssearch.insight.style import AXIS, DIM, SMALL
from losssearch.insight.walk import SHOWN, Walk

LEAST_RATIO, MOST_RATIO = 1e-4, 1e2  # that are shown
TICKS = (0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)  # probabilities


def head(panel: Axes, title: str, what: str) -> None:
    """Title, and below it in small letters what is drawn."""
    panel.set_title(title, pad=17)
    panel.text(0, 1.025, what, transform=panel.transAxes, fontsize=SMALL, color=DIM)


def draw_curves(
    panel: Axes,
    title: str,
    what: str,
    curves: Sequence[tuple[str, str, Profile]],
    of: Callable[[Profile], Sequence[float]],
    logarithmic: bool = False,
) -> None:
    """Draw the curves of one quantity.

    Args:
        panel: Where.
        title, what: Of the panel, and what its vertical axis is.
        curves: Name, colour and profile of each loss; the first stands out.
        of: The quantity.
        logarithmic: Draw sizes on a logarithmic axis; what is 0 is left out.
    """
    head(panel, title, what)
    lines = [(name, colour, p.x, list(of(p))) for name, colour, p in curves]
    if logarithmic:
        lines = [
            (name, colour, x, [abs(v) if v and math.isfinite(v) else math.nan for v in y])
            for name, colour, x, y in lines
        ]
    for k, (name, colour, x, y) in enumerate(lines):
        panel.plot(x, y, color=colour, linewidth=2.4 if k == 0 else 1.5, label=name, zorder=5 - k * 0.1)
    panel.tick_params(length=3)
    if logarithmic:
        panel.set_yscale("log")
        panel.set_ylim(*_log_range([y for *_, y in lines]))
        panel.yaxis.set_minor_locator(NullLocator())
    else:
        panel.set_ylim(*_range([y for *_, y in lines]))
        panel.axhline(0, color=AXIS, linewidth=0.8, zorder=1)
        panel.yaxis.set_major_locator(MaxNLocator(6))


def walk_axis(panel: Axes, walk: Walk) -> None:
    """The horizontal axis of a walk."""
    panel.set_xlim(*SHOWN[walk.task])
    if walk.task == "regression":
        panel.set_xlabel("residual: prediction less target", fontsize=SMALL)
    elif walk.task == "binary":
        panel.xaxis.set_major_locator(FixedLocator([-6, -4, -2, 0, 2, 4, 6]))
        panel.xaxis.set_major_formatter(
            FuncFormatter(lambda x, _: f"{x:g}\n{_share(walk.probability(x))}".replace("-", "−"))
        )
        panel.set_xlabel("margin, and below it the probability of the true answer", fontsize=SMALL)
    else:
        panel.xaxis.set_major_locator(FixedLocator([walk.at_probability(p) for p in TICKS]))
        panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{walk.probability(x):.3g}"))
        panel.set_xlabel("probability of the true class, on the scale of its logit", fontsize=SMALL)


def _share(p: float) -> str:
    """Two digits; near 1, one of what is left."""
    return f"{p:.2g}" if p < 0.95 else f"{1 - float(f'{1 - p:.1g}'):.6g}"


def _range(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    """All of the loss itself and three times that of the others; of neither more than thrice the other."""
    own, theirs = (
        [v for line in some for v in line if math.isfinite(v)] for some in (lines[:1], lines[1:] or lines)
    )
    (low, high), (least, most) = (
        (min(*some, 0.0), max(*some, 0.0)) if some else (0.0, 0.0) for some in (own, theirs)
    )
    span, other = high - low or most - least or 1.0, most - least or high - low or 1.0
    bottom = min(max(low, least - 2 * other), max(least, low - 2 * span))
    top = max(min(high, most + 2 * other), min(most, high + 2 * span))
    room = 0.06 * ((top - bottom) or 1.0)
    return bottom - room, top + room


def _log_range(lines: Sequence[Sequence[float]]) -> tuple[float, float]:
    seen = [v for line in lines for v in line if math.isfinite(v) and v > 0] or [1.0]
    low, high = max(min(seen), LEAST_RATIO), min(max(seen), MOST_RATIO)
    return min(low, 0.1) / 1.5, max(high, 2.0) * 1.5
