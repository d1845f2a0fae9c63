"""Every binary loss against torch's own function, or against a loop over samples."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("binary")


def batch(n, seed=0, soft=False, spread=2.0):
    g = torch.Generator().manual_seed(seed)
    answers = torch.rand(n, generator=g, dtype=DOUBLE)
    return {
        "logit": spread * torch.randn(n, generator=g, dtype=DOUBLE),
        "target": answers if soft else (answers > 0.6).to(DOUBLE),
        "prior": torch.tensor(0.2, dtype=DOUBLE),
        "positives": torch.tensor(40.0, dtype=DOUBLE),
        "negatives": torch.tensor(2000.0, dtype=DOUBLE),
    }


def each(rule):
    """The mean of a rule over samples; it sees the logit and the answer of one sample."""

    def second_way(x):
        rows = [rule(z, float(t)) for z, t in zip(x["logit"], x["target"], strict=True)]
        return torch.stack(rows).mean()

    return second_way


def on_margin(function):
    """A function of the margin; the answer must be 0 or 1."""
    return each(lambda z, t: function(z if t == 1 else -z))


def bce(x, **options):
    return F.binary_cross_entropy_with_logits(x["logit"], x["target"], **options)


def inverse_frequency(x):
    weight = torch.tensor(
        [1 / (2 * 0.2) * t + 1 / (2 * 0.8) * (1 - t) for t in x["target"].tolist()], dtype=DOUBLE
    )
    return bce(x, weight=weight)


def class_balanced(x):
    raw = [(1 - 0.999) / (1 - 0.999**count) for count in (40, 2000)]
    a, b = (2 * value / sum(raw) for value in raw)
    return bce(x, weight=a * x["target"] + b * (1 - x["target"]))


def focal(x):
    """As in torchvision's sigmoid_focal_loss."""
    losses = bce(x, reduction="none")
    p = torch.sigmoid(x["logit"])
    p_t = p * x["target"] + (1 - p) * (1 - x["target"])
    alpha_t = 0.25 * x["target"] + 0.75 * (1 - x["target"])
    return (alpha_t * (1 - p_t) ** 2 * losses).mean()


def asymmetric(z, t):
    p = torch.sigmoid(z)
    shifted = torch.clamp(p - 0.05, min=0)
    return -(t * (1 - p) * torch.log(p) + (1 - t) * shifted**4 * torch.log(1 - shifted))


def distance_weighted(z, t):
    weight = math.exp(-0.5 * abs((2 * t - 1) * z.item()))
    return weight * -(t * F.logsigmoid(z) + (1 - t) * F.logsigmoid(-z))


SECOND_WAYS = {
    "bce": bce,
    "logistic": lambda x: F.soft_margin_loss(x["logit"], 2 * x["target"] - 1),
    "hinge": on_margin(lambda m: torch.clamp(1 - m, min=0)),
    "squared_hinge": on_margin(lambda m: torch.clamp(1 - m, min=0) ** 2),
    "exponential": on_margin(lambda m: torch.exp(-m)),
    "savage": on_margin(lambda m: 1 / (1 + torch.exp(m)) ** 2),
    "focal": focal,
    "distance_weighted": each(distance_weighted),
    "weighted_bce": lambda x: bce(x, pos_weight=torch.tensor(2.0, dtype=DOUBLE)),
    "inverse_frequency": inverse_frequency,
    "class_balanced": class_balanced,
    "asymmetric": each(asymmetric),
}
HARD_ANSWERS_ONLY = {"hinge", "squared_hinge", "exponential", "savage"}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way_on_hard_answers(binary, name, n):
    binary.agrees(name, batch(n, seed=n), SECOND_WAYS[name])


@pytest.mark.parametrize("name", [n for n in SPACE.losses if n not in HARD_ANSWERS_ONLY])
def test_equals_its_second_way_on_soft_answers(binary, name):
    binary.agrees(name, batch(6, seed=3, soft=True), SECOND_WAYS[name])


@pytest.mark.parametrize("name", ["bce", "logistic", "hinge", "squared_hinge", "weighted_bce", "savage"])
def test_stays_exact_at_the_ends_of_the_operating_range(binary, name):
    x = batch(16, seed=4, spread=30.0)
    x["logit"] = x["logit"].clamp(-30, 30)
    binary.agrees(name, x, SECOND_WAYS[name])


@pytest.mark.parametrize("size", [0.0, 1.0, 20.0, 100.0, 6e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(binary, name, size):
    x = {key: value.float() for key, value in batch(8, seed=5).items()}
    x["logit"] = size * torch.sign(x["logit"])
    assert torch.isfinite(binary.value(name, x))
    assert torch.isfinite(binary.gradient(name, x)).all()
    mine = x["logit"].clone().requires_grad_()
    binary.value(name, {**x, "logit": mine}).backward()
    assert torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("name", SPACE.losses)
def test_an_empty_batch_costs_nothing(binary, name):
    x = batch(2)
    x = {**x, "logit": x["logit"][:0], "target": x["target"][:0]}
    assert binary.value(name, x) == 0
    assert binary.gradient(name, x).shape == (0,)


@pytest.mark.parametrize("name", SPACE.losses)
def test_the_derivative_program_equals_autograd_far_outside_the_operating_range(binary, name):
    x = batch(16, seed=8, spread=100.0)
    mine = x["logit"].clone().requires_grad_()
    binary.value(name, {**x, "logit": mine}).backward()
    derived = binary.gradient(name, x)
    torch.testing.assert_close(derived, mine.grad, rtol=1e-7, atol=1e-12)
