"""How is an `Insight` read in a terminal? Sentences, then the two tables they rest on."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from losssearch.insight.sentences import Basis
from losssearch.insight.weights import Weights

if TYPE_CHECKING:
    from losssearch.insight.insight import Insight

WIDTH = 100
MOST = 800  # letters of one counter-example
MARKS = {Basis.PROVED: "proved", Basis.REFUTED: "refuted", Basis.MEASURED: "measured"}


def as_text(insight: Insight) -> str:
    """Several blocks, divided by empty lines."""
    blocks = [what_it_reads(insight), in_words(insight), counterexamples(insight)]
    if insight.no_profile:
        blocks += along_lines(insight) or [insight.no_profile]
    else:
        blocks += [along_the_line(insight), as_weights(insight)]
    return "\n\n".join(block for block in blocks if block)


def what_it_reads(insight: Insight) -> str:
    """The inputs with their axes and what they are, and what the axes count."""
    loss = insight.loss
    signature = loss.program.signature
    reads = [i for i in signature.inputs.values() if i.name in loss.program.inputs]
    head = [f"  {i.name} ({', '.join(i.axes)})" if i.axes else f"  {i.name}" for i in reads]
    width = max(map(len, head), default=0)
    told = [f"{i.role.value}{f': {i.about}' if i.about else ''}" for i in reads]
    lines = [f"{name.ljust(width)}  {text}" for name, text in zip(head, told, strict=True)]
    used = {axis for i in reads for axis in i.axes}
    axes = [f"{axis}: {what}" for axis, what in signature.about.items() if axis in used]
    return "\n".join(["Reads", *lines, *([f"  with {', '.join(axes)}"] if axes else [])])


def in_words(insight: Insight) -> str:
    """The sentences, each with what it rests on."""
    lines = []
    for s in insight.sentences:
        text = f"{s.text} ({MARKS[s.basis]})".replace(" %", "\xa0%")
        wrapped = [line.replace("\xa0", " ") for line in textwrap.wrap(text, WIDTH - 2)]
        lines += [f"- {wrapped[0]}", *(f"  {line}" for line in wrapped[1:])]
    return "\n".join(["In words", *lines]) if lines else ""


def counterexamples(insight: Insight) -> str:
    """What refutes a fact, to three digits: the inputs that the loss reads, and the values there."""
    lines = []
    for name, example in insight.to_dict()["counterexamples"].items():
        lines.append(f"Refutes {name!r}, in three digits (to_dict and --json have all):")
        read = insight.loss.program.inputs
        given = {n: v for n, v in example["inputs"].items() if n in read}
        given |= {f"{n}, other end": v for n, v in example.get("other", {}).items() if n in read}
        told = [f"{key} = {_digits(values)}" for key, values in given.items()]
        if sum(map(len, told)) > MOST:
            told = ["The inputs are too many for this page."]
        for text in told:
            lines += textwrap.wrap(text, WIDTH - 2, initial_indent="  ", subsequent_indent="    ")
        lines.append("  " + ", ".join(f"{k} {v:.9g}" for k, v in example.items() if isinstance(v, float)))
    return "\n".join(lines)


def _digits(values: object) -> str:
    if isinstance(values, list):
        return f"[{', '.join(map(_digits, values))}]"
    return f"{values + 0.0:.3g}" if isinstance(values, float) else str(values)


def along_the_line(insight: Insight) -> str:
    """Value, gradient, curvature and ratios at some points."""
    from losssearch.insight.insight import name_of

    base = name_of(insight.reference)
    title = {
        "multiclass": "One sample of ten classes; p is that of the true one, the others share the rest",
        "binary": "One positive sample; p is its probability",
        "regression": "One sample; r is its residual, prediction less target",
    }[insight.walk.task]
    head = [next(iter(insight.table[0])), "value", "gradient", "curvature", "value ratio", "gradient ratio"]
    rows = [[f"{row[head[0]]:g}", *(_short(v) for v in list(row.values())[1:])] for row in insight.table]
    return f"{title}. Ratios are to {base}.\n" + _grid(head, rows)


def along_lines(insight: Insight) -> list[str]:
    """Value, gradient, curvature and ratios at some points of each line."""
    from losssearch.insight.insight import name_of

    head = ["x", "value", "gradient", "curvature", "value ratio", "gradient ratio"]
    base = name_of(insight.reference)
    blocks = []
    for name, line in insight.lines.items():
        rows = [[f"{row['x']:.3g}", *map(_short, list(row.values())[1:])] for row in insight.tables[name]]
        title = textwrap.wrap(f"{line.title}. x: {line.x}. Ratios are to {base}.", WIDTH)
        blocks.append("\n".join([*title, _grid(head, rows)]))
    return blocks


def as_weights(insight: Insight) -> str:
    """Summed weight, effective number and entropy of each loss, and who holds the gradient."""
    from losssearch.insight.insight import groups_in_words, name_of
    from losssearch.insight.weights import usual_groups

    hard = usual_groups(insight.walk.task)[0].name
    head = ["loss", "by", "summed weight", "effective number", "entropy (nats)", f"pull of the {hard}"]
    rows = []
    for name, row in insight.weights.items():
        share = row["pull"]
        for by in ("value", "gradient"):
            w = row[by]
            numbers = [w.total, w.effective, w.entropy] if isinstance(w, Weights) else [math.nan] * 3
            shown = "" if by == "value" else "-" if share is None else f"{100 * share:.3g} %"
            rows.append([name if by == "value" else "", by, *(f"{v:.4g}" for v in numbers), shown])
    title = (
        f"How {groups_in_words(insight.walk.task)} are weighed. A weight is the ratio to "
        f"{name_of(insight.reference)}; pull is the share of the summed gradient."
    )
    return "\n".join(textwrap.wrap(title, WIDTH)) + "\n" + _grid(head, rows, 2)


def _short(value: float) -> str:
    return "-" if math.isnan(value) else f"{value + 0.0:.4g}"


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 0) -> str:
    """Columns of text; the first `left` stand to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join(lines)
