"""How well did a proposal do, on a scale that a policy can learn from?

Scores have any unit and any spread, so that only their order counts: a scored loss earns the share of the
last few hundred different scores that are worse, in [0, 1]. One without a score earns less than nothing, and
the less the sooner it fell, so that a rejected proposal teaches too:

    -1.0   does not depend on prediction or target        -0.4   does not learn on free predictions
    -0.9   nan or inf                                     -0.2   trained, but diverged or gave no number
    -0.8   flat                                            0.0   fell for no fault of its own
    -0.6   depends on the batch size, or nobody knows     0 to 1   scored

News is what counts: whoever measures to nine digits as n others did before is taken for the same loss in
other words, and earns 1/(1 + n) of it. Else a policy settles on `c * abs(r)`, which is new for every c.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import Any

from losssearch.controllers.base import Told
from losssearch.outcomes import Outcome

WINDOW = 400  # different scores that are remembered
UNKNOWN = -0.6

LEVELS = {
    Outcome.BLIND: -1.0,
    Outcome.NOT_FINITE: -0.9,
    Outcome.FLAT: -0.8,
    Outcome.BATCH_SIZE: -0.6,
    Outcome.NOT_LEARNING: -0.4,
    Outcome.DIVERGED: -0.2,
    Outcome.INVALID: -0.2,
    Outcome.SCORED: -0.2,  # but without a finite score
    Outcome.POISON: -0.2,
    Outcome.PRUNED: 0.0,
    Outcome.FAILED: 0.0,
    Outcome.TIMEOUT: 0.0,
    Outcome.DIED: 0.0,
}


class Rewards:
    """Rewards in [-1, 1] from what is told, by comparison with what was told before."""

    def __init__(self) -> None:
        self._met: dict[tuple[int, float], tuple[float, int]] = {}  # mark -> score, times met; latest last
        self._sorted: list[float] = []

    def add(self, results: Sequence[Told]) -> None:
        """Take in the scores of a round, so that its losses are compared with each other too."""
        for told in results:
            if told.finite_score is None:
                continue
            met = self._forget(told.mark) if told.mark in self._met else 0
            insort(self._sorted, told.finite_score)
            self._met[told.mark] = told.finite_score, met
        while len(self._met) > WINDOW:
            self._forget(next(iter(self._met)))

    def _forget(self, mark: tuple[int, float]) -> int:
        """How often it was met."""
        score, met = self._met.pop(mark)
        del self._sorted[bisect_left(self._sorted, score)]
        return met

    def earned(self, told: Told) -> float:
        """The reward of a result, which counts as met from now on; `add` it first."""
        score = told.finite_score
        if score is None:
            return LEVELS.get(told.outcome, UNKNOWN)
        score, met = self._met.get(told.mark, (score, 0))
        if told.mark in self._met:
            self._met[told.mark] = score, met + 1
        return self.rank(score) / (1 + met)

    def rank(self, score: float) -> float:
        """Share of the known scores that are worse, itself counted half, in [0, 1]; 0.5 if none is known.

        Of n scores the best has 1 - 1/(2n).
        """
        if not self._sorted:
            return 0.5
        better, others = bisect_left(self._sorted, score), bisect_right(self._sorted, score)
        return 1 - (better + others) / 2 / len(self._sorted)

    def state(self) -> list[list[Any]]:
        return [[*mark, score, met] for mark, (score, met) in self._met.items()]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        self._met = {(int(rung), float(value)): (float(score), int(met)) for rung, value, score, met in state}
        self._sorted = sorted(score for score, _ in self._met.values())
