"""Who should go next, when what each one earns changes as the search goes on?

Discounted Thompson sampling. Successes and failures of the past are forgotten little by little; what is left
gives a Beta law of each arm's chance to succeed, and the arm whose draw is highest goes. With every result,
of any arm,

    S <- g S,  F <- g F    for all arms, then    S <- S + 1  or  F <- F + 1    for its own
    mean = (S + a) / (S + F + a + b),    variance = mean (1 - mean) / (S + F + a + b + 1)

Draws are from the normal law of this mean and variance. Whatever they say, every fourth turn goes round
among all arms, so that none is starved, and one that wakes up late is noticed.

Source:
    Raj & Kalyani 2017, arXiv:1707.09727, Algorithm 1; the turns are our own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from losssearch.language.draws import Draws

DISCOUNT = 1 - 1 / 400  # g, a result
PRIOR = 1.0, 9.0  # a, b: a tenth, which is more than most arms earn, so that who is not known is tried
ROUND_EVERY = 4  # one turn in so many goes round


class Bandit:
    """Shares turns among arms by what they earn.

    Args:
        arms: Their names.
    """

    def __init__(self, arms: Sequence[str]) -> None:
        self.arms = tuple(arms)
        self.earned = dict.fromkeys(self.arms, (0.0, 0.0))  # S and F

    def choose(self, turn: int, draws: Draws) -> str:
        """The arm of turn number `turn`; the first turns go round too."""
        if turn < len(self.arms):
            return self.arms[turn]
        if turn % ROUND_EVERY == 0:
            return self.arms[turn // ROUND_EVERY % len(self.arms)]
        return max(self.arms, key=lambda arm: self._drawn(arm, draws))

    def chance(self, arm: str) -> tuple[float, float]:
        """Mean and standard deviation of what is known of an arm's chance to succeed."""
        (good, bad), (a, b) = self.earned[arm], PRIOR
        count = good + bad + a + b
        mean = (good + a) / count
        return mean, math.sqrt(mean * (1 - mean) / (count + 1))

    def _drawn(self, arm: str, draws: Draws) -> float:
        mean, deviation = self.chance(arm)
        return mean + deviation * draws.normal()

    def reward(self, arm: str, success: bool) -> None:
        """One result of an arm."""
        self.earned = {name: (DISCOUNT * good, DISCOUNT * bad) for name, (good, bad) in self.earned.items()}
        good, bad = self.earned[arm]
        self.earned[arm] = (good + success, bad + (not success))

    def succeed(self, arm: str) -> None:
        """A result of an arm that was told before, as a failure, is one of its successes."""
        good, bad = self.earned[arm]
        self.earned[arm] = (good + 1, bad)

    def state(self) -> dict[str, list[float]]:
        return {arm: list(earned) for arm, earned in self.earned.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        if set(state) != set(self.arms):
            raise ValueError(f"its arms are {', '.join(state)}")
        self.earned = {arm: (float(state[arm][0]), float(state[arm][1])) for arm in self.arms}
