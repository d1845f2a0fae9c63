"""The corrected resampled t test, against scipy and by its size on simulated resplits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from losssearch.audit.statistics import corrected_t_test
from losssearch.errors import UsageError


def test_without_a_test_set_it_is_the_paired_t_test_of_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=30), rng.normal(0.3, 1, size=30)
    ours = corrected_t_test(list(a - b), 1000, 0)
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert ours.t == pytest.approx(theirs.statistic, rel=1e-12)
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert ours.splits == 30


def test_the_correction_divides_t_by_the_documented_factor() -> None:
    differences = list(np.random.default_rng(1).normal(0.1, 1, 30))
    plain, corrected = (corrected_t_test(differences, 1078, size) for size in (0, 300))
    assert plain.t / corrected.t == pytest.approx(math.sqrt((1 / 30 + 300 / 1078) * 30))


def test_its_size_holds_on_overlapping_resplits_where_the_plain_test_fails() -> None:
    """Two fixed predictors of equal risk, judged on overlapping parts of one sample of 150."""
    rng = np.random.default_rng(2)
    worlds, n, test, splits = 400, 150, 50, 15
    rejected = {0: 0, test: 0}
    for _ in range(worlds):
        sample = rng.normal(size=n)  # score of predictor A minus that of B, mean zero
        parts = [rng.permutation(n)[:test] for _ in range(splits)]
        differences = [float(sample[part].mean()) for part in parts]
        for size in rejected:
            rejected[size] += corrected_t_test(differences, n - test, size).p < 0.05
    assert rejected[0] / worlds > 0.2
    # 5 % of 400, plus three standard errors
    assert rejected[test] / worlds < 0.05 + 3 * math.sqrt(0.05 * 0.95 / worlds)


def test_equal_losses_differ_by_nothing() -> None:
    same = corrected_t_test([0.0, 0.0, 0.0], 10, 5)
    assert (same.difference, same.t, same.p) == (0, 0, 1)


def test_a_constant_difference_is_certain() -> None:
    sure = corrected_t_test([-0.5, -0.5], 10, 5)
    assert (sure.t, sure.p, sure.low, sure.high) == (-math.inf, 0, -0.5, -0.5)


@pytest.mark.parametrize(
    ("differences", "sizes", "words"),
    [
        ([], (1, 1), "two splits"),
        ([0.1], (1, 1), "two splits"),
        ([0.1, math.nan], (1, 1), "finite"),
        ([0.1, 0.2], (0, 1), "train_size"),
    ],
)
def test_bad_arguments_say_what_to_do(differences: list[float], sizes: tuple[int, int], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        corrected_t_test(differences, *sizes)
