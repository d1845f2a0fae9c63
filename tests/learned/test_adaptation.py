"""Inner steps are gradient descent, task by task, and can be differentiated through."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from losssearch.learned.adaptation import adapt, side_by_side, starts


def squared(prediction: Tensor, target: Tensor, progress: Tensor) -> Tensor:
    return (prediction.squeeze(-1) - target).square()


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(3, 6, 2, generator=draw), torch.randn(3, 6, generator=draw)


def first(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_side_by_side_equals_one_task_after_the_other(data: tuple[Tensor, Tensor]) -> None:
    model, rates = nn.Linear(2, 1), torch.tensor([0.1, 0.05])
    *_, last = adapt(side_by_side(model), starts(first(model), 3), squared, data, rates)
    for task in range(3):
        alone = nn.Linear(2, 1)
        alone.load_state_dict(model.state_dict())
        for rate in rates.tolist():
            loss = (alone(data[0][task]).squeeze(-1) - data[1][task]).square().mean()
            slopes = torch.autograd.grad(loss, list(alone.parameters()))
            with torch.no_grad():
                for value, slope in zip(alone.parameters(), slopes, strict=True):
                    value -= rate * slope
        for name, value in alone.named_parameters():
            assert torch.allclose(last[name][task], value, atol=1e-6)


def outcome(model: nn.Module, data: tuple[Tensor, Tensor], rates: Tensor, truncate: int | None) -> Tensor:
    forward = side_by_side(model)
    steps = adapt(forward, starts(first(model), 3), squared, data, rates, graph=True, truncate=truncate)
    *_, last = steps
    return squared(forward(last, data[0]), data[1], torch.tensor(1.0)).mean()


def test_the_gradient_in_the_rates_is_that_of_finite_differences(data: tuple[Tensor, Tensor]) -> None:
    model, data = nn.Linear(2, 1).double(), (data[0].double(), data[1].double())
    rates = torch.tensor([0.1, 0.05, 0.02], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(outcome(model, data, rates, None), rates)
    for k in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[k] = 1e-5
        up, down = (outcome(model, data, rates.detach() + s, None).item() for s in (step, -step))
        assert float(slope[k]) == pytest.approx((up - down) / 2e-5, rel=1e-5)


def test_truncation_hides_early_steps_from_the_last_loss(data: tuple[Tensor, Tensor]) -> None:
    model, rates = nn.Linear(2, 1), torch.tensor([0.1, 0.05, 0.02], requires_grad=True)
    (slope,) = torch.autograd.grad(outcome(model, data, rates, 2), rates)
    assert slope[:2].tolist() == [0.0, 0.0]
    assert float(slope[2]) != 0


def test_each_task_may_have_a_rate_of_its_own(data: tuple[Tensor, Tensor]) -> None:
    model = nn.Linear(2, 1)
    (after,) = adapt(
        side_by_side(model), starts(first(model), 3), squared, data, torch.tensor([[0.1, 0.0, 0.2]])
    )
    assert torch.equal(after["weight"][1], model.weight)
    assert not torch.equal(after["weight"][0], model.weight)
