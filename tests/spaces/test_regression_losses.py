"""Every regression loss against torch or scikit-learn, or against a loop over samples."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import mean_pinball_loss, mean_squared_log_error

from losssearch.execution.reference import loss_gradient
from losssearch.spaces import load_space

DOUBLE = torch.float64
SPACE = load_space("regression")
PENALTIES = {"l1_regulariser", "l2_regulariser"}


def batch(n, seed=0, spread=3.0):
    g = torch.Generator().manual_seed(seed)
    return {
        "pred": spread * torch.randn(n, generator=g, dtype=DOUBLE),
        "target": spread * torch.randn(n, generator=g, dtype=DOUBLE),
        "log_var": torch.randn(n, generator=g, dtype=DOUBLE),
        "params": torch.randn(11, generator=g, dtype=DOUBLE),
    }


def positive(x):
    """The same with predictions and targets above -1."""
    return {**x, "pred": x["pred"].abs(), "target": x["target"].abs()}


def each(rule):
    """The mean of a rule over the residuals pred - target, one at a time."""

    def second_way(x):
        rows = [rule(a - b) for a, b in zip(x["pred"], x["target"], strict=True)]
        return torch.stack(rows).mean()

    return second_way


def student_t(x):
    """torch's distribution, less its normaliser."""
    noise = torch.distributions.StudentT(torch.tensor(3.0, dtype=DOUBLE))
    centre = noise.log_prob(torch.tensor(0.0, dtype=DOUBLE))
    return (centre - noise.log_prob(x["target"] - x["pred"])).mean()


def tukey(r):
    c = 4.685
    inside = c**2 / 6 * (1 - (1 - (r / c) ** 2) ** 3)
    return inside if abs(r.item()) <= c else 0 * r + c**2 / 6


def expectile(r):
    return abs(0.5 - (1.0 if r.item() >= 0 else 0.0)) * r**2


def gaussian_nll(x):
    return F.gaussian_nll_loss(x["pred"], x["target"], torch.exp(x["log_var"]), eps=1e-12)


SECOND_WAYS = {
    "mse": lambda x: F.mse_loss(x["pred"], x["target"]),
    "mae": lambda x: F.l1_loss(x["pred"], x["target"]),
    "huber": lambda x: F.huber_loss(x["pred"], x["target"], delta=1.0),
    "smooth_l1": lambda x: F.smooth_l1_loss(x["pred"], x["target"], beta=1.0),
    "pseudo_huber": each(lambda r: torch.hypot(torch.ones_like(r), r) - 1),
    "log_cosh": each(lambda r: torch.log(torch.cosh(r))),
    "cauchy": each(lambda r: torch.log1p(r * r / 2)),
    "student_t": student_t,
    "tukey": each(tukey),
    "welsch": each(lambda r: -(2.985**2) / 2 * torch.expm1(-((r / 2.985) ** 2))),
    "barron": each(lambda r: torch.sqrt(r * r + 1) - 1),
    "pinball": each(lambda r: torch.abs(r) / 2),
    "expectile": each(expectile),
    "gaussian_nll": gaussian_nll,
    "poisson_nll": lambda x: F.poisson_nll_loss(x["pred"], x["target"]),
    "msle": lambda x: F.mse_loss(torch.log1p(x["pred"]), torch.log1p(x["target"])),
    "l1_regulariser": lambda x: torch.linalg.vector_norm(x["params"], 1),
    "l2_regulariser": lambda x: torch.linalg.vector_norm(x["params"], 2) ** 2,
}
LOOSE = {"barron": 3e-5}  # its singular shapes are approached to 1e-6


def test_every_loss_has_a_second_way():
    assert set(SECOND_WAYS) == set(SPACE.losses)


@pytest.mark.parametrize("n", [1, 9])
@pytest.mark.parametrize("name", SPACE.losses)
def test_equals_its_second_way(regression, name, n):
    x = batch(n, seed=n)
    regression.agrees(name, positive(x) if name == "msle" else x, SECOND_WAYS[name], LOOSE.get(name, 1e-9))


@pytest.mark.parametrize("delta", [0.3, 1.345, 7.0])
def test_widths_mean_what_torch_means(regression, delta):
    x = batch(30, seed=2)
    regression.agrees("huber", x, lambda x: F.huber_loss(x["pred"], x["target"], delta=delta), delta=delta)
    regression.agrees(
        "smooth_l1", x, lambda x: F.smooth_l1_loss(x["pred"], x["target"], beta=delta), beta=delta
    )


