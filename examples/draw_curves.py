"""Draw the curves of a found loss beside classical ones, as an SVG file that needs nothing else.

    python examples/draw_curves.py demo/1 --storage sqlite:///losses.db --to docs/curves.svg

Left the value, right the gradient, along one sample that walks from a wrong answer to the right one;
each curve is multiplied by its loss's gradient scale, as in training.
"""

from __future__ import annotations

import argparse
import re
import sys
from html import escape
from pathlib import Path

from dashboards.charts import Chart
from dashboards.curves import charts
from losssearch.errors import LossSearchError
from losssearch.insight.lookup import find_loss

GAP, HEAD, FOOT = 24, 34, 34
STYLE = """
  text { font: 12px system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; fill: #667085; }
  .title { font-size: 15px; font-weight: 600; fill: #1c2230; }
  .formula { font: 13px ui-monospace, "DejaVu Sans Mono", Menlo, monospace; fill: #1c2230; }
  .x, .label { text-anchor: middle; } .y { text-anchor: end; } .second { opacity: .75; }
  .back { fill: #fff; stroke: #e4e7ee; } .grid { stroke: #eef0f4; } .axis { stroke: #b9c0cf; }
  .zero { stroke: #b9c0cf; stroke-dasharray: 3 3; }
  .line { fill: none; stroke-width: 1.6; stroke-linejoin: round; }
  .own { stroke: #3b5bdb; stroke-width: 3; } .faint { opacity: .4; stroke-width: 1.8; }
  .ref1 { stroke: #8c95a8; } .ref2 { stroke: #e07b2f; } .ref3 { stroke: #2a9d8f; } .ref4 { stroke: #b25fc4; }
"""


def panel(c: Chart, left: float, clip: str) -> str:
    """One chart, with its title above."""
    parts = [f'<g transform="translate({left:g} {HEAD})"><text class="title" x="{c.left}" y="-10">']
    parts.append(f"{escape(c.title)}</text>")
    parts.append(
        f'<clipPath id="{clip}"><rect x="{c.left}" y="{c.top}" width="{c.right - c.left}" '
        f'height="{c.bottom - c.top}"/></clipPath>'
    )
    for t in c.y_ticks:
        parts.append(f'<path class="grid" d="M{c.left} {t.at}H{c.right}"/>')
        parts.append(f'<text class="y" x="{c.left - 8}" y="{t.at + 4}">{t.text}</text>')
    for t in c.x_ticks:
        parts.append(f'<path class="axis" d="M{t.at} {c.bottom}v5"/>')
        parts.append(f'<text class="x" x="{t.at}" y="{c.bottom + 18}">{t.text}</text>')
        if t.second:
            parts.append(f'<text class="x second" x="{t.at}" y="{c.bottom + 32}">{t.second}</text>')
    if c.zero is not None:
        parts.append(f'<path class="zero" d="M{c.left} {c.zero}H{c.right}"/>')
    parts.append(f'<path class="axis" d="M{c.left} {c.bottom}H{c.right}"/>')
    parts.append(f'<g clip-path="url(#{clip})">')
    parts += [f'<path class="line {line.look}" d="{path}"/>' for line, path in c.lines]
    parts.append("</g>")
    middle = (c.left + c.right) / 2
    parts.append(f'<text class="label" x="{middle:g}" y="{c.height - 5}">{escape(c.x_label)}</text>')
    parts.append(
        f'<text class="label" transform="translate(13 {(c.top + c.bottom) / 2:g}) rotate(-90)">'
        f"{escape(c.y_label)}</text></g>"
    )
    return "".join(parts)


def legend(c: Chart, name: str, y: float) -> str:
    """The names of the curves, in one row."""
    parts, x = [], float(c.left)
    for line in reversed(c.legend):
        label = re.sub("^this loss", name, line.label)
        parts.append(f'<path class="line {line.look}" d="M{x:g} {y - 4:g}h22"/>')
        parts.append(f'<text x="{x + 30:g}" y="{y:g}">{escape(label)}</text>')
        x += 52 + 7 * len(label)
    return "".join(parts)


def picture(reference: str, storage: str, name: str) -> str:
    """The whole SVG."""
    loss = find_loss(reference, storage)
    both = charts(loss.program, loss.space, loss.candidate.scale)
    if not both:
        raise LossSearchError(f"{reference} reads no prediction, so it has no curves.")
    width = sum(c.width for c in both) + 2 * GAP
    height = HEAD + both[0].height + 2 * FOOT
    values = ", ".join(f"{c.name} = {c.value:.4g}" for c in loss.program.constants)
    formula = f"{loss.formula}{'   with ' + values if values else ''}"
    panels, left = [], 0
    for i, c in enumerate(both):
        panels.append(panel(c, left, f"clip{i}"))
        left += c.width + GAP
    row = HEAD + both[0].height + 24
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-8 -4 {width + 8} {height + 4}" role="img">'
        f"<title>{escape(name)} beside classical losses</title><style>{STYLE}</style>"
        f'<rect class="back" x="-7.5" y="-3.5" width="{width + 7}" height="{height + 3}" rx="10"/>'
        f"{''.join(panels)}{legend(both[0], name, row)}"
        f'<text class="formula" x="{both[0].left}" y="{row + 28}">{escape(formula)}</text></svg>\n'
    )


def main() -> None:
    told = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    told.add_argument("reference", nargs="?", default="demo/1", help="as in `losssearch show`")
    told.add_argument("--storage", default="sqlite:///losses.db")
    told.add_argument("--name", default="the found loss", help="in the legend")
    told.add_argument("--to", type=Path, default=Path("docs/curves.svg"))
    given = told.parse_args()
    try:
        given.to.write_text(picture(given.reference, given.storage, given.name), encoding="utf-8")
    except LossSearchError as error:
        sys.exit(str(error))
    print(f"Wrote {given.to}.")


if __name__ == "__main__":
    main()
