"""Sample weights learned on a clean set: they find wrong labels, and the audit says what they are worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from losssearch.errors import UsageError
from losssearch.execution.plan import Run
from losssearch.execution.reference import loss_gradient
from losssearch.learned.audit.weighting import audit_weighting
from losssearch.learned.online import OnlineSettings, held_out, train_online
from losssearch.learned.weighting import learn, with_clean_set
from losssearch.proxies.registry import load_proxy
from losssearch.spaces import load_space


def test_the_clean_set_has_right_labels_and_shares_no_row_with_training_or_test() -> None:
    noisy, clean = load_proxy("digits-noisy"), load_proxy("digits")
    material = with_clean_set(noisy, [0, 1], "audit", a_class=5)
    for i in range(2):
        truth = {
            row.tobytes(): y.argmax() for row, y in zip(*clean.split(i, stage="audit").valid, strict=True)
        }
        rows = [row.numpy().tobytes() for row in material.held[0][i]]
        assert [truth[row] for row in rows] == material.held[1][i].argmax(1).tolist()
        assert material.held[1][i].sum(0).tolist() == [5.0] * 10
        assert material.test is not None
        for other in (material.train[0][i], material.test[0][i], material.valid[0][i]):
            assert not set(rows) & {row.numpy().tobytes() for row in other}


def test_held_samples_take_no_part_in_training() -> None:
    material = held_out(load_proxy("digits-noisy"), [0], "search", share=0.25)
    assert len(material.held[0][0]) == round(0.25 * 698)
    train = {row.numpy().tobytes() for row in material.train[0][0]}
    assert not train & {row.numpy().tobytes() for row in material.held[0][0]}


def test_without_a_learned_loss_the_training_is_the_population_trainers() -> None:
    proxy, rate = load_proxy("digits-noisy"), 0.04
    trained = train_online(proxy, with_clean_set(proxy, [0, 1], "audit"), rate, 0.01, "classical")
    program = load_space("multiclass").losses["cross_entropy"].program
    runs = [Run(0, s, rate, 0.01, stage="audit") for s in (0, 1)]
    found = proxy.train([loss_gradient(program, "logits")], runs)
    assert trained.test is not None
    mine = trained.test[-1].tolist()
    assert mine == pytest.approx([r.metric for r in found], abs=0.0101)  # three of 300 samples: rounding


def test_one_step_of_the_weights_is_the_meta_gradient_of_the_paper() -> None:
    """Against finite differences of the clean loss after one step, Eq. (3) and (4)."""
    from losssearch.learned.network import fresh_weighting, sample_weight

    draw = torch.Generator().manual_seed(0)
    x, clean = torch.randn(12, 3, generator=draw).double(), torch.randn(9, 3, generator=draw).double()
    y, truth = torch.arange(12) % 4, torch.arange(9) % 4
    start = torch.randn(3, 4, generator=draw).double()
    network = {n: w.double() for n, w in fresh_weighting(5, draw).items()}
    network["last.weight"] = torch.randn(1, 5, generator=draw).double()

    def clean_loss(bias: Tensor, graph: bool) -> Tensor:
        theta = start.clone().requires_grad_()
        cross = F.cross_entropy(x @ theta, y, reduction="none")
        share = sample_weight({**network, "last.bias": bias}, cross, torch.zeros_like(cross))
        total = (share * cross).sum() / share.sum()
        (slope,) = torch.autograd.grad(total, theta, create_graph=graph)
        return F.cross_entropy(clean @ (theta - 0.5 * slope), truth)

    bias = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(clean_loss(bias, True), bias)
    step = torch.full((1,), 1e-5, dtype=torch.float64)
    numeric = (clean_loss(step, False) - clean_loss(-step, False)) / 2e-5
    assert float(slope) == pytest.approx(float(numeric.detach()), rel=1e-4)


def test_learned_weights_are_smaller_for_larger_losses_under_label_noise() -> None:
    loss = learn("digits-noisy", rate=0.16)
    cross = torch.linspace(0, 6, 7)
    from losssearch.learned.network import sample_weight

    share = sample_weight(loss.network, cross, torch.zeros(7))
    assert float(share[0]) > 2 * float(share[-1])
    assert np.isfinite(loss.evidence["validation"]["error"])


def test_bad_settings_are_refused() -> None:
    proxy = load_proxy("digits-noisy")
    with pytest.raises(UsageError, match="a_class >= 1"):
        with_clean_set(proxy, [0], "search", a_class=0)
    with pytest.raises(UsageError, match="leave none"):
        with_clean_set(load_proxy("digits-imbalanced"), [0], "search", a_class=16)
    regression, material = load_proxy("diabetes"), with_clean_set(proxy, [0], "search")
    with pytest.raises(UsageError, match="multiclass MLPs"):
        train_online(regression, material, 0.1, 0.0, "classical")
    with pytest.raises(UsageError, match="rate > 0"):
        OnlineSettings(rate=0)
    with pytest.raises(UsageError, match="splits >= 2"):
        audit_weighting("digits-noisy", splits=1)


@pytest.mark.slow
def test_the_audit_keeps_losing_rows_and_prefers_learned_weights_to_plain_cross_entropy() -> None:
    """Fewer splits and settings than an audit: the direction, not the significance, is asked."""
    grid = [(0.04, 0.03), (0.16, 0.01)]
    report = audit_weighting("digits-noisy", splits=8, tuning=range(2000, 2004), grid=grid)
    assert len(report.lines) == 4
    assert [line.error for line in report.lines] == sorted(line.error for line in report.lines)
    mine, plain = report.line("meta-weight-net"), report.line("cross entropy")
    assert mine.versus is None
    assert plain.versus is not None
    assert plain.versus.difference == pytest.approx(mine.error - plain.error, abs=1e-6)
    assert plain.versus.difference < 0
