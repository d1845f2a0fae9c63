"""Turns go to who earns, follow the change, and nobody is starved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from scipy.stats import beta

from losssearch.controllers.bandit import DISCOUNT, PRIOR, ROUND_EVERY, Bandit
from losssearch.language.draws import Draws

ARMS = ("a", "b", "c", "d")


def played(bandit: Bandit, turns: range, chances: Mapping[str, float], seed: int = 0) -> Counter[str]:
    """Who had how many turns, when each arm succeeds so often; eight results a turn."""
    counts: Counter[str] = Counter()
    for turn in turns:
        arm = bandit.choose(turn, Draws.counted(seed, turn))
        luck = Draws.counted(seed + 1, turn)
        for _ in range(8):
            bandit.reward(arm, luck.chance(chances[arm]))
        counts[arm] += 1
    return counts


@pytest.mark.parametrize("seed", range(3))
def test_most_turns_go_to_the_arm_that_earns_most(seed: int) -> None:
    counts = played(Bandit(ARMS), range(300), {"a": 0.05, "b": 0.05, "c": 0.25, "d": 0.1}, seed)
    assert counts["c"] > 150


@pytest.mark.parametrize("seed", range(3))
def test_turns_follow_when_another_arm_begins_to_earn(seed: int) -> None:
    bandit = Bandit(ARMS)
    early = played(bandit, range(200), {"a": 0.3, "b": 0.02, "c": 0.02, "d": 0.02}, seed)
    played(bandit, range(200, 400), {"a": 0.02, "b": 0.3, "c": 0.02, "d": 0.02}, seed)
    late = played(bandit, range(400, 600), {"a": 0.02, "b": 0.3, "c": 0.02, "d": 0.02}, seed)
    assert early["a"] > 100
    assert late["b"] > 100


def test_no_arm_is_starved_however_badly_it_does() -> None:
    bandit = Bandit(ARMS)
    chances = {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    played(bandit, range(400), chances)
    cycle = ROUND_EVERY * len(ARMS)
    for start in range(400, 400 + 3 * cycle, 5):
        assert set(played(bandit, range(start, start + cycle), chances)) == set(ARMS)


def test_the_first_turns_go_round() -> None:
    assert [Bandit(ARMS).choose(turn, Draws.counted(0, turn)) for turn in range(4)] == list(ARMS)


def test_what_is_known_is_a_beta_law_of_fading_results() -> None:
    bandit = Bandit(ARMS)
    history = [("a", True), ("b", False), ("a", False), ("a", True), ("c", True), ("b", True)]
    for arm, success in history:
        bandit.reward(arm, success)
    for name in ARMS:
        good = bad = 0.0
        for age, (arm, success) in enumerate(reversed(history)):
            good += DISCOUNT**age * (arm == name and success)
            bad += DISCOUNT**age * (arm == name and not success)
        law = beta(good + PRIOR[0], bad + PRIOR[1])
        assert bandit.chance(name) == pytest.approx((law.mean(), law.std()), rel=1e-12)


def test_a_state_of_other_arms_is_refused() -> None:
    with pytest.raises(ValueError, match="its arms are a, b"):
        Bandit(ARMS).restore({"a": [0, 0], "b": [0, 0]})
