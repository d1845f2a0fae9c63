"""What do all pictures of losses share? A title, names and colours, and a file that is whole or not there.

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

from losssearch.errors import ExportError, UsageError
from losssearch.insight.labels import label_curves
from losssearch.insight.profile import Profile
from losssearch.insight.style import DPI, INK, OTHERS, OWN, PLAIN, REFERENCE, SMALL, STYLE, WIDTH_IN

if TYPE_CHECKING:
    from losssearch.insight.insight import Insight

SUFFIXES = (".png", ".svg")
POINTS = 241  # of a curve


def draw(make: Callable[[], Figure], path: Path) -> Path:
    """Write a picture; one of that name is replaced.

    Raises:
        UsageError: The suffix is neither .png nor .svg.
        ExportError: The file cannot be written there.
    """
    form = path.suffix.lower()
    if form not in SUFFIXES:
        raise UsageError(f"{path}: a picture ends in {' or '.join(SUFFIXES)}.")
    with mpl.rc_context(STYLE):
        buffer = io.BytesIO()
        notes = {"Date": None} if form == ".svg" else {"Software": None}
        make().savefig(buffer, format=form[1:], dpi=DPI, metadata=notes)
    try:
        path.write_bytes(buffer.getvalue())
    except OSError as error:
        raise ExportError(f"{path}: cannot write the file: {error.strerror or error}.") from error
    return path


def empty(height_in: float) -> tuple[Figure, FigureCanvasAgg]:
    """A white page and what draws on it."""
    figure = Figure(figsize=(WIDTH_IN, height_in), dpi=100, facecolor="white")
    return figure, FigureCanvasAgg(figure)


def label(canvas: FigureCanvasAgg, panels: Sequence[Axes]) -> None:
    """Write the names of all curves beside them."""
    backend = cast(Any, canvas)  # its methods have no types
    backend.draw()
    renderer = cast(RendererAgg, backend.get_renderer())
    for panel in panels:
        label_curves(panel, renderer, SMALL)


def write_title(insight: Insight, figure: Figure, height_in: float) -> float:
    """Name, constants and formula; gives the height, as a share, at which the panels begin."""
    loss = insight.loss
    known = loss.candidate.name
    values = ", ".join(f"{name} = {value:.4g}" for name, value in loss.program.constant_values.items())
    title = plain(known or loss.reference) if known or loss.reference != loss.formula else "A formula"
    formula = textwrap.wrap(loss.formula, 92)
    if len(formula) > 3:
        formula = [*formula[:2], f"{formula[2]} …"]
    if values and "=" not in title:
        if len(title) + len(values) < 48:
            title += f"   {values}"
        else:
            formula += textwrap.wrap(values, 92)[:1]
    y = 1 - 0.2 / height_in
    figure.text(0.03, y, title[:80], fontsize=14, fontweight="bold", color=OWN, va="top", parse_math=False)
    y -= 0.32 / height_in
    for line in formula:
        figure.text(
            0.03, y, line, fontsize=PLAIN, family="DejaVu Sans Mono", color=INK, va="top", parse_math=False
        )
        y -= 0.18 / height_in
    return y - 0.42 / height_in


def name_in(insight: Insight, i: int) -> str:
    loss = insight.shown[i]
    if i == 0 and not loss.candidate.name and loss.reference == loss.formula:
        return "this loss"
    name = plain(loss.candidate.name or loss.reference)
    return name if len(name) <= 26 else name[:25] + "…"


def plain(name: str) -> str:
    return name.replace("_", " ")


def colour_of(insight: Insight, i: int) -> str:
    loss = insight.shown[i]
    if i == 0:
        return OWN
    if loss.key == insight.reference.key:
        return REFERENCE
    before = sum(other.key != insight.reference.key for other in insight.shown[1:i])
    return OTHERS[before % len(OTHERS)]


def from_lowest(p: Profile) -> list[float]:
    lowest = min((v for v in p.value if math.isfinite(v)), default=0.0)
    return [v - lowest for v in p.value]
