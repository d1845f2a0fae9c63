"""Where does the name of a curve stand, so that no legend is needed?

Each name is tried at many places above and below its own curve. A place costs what it covers: points of
any curve, names that stand already, the edge of the panel. The cheapest is taken, and among equals the one
farthest from the other curves, so that the eye finds no other owner.
"""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import RendererAgg
from numpy.typing import NDArray

GAP = 4.0  # between curve and name, in pixels at 100 dpi
TRIES = 32  # places along a curve
FREE = 60.0  # pixels from the next curve; farther is no better

Box = tuple[float, float, float, float]
Points = NDArray[np.float64]


def label_curves(axes: Axes, renderer: RendererAgg, size: float) -> None:
    """Write the label of every line of a panel beside it, in its colour.

    Args:
        axes: With its limits set and lines that have labels; those that begin with "_" get none.
        renderer: Measures the words.
        size: Of the letters, in points.
    """
    lines = [line for line in axes.get_lines() if not str(line.get_label()).startswith("_")]
    inside = axes.get_window_extent(renderer)
    frame = (inside.x0, inside.y0, inside.x1, inside.y1)
    curves = [_dense(axes.transData.transform(np.asarray(line.get_xydata())), frame) for line in lines]
    placed: list[Box] = []
    figure = axes.figure
    for k, line in enumerate(lines):
        text = figure.text(
            0,
            0,
            str(line.get_label()),
            color=line.get_color(),
            fontsize=size,
            fontweight="bold" if k == 0 else "normal",
            va="baseline",
            parse_math=False,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75},
        )
        extent = text.get_window_extent(renderer)
        others = [c for i, c in enumerate(curves) if i != k]
        box = _best(curves[k], others, placed, (extent.width, extent.height), frame)
        if box is None:  # the curve is nowhere in the panel
            text.remove()
            continue
        placed.append(box)
        # In shares of the figure: pixels would move with the resolution of the file.
        x, y = figure.transFigure.inverted().transform((box[0], box[1] - extent.y0))
        text.set_position((float(x), float(y)))


def _dense(points: Points, frame: Box) -> Points:
    """The points of a curve within the panel, none far from the next."""
    points = points[np.isfinite(points).all(1)]
    if len(points) < 2:
        return points
    pieces = [
        a + (b - a) * np.linspace(0, 1, max(2, min(200, int(np.hypot(*(b - a)) / 3))))[:, None]
        for a, b in itertools.pairwise(points)
    ]
    every: Points = np.concatenate(pieces)
    x, y = every.T
    inside: Points = every[(x >= frame[0]) & (x <= frame[2]) & (y >= frame[1]) & (y <= frame[3])]
    return inside


def _best(
    own: Points, others: list[Points], placed: list[Box], size: tuple[float, float], frame: Box
) -> Box | None:
    if not len(own):
        return None
    width, height = size
    rest = np.concatenate(others) if others and any(map(len, others)) else np.empty((0, 2))
    found: list[tuple[float, Box]] = []
    for point in own[:: max(1, len(own) // TRIES)]:
        for left in (point[0] - width / 2, point[0] + GAP, point[0] - width - GAP):
            for bottom in (point[1] + GAP, point[1] - height - GAP):
                box = (left, bottom, left + width, bottom + height)
                cost = 30.0 * _covered(rest, box) + 10 * _covered(own, box)
                cost += 1000 * sum(_overlap(box, other) for other in placed)
                cost += 100 * _outside(box, frame)
                middle = np.array([left + width / 2, bottom + height / 2])
                lone = np.hypot(*(rest - middle).T).min() if len(rest) else FREE
                found.append((cost - min(lone, FREE), box))
    return min(found)[1]


def _covered(points: Points, box: Box) -> int:
    if not len(points):
        return 0
    x, y = points.T
    return int(((x > box[0] - 2) & (x < box[2] + 2) & (y > box[1] - 1) & (y < box[3] + 1)).sum())


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _outside(box: Box, frame: Box) -> float:
    over = (frame[0] - box[0], frame[1] - box[1], box[2] - frame[2], box[3] - frame[3])
    return sum(max(0.0, side + 2) for side in over)
