"""What does a loss do with answers that are right already, and with those that are hopeless?

The docstring of each function says when its sentence is said.
"""

from __future__ import annotations

from losssearch.insight.claims import SURE, TENTH, Basis, Found
from losssearch.insight.measured import Measured
from losssearch.language.facts import Verdict

# On samples that are right.


def stops(m: Measured) -> Found:
    """For labels: the gradient is exactly 0 from some p <= 0.999 on."""
    if not m.labels:
        return None
    begin = m.reach([s == 0 for s in m.slope], len(m.grid) - 1, -1)
    if begin is None or m.walk.probability(begin) > SURE:
        return None
    text = f"Its gradient is 0 beyond {m.walk.place(begin)}: what is right enough counts no more."
    return text, Basis.MEASURED, {"begin": begin}


def pushes_back(m: Measured) -> Found:
    """For labels: the gradient points away from the label from some p on, up to p = 0.999."""
    if not m.labels:
        return None
    sure = m.index(lambda x: m.walk.probability(x) > SURE)
    ordinary = m.index(lambda x: m.walk.probability(x) > 0.1)
    largest = max(map(abs, m.slope[ordinary:sure]))
    begin = m.reach([s > 1e-3 * largest for s in m.slope], sure, -1)
    if begin is None:
        return None
    if m.walk.probability(begin) < 0.01:
        text = (
            "Descending it makes predictions worse: its gradient points away from the label. A missing minus?"
        )
        return text, Basis.MEASURED, {"begin": begin}
    text = f"Pushes back on answers that are too sure: beyond {m.walk.place(begin)} its gradient turns round."
    return text, Basis.MEASURED, {"begin": begin}


# On samples that are wrong.


def bounded(m: Measured) -> Found:
    """The fact `bounded_influence` is proved."""
    if m.facts.bounded_influence.verdict is not Verdict.PROVED:
        return None
    who = "one wrong label" if m.labels else "one outlier"
    text = f"Its gradient is bounded, along the line by {m.peak[0]:.3g}: {who} has bounded influence."
    return text, Basis.PROVED, {"peak": m.peak[0]}


def levels_off(m: Measured) -> Found:
    """Not proved to be bounded, but the slope changes by under 5 % over the outer half of the walk."""
    if bounded(m) or gives_up(m) or grows(m):
        return None
    if not all(near > 0 and abs(end / near - 1) <= 0.05 for near, end in m.wrong):
        return None
    top = max(end for _, end in m.wrong)
    who = "wrong label" if m.labels else "outlier"
    text = f"Its gradient levels off at {top:.3g}, as far as was looked: one {who} has limited influence."
    return text, Basis.MEASURED, {"level": top}


def grows(m: Measured) -> Found:
    """The slope is somewhere thrice what it is at p = 0.01, or at a residual of 10, or more."""
    near = max(map(abs, m.at(m.walk.at_probability(0.01)) if m.labels else m.at(-10.0, 10.0)))
    beyond = m.walk.at_probability(0.01) if m.labels else -10.0
    outer = [
        (abs(s), x)
        for s, x in zip(m.slope, m.grid, strict=True)
        if x < beyond or (not m.labels and x > -beyond)
    ]
    end, place = max(outer)
    if end < 3 * near or end == 0:
        return None
    who = "one wrong label" if m.labels else "one outlier"
    start = "p = 0.01" if m.labels else "|r| = 10"
    text = (
        f"Its gradient grows with the error, from {near:.3g} at {start} to {end:.3g} at "
        f"{m.walk.place(place)}: {who} can outweigh many samples."
    )
    return text, Basis.MEASURED, {"near": near, "end": end, "place": place}


def gives_up(m: Measured) -> Found:
    """On every wrong side the slope at the end is at most a tenth of the steepest, and it never grew."""
    size, place = m.peak
    if size == 0 or grows(m) or not all(end <= TENTH * size for _, end in m.wrong):
        return None
    low = [abs(s) <= TENTH * size for s in m.slope]
    left, right = m.reach(low, 0, 1), m.reach(low, len(low) - 1, -1)
    if m.labels:
        if left is None:
            return None
        text = (
            f"Gives up on hopeless samples: below {m.walk.place(left)} its gradient is less than a tenth "
            f"of its largest, which lies at {m.walk.place(place)}."
        )
        return text, Basis.MEASURED, {"end": left, "peak_at": place}
    if left is None or right is None:
        return None
    end = max(right, -left)
    text = (
        f"Gives up on outliers: beyond |r| = {end:.2g} its gradient is less than a tenth of its largest, "
        f"which lies at |r| = {abs(place):.2g}."
    )
    return text, Basis.MEASURED, {"end": end, "peak_at": abs(place)}


def bounded_value(m: Measured) -> Found:
    """The value moves by under 0.1 % of its range over the outer half of the wrong sides."""
    ends = [-m.far] if m.labels else [-m.far, m.far]
    middle = m.walk.at_probability(0.5) if m.labels else 0.0
    outer, last, best = ([*m.values(*places)] for places in ([e / 2 for e in ends], ends, [middle]))
    span = max(abs(v - best[0]) for v in last)
    if span == 0 or any(abs(a - b) > 1e-3 * span for a, b in zip(outer, last, strict=True)):
        return None
    who = "hopeless samples" if m.labels else "outliers"
    return f"Its value is bounded: {who} cost {max(last):.3g}.", Basis.MEASURED, {"value": max(last)}
