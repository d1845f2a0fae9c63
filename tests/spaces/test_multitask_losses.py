"""Every way to make one loss of several, against a loop over tasks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from losssearch.execution.reference import evaluate
from losssearch.spaces import load_space
from tests.spaces.conftest import Bench

DOUBLE = torch.float64
SPACE = load_space("multitask")


@pytest.fixture(scope="module")
def multitask() -> Bench:
    return Bench("multitask")


def tasks(count=3, seed=0, progress=0.25) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "losses": torch.randn(count, generator=g, dtype=DOUBLE).exp(),
        "log_var": torch.randn(count, generator=g, dtype=DOUBLE),
        "weight": torch.rand(count, generator=g, dtype=DOUBLE) + 0.1,
        "progress": torch.tensor(progress, dtype=DOUBLE),
    }


def summed(rule):
    def second_way(x):
        total = 0 * x["losses"].sum()
        for i in range(len(x["losses"])):
            total = total + rule(x, i)
        return total

    return second_way


SECOND_WAYS = {
    "weighted_sum": summed(lambda x, i: x["weight"][i] * x["losses"][i]),
    "scheduled_sum": summed(
        lambda x, i: torch.lerp(x["weight"][i], torch.ones((), dtype=DOUBLE), x["progress"]) * x["losses"][i]
    ),
    "uncertainty_weighting": summed(
        lambda x, i: x["losses"][i] / (2 * x["log_var"][i].exp()) + torch.log((x["log_var"][i] / 2).exp())
    ),
}


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(multitask, name, count, progress):
    multitask.agrees(name, tasks(count, seed=count, progress=progress), SECOND_WAYS[name])


@pytest.mark.parametrize("name", SPACE.losses)
def test_no_task_costs_nothing(multitask, name):
    x = tasks(0)
    assert multitask.value(name, x) == 0
    assert multitask.gradient(name, x).shape == (0,)


@pytest.mark.parametrize("size", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("log_var", [-20.0, 0.0, 20.0, 1e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(multitask, name, size, log_var):
    x = {k: v.float() for k, v in tasks().items()}
    x |= {"losses": torch.full((3,), size), "log_var": torch.full((3,), log_var)}
    mine = x["losses"].clone().requires_grad_()
    value = multitask.value(name, {**x, "losses": mine})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(mine.grad).all()
    for wrt in ("losses", "log_var"):
        assert torch.isfinite(multitask.gradient(name, x, wrt)).all()


# Identities.


def test_uncertainty_weighting_with_sigma_one_is_half_the_sum(multitask):
    x = tasks(4, seed=1)
    x |= {"log_var": torch.zeros(4, dtype=DOUBLE), "weight": torch.ones(4, dtype=DOUBLE)}
    multitask.same("uncertainty_weighting", x, "weighted_sum", factor=0.5)
    torch.testing.assert_close(multitask.value("uncertainty_weighting", x), x["losses"].sum() / 2)


def test_the_best_variance_of_a_task_is_its_loss(multitask):
    x = tasks(4, seed=2)
    x["log_var"] = x["losses"].log()
    assert not multitask.gradient("uncertainty_weighting", x, "log_var").abs().gt(1e-12).any()
    expected = 2 + x["losses"].log().sum() / 2
    torch.testing.assert_close(multitask.value("uncertainty_weighting", x), expected)


def test_the_schedule_begins_at_the_given_weights_and_ends_at_equal_ones(multitask):
    begin, end = tasks(seed=3, progress=0.0), tasks(seed=3, progress=1.0)
    multitask.same("scheduled_sum", begin, "weighted_sum")
    torch.testing.assert_close(multitask.value("scheduled_sum", end), end["losses"].sum())


def test_the_slope_in_a_loss_is_its_weight(multitask):
    x = tasks(seed=4)
    torch.testing.assert_close(multitask.gradient("weighted_sum", x), x["weight"])


def test_learnt_variances_and_the_network_are_reached_through_live_losses(multitask):
    """Two noisy means, fitted with their variances: the fit finds both."""
    g = torch.Generator().manual_seed(0)
    data = [torch.randn(400, generator=g, dtype=DOUBLE) * s + m for s, m in ((0.5, 1.0), (3.0, -2.0))]
    centre, log_var = (torch.zeros(2, dtype=DOUBLE).requires_grad_() for _ in range(2))
    descent = torch.optim.LBFGS([centre, log_var], max_iter=100)
    program = SPACE.loss("uncertainty_weighting").program

    def closure():
        descent.zero_grad()
        each = torch.stack([(d - c).square().mean() for d, c in zip(data, centre, strict=True)])
        value = evaluate(program, {"losses": each, "log_var": log_var})
        value.backward()
        return value

    descent.step(closure)
    for own, mean, variance in zip(data, centre.tolist(), log_var.exp().tolist(), strict=True):
        assert mean == pytest.approx(float(own.mean()), abs=1e-3)
        assert variance == pytest.approx(float(own.var(correction=0)), rel=1e-2)
