"""Worked figures that circulate wrongly, given right, from the formulas of the spaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

DOUBLE = torch.float64


def positive(p):
    """One positive sample predicted with probability p; several p make a population."""
    p = torch.as_tensor(p, dtype=DOUBLE)
    return {
        "logit": torch.log(p / (1 - p))[..., None],
        "target": torch.ones(*p.shape, 1, dtype=DOUBLE),
    }


def test_squared_and_absolute_error_of_three_numbers(regression):
    x = {
        "pred": torch.tensor([1.1, 0.6, 1.8], dtype=DOUBLE),
        "target": torch.tensor([1.0, 0.5, 2.0], dtype=DOUBLE),
    }
    assert regression.value("mse", x).item() == pytest.approx(0.0200, abs=5e-5)  # not .0833
    assert regression.value("mae", x).item() == pytest.approx(0.1333, abs=5e-5)  # not .2


def test_cross_entropy_of_three_samples(multiclass):
    x = {
        "logits": torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.4, 0.4]], dtype=DOUBLE),
        "target": torch.eye(3, dtype=DOUBLE),
    }
    assert multiclass.value("cross_entropy", x).item() == pytest.approx(1.1858, abs=5e-5)  # not .9529


def test_focal_loss_of_three_samples(binary):
    x = {
        "logit": torch.tensor([0.1, 0.9, 0.2], dtype=DOUBLE),
        "target": torch.tensor([0.0, 1.0, 0.0], dtype=DOUBLE),
    }
    assert binary.value("focal", x).item() == pytest.approx(0.1140, abs=5e-5)  # not .1966


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_slope_of_focal_in_the_logit(binary, gamma):
    p = np.linspace(0.02, 0.98, 25)
    expected = (1 - p) ** gamma * (gamma * p * np.log(p) + p - 1)
    slope = binary.gradient("focal", positive(p), gamma=gamma, alpha=1)[:, 0]
    np.testing.assert_allclose(slope.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize(
    ("p", "size", "ratio"),
    [
        (0.5, 0.29829, 0.5966),
        (0.7, 0.07194, 0.2398),
        (0.9, 0.0028965, 0.02896),
        (0.99, 2.990e-6, 2.990e-4),
    ],
)
def test_slope_of_focal_against_cross_entropy_at_gamma_two(binary, p, size, ratio):
    focal = binary.gradient("focal", positive(p), gamma=2, alpha=1).item()
    plain = binary.gradient("bce", positive(p)).item()
    assert -focal == pytest.approx(size, rel=3e-4)
    assert focal / plain == pytest.approx(ratio, rel=3e-4)
    assert focal / plain == pytest.approx((1 - p) ** 2 * (1 - 2 * p * math.log(p) / (1 - p)))


def test_a_hard_sample_weighs_a_hundred_thousand_times_an_easy_one(binary):
    hard, easy = (binary.gradient("focal", positive(p), gamma=2, alpha=1).item() for p in (0.5, 0.99))
    assert hard / easy == pytest.approx(99_800, rel=1e-3)  # not 5800


@pytest.mark.parametrize(("gamma", "count"), [(0, 1000), (1, 61.44), (2, 8.694), (5, 2.151)])
def test_effective_number_of_samples_under_focal(binary, gamma, count):
    """10 hard samples even over (.1, .5) and 990 easy ones over (.9, .99), in expectation."""
    nodes, weights = np.polynomial.legendre.leggauss(24)
    total = 0.0
    for samples, low, high in [(10, 0.1, 0.5), (990, 0.9, 0.99)]:
        x = positive((low + high) / 2 + (high - low) / 2 * nodes)
        share = binary.value("focal", x, gamma=gamma, alpha=1) / binary.value("bce", x)
        total += samples * float(share.numpy() @ weights) / 2
    assert total == pytest.approx(count, rel=3e-4)


@pytest.mark.parametrize(("p", "size"), [(0.9, 1.05e-6), (0.95, 1.6e-8)])
def test_focal_loss_at_gamma_five(binary, p, size):
    assert binary.value("focal", positive(p), gamma=5, alpha=1).item() == pytest.approx(size, rel=0.01)
