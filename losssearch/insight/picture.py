"""What does a loss look like? Six panels in one file, readable at 800 pixels.

    value       gradient          curves are as the formula has them, not scaled; values are counted
    curvature   value ratio       from their lowest in view. Ratios are to the reference, on a
    gradient ratio  weights       logarithmic axis, and by size.

Drawn by matplotlib's Agg and SVG back ends, without a display. The same loss gives the same file.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from losssearch.errors import ExportError, UsageError
from losssearch.insight.labels import label_curves
from losssearch.insight.panels import draw_curves, head
from losssearch.insight.profile import Profile, profile
from losssearch.insight.style import (
    DPI,
    HEIGHT_IN,
    INK,
    OTHERS,
    OWN,
    PLAIN,
    REFERENCE,
    SMALL,
    STYLE,
    WIDTH_IN,
)
from losssearch.insight.walk import SHOWN
from losssearch.insight.weights import Weights, ratio, usual_groups

if TYPE_CHECKING:
    from losssearch.insight.insight import Insight

SUFFIXES = (".png", ".svg")
Quantity = Callable[[Profile], Sequence[float]]
POINTS = 241


def draw(insight: Insight, path: Path) -> Path:
    """Draw a loss beside its reference and others; a picture of that name is replaced.

    Raises:
        UsageError: The suffix is neither .png nor .svg.
        ExportError: The file cannot be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a picture ends in {' or '.join(SUFFIXES)}.")
    with mpl.rc_context(STYLE):
        figure = _figure(insight)
        buffer = io.BytesIO()
        form = path.suffix.lower()[1:]
        notes = {"Date": None} if form == "svg" else {"Software": None}
        figure.savefig(buffer, format=form, dpi=DPI, metadata=notes)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise ExportError(f"{path}: cannot write the file: {error.strerror or error}.") from error
    return path


def _figure(insight: Insight) -> Figure:
    figure = Figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    top = _title(insight, figure)
    panels = figure.subplots(3, 2)
    figure.subplots_adjust(left=0.085, right=0.97, bottom=0.06, top=top, hspace=0.47, wspace=0.24)
    x = _positions(insight)
    curves = [
        (_name(insight, i), _colour(insight, i), profile(each.program, insight.walk, x))
        for i, each in enumerate(insight.shown)
    ]
    base = profile(insight.reference.program, insight.walk, x)
    to_base = f"to {_plain(insight.reference.candidate.name or 'reference')}, whatever the sign"
    labels = insight.walk.task != "regression"
    toward = "pull towards the true answer (−gradient)" if labels else "gradient in the prediction"
    sign = -1.0 if labels else 1.0
    quantities: tuple[tuple[str, str, Quantity], ...] = (
        ("Value", "loss of one sample, from its lowest", _from_lowest),
        ("Gradient", toward, lambda p: [sign * s for s in p.slope]),
        ("Curvature", "slope of the gradient", lambda p: p.curvature),
        ("Value ratio", to_base, lambda p: ratio(p.value, base.value)),
        ("Gradient ratio", to_base, lambda p: ratio(p.slope, base.slope)),
    )
    for panel, (title, what, of) in zip(panels.flat, quantities, strict=False):
        draw_curves(panel, insight.walk, title, what, curves, of, logarithmic=what == to_base)
    _weights(panels[2, 1], insight)
    backend = cast(Any, canvas)  # its methods have no types
    backend.draw()
    renderer = cast(RendererAgg, backend.get_renderer())
    for panel in panels.flat[:5]:
        label_curves(panel, renderer, SMALL)
    return figure


def _title(insight: Insight, figure: Figure) -> float:
    """Name, constants and formula; gives the height, as a share, at which the panels begin."""
    from losssearch.insight.insight import constants_of

    loss = insight.loss
    known = loss.candidate.name
    values = constants_of(loss)
    title = _plain(known or loss.reference) if known or loss.reference != loss.formula else "A formula"
    if values and "=" not in title:
        title += f"   {values}"
    formula = textwrap.wrap(loss.formula, 92)[:3]
    y = 1 - 0.2 / HEIGHT_IN
    figure.text(0.03, y, title[:80], fontsize=14, fontweight="bold", color=OWN, va="top", parse_math=False)
    y -= 0.32 / HEIGHT_IN
    for line in formula:
        figure.text(
            0.03, y, line, fontsize=PLAIN, family="DejaVu Sans Mono", color=INK, va="top", parse_math=False
        )
        y -= 0.18 / HEIGHT_IN
    return y - 0.42 / HEIGHT_IN


def _positions(insight: Insight) -> list[float]:
    low, high = SHOWN[insight.walk.task]
    shift = 1e-9  # a kink at a round number would draw a point between its two sides
    return [low + (high - low) * i / (POINTS - 1) + shift for i in range(POINTS)]


def _name(insight: Insight, i: int) -> str:
    loss = insight.shown[i]
    if i == 0 and not loss.candidate.name and loss.reference == loss.formula:
        return "this loss"
    name = _plain(loss.candidate.name or loss.reference)
    return name if len(name) <= 26 else name[:25] + "…"


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _colour(insight: Insight, i: int) -> str:
    loss = insight.shown[i]
    if i == 0:
        return OWN
    if loss.key == insight.reference.key:
        return REFERENCE
    before = sum(other.key != insight.reference.key for other in insight.shown[1:i])
    return OTHERS[before % len(OTHERS)]


def _from_lowest(p: Profile) -> list[float]:
    lowest = min((v for v in p.value if math.isfinite(v)), default=0.0)
    return [v - lowest for v in p.value]


def _weights(panel: Axes, insight: Insight) -> None:
    """Bars of the effective number, by value above and by gradient below, with the entropy beside."""
    samples = sum(group.count for group in usual_groups(insight.walk.task))
    base = _plain(insight.reference.candidate.name or "reference")
    head(panel, "Effective number of samples", f"of {samples:,}; all weigh the same under {base}")
    panel.grid(visible=False)
    y = 0.0
    for i, row in enumerate(insight.weights.values()):
        if insight.shown[i].key == insight.reference.key and len(insight.shown) > 1:
            continue
        colour = _colour(insight, i)
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
            _name(insight, i),
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
