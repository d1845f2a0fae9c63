"""What shape has a loss, which sides does it take, and what does it need to know?

The docstring of each function says when its sentence is said.
"""

from __future__ import annotations

import math
from dataclasses import replace

from losssearch.insight.claims import Basis, Found
from losssearch.insight.measured import Measured
from losssearch.language.facts import Verdict
from losssearch.language.heads import Coupled, split

# Sides.


def sides(m: Measured) -> Found:
    """Label yes against no, over- against underestimates: slopes that differ by 10 % or more."""
    if m.walk.task == "binary":
        x = [m.walk.at_probability(p) for p in (0.1, 0.5, 0.9)]
        pairs = list(zip(m.at(*x), m.at(*x, walk=replace(m.walk, positive=False)), strict=True))
        first, second, names = "a positive", "a negative", ["p = 0.1", "p = 0.5", "p = 0.9"]
    elif m.walk.task == "regression":
        x = [0.1, 1.0, 10.0]
        pairs = list(zip(m.at(*x), m.at(*(-v for v in x)), strict=True))
        first, second, names = "an overestimate", "an underestimate", ["|r| = 0.1", "|r| = 1", "|r| = 10"]
    else:
        return None
    ratios = [abs(a) / abs(b) if b else math.inf if a else 1.0 for a, b in pairs]
    k = max(range(len(ratios)), key=lambda i: abs(math.log(max(ratios[i], 1e-300))))
    times = ratios[k]
    if 1 / 1.1 < times < 1.1:
        return None
    if times < 1:
        first, second, times = second, first, 1 / times if times else math.inf
    told = "alone pulls" if math.isinf(times) else f"pulls {times:.3g} times as hard as {second}"
    rest = "; what else is said holds for positives" if m.walk.task == "binary" else ""
    text = f"{first} {told} at {names[k]}{rest}."
    return text[0].upper() + text[1:], Basis.MEASURED, {"ratio": ratios[k]}


def target_matters(m: Measured) -> Found:
    """In a regression: other slopes at a target of 5 than at 0, for the same residuals."""
    if m.labels:
        return None
    x = (-2.0, -0.5, 0.5, 2.0)
    here, there = m.at(*x), m.at(*x, walk=replace(m.walk, target=5.0))
    gap = max(abs(a - b) for a, b in zip(here, there, strict=True))
    if gap <= 1e-6 * max(map(abs, (*here, *there)), default=0.0):
        return None
    text = "It depends on the target, not on the residual alone; what is shown holds for a target of 0."
    return text, Basis.MEASURED, {"gap": gap}


# Shape.


def convex(m: Measured) -> Found:
    """The fact `convex`, proved or refuted."""
    fact = m.facts.convex
    if fact.verdict is Verdict.PROVED:
        return "Convex in the raw prediction: no false valleys for a linear model.", Basis.PROVED, {}
    if fact.verdict is Verdict.REFUTED:
        return f"Not convex in the raw prediction. {fact.why}", Basis.REFUTED, {}
    return None


def monotone(m: Measured) -> Found:
    """The fact `monotone`, proved or refuted."""
    fact = m.facts.monotone
    if fact.verdict is Verdict.PROVED:
        return "Never rises as the prediction gets better.", Basis.PROVED, {}
    if fact.verdict is Verdict.REFUTED:
        return f"It may rise although the prediction gets better. {fact.why}", Basis.REFUTED, {}
    return None


def kinks(m: Measured) -> Found:
    """The slope jumps somewhere in view by 1 % of its largest or more."""
    if not m.kinks:
        return None
    told = [f"at {m.walk.place(_tidy(x))} from {a + 0.0:.3g} to {b + 0.0:.3g}" for x, a, b in m.kinks]
    numbers = {f"place_{i}": _tidy(x) for i, (x, _, _) in enumerate(m.kinks)}
    return f"Its gradient jumps: {', '.join(told)}.", Basis.MEASURED, numbers


def smooth(m: Measured) -> Found:
    """The fact `smooth` is proved."""
    if m.facts.smooth.verdict is not Verdict.PROVED:
        return None
    return "Smooth: it has no kink.", Basis.PROVED, {}


# What it needs to know, and what the picture leaves out.


def adapts(m: Measured) -> Found:
    """Its slopes differ by 1 % or more between the start and the end of training."""
    x = [m.walk.at_probability(p) for p in (0.1, 0.5, 0.9)] if m.labels else [-3.0, 0.3, 3.0]
    start, end = m.at(*x), m.at(*x, walk=replace(m.walk, progress=1.0))
    gaps = [abs(b - a) / max(abs(a), abs(b), 1e-300) for a, b in zip(start, end, strict=True)]
    if max(gaps) < 0.01:
        return None
    k = gaps.index(max(gaps))
    text = (
        f"It changes as training goes on: at {m.walk.place(x[k])} its gradient goes from {start[k]:.3g} at "
        f"the start, which is shown, to {end[k]:.3g} at the end."
    )
    return text, Basis.MEASURED, {"start": start[k], "end": end[k]}


def assumes(m: Measured) -> Found:
    """It reads inputs besides prediction and target."""
    if not m.assumed:
        return None
    told = ", ".join(f"{name} at {value}" for name, value in m.assumed.items())
    return f"It reads more than prediction and target; shown with {told}.", Basis.PROVED, {}


def detached(m: Measured) -> Found:
    """It holds the word `detach`."""
    if not any(step.op == "detach" for step in m.program.instructions):
        return None
    return "A factor is held constant: the gradient is not the slope of the value.", Basis.PROVED, {}


def coupled(m: Measured) -> Found:
    """It is no mean over samples."""
    found = split(m.program)
    if not isinstance(found, Coupled):
        return None
    text = f"One sample alone may not show what it does: {found.why[0].lower()}{found.why[1:]}"
    return text, Basis.PROVED, {}


def _tidy(x: float) -> float:
    """A place found by bisection, without its last digits."""
    return round(x, 9) + 0.0
