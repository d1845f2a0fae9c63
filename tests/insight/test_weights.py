"""How losses weigh samples: the figures of the focal-loss theory, given right, and sums done by hand."""

from __future__ import annotations

import math
import random

import pytest

from losssearch.catalogue import find, with_constants
from losssearch.insight.profile import profile
from losssearch.insight.walk import Walk
from losssearch.insight.weights import Group, pull, ratio, weigh

REFERENCE = {"multiclass": "cross_entropy", "binary": "bce", "regression": "mse"}


def program(name: str, space: str, **constants: float):
    return with_constants(find(name, space)[1], constants)


def reference(space: str):
    return program(REFERENCE[space], space)


def sample(n: int = 20_000) -> list[tuple[float, float]]:
    """Probabilities and their shares: 10 even over (.1, .5), 990 over (.9, .99), drawn many times over."""
    rng = random.Random(0)
    hard = [(rng.uniform(0.1, 0.5), 10 / n) for _ in range(n)]
    return hard + [(rng.uniform(0.9, 0.99), 990 / n) for _ in range(n)]


@pytest.mark.parametrize("space", ["binary", "multiclass"])
@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0, 5.0])
def test_the_slope_of_focal_in_the_true_logit(space: str, gamma: float) -> None:
    """(1 - p)^gamma (gamma p log p + p - 1), by hand from the product rule."""
    walk = Walk(space)
    points = [0.02, 0.2, 0.5, 0.8, 0.98]
    focal = program("focal", space, gamma=gamma, alpha=1)
    found = profile(focal, walk, [walk.at_probability(p) for p in points]).slope
    for p, slope in zip(points, found, strict=True):
        assert slope == pytest.approx((1 - p) ** gamma * (gamma * p * math.log(p) + p - 1), rel=1e-10)


@pytest.mark.parametrize("space", ["binary", "multiclass"])
@pytest.mark.parametrize(
    ("p", "size", "against"),
    [(0.5, 0.29829, 0.5966), (0.7, 0.07194, 0.2398), (0.9, 0.0028965, 0.02896), (0.99, 2.990e-6, 2.990e-4)],
)
def test_the_gradient_of_focal_and_its_ratio_to_cross_entropy(space, p, size, against) -> None:
    walk = Walk(space)
    focal = program("focal", space, gamma=2, alpha=1)
    own, base = (profile(f, walk, [walk.at_probability(p)]) for f in (focal, reference(space)))
    assert -own.slope[0] == pytest.approx(size, rel=3e-4)
    assert ratio(own.slope, base.slope)[0] == pytest.approx(against, rel=3e-4)
    assert ratio(own.value, base.value)[0] == pytest.approx((1 - p) ** 2)


def test_a_hard_sample_pulls_a_hundred_thousand_times_an_easy_one() -> None:
    walk = Walk("binary")
    x = [walk.at_probability(p) for p in (0.5, 0.99)]
    hard, easy = profile(program("focal", "binary", gamma=2, alpha=1), walk, x).slope
    assert hard / easy == pytest.approx(99_800, rel=1e-3)


@pytest.mark.parametrize("space", ["binary", "multiclass"])
@pytest.mark.parametrize(("gamma", "count"), [(0, 1000), (1, 61.44), (2, 8.694), (5, 2.151)])
def test_the_summed_weight_is_the_effective_sample_number_of_the_theory(space, gamma, count) -> None:
    focal = program("focal", space, gamma=gamma, alpha=1)
    found = weigh(focal, reference(space), Walk(space))
    assert found is not None
    assert found.total == pytest.approx(count, rel=3e-4)

    def inner(low: float, high: float) -> float:  # the mean of (1 - p)^gamma over (low, high)
        return ((1 - low) ** (gamma + 1) - (1 - high) ** (gamma + 1)) / ((gamma + 1) * (high - low))

    assert found.total == pytest.approx(10 * inner(0.1, 0.5) + 990 * inner(0.9, 0.99), rel=1e-12)


