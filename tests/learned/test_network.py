"""A loss network begins as the classical loss, stays positive, and does not care how classes are numbered."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from losssearch.learned.network import (
    fresh_weighting,
    fresh_weights,
    multiclass_value,
    regression_value,
    sample_weight,
)

HALF = torch.tensor(0.5)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved(weights: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights as after some learning: anything but their first values."""
    generator = draw(seed)
    return {n: w + torch.randn(w.shape, generator=generator) for n, w in weights.items()}


def test_a_fresh_regression_network_is_the_squared_error() -> None:
    x, y = torch.randn(2, 5, 7, generator=draw())
    value = regression_value(fresh_weights("regression", 8, draw()), x, y, HALF)
    assert torch.allclose(value, (x - y) ** 2)


def test_a_fresh_multiclass_network_is_cross_entropy() -> None:
    logits, label = torch.randn(9, 4, generator=draw()), torch.arange(9) % 4
    value = multiclass_value(fresh_weights("multiclass", 8, draw()), logits, F.one_hot(label, 4), HALF)
    assert torch.allclose(value, F.cross_entropy(logits, label, reduction="none"), atol=1e-6)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 6e4])
def test_a_loss_is_finite_and_never_negative(size: float) -> None:
    x = (size * torch.randn(3, 8, 5, generator=draw())).requires_grad_()
    target = F.one_hot(torch.arange(24).reshape(3, 8) % 5, 5).float()
    values = multiclass_value(moved(fresh_weights("multiclass", 8, draw())), x, target, HALF)
    assert bool((values >= 0).all())
    assert bool(torch.isfinite(torch.autograd.grad(values.sum(), x)[0]).all())
    values = regression_value(moved(fresh_weights("regression", 8, draw())), x, target, HALF)
    assert bool((values >= 0).all())
    assert bool(torch.isfinite(torch.autograd.grad(values.sum(), x)[0]).all())


def test_renumbering_the_classes_renumbers_the_gradient_and_nothing_else() -> None:
    weights = moved(fresh_weights("multiclass", 8, draw()))
    logits = torch.randn(6, 5, generator=draw(), dtype=torch.float64, requires_grad=True)
    target, order = F.one_hot(torch.arange(6) % 5, 5), torch.tensor([3, 0, 4, 1, 2])
    value = multiclass_value(weights, logits, target, HALF)
    other = multiclass_value(weights, logits[:, order], target[:, order], HALF)
    assert torch.allclose(value, other)
    mine, theirs = (torch.autograd.grad(v.sum(), logits)[0] for v in (value, other))
    assert torch.allclose(mine, theirs)


def test_one_network_serves_any_number_of_classes() -> None:
    weights = moved(fresh_weights("multiclass", 8, draw()))
    for classes in (2, 3, 50):
        target = F.one_hot(torch.arange(4) % classes, classes)
        value = multiclass_value(weights, torch.randn(4, classes, generator=draw()), target, HALF)
        assert value.shape == (4,)


def test_a_fresh_weight_network_gives_everyone_one_half_and_no_gradient() -> None:
    cross = torch.rand(3, 6, generator=draw()).requires_grad_()
    share = sample_weight(fresh_weighting(8, draw()), cross, torch.zeros(3, 6))
    assert torch.equal(share, torch.full((3, 6), 0.5))
    assert not share.requires_grad
