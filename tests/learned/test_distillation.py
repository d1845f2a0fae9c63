"""A network turned back into a formula: what is found is written in the language and fits where it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from losssearch.errors import UsageError
from losssearch.learned.distillation import distil, fit, probe
from losssearch.learned.loss import NETWORK, LearnedLoss
from losssearch.learned.network import fresh_weights, regression_value
from losssearch.spaces import load_space


class Huber:
    """Three times the Huber loss with delta 1.3, plus a constant: neither may matter."""

    def values(self, prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
        size = (prediction - target).abs()
        return 3 * torch.where(size < 1.3, size.square() / 2, 1.3 * (size - 0.65)) + 7


class Gce:
    def values(self, prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
        p_t = (target * torch.softmax(prediction, -1)).sum(-1)
        return (1 - p_t**0.7) / 0.7


def test_a_fresh_network_distils_to_the_classical_loss_it_equals() -> None:
    arrays = fresh_weights("multiclass", 4, torch.Generator().manual_seed(0))
    loss = LearnedLoss("x", "network", "multiclass", {}, {NETWORK + n: w.numpy() for n, w in arrays.items()})
    found = loss.distil(programs=50, start=["brier", "cross_entropy"])
    assert found.program.text == "mean(-log_pt, 'n')"
    assert found.factor == pytest.approx(1, rel=1e-4)
    assert found.gradient_r2 == pytest.approx(1, abs=1e-6)
    assert found.value_r2 == pytest.approx(1, abs=1e-6)


def test_constants_of_a_known_family_are_found() -> None:
    found = distil(Huber(), load_space("regression"), programs=50, start=["huber"])
    assert found.program.constant_values["delta"] == pytest.approx(1.3, abs=0.02)
    assert found.factor == pytest.approx(3, rel=0.02)
    assert found.gradient_r2 > 0.999


@pytest.mark.parametrize(("loss", "space", "start"), [(Gce(), "multiclass", "cross_entropy")])
def test_a_formula_outside_the_start_is_found(loss: Gce, space: str, start: str) -> None:
    found = distil(loss, load_space(space), programs=400, start=[start], good_enough=0.995)
    assert found.gradient_r2 > 0.99


def test_the_figures_are_those_of_a_second_way() -> None:
    """R^2 of MAE against Huber, summed by hand over the probes."""
    space = load_space("regression")
    at = probe(Huber(), space, 3.0, 5)
    factor, value_r2, gradient_r2 = fit(space.losses["mae"].program, space, at)
    r = (at.inputs["pred"] - at.inputs["target"]).flatten().tolist()
    g = [3 * max(-1.3, min(1.3, x)) for x in r]
    f = [math.copysign(1, x) for x in r]
    a = sum(x * y for x, y in zip(g, f, strict=True)) / len(f)
    assert factor == pytest.approx(a)
    left = sum((x - a * y) ** 2 for x, y in zip(g, f, strict=True))
    assert gradient_r2 == pytest.approx(1 - left / sum(x * x for x in g))
    assert value_r2 < 1


def test_a_formula_that_pulls_the_other_way_fits_nothing() -> None:
    class Against:
        def values(self, prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
            return -(prediction - target).square()

    space = load_space("regression")
    factor, _, gradient_r2 = fit(space.losses["mse"].program, space, probe(Against(), space, 3.0, 0))
    assert factor == 0
    assert gradient_r2 == pytest.approx(0)


def test_the_same_seed_and_number_of_programs_give_the_same_formula() -> None:
    space = load_space("regression")
    one, two = (distil(Huber(), space, programs=50, start=["mse"], seed=3) for _ in range(2))
    assert (one.program.text, one.gradient_r2) == (two.program.text, two.gradient_r2)


@pytest.mark.slow
def test_a_network_that_was_trained_to_imitate_a_formula_distils_to_it() -> None:
    """The network learns Huber's gradient from samples; the search sees the network alone."""
    draw = torch.Generator().manual_seed(0)
    weights = {n: w.requires_grad_() for n, w in fresh_weights("regression", 16, draw).items()}
    adam = torch.optim.Adam(weights.values(), 0.01)
    for step in range(1500):
        adam.param_groups[0]["lr"] = 0.01 * (1 - step / 1500)
        target = 1.5 * torch.randn(256, generator=draw)
        x = target + 3 * 10 ** (-1.5 * torch.rand(256, generator=draw)) * torch.randn(256, generator=draw)
        x.requires_grad_()
        wanted = 3 * (x - target).detach().clamp(-1.3, 1.3)
        value = regression_value(weights, x, target, torch.rand((), generator=draw)).sum()
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        adam.zero_grad()
        (slope - wanted).square().mean().backward()
        adam.step()
    arrays = {NETWORK + n: w.detach().numpy() for n, w in weights.items()}
    found = LearnedLoss("imitation", "network", "regression", {}, arrays).distil(
        programs=600, start=["mse", "mae"], good_enough=0.999
    )
    assert found.gradient_r2 > 0.99, (found.program.text, found.gradient_r2)


def test_bad_arguments_are_refused() -> None:
    space = load_space("regression")
    with pytest.raises(UsageError, match="no loss 'hubert'"):
        distil(Huber(), space, programs=10, start=["hubert"])
    with pytest.raises(UsageError, match="reach > 0"):
        distil(Huber(), space, reach=0)
