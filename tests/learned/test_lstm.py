"""An LSTM that sets the constants of a formula and the learning rate while a model learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from losssearch.api import parse
from losssearch.errors import UsageError
from losssearch.learned.loss import LearnedLoss
from losssearch.learned.lstm import Steering, SteeringSettings, evaluate, learn, steering_of
from losssearch.spaces import load_space

TINY = SteeringSettings(steps=4, iterations=6, tasks=4, hidden=4)


def gce() -> Steering:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Steering(load_space("multiclass").losses["gce"].program, "multiclass", 0.1, 4)


def test_a_fresh_lstm_leaves_the_formula_and_the_rate_as_they_are() -> None:
    steering = gce()
    (constant,) = steering.free
    constants, rate = steering.advise(torch.tensor([1.0, 3.0]), 0.5)
    assert constants[constant.name].tolist() == pytest.approx([constant.value] * 2, rel=1e-5)
    assert rate.tolist() == pytest.approx([0.1] * 2, rel=1e-5)


def test_constants_stay_within_their_ranges_whatever_the_lstm_says() -> None:
    steering = gce()
    nn.init.normal_(steering.head.weight, std=100.0)
    (constant,) = steering.free
    for loss in (1e-9, 1.0, 1e9):
        constants, rate = steering.advise(torch.tensor([loss]), 0.1)
        assert constant.low <= constants[constant.name].item() <= constant.high
        assert rate.item() >= 0


def test_each_training_gets_the_loss_of_its_own_constants() -> None:
    """(1 - p^q) / q, computed by hand for two trainings with different q."""
    steering, draw = gce(), torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=draw)
    label = torch.arange(10).reshape(2, 5) % 3
    target, q = torch.eye(3)[label], torch.tensor([0.3, 0.9])
    values = steering.values(logits, target, torch.tensor(0.0), {steering.free[0].name: q})
    p = torch.softmax(logits, -1).gather(-1, label.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(values, (1 - p ** q[:, None]) / q[:, None], atol=1e-5)


def unrolled(steering: Steering, data: Tensor) -> Tensor:
    """Three steered steps of a linear model; the loss after them."""
    theta = torch.zeros(3, 3, dtype=torch.float64, requires_grad=True)
    target = torch.eye(3, dtype=torch.float64)[torch.arange(6) % 3][None]
    steering.begin()
    for step in range(3):
        logits = (data @ theta)[None]
        seen = -(target * torch.log_softmax(logits, -1)).sum(-1).mean(-1)
        constants, rate = steering.advise(seen, step / 3)
        total = steering.values(logits, target, torch.tensor(step / 3), constants).mean()
        (slope,) = torch.autograd.grad(total, theta, create_graph=True)
        theta = theta - rate * slope
    return -(target[0] * torch.log_softmax(data @ theta, -1)).sum(-1).mean()


def test_the_outer_gradient_is_that_of_finite_differences_in_constant_and_rate() -> None:
    steering = gce().double()
    data = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (slope,) = torch.autograd.grad(unrolled(steering, data), steering.raw)
    for k in range(2):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                steering.raw[k] += step
            ends.append(unrolled(steering, data).item())
            with torch.no_grad():
                steering.raw[k] -= step
        assert float(slope[k]) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def test_what_is_learned_is_read_back_and_steers_the_same() -> None:
    program = load_space("multiclass").losses["gce"].program
    loss = learn("few-shot-digits-noisy", program, settings=TINY)
    assert loss.kind == "controller"
    assert steering_of(loss).program.text == program.text
    again = LearnedLoss.of(loss)
    assert torch.equal(evaluate(loss, 5).errors, evaluate(again, 5).errors)
    assert evaluate(loss, 5).errors.shape == (TINY.steps + 1, 5)


def test_still_knobs_do_not_read_the_training() -> None:
    program = load_space("multiclass").losses["gce"].program
    loss = learn(
        "few-shot-digits-noisy", program, settings=SteeringSettings(steps=3, iterations=4, still=True)
    )
    steering = steering_of(loss)
    first, later = (steering.advise(torch.tensor([x]), p)[1] for x, p in ((5.0, 0.0), (0.1, 0.9)))
    assert torch.equal(first, later)


def test_a_formula_that_couples_samples_is_refused() -> None:
    coupled = parse("square(mean(-log_pt, 'n'))", space="multiclass")
    with pytest.raises(UsageError, match="no value of each sample"):
        learn("few-shot-digits-noisy", coupled, settings=TINY)
