"""Only the order of scores counts, failures teach by how far they came, and news counts most."""

from __future__ import annotations

import json
import math
import random

import pytest

from losssearch.controllers.base import Told
from losssearch.controllers.rewards import WINDOW, Rewards
from losssearch.language.formula import parse
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space

PROGRAM = parse("mean(square(r), 'n')", load_space("regression").signature)


def told(number: int, score: float | None, outcome: Outcome = Outcome.SCORED) -> Told:
    return Told(number, f"key{number}", PROGRAM, score, outcome, 3, 0)


def rewards_of(scores: list[float], rounds: int = 1) -> list[float]:
    rewards, found = Rewards(), []
    size = math.ceil(len(scores) / rounds)
    for first in range(0, len(scores), size):
        results = [told(i, scores[i]) for i in range(first, min(first + size, len(scores)))]
        rewards.add(results)
        found += [rewards.earned(one) for one in results]
    return found


@pytest.mark.parametrize("change", [lambda x: 1e6 * x - 3, lambda x: math.exp(x), lambda x: -1 / (2 + x)])
def test_a_score_scale_makes_no_difference(change: object) -> None:
    rng = random.Random(0)
    scores = [rng.random() for _ in range(60)]
    assert callable(change)
    assert rewards_of(scores, 3) == rewards_of([change(x) for x in scores], 3)


def test_a_reward_is_the_share_of_known_scores_that_are_worse() -> None:
    rng = random.Random(1)
    scores = [rng.random() for _ in range(50)]
    expected = [(sum(other > x for other in scores) + 0.5) / 50 for x in scores]
    assert rewards_of(scores) == pytest.approx(expected)


def test_the_only_score_is_neither_good_nor_bad() -> None:
    assert rewards_of([3.0]) == [0.5]


def test_the_later_a_proposal_fails_the_more_it_earns() -> None:
    rewards = Rewards()
    ladder = [
        Outcome.BLIND, Outcome.NOT_FINITE, Outcome.FLAT, Outcome.BATCH_SIZE, Outcome.NOT_LEARNING,
        Outcome.DIVERGED,
    ]  # fmt: skip
    earned = [rewards.earned(told(i, None, outcome)) for i, outcome in enumerate(ladder)]
    assert earned == sorted(set(earned))
    assert earned[-1] < 0


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_no_failure_earns_more_than_nothing(outcome: Outcome, score: float | None) -> None:
    assert -1 <= Rewards().earned(told(0, score, outcome)) <= 0


def test_what_was_met_n_times_before_earns_a_share() -> None:
    earned = rewards_of([1.0, 2.0, 1.0, 1.0 + 1e-13, 1.0])
    assert earned == pytest.approx([0.75, 0.25, 0.75 / 2, 0.75 / 3, 0.75 / 4])


def test_old_scores_are_forgotten() -> None:
    rewards = Rewards()
    rewards.add([told(i, float(i)) for i in range(3 * WINDOW)])
    assert len(rewards.state()) == WINDOW
    assert rewards.rank(2.5 * WINDOW) == pytest.approx(0.5, abs=0.01)


def test_it_goes_on_after_a_restart() -> None:
    first, second = Rewards(), Rewards()
    for i, score in enumerate([3.0, 1.0, 3.0, 0.1 + 0.2, 7.5]):
        first.add([told(i, score)])
        first.earned(told(i, score))
    second.restore(json.loads(json.dumps(first.state())))
    for i, score in enumerate([3.0, 2.0, 0.3, 9.0]):
        for rewards in (first, second):
            rewards.add([told(i, score)])
        assert first.earned(told(i, score)) == second.earned(told(i, score))
