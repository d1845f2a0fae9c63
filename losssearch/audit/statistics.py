"""Is one loss better than another, or were the splits lucky?

Resplits of one data set overlap, so their differences are correlated and the plain paired t test is
far too bold. The corrected resampled t test (Nadeau & Bengio 2003) adds n_test / n_train to 1 /
splits in the variance of the mean. Costs microseconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from losssearch.errors import UsageError


@dataclass(frozen=True)
class PairedComparison:
    """The mean difference of two losses over the same splits, and how sure it is.

    Args:
        difference: Mean of (first - second); negative means that the first has the smaller error.
        low, high: Ends of the confidence interval.
        t: Student's t; 0 when there is no difference at all, infinite when every split agrees
            exactly.
        p: Two-sided p value.
        splits: Number of splits.
    """

    difference: float
    low: float
    high: float
    t: float
    p: float
    splits: int


def corrected_t_test(
    differences: Sequence[float], train_size: int, test_size: int, *, confidence: float = 0.95
) -> PairedComparison:
    """The corrected resampled t test of paired differences against zero.

        t = mean(d) / sqrt((1/k + test_size/train_size) * var(d)),    k - 1 degrees of freedom

    Args:
        differences: One a split, e.g. error of the found loss minus error of the reference, k >= 2
            of them.
        train_size: Training samples of a split, >= 1.
        test_size: Test samples of a split; 0 gives the ordinary paired t test, right only for
            independent data.
        confidence: Of the interval, in (0, 1).

    Raises:
        UsageError: Fewer than two splits, a difference that is not finite, or a size or confidence
        out of range.

    Source:
        Nadeau & Bengio 2003, Inference for the generalization error, Machine Learning 52, Sec. 3.
    """
    from scipy.stats import t as student

    k = len(differences)
    if k < 2:
        raise UsageError(f"a paired test needs two splits or more, but got {k}. Audit more splits.")
    if not all(math.isfinite(d) for d in differences):
        raise UsageError("a paired test needs finite differences. Leave out runs without a metric.")
    if train_size < 1 or test_size < 0:
        raise UsageError(
            f"`train_size >= 1` and `test_size >= 0` must hold, but got {train_size=}, {test_size=}."
        )
    if not 0 < confidence < 1:
        raise UsageError(f"`0 < confidence < 1` must hold, but got {confidence=}.")
    mean = math.fsum(differences) / k
    variance = math.fsum((d - mean) ** 2 for d in differences) / (k - 1)
    error = math.sqrt((1 / k + test_size / train_size) * variance)
    if error == 0:
        t = 0.0 if mean == 0 else math.copysign(math.inf, mean)
        return PairedComparison(mean, mean, mean, t, 1.0 if mean == 0 else 0.0, k)
    t = mean / error
    reach = float(student.ppf((1 + confidence) / 2, k - 1)) * error
    p = 2 * float(student.sf(abs(t), k - 1))
    return PairedComparison(mean, mean - reach, mean + reach, t, p, k)
