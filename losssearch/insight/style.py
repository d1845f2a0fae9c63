"""Which colours, letters and sizes have the pictures? Few, and the same everywhere."""

from __future__ import annotations

from typing import Any

OWN, REFERENCE, OTHERS = "#2f4fd0", "#6b7280", ("#d9661f", "#128a74", "#a23bb0", "#b08a00")
INK, DIM, AXIS, FAINT = "#1c2230", "#5b6375", "#b4bac8", "#e6e8ee"
SMALL, PLAIN, LARGE = 8.0, 9.0, 10.5  # points
WIDTH_IN, HEIGHT_IN, DPI = 8.0, 10.2, 200

STYLE: dict[Any, Any] = {  # matplotlib types every key by name
    "font.family": "DejaVu Sans",  # ships with matplotlib
    "font.size": PLAIN,
    "axes.edgecolor": AXIS,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.titlelocation": "left",
    "axes.titlesize": LARGE,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": "#8a91a1",
    "ytick.color": "#8a91a1",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "lines.solid_capstyle": "round",
    "svg.hashsalt": "losssearch",
}
