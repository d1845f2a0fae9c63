"""Which score a loss gets, and which of the scored is taken."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losssearch.execution.plan import Run, RunResult
from losssearch.outcomes import Outcome
from losssearch.selection import Climb, Score, choose, score

Curves = dict[tuple[str, float, int], list[float] | Outcome]


def scored(curves: Curves) -> Score:
    """The score of (condition, rate, split) -> the curve of errors, or what went wrong."""
    runs, results = [], []
    for (condition, rate, split), curve in curves.items():
        runs.append(Run(0, split, rate, condition=condition))
        if isinstance(curve, Outcome):
            results.append(RunResult(curve, detail=f"{rate} on {split}"))
        else:
            points = [(5 * k + 5, error) for k, error in enumerate(curve)]
            results.append(RunResult(Outcome.SCORED, curve[-1], {"ece": curve[-1]}, points))
    return score(runs, results)


def test_the_rate_with_the_best_mean_counts_not_the_one_with_the_best_split():
    found = scored({("d", 0.1, 0): [0.1], ("d", 0.1, 1): [0.5], ("d", 0.3, 0): [0.2], ("d", 0.3, 1): [0.3]})
    assert found.value == pytest.approx(0.25)
    assert found.per_split == (0.2, 0.3)
    assert found.rates == {"d": 0.3}
    assert found.worst == 0.3
    assert found.metrics == {"ece": pytest.approx(0.25)}


def test_the_epoch_with_the_best_mean_counts_not_the_best_of_each_split():
    found = scored({("d", 0.1, 0): [0.1, 0.3, 0.4], ("d", 0.1, 1): [0.9, 0.2, 0.1]})
    assert found.per_split == (0.3, 0.2) or found.per_split == (0.4, 0.1)
    assert found.value == pytest.approx(0.25)


def test_a_rate_with_one_failed_split_does_not_count():
    curves: Curves = {("d", 0.1, 0): [0.0], ("d", 0.1, 1): Outcome.DIVERGED}
    curves |= {("d", 0.3, 0): [0.4], ("d", 0.3, 1): [0.6]}
    assert scored(curves).value == pytest.approx(0.5)


def test_without_a_whole_rate_there_is_no_score_but_a_reason():
    found = scored({("d", 0.1, 0): [0.0], ("d", 0.1, 1): Outcome.DIVERGED})
    assert (found.value, found.outcome, found.detail) == (None, Outcome.DIVERGED, "0.1 on 1")


def test_the_first_condition_makes_the_score_and_each_has_its_own_rate():
    found = scored(
        {("a", 0.1, 0): [0.1], ("a", 0.3, 0): [0.9], ("b", 0.1, 1): [0.8], ("b", 0.3, 1): [0.3],
         ("b", 0.1, 2): [0.8], ("b", 0.3, 2): [0.5]}
    )  # fmt: skip
    assert (found.value, found.per_split, found.worst) == (0.1, (0.1,), 0.1)
    assert found.others == {"b": (0.3, 0.5)}
    assert found.rates == {"a": 0.1, "b": 0.3}


def test_a_condition_that_no_rate_can_do_leaves_no_score():
    assert scored({("a", 0.1, 0): [0.1], ("b", 0.1, 1): Outcome.INVALID}).value is None


def test_a_result_without_a_curve_counts_by_its_metric():
    runs = [Run(0, split, 0.1) for split in (0, 1)]
    assert score(
        runs, [RunResult(Outcome.SCORED, 0.2), RunResult(Outcome.SCORED, 0.4)]
    ).value == pytest.approx(0.3)


def test_losses_that_train_alike_have_one_trace() -> None:
    many = [0.5 - k / 100 for k in range(13)]
    runs: Curves = {("d", 0.1, split): [e + split for e in many] for split in (0, 1)}
    again = scored({place: [e + 1e-9 for e in curve] for place, curve in runs.items()})
    other = scored({**runs, ("d", 0.1, 1): [*many[:-1], 0.0]})
    assert scored(runs).trace == again.trace != other.trace
    assert scored(runs).trace
    assert scored({("d", 0.1, 0): many[:5]}).trace == "", "a few numbers agree by chance"
    assert scored({("d", 0.1, s): [0.0] * 30 for s in (0, 1)}).trace == "", "so do those of an easy task"


def climbed(pairs: list[tuple[float, float]]) -> Climb:
    climb = Climb()
    for number, (below, above) in enumerate(pairs):
        climb.add(number, below, above)
    return climb


def test_a_score_is_worth_what_those_who_climbed_show() -> None:
    """The best of many are lucky: of a lead below, only the share that is not luck is left above."""
    draws = random.Random(0)
    truths = [draws.gauss(0.5, 0.01) for _ in range(4000)]
    best = sorted((truth + draws.gauss(0, 0.01), truth + 0.1) for truth in truths)[:400]
    climb = climbed(best)
    assert climb.expected(best[0][0]) == pytest.approx(0.6 + (best[0][0] - 0.5) / 2, abs=0.004)
    mistakes = [climb.expected(below) - above for below, above in best]
    assert statistics.fmean(mistakes) == pytest.approx(0, abs=0.001)


def test_what_climbs_first_tells_the_level_and_nobody_tells_nothing() -> None:
    assert climbed([]).expected(0.3) == 0.3
    assert climbed([(0.5, 0.7)]).expected(0.3) == pytest.approx(0.5)
    assert climbed([(0.5, math.inf)]).expected(0.3) == 0.3


def test_an_order_below_stays_an_order_above_whatever_climbed() -> None:
    for slope in (-3.0, 0.0, 9.0):
        climb = climbed([(k / 100, slope * k / 100) for k in range(40)])
        assert climb.expected(0.1) < climb.expected(0.2)
    flat = climbed([(0.5, k / 100) for k in range(40)])
    assert flat.expected(0.1) < flat.expected(0.2)


@given(st.permutations(range(500)))
def test_who_climbed_is_known_whatever_the_order_of_telling(order: list[int]) -> None:
    pairs = [(math.sin(k), math.sin(k) / 2 + math.cos(k)) for k in range(500)]
    climb = Climb()
    for k in order:
        climb.add(k, *pairs[k])
    assert climb.expected(0.25) == climbed(pairs).expected(0.25)


ERRORS = st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=2, max_size=5)


@given(st.dictionaries(st.sampled_from([0.01, 0.1, 1.0]), ERRORS, min_size=1))
def test_the_score_is_the_least_mean_over_rates_and_epochs(errors):
    splits = min(len(curves) for curves in errors.values())
    table = {("d", r, s): curves[s] for r, curves in errors.items() for s in range(splits)}
    means = [
        math.fsum(curves[s][e] for s in range(splits)) / splits
        for curves in errors.values()
        for e in range(3)
    ]
    assert scored(table).value == pytest.approx(min(means))


def of(*errors: float) -> Score:
    return Score(sum(errors) / len(errors), max(errors), errors)


def test_of_the_tied_the_simplest_is_chosen():
    scores = {"best": of(0.10, 0.20, 0.30), "plain": of(0.11, 0.19, 0.31), "long": of(0.11, 0.19, 0.31)}
    assert choose(scores, {"best": 20, "plain": 5, "long": 30}) == "plain"


def test_of_the_tied_the_one_that_stands_a_second_condition_is_chosen():
    scores = {
        "best": replace(of(0.10, 0.20, 0.30), others={"raw": (0.7, 0.8)}),
        "plain": replace(of(0.11, 0.19, 0.31), others={"raw": (0.7, 0.9)}),
        "sturdy": replace(of(0.11, 0.19, 0.31), others={"raw": (0.4, 0.5)}),
        "worse": replace(of(0.5, 0.5, 0.5), others={"raw": (0.1, 0.1)}),
    }
    assert choose(scores, {"best": 20, "plain": 5, "sturdy": 30, "worse": 3}) == "sturdy"


def test_a_loss_that_is_surely_worse_is_not_chosen_however_simple():
    scores = {"best": of(0.10, 0.20, 0.30), "plain": of(0.15, 0.25, 0.36)}
    assert choose(scores, {"best": 20, "plain": 1}) == "best"


def test_of_equally_simple_ones_the_steadiest_is_chosen():
    scores = {"best": of(0.10, 0.20, 0.30), "steady": of(0.14, 0.21, 0.27)}
    assert choose(scores, {"best": 5, "steady": 5}) == "steady"


def test_a_loss_without_a_score_is_never_chosen():
    failed = Score(None, outcome=Outcome.DIVERGED)
    assert choose({"failed": failed}, {"failed": 1}) is None
    assert choose({"failed": failed, "bad": of(0.9, 0.9)}, {"failed": 1, "bad": 50}) == "bad"
    assert choose({}, {}) is None


def test_scores_of_other_splits_are_not_called_tied():
    scores = {"best": of(0.1, 0.2), "plain": of(0.1, 0.2, 0.16)}
    assert choose(scores, {"best": 20, "plain": 1}) == "best"
