"""What does a loss do that its reference does not? Their gradients, side by side along the walk.

The docstring of each function says when its sentence is said.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from losssearch.insight.claims import SURE, TENTH, WITHIN, Basis, Found
from losssearch.insight.extremes import stops
from losssearch.insight.measured import Measured
from losssearch.insight.profile import slopes
from losssearch.insight.weights import pull, usual_groups
from losssearch.language.canonical import candidate_key


def same(m: Measured) -> Found:
    """Ratio of gradients constant to 1e-6 along the whole walk; for yes and no, each."""
    factors = _constant_ratios(m)
    if factors is None or candidate_key(m.program) == candidate_key(m.reference):
        return None
    yes, no = factors
    if math.isclose(yes, no, rel_tol=1e-6):
        times = "that" if math.isclose(yes, 1, rel_tol=1e-9) else f"{yes:.4g} times that"
        text = f"Its gradient is {times} of {m.reference_name} all along the line: here they are one loss."
        if yes < 0:
            text = (
                f"It is {m.reference_name} turned over: its gradient is {times} all along the line. "
                "Descending it makes predictions worse."
            )
    else:
        text = (
            f"Its gradient is {yes:.4g} times that of {m.reference_name} on positives and {no:.4g} times on "
            "negatives, all along the line."
        )
    return text, Basis.MEASURED, {"factor": yes, "on_negatives": no}


def like_reference(m: Measured) -> Found:
    """Ratio of gradients within 25 % of its limit: for labels from the wrong end, else around 0."""
    if _constant_ratios(m) is not None:
        return None
    start = 0 if m.labels else m.index(lambda x: x > 0)
    middle = m.index(lambda x: x >= (m.walk.at_probability(0.5) if m.labels else 1.0))
    limit = m.ratios[start]
    if not math.isfinite(limit) or abs(limit) < 1e-3 * abs(m.ratios[middle]):
        return None
    close = [abs(r / limit - 1) <= WITHIN for r in m.ratios]
    end = m.reach(close, start, 1)
    if not m.labels:
        other = m.reach(close, start - 1, -1)
        end = None if end is None or other is None else min(end, -other)
    if end is None:
        return None
    times = "equals" if abs(limit - 1) < 0.01 else f"is {limit:.3g} times"
    if m.labels:
        p = m.walk.probability(end)
        if p < 0.01:
            return None
        where = f"Like {m.reference_name} on hard samples: up to {m.walk.place(end)}"
    else:
        if end <= 0.01:
            return None
        where = f"Like {m.reference_name} on small residuals: up to |r| = {end:.2g}"
    text = f"{where} its gradient {times} {m.reference_name}'s, within 25 %."
    return text, Basis.MEASURED, {"end": end, "factor": limit}


def fades(m: Measured) -> Found:
    """For labels: a tenth of the reference's gradient, matched at p = 0.5, from some p <= 0.99 on."""
    if not m.labels or stops(m):
        return None
    half, sure = (m.walk.at_probability(p) for p in (0.5, SURE))
    (own,) = m.at(half)
    (theirs,) = replace(m, program=m.reference).at(half)
    if own == 0 or theirs == 0:
        return None
    matched = own / theirs
    low = [abs(r / matched) <= TENTH for r in m.ratios]
    begin = m.reach(low, m.index(lambda x: x > sure) - 1, -1)
    if begin is None or m.walk.probability(begin) > 0.99:
        return None
    text = (
        f"Its gradient fades on samples that are right: beyond {m.walk.place(begin)} it is less than a "
        f"tenth of {m.reference_name}'s, scaled to agree at p = 0.5."
    )
    return text, Basis.MEASURED, {"begin": begin}


def pulls(m: Measured) -> Found:
    """The hard (far) samples hold twice the share of the gradient that the reference gives, or half."""
    found = pull(m.program, m.reference, m.walk)
    if found is None or 0.5 < found.own / found.reference < 2:
        return None
    first, second = usual_groups(m.walk.task)
    what = "samples" if m.labels else "residuals"
    span = "p" if m.labels else "|r|"
    does = "Concentrates on" if found.own > found.reference else "Holds back on"
    text = (
        f"{does} {first.name} {what}: {first.count} at {span} of {first.low:g} to {first.high:g} hold "
        f"{_percent(found.own)} of the gradient beside {second.count} at {second.low:g} to {second.high:g}; "
        f"under {m.reference_name} {_percent(found.reference)}."
    )
    return text, Basis.MEASURED, {"own": found.own, "reference": found.reference}


def _constant_ratios(m: Measured) -> tuple[float, float] | None:
    """The one ratio of gradients all along the walk, for a label of yes and of no, if there is one each."""
    found = []
    for walk in (m.walk, replace(m.walk, positive=False)) if m.walk.task == "binary" else (m.walk,):
        own, theirs = m.at(*m.grid, walk=walk), slopes(m.reference, walk, m.grid)
        ratios = [a / b for a, b in zip(own, theirs, strict=True) if abs(b) > 1e-9]
        if not ratios or not all(map(math.isfinite, ratios)):
            return None
        middle = median(ratios)
        if middle == 0 or any(abs(r - middle) > 1e-6 * abs(middle) for r in ratios):
            return None
        found.append(middle)
    return found[0], found[-1]


def _percent(share: float) -> str:
    """With two digits, from 10 % on with three."""
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.3g} %"
