"""Which of many noisy scores is to be believed?

All losses are trained on the same splits, so that they are compared, not their luck. The score of a loss at a
rung is its mean error over splits at its *best* learning rate and number of epochs: both are fair, since
every loss chooses its own. The best of many is flattered by noise; among those that are tied with it, the
simplest and the steadiest is taken. Where a rung has a second condition, it is asked of those who are tied:
errors of two conditions have no common scale, and the one that differs most would decide alone.
"""

from __future__ import annotations

import hashlib
import math
from bisect import insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from losssearch.execution.plan import Run, RunResult
from losssearch.outcomes import Outcome

TELLING = 12  # different numbers in which two losses that train differently agree by no chance
TIE = 0.5  # standard errors of the paired difference
CLIMBS = 400  # losses that tell what a score is worth on the next rung: the youngest that climbed
ENOUGH = 12  # of them, before they tell how much of a score is luck
STEEPEST, FLATTEST = 1.0, 0.1


@dataclass(frozen=True)
class Score:
    """What one rung says of one loss.

    Args:
        value: The score, lower is better; None when no rate could be scored on every split of a condition.
        worst: The largest error of a split at the chosen rate.
        per_split: Errors at the chosen rate, in the order of splits; for pairing.
        metrics: Mean guard metrics at the chosen rate.
        rates: Condition -> chosen rate.
        outcome: SCORED, or why there is no score.
        detail: The first complaint of a training, for a person.
        trace: What all trainings said, in short, if it was much: losses of one trace train alike, whatever
            their formulas.
        others: Errors by split under every condition but the first.
    """

    value: float | None
    worst: float = math.inf
    per_split: tuple[float, ...] = ()
    metrics: Mapping[str, float] | None = None
    rates: Mapping[str, float] | None = None
    outcome: Outcome = Outcome.SCORED
    detail: str = ""
    trace: str = ""
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def score(runs: Sequence[Run], results: Sequence[RunResult]) -> Score:
    """The score of one loss from its runs at one rung."""
    table: dict[str, dict[float, dict[int, RunResult]]] = {}
    for run, result in zip(runs, results, strict=True):
        table.setdefault(run.condition, {}).setdefault(run.rate, {})[run.split] = result
    errors: dict[str, list[float]] = {}
    rates: dict[str, float] = {}
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
        errors[condition] = whole[best]
    first = next(iter(table))
    guards: dict[str, list[float]] = {}
    for result in table[first][rates[first]].values():
        for name, value in result.metrics.items():
            guards.setdefault(name, []).append(value)
    means = {name: float(np.mean(found)) for name, found in guards.items()}
    others = {name: tuple(found) for name, found in errors.items() if name != first}
    own = tuple(errors[first])
    return Score(float(np.mean(own)), max(own), own, means, rates, trace=_trace(results), others=others)


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


class Climb:
    """What a score of one rung is worth on the next, which stands on other and more splits.

    Those that climb were chosen by their score below, and the best of many are lucky: above they do worse. A
    line through (below, above) of all that climbed tells by how much, and is not bent by the choice, since it
    was made by what stands on the first axis. Its slope is that of Theil and Sen (the median over all pairs),
    kept within FLATTEST and STEEPEST, which a few losses that fail above do not turn. With few pairs it is 1.

    Source:
        Sen 1968, Journal of the American Statistical Association 63.
    """

    def __init__(self) -> None:
        self._pairs: list[tuple[int, float, float]] = []  # number of the loss, below, above
        self._line: tuple[float, float] | None = None  # slope and height, once they are known

    def add(self, number: int, below: float, above: float) -> None:
        """Loss `number` climbed; which are known does not depend on the order in which they are told."""
        if math.isfinite(below) and math.isfinite(above):
            insort(self._pairs, (number, below, above))
            del self._pairs[:-CLIMBS]
            self._line = None

    def expected(self, below: float) -> float:
        """The score to be expected above; the score itself as long as nobody climbed."""
        if self._line is None:
            self._line = self._fitted()
        slope, height = self._line
        return slope * below + height

    def _fitted(self) -> tuple[float, float]:
        if not self._pairs:
            return 1.0, 0.0
        _, below, above = np.array(self._pairs).T
        slope = 1.0
        if len(below) >= ENOUGH:
            first, second = np.triu_indices(len(below), 1)
            run = below[second] - below[first]
            rise = (above[second] - above[first])[run != 0] / run[run != 0]
            slope = float(np.clip(np.median(rise), FLATTEST, STEEPEST)) if len(rise) else FLATTEST
        return slope, float(np.median(above - slope * below))


def choose(scores: Mapping[str, Score], sizes: Mapping[str, int]) -> str | None:
    """The key of the loss to stand for the search: of those tied with the best, the simplest and steadiest.

    Tied are those whose mean paired difference to the best is within TIE standard errors of that difference;
    and of these, under each further condition in turn, those tied with the best of them there.
    """
    left = {key: s for key, s in scores.items() if s.value is not None}
    if not left:
        return None

    def rank(key: str) -> tuple[int, float, float, str]:
        return sizes[key], left[key].worst, _value(left[key]), key

    for condition in (None, *next(iter(left.values())).others):
        errors = {key: s.per_split if condition is None else s.others[condition] for key, s in left.items()}
        means = {key: _value(s) if condition is None else fmean(errors[key]) for key, s in left.items()}
        best = min(left, key=lambda key: (means[key], *rank(key)))
        left = {key: s for key, s in left.items() if key == best or _tied(errors[key], errors[best])}
    return min(left, key=rank)


def _tied(errors: Sequence[float], least: Sequence[float]) -> bool:
    if len(errors) != len(least) or len(errors) < 2:
        return False
    gap = np.array(errors) - np.array(least)
    return bool(gap.mean() <= TIE * gap.std(ddof=1) / math.sqrt(len(gap)))


def _value(own: Score) -> float:
    return math.inf if own.value is None else own.value
