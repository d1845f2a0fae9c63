"""Constants follow the slope of the validation risk, back through the training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from losssearch.errors import UsageError
from losssearch.execution.plan import Run
from losssearch.execution.reference import Compiled, loss_gradient
from losssearch.language.canonical import canonical
from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.learned.metagradient import Settings, _Training, can_tune, tuned
from losssearch.proxies.registry import load_proxy
from losssearch.screening.scale import gradient_scale
from losssearch.search import Search
from losssearch.spaces import load_space

SPACE, PROXY = load_space("multiclass"), load_proxy("digits-noisy")


def gce(q: float) -> Program:
    return SPACE.loss("gce").program.with_constants({"q": q})


def risk_and_slope(q: float, settings: Settings) -> tuple[float, float]:
    program = canonical(gce(q))
    leaf = torch.tensor([q], requires_grad=True)
    training = _Training(PROXY, settings)
    [risk] = training.risks(Compiled(program), {"c0": leaf}, torch.tensor([2.0]))
    risk.backward()
    assert leaf.grad is not None
    return float(risk.detach()), float(leaf.grad)


def test_the_slope_is_that_of_finite_differences() -> None:
    settings = Settings((1000,), steps=6, truncate=None)
    h = 0.02
    (low, _), (high, _) = (risk_and_slope(0.5 + d, settings) for d in (-h, h))
    _, slope = risk_and_slope(0.5, settings)
    assert slope == pytest.approx((high - low) / (2 * h), rel=0.05)
    assert abs(slope) > 1e-4


def test_a_cut_graph_gives_the_same_risk_with_another_slope() -> None:
    whole, cut = (risk_and_slope(0.5, Settings((1000,), steps=6, truncate=t)) for t in (6, 2))
    assert risk_and_slope(0.5, Settings((1000,), steps=6, truncate=None)) == whole
    assert cut[1] != pytest.approx(whole[1], rel=1e-3)


def test_neighbours_of_the_population_do_not_matter() -> None:
    settings = Settings((1000,), steps=5, truncate=None, iterations=3)
    together = tuned([gce(0.2), gce(0.9)], PROXY, settings=settings)
    alone = [tuned([gce(q)], PROXY, settings=settings)[0] for q in (0.2, 0.9)]
    for one, other in zip(together, alone, strict=True):
        assert one.constant_values == pytest.approx(other.constant_values, rel=1e-4)


@pytest.mark.slow
def test_constants_that_the_noise_punishes_become_better_on_other_splits() -> None:
    start = gce(0.1)  # nearly cross entropy: learns the 40 % wrong labels
    [found] = tuned([start], PROXY, settings=Settings(iterations=10))
    assert found.constant_values["c0"] > 0.3
    programs = [canonical(start), found]
    slopes = [loss_gradient(p, "logits", gradient_scale(p, SPACE)) for p in programs]
    runs = [Run(k, s, 0.08, 0.01) for k in (0, 1) for s in range(2000, 2008)]
    errors = [result.metric for result in PROXY.train(slopes, runs)]
    assert np.mean(errors[8:]) < np.mean(errors[:8]) - 0.01


def test_a_regression_is_tuned_too_and_never_made_worse_by_its_own_measure() -> None:
    proxy, space = load_proxy("diabetes-outliers"), load_space("regression")
    settings = Settings((1000, 1001), steps=20, truncate=None, iterations=3)
    huber = space.loss("huber").program
    [found] = tuned([huber], proxy, settings=settings)
    risks = []
    for program in (canonical(huber), found):
        values = {name: torch.tensor([v]) for name, v in program.constant_values.items()}
        scales = torch.tensor([gradient_scale(program, space)])
        [risk] = _Training(proxy, settings).risks(Compiled(program), values, scales)
        risks.append(float(risk.detach()))
    assert risks[1] <= risks[0]


def test_what_cannot_be_tuned_is_refused() -> None:
    plain = SPACE.loss("cross_entropy").program
    fixed = parse("mean(q * (1 - p_t), 'n')", SPACE.signature, {"q": Constant("q", 1.0, 1.0, 1.0)})
    for program in (plain, fixed):
        assert not can_tune(program, PROXY)
        with pytest.raises(UsageError, match="no free constant"):
            tuned([program], PROXY)
    with pytest.raises(UsageError, match="steps"):
        Settings(steps=0)


@pytest.mark.slow
def test_a_search_may_tune_its_finalists_by_the_slope_through_training(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/a.db"
    search = Search(
        "regression", "diabetes-outliers", "random", ["huber"], store, workers="inline", tuner="gradient"
    )
    result = search.run(candidates=30)
    assert result.best.score is not None
    wrong = Search("regression", "diabetes", storage=store, name="b", workers="inline", tuner="slope")
    with pytest.raises(UsageError, match="slope"):
        wrong.run(candidates=2)