@pytest.mark.parametrize("gamma", [1.0, 2.0])
def test_effective_number_entropy_and_share_are_those_of_a_large_drawn_sample(gamma: float) -> None:
    weights = [((1 - p) ** gamma, n) for p, n in sample()]
    total = sum(w * n for w, n in weights)
    kish = total**2 / sum(w * w * n for w, n in weights)
    entropy = -sum(n * w / total * math.log(w / total) for w, n in weights)
    hard = sum(w * n for w, n in weights[: len(weights) // 2]) / total
    found = weigh(program("focal", "binary", gamma=gamma, alpha=1), reference("binary"), Walk("binary"))
    assert found is not None
    assert found.effective == pytest.approx(kish, rel=0.01)
    assert found.entropy == pytest.approx(entropy, rel=0.01)
    assert found.share == pytest.approx(hard, rel=0.01)


def test_weights_by_gradient_are_ratios_of_gradients() -> None:
    def w(p: float) -> float:
        return (1 - p) ** 2 * (1 - 2 * p * math.log(p) / (1 - p))

    total = sum(w(p) * n for p, n in sample())
    kish = total**2 / sum(w(p) ** 2 * n for p, n in sample())
    focal = program("focal", "binary", gamma=2, alpha=1)
    found = weigh(focal, reference("binary"), Walk("binary"), "gradient")
    assert found is not None
    assert (found.total, found.effective) == pytest.approx((total, kish), rel=0.01)


@pytest.mark.parametrize("space", REFERENCE)
def test_a_loss_weighs_all_samples_alike_against_itself(space: str) -> None:
    for by in ("value", "gradient"):
        found = weigh(reference(space), reference(space), Walk(space), by)
        assert found is not None
        assert (found.total, found.effective) == pytest.approx((1000, 1000))
        assert found.entropy == pytest.approx(math.log(1000))


def test_a_factor_moves_the_summed_weight_alone() -> None:
    one, half = (
        weigh(program("focal", "multiclass", alpha=a), reference("multiclass"), Walk("multiclass"))
        for a in (1.0, 0.5)
    )
    assert one is not None
    assert half is not None
    assert half.total == pytest.approx(one.total / 2)
    assert (half.effective, half.entropy) == pytest.approx((one.effective, one.entropy))


def test_the_pull_of_the_hard_is_their_share_of_the_gradient() -> None:
    """Cross entropy: 10 times 1 - .3, 990 times 1 - .945; squares: 10 times 27.5, 990 times 1.25."""
    found = pull(program("focal", "binary", gamma=0, alpha=1), reference("binary"), Walk("binary"))
    assert found is not None
    assert found.own == pytest.approx(7 / (7 + 54.45))
    assert found.reference == pytest.approx(7 / (7 + 54.45))
    far = pull(program("mae", "regression"), reference("regression"), Walk("regression"))
    assert far is not None
    assert far.own == pytest.approx(0.01)
    assert far.reference == pytest.approx(275 / (275 + 1237.5))


def test_residuals_of_both_signs_count_alike() -> None:
    """The expectile weighs squares by .1 and .9: (.5 + .5)**2 / (2 (.1**2 + .9**2)) of all, by hand."""
    for tau in (0.1, 0.9):
        expectile = program("expectile", "regression", tau=tau)
        found = weigh(expectile, reference("regression"), Walk("regression"), "gradient")
        assert found is not None
        assert found.total == pytest.approx(500)
        assert found.effective == pytest.approx(1000 / (2 * (0.1**2 + 0.9**2)))


def test_without_a_reference_slope_there_is_no_weight() -> None:
    """The hinge has no gradient on easy samples, so nothing is a multiple of it."""
    hinge, bce = program("hinge", "binary"), program("bce", "binary")
    assert math.isnan(ratio((1.0,), (0.0,))[0])
    assert weigh(bce, hinge, Walk("binary"), "gradient") is None
    assert pull(hinge, bce, Walk("binary"), [Group("a", 1, 0.9, 0.95), Group("b", 1, 0.95, 0.99)]) is None
