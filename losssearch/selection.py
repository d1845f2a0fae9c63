"""Which of many noisy scores is to be believed?

All losses are trained on the same splits, so that they are compared, not their luck. The score of a loss at a
rung is the mean over conditions of its mean error over splits at its *best* learning rate and number of
epochs there: both are fair, since every loss chooses its own. The best of many is flattered by noise; among
those that are tied with it, the simplest and the steadiest is taken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from losssearch.execution.plan import Run, RunResult
from losssearch.outcomes import Outcome

TELLING = 12  # different numbers in which two losses that train differently agree by no chance
TIE = 0.5  # standard errors of the paired difference


@dataclass(frozen=True)
class Score:
    """What one rung says of one loss.

    Args:
        value: The score, lower is better; None when no rate could be scored on every split.
        worst: The largest error of a split at the chosen rates.
        per_split: Errors at the chosen rates, in the order of conditions and splits; for pairing.
        metrics: Mean guard metrics at the chosen rates.
        rates: Condition -> chosen rate.
        outcome: SCORED, or why there is no score.
        detail: The first complaint of a training, for a person.
        trace: What all trainings said, in short, if it was much: losses of one trace train alike, whatever
            their formulas.
    """

    value: float | None
    worst: float = math.inf
    per_split: tuple[float, ...] = ()
    metrics: Mapping[str, float] | None = None
    rates: Mapping[str, float] | None = None
    outcome: Outcome = Outcome.SCORED
    detail: str = ""
    trace: str = ""


def score(runs: Sequence[Run], results: Sequence[RunResult]) -> Score:
    """The score of one loss from its runs at one rung."""
    table: dict[str, dict[float, dict[int, RunResult]]] = {}
    for run, result in zip(runs, results, strict=True):
        table.setdefault(run.condition, {}).setdefault(run.rate, {})[run.split] = result
    values: list[float] = []
    errors: list[float] = []
    rates: dict[str, float] = {}
    guards: dict[str, list[float]] = {}
    for condition, by_rate in table.items():
        whole = {
            rate: _best_epoch(list(found.values()))
            for rate, found in by_rate.items()
            if all(r.outcome is Outcome.SCORED for r in found.values())
        }
        if not whole:
            worst = next(r for r in results if r.outcome is not Outcome.SCORED)
            return Score(None, outcome=worst.outcome, detail=worst.detail)
        best = min(whole, key=lambda rate: (float(np.mean(whole[rate])), rate))
        rates[condition] = best
        values.append(float(np.mean(whole[best])))
        errors += whole[best]
        for result in by_rate[best].values():
            for name, value in result.metrics.items():
                guards.setdefault(name, []).append(value)
    means = {name: float(np.mean(found)) for name, found in guards.items()}
    return Score(float(np.mean(values)), max(errors), tuple(errors), means, rates, trace=_trace(results))


def _trace(results: Sequence[RunResult]) -> str:
    """Every curve and metric to six digits; empty where that is too little to tell losses apart."""
    said = [[*(e for _, e in r.curve), *(v for _, v in sorted(r.metrics.items()))] for r in results]
    words = [[f"{number:.6g}" for number in numbers] for numbers in said]
    if len({word for row in words for word in row}) < TELLING:
        return ""
    return hashlib.blake2b(repr(words).encode(), digest_size=8).hexdigest()


def _best_epoch(results: Sequence[RunResult]) -> list[float]:
    """Errors of each split at the epoch of the curve where their mean is least."""
    if any(len(r.curve) != len(results[0].curve) or not r.curve for r in results):
        return [float(r.metric) for r in results if r.metric is not None]
    table = np.array([[error for _, error in r.curve] for r in results])
    return [float(e) for e in table[:, int(np.argmin(table.mean(axis=0)))]]


def choose(scores: Mapping[str, Score], sizes: Mapping[str, int]) -> str | None:
    """The key of the loss to stand for the search: of those tied with the best, the simplest and steadiest.

    Tied means that the mean paired difference to the best is within TIE standard errors of that difference.
    """
    scored = {key: s for key, s in scores.items() if s.value is not None}
    if not scored:
        return None
    best = min(scored, key=lambda key: (_value(scored[key]), sizes[key], key))
    reference = np.array(scored[best].per_split)
    tied = [best]
    for key, own in scored.items():
        if key == best or len(own.per_split) != len(reference) or len(reference) < 2:
            continue
        gap = np.array(own.per_split) - reference
        if gap.mean() <= TIE * gap.std(ddof=1) / math.sqrt(len(gap)):
            tied.append(key)
    return min(tied, key=lambda key: (sizes[key], scored[key].worst, _value(scored[key]), key))


def _value(own: Score) -> float:
    return math.inf if own.value is None else own.value
