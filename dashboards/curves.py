"""What does a loss want? Its value and gradient along a line of predictions, with classical ones.

One sample walks from a wrong prediction to a right one:

    multiclass    the true logit moves, the other nine stay equal; x = true logit less the others
    binary        x = margin: the logit of a positive, minus the logit of a negative
    regression    x = residual, prediction less target; the target is 0

Values are counted from the right answer (the far right, or residual 0). Both are multiplied by the
loss's gradient scale, as in training, so that units do not hide the shape. About 20 ms a loss, and
a second or two to load torch the first time. Losses of other tasks stand along the lines that their space
names, their values counted from the lowest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from dashboards.charts import Chart, Line, Point, chart
from losssearch.execution.reference import evaluate, loss_gradient
from losssearch.insight.along import ASIDE, along, lines_of, positions
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature
from losssearch.lines import Line as Moving
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import Space

CLASSES = 10
POINTS = 161
REFERENCES = {
    "multiclass": ("cross_entropy", "mae", "gce", "focal"),
    "binary": ("bce", "hinge", "focal", "savage"),
    "regression": ("mse", "mae", "huber", "cauchy"),
}
SPANS = {"multiclass": (-8.0, 10.0), "binary": (-8.0, 8.0), "regression": (-5.0, 5.0)}
X_LABELS = {
    "multiclass": "true logit less the nine others (equal)   ·   below: p of the true class",
    "binary": "margin: logit towards the true answer   ·   below: p of the true answer",
    "regression": "residual: prediction less target",
}
WALKS = {
    "multiclass": "One sample of ten classes walks from a wrong answer (left) to the right one.",
    "binary": "One sample walks from a wrong answer (left) to the right one.",
    "regression": "One sample whose target is 0 walks through the residuals.",
}
Y_LABELS = {
    "multiclass": "pull on the true logit (−gradient)",
    "binary": "pull towards the answer (−gradient)",
    "regression": "gradient in the prediction",
}


@dataclass(frozen=True)
class Trace:
    """Value and slope of one loss along the line; nan where not finite."""

    x: tuple[float, ...]
    value: tuple[float, ...]
    slope: tuple[float, ...]

    def points(self, of: str) -> list[Point]:
        return list(zip(self.x, getattr(self, of), strict=True))


def charts(program: Program, space: Space, scale: float | None) -> list[Chart]:
    """The chart of values and that of gradients, or two a line of the space; [] for a loss that reads none of
    what moves there.

    Args:
        program: The loss.
        space: Its space; the classical losses come from there.
        scale: Its stored gradient scale; measured anew when there is none.
    """
    if scale is None or not _is_good(scale):
        scale = gradient_scale(program, space)
    if space.task not in WALKS:
        ways = lines_of(program, space.lines).values()
        return [c for line in ways for c in _along(program, space, scale, line)]
    if space.signature.predictions[0] not in program.inputs:
        return []
    own = _own(program, space, scale)
    references = [
        (f"ref{i}", name, reference(space, name)) for i, name in enumerate(chosen(space, program), start=1)
    ]
    found = []
    for of, title in (("value", "Value"), ("slope", "Gradient")):
        lines = [Line(name.replace("_", " "), t.points(of), look) for look, name, t in references]
        lines += [Line(label, t.points(of), look) for label, look, t in own]
        y_label = (
            "value × scale, 0 at the right answer" if of == "value" else (Y_LABELS[space.task] + " × scale")
        )
        drawn = chart(
            title,
            lines,
            X_LABELS[space.task],
            y_label,
            y_range=_range(
                [v for _, look, t in own if look == "own" for v in getattr(t, of)],
                [getattr(t, of) for _, _, t in references],
            ),
            second=None if space.task == "regression" else _probability(space.task),
        )
        if drawn is not None:
            found.append(drawn)
    return found


def _along(program: Program, space: Space, scale: float, line: Moving) -> list[Chart]:
    """Values and gradients along one line of a space."""
    references = [
        (f"ref{i}", name, _at(space.losses[name].program, line, reference_scale(space, name)))
        for i, name in enumerate(chosen(space, program, line), start=1)
    ]
    own = _at(program, line, scale)
    found = []
    for of in ("value", "slope"):
        lines = [Line(name.replace("_", " "), t.points(of), look) for look, name, t in references]
        lines.append(Line("this loss", own.points(of), "own"))
        others = [getattr(t, of) for _, _, t in references]
        drawn = chart(
            f"{'Value' if of == 'value' else 'Gradient'}: {line.title}",
            lines,
            line.x,
            "value × scale, 0 at its lowest" if of == "value" else "gradient by x × scale",
            y_range=_range(getattr(own, of), others),
        )
        found += [drawn] if drawn is not None else []
    return found


def _at(program: Program, line: Moving, scale: float) -> Trace:
    p = along(program, line, positions(line, POINTS, ASIDE))
    lowest = min((v for v in p.value if math.isfinite(v)), default=0.0)
    factor = scale if _is_good(scale) else 1.0
    return Trace(p.x, tuple((v - lowest) * factor for v in p.value), tuple(s * factor for s in p.slope))


def chosen(space: Space, program: Program, line: Moving | None = None, limit: int = 4) -> list[str]:
    """Names of the classical losses that stand beside a loss; along a line, of those that read what moves."""
    others = {n: loss for n, loss in space.losses.items() if loss.candidate.is_one and loss.seed}
    if line is not None:
        able = [n for n, loss in others.items() if lines_of(loss.program, {"": line})]
    else:
        able = [n for n, loss in space.losses.items() if set(loss.requires) <= {"progress"}]
    able = [name for name in able if space.losses[name].program.text != program.text]
    known = [name for name in REFERENCES.get(space.task, ()) if name in able]
    return (known or [name for name in able if name in others])[:limit]


@lru_cache(maxsize=128)
def reference(space: Space, name: str) -> Trace:
    """A classical loss along the line, at its usual constants."""
    return _trace(space.losses[name].program, space, reference_scale(space, name))


@lru_cache(maxsize=128)
def reference_scale(space: Space, name: str) -> float:
    """The gradient scale of a classical loss."""
    return gradient_scale(space.losses[name].program, space)


def _own(program: Program, space: Space, scale: float) -> list[tuple[str, str, Trace]]:
    """The loss itself; more than once where stage of training or side of the label matter."""
    schedules = [n for n, i in space.signature.inputs.items() if i.role is Role.SCHEDULE]
    if any(name in program.inputs for name in schedules):
        return [
            ("after a tenth", "own faint", _trace(program, space, scale, 0.1)),
            ("at the end", "own faint late", _trace(program, space, scale, 1.0)),
            ("this loss, half-way through training", "own", _trace(program, space, scale, 0.5)),
        ]
    own = _trace(program, space, scale)
    if space.task == "binary":
        other = _trace(program, space, scale, positive=False)
        if any(abs(a - b) > 1e-6 for a, b in zip(own.slope, other.slope, strict=True)):
            return [("on negatives", "own faint", other), ("this loss, on positives", "own", own)]
    return [("this loss", "own", own)]


def _trace(
    program: Program, space: Space, scale: float, progress: float = 0.5, positive: bool = True
) -> Trace:
    signature, task = space.signature, space.task
    x = torch.linspace(*SPANS[task], POINTS, dtype=torch.float64)
    inputs = _inputs(signature, task, x, progress, positive)
    name = signature.predictions[0]
    factor = scale if _is_good(scale) else 1.0
    with torch.no_grad():
        value = evaluate(program, inputs).expand(POINTS).double() * factor
        slope = loss_gradient(program, name, factor)(inputs).expand_as(inputs[name]).double()
    slope = slope.reshape(POINTS, -1)[:, 0]
    if task != "regression":
        slope = -slope if positive or task == "multiclass" else slope
    middle = value[POINTS // 2] if task == "regression" else value[-1]
    return Trace(tuple(x.tolist()), tuple((value - middle).tolist()), tuple(slope.tolist()))


def _inputs(
    signature: Signature, task: str, x: Tensor, progress: float, positive: bool
) -> Mapping[str, Tensor]:
    """One batch of one sample for each x; what a loss may read besides has an ordinary value."""
    inputs = {name: _ordinary(spec, signature, progress) for name, spec in signature.inputs.items()}
    prediction = signature.predictions[0]
    target = next(n for n, i in signature.inputs.items() if i.role is Role.TARGET)
    if task == "multiclass":
        inputs[prediction] = torch.zeros(len(x), 1, CLASSES, dtype=x.dtype)
        inputs[prediction][:, 0, 0] = x
        inputs[target] = torch.eye(CLASSES, dtype=x.dtype)[:1]
    else:
        inputs[prediction] = (x if positive else -x)[:, None]
        label = 0.0 if task == "regression" or not positive else 1.0
        inputs[target] = torch.full((1,), label, dtype=x.dtype)
    return inputs


def _ordinary(spec: Input, signature: Signature, progress: float) -> Tensor:
    """Even class frequencies, a hundred samples a class, the middle of any other range."""
    sizes = [CLASSES if signature.copies.get(a, a) == "c" else 1 for a in spec.axes]
    if spec.role is Role.SCHEDULE:
        value = progress
    elif any(p.startswith("simplex over") for p in spec.properties):
        if len(sizes) == 2 and sizes[0] == sizes[1]:  # a transition keeps most labels
            return 0.8 * torch.eye(sizes[0]).double() + 0.2 / sizes[0]
        value = 1.0 / sizes[-1]
    elif math.isinf(spec.high):
        value = 100.0 if spec.low >= 1 else max(spec.low, 1.0)
    else:
        value = 1.0 if spec.role is Role.MASK else (spec.low + spec.high) / 2
    return torch.full(sizes, value, dtype=torch.float64)


def _is_good(scale: float) -> bool:
    return math.isfinite(scale) and scale > 0


def _range(own: Sequence[float], references: Sequence[Sequence[float]]) -> tuple[float, float]:
    """What the chart shows: the whole of this loss, unless it dwarfs every classical one."""
    mine = [v for v in own if math.isfinite(v)] or [0.0]
    theirs = [v for line in references[:2] for v in line if math.isfinite(v)] or mine
    low, high = min(*theirs, 0.0), max(*theirs, 0.0)
    span = (high - low) or 1.0
    return (
        max(min(*mine, 0.6 * low, 0.0), low - span),
        min(max(*mine, 0.6 * high, 0.0), high + span),
    )


def _probability(task: str) -> Callable[[float], str]:
    others = CLASSES - 1 if task == "multiclass" else 1

    def text(x: float) -> str:
        p = 1.0 / (1.0 + others * math.exp(-x))
        return f"{p:.2g}" if p < 0.995 else f"{p:.4f}".rstrip("0")

    return text