@pytest.mark.parametrize("tau", [0.1, 0.5, 0.9])
def test_pinball_is_scikit_learns(regression, tau):
    x = batch(30, seed=3)
    expected = mean_pinball_loss(x["target"].numpy(), x["pred"].numpy(), alpha=tau)
    assert regression.value("pinball", x, tau=tau).item() == pytest.approx(expected)


@pytest.mark.parametrize("tau", [0.1, 0.9])
def test_the_best_constant_prediction_of_pinball_is_the_quantile(regression, tau):
    target = torch.arange(101, dtype=DOUBLE)
    costs = [
        regression.value("pinball", {"pred": torch.full_like(target, c), "target": target}, tau=tau).item()
        for c in range(101)
    ]
    assert costs.index(min(costs)) == round(100 * tau)


def test_the_best_constant_prediction_of_expectile_balances_weighted_deviations(regression):
    target = torch.tensor([0.0, 1.0, 5.0], dtype=DOUBLE)
    pred = torch.zeros(3, dtype=DOUBLE)
    slope = loss_gradient(regression.program("expectile", tau=0.8), "pred")
    for _ in range(100):
        pred = pred - slope({"pred": pred, "target": target}).sum()
    above = (target - pred).clamp(min=0).sum()
    below = (pred - target).clamp(min=0).sum()
    torch.testing.assert_close(0.8 * above, 0.2 * below)


def test_msle_is_scikit_learns(regression):
    x = positive(batch(30, seed=4))
    expected = mean_squared_log_error(x["target"].numpy(), x["pred"].numpy())
    assert regression.value("msle", x).item() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("alpha", "rule"),
    [
        (-2, lambda r, c: 2 * (r / c) ** 2 / ((r / c) ** 2 + 4)),
        (0.5, lambda r, c: 3 * (((r / c) ** 2 / 1.5 + 1) ** 0.25 - 1)),
        (1.5, lambda r, c: (((r / c) ** 2 / 0.5 + 1) ** 0.75 - 1) / 3),
    ],
)
def test_barron_at_regular_shapes(regression, alpha, rule):
    regression.agrees(
        "barron", batch(20, seed=5), each(lambda r: rule(r, 2.5)), rtol=3e-5, alpha=alpha, c=2.5
    )


def test_student_t_with_a_scale(regression):
    noise = torch.distributions.StudentT(
        torch.tensor(5.0, dtype=DOUBLE), scale=torch.tensor(0.4, dtype=DOUBLE)
    )
    centre = noise.log_prob(torch.tensor(0.0, dtype=DOUBLE)) + math.log(0.4)
    regression.agrees(
        "student_t",
        batch(20, seed=6),
        lambda x: (centre - noise.log_prob(x["target"] - x["pred"])).mean(),
        nu=5,
        scale=0.4,
    )


@pytest.mark.parametrize("size", [0.0, 1.0, 100.0, 6e4])
@pytest.mark.parametrize("name", SPACE.losses)
def test_is_finite_in_single_precision_with_its_gradient(regression, name, size):
    x = {key: value.float() for key, value in batch(8, seed=7).items()}
    x["pred"] = size * torch.sign(x["pred"])
    wrt = "params" if name in PENALTIES else "pred"
    assert torch.isfinite(regression.value(name, x))
    assert torch.isfinite(regression.gradient(name, x, wrt)).all()
    mine = x[wrt].clone().requires_grad_()
    regression.value(name, {**x, wrt: mine}).backward()
    assert torch.isfinite(mine.grad).all()


@pytest.mark.parametrize("name", [n for n in SPACE.losses if n not in PENALTIES])
def test_an_empty_batch_costs_nothing(regression, name):
    x = {key: value[:0] for key, value in batch(2).items()}
    assert regression.value(name, x) == 0
    assert regression.gradient(name, x).shape == (0,)


@pytest.mark.parametrize("name", ["mae", "huber", "pinball", "log_cosh", "barron", "tukey"])
def test_a_perfect_prediction_has_no_slope(regression, name):
    x = batch(5)
    x["pred"] = x["target"].clone()
    assert regression.value(name, x).abs() < 1e-12
    assert regression.gradient(name, x).abs().max() < 1e-12


@pytest.mark.parametrize("name", [n for n in SPACE.losses if n not in PENALTIES])
def test_the_derivative_program_equals_autograd_far_outside_the_operating_range(regression, name):
    x = batch(16, seed=8, spread=100.0)
    mine = x["pred"].clone().requires_grad_()
    regression.value(name, {**x, "pred": mine}).backward()
    derived = regression.gradient(name, x)
    torch.testing.assert_close(derived, mine.grad, rtol=1e-7, atol=1e-12)
