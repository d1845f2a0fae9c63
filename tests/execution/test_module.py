"""A program as a loss module: torch's own losses are the yardstick, dumb loops the second one."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import losssearch as ls
from losssearch.errors import FormulaError, UsageError
from losssearch.execution.module import LossModule, module_for
from losssearch.execution.named import NamedLoss
from losssearch.language.formula import parse
from losssearch.spaces import load_space

MULTICLASS, BINARY, REGRESSION = (load_space(n) for n in ("multiclass", "binary", "regression"))
COUPLED = "mean(-log_pt, 'n') * mean(1 - p_t, 'n')"


def classical(name: str, space: Any = MULTICLASS, **arguments: Any) -> LossModule:
    return module_for(space.loss(name).program, space.task, **arguments)


def written(formula: str, space: Any = MULTICLASS, **arguments: Any) -> LossModule:
    return module_for(parse(formula, space.signature), space.task, **arguments)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(12, 5, generator=rng, dtype=torch.float64)
    return x, torch.arange(12) % 5


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignore", [None, -100, 2])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_that_of_torch(
    reduction: str, weighted: bool, ignore: int | None, smoothing: float, batch: Any
) -> None:
    x, target = batch
    if smoothing and weighted:
        pytest.skip("torch weighs the smoothed classes one by one; ours weighs the sample")
    weight = torch.linspace(0.5, 3, 5, dtype=torch.float64) if weighted else None
    options: dict[str, Any] = {"reduction": reduction, "weight": weight}
    ours = classical("cross_entropy", ignore_index=ignore, label_smoothing=smoothing, **options)
    ignored = -100 if ignore is None else ignore
    if ignore == -100:
        target = target.clone()
        target[3:5] = -100
    wanted = F.cross_entropy(x, target, ignore_index=ignored, label_smoothing=smoothing, **options)
    torch.testing.assert_close(ours(x, target), wanted, rtol=1e-12, atol=1e-12)


def test_dense_prediction_is_that_of_torch() -> None:
    x, target = torch.randn(2, 5, 3, 4), torch.randint(0, 5, (2, 3, 4))
    ours = classical("cross_entropy", reduction="none")(x, target)
    torch.testing.assert_close(ours, F.cross_entropy(x, target, reduction="none"))


def test_binary_cross_entropy_is_that_of_torch() -> None:
    x, target = 5 * torch.randn(6, 3), torch.rand(6, 3)
    wanted = F.binary_cross_entropy_with_logits(x, target)
    torch.testing.assert_close(classical("bce", BINARY)(x, target), wanted)


@pytest.mark.parametrize(("name", "theirs"), [("mse", F.mse_loss), ("huber", F.huber_loss)])
def test_regression_losses_are_those_of_torch(name: str, theirs: Any) -> None:
    x, target = 3 * torch.randn(7, 2), 3 * torch.randn(7, 2)
    torch.testing.assert_close(classical(name, REGRESSION)(x, target), theirs(x, target))


def test_the_mean_under_weights_divides_by_the_summed_weights(batch: Any) -> None:
    x, _target = batch
    weight = torch.linspace(0.5, 3, 5, dtype=torch.float64)
    soft = torch.randn(12, 5, dtype=torch.float64).softmax(1)
    each = classical("gce", reduction="none")(x, soft)
    share = torch.stack([(row * weight).sum() for row in soft])
    got = classical("gce", weight=weight)(x, soft)
    torch.testing.assert_close(got, (share * each).sum() / share.sum())


def test_binary_weights_are_of_no_and_of_yes() -> None:
    x, target = torch.randn(6), torch.tensor([0.0, 1, 1, 0, 0, 1])
    plain = classical("bce", BINARY, reduction="none")(x, target)
    got = classical("bce", BINARY, reduction="none", weight=torch.tensor([1.0, 3.0]))(x, target)
    torch.testing.assert_close(got, plain * torch.tensor([1.0, 3, 3, 1, 1, 3]))


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.parametrize("name", ["cross_entropy", "focal", "baikal", "ldam"])
def test_what_stands_at_ignored_samples_reaches_neither_value_nor_gradient(
    name: str, garbage: float, batch: Any
) -> None:
    x, target = batch
    spoiled, marked = x.clone(), target.clone()
    spoiled[2], spoiled[7, 3] = garbage, garbage
    marked[2] = marked[7] = 255
    keep = marked != 255
    loss = classical(name, ignore_index=255)
    leaf = spoiled.requires_grad_()
    value = loss(leaf, marked)
    (slope,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(value, loss(x[keep], target[keep]))
    assert torch.isfinite(slope).all()
    assert not slope[~keep].any()


def test_all_ignored_and_nothing_at_all_give_zero(batch: Any) -> None:
    x, target = batch
    loss = classical("focal", ignore_index=-100)
    leaf = x.clone().requires_grad_()
    value = loss(leaf, torch.full_like(target, -100))
    (slope,) = torch.autograd.grad(value, leaf)
    assert value == 0
    assert not slope.any()
    assert loss(x[:0], target[:0]) == 0
    assert classical("mse", REGRESSION)(x[:0], x[:0]) == 0


def test_a_class_that_does_not_exist_raises(batch: Any) -> None:
    x, target = batch
    for wrong in (5, -1):
        with pytest.raises(RuntimeError, match="out of bounds"):
            classical("cross_entropy")(x, target.where(target != 0, wrong))


@pytest.mark.parametrize(
    ("x", "target"),
    [((4, 5), (4, 1)), ((4, 5), (5,)), ((4, 5, 2), (4, 5)), ((5,), (1,)), ((), ())],
)
def test_wrong_shapes_raise_with_what_was_seen(x: tuple[int, ...], target: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        classical("cross_entropy")(torch.zeros(x), torch.zeros(target, dtype=torch.long))


def test_real_class_indices_raise() -> None:
    with pytest.raises(ValueError, match="integer dtype"):
        classical("cross_entropy")(torch.zeros(4, 5), torch.zeros(4))


def test_sum_and_count_of_parts_add_up_to_the_mean(batch: Any) -> None:
    x, target = batch
    weight = torch.linspace(0.5, 3, 5, dtype=torch.float64)
    prior = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
    loss = classical("weighted_cross_entropy", weight=weight, ignore_index=1, prior=prior)
    parts = [loss.sum_and_count(x[s], target[s]) for s in (slice(0, 5), slice(5, 12))]
    total, count = (sum(column) for column in zip(*parts, strict=True))
    torch.testing.assert_close(total / count, loss(x, target))


def test_a_coupled_loss_has_its_mean_and_says_why_no_more(batch: Any) -> None:
    x, target = batch
    loss = written(COUPLED)
    log_pt = x.log_softmax(1)[torch.arange(12), target]
    torch.testing.assert_close(loss(x, target), -log_pt.mean() * (1 - log_pt.exp()).mean())
    assert loss(x[:0], target[:0]) == 0
    with pytest.raises(ValueError, match="no sum over samples"):
        loss.sum_and_count(x, target)
    for wrong in ({"reduction": "none"}, {"weight": torch.ones(5)}, {"ignore_index": 0}):
        with pytest.raises(ValueError, match="meaning here"):
            written(COUPLED, **wrong)
    assert "reduction" in loss.not_applicable


def test_provided_inputs_are_buffers_with_neutral_defaults(batch: Any) -> None:
    x, target = batch
    prior = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1])
    loss = classical("logit_adjusted")
    torch.testing.assert_close(loss(x, target), F.cross_entropy(x, target))
    given = classical("logit_adjusted", prior=prior, tau=2.0)
    wanted = F.cross_entropy(x + 2 * prior.double().log(), target)
    torch.testing.assert_close(given(x, target), wanted, rtol=1e-6, atol=1e-6)
    assert "prior" in given.state_dict()
    with pytest.raises(ValueError, match="`prior` must have shape"):
        given(x[:, :4], target.clamp(max=3))
    with pytest.raises(UsageError, match="must have 1 axes"):
        classical("logit_adjusted", prior=torch.eye(5))


def test_counts_survive_half_precision() -> None:
    loss = classical("balanced_softmax", count=torch.tensor([1e6, 10.0, 10.0])).half()
    value = loss(torch.zeros(2, 3, dtype=torch.half), torch.tensor([1, 2]))
    assert torch.isfinite(value)
    assert value.dtype == torch.float32


def test_progress_moves_the_loss_without_a_new_graph(batch: Any) -> None:
    x, target = batch
    loss = written("mean(-log_pt * (1 - progress) + progress * (1 - p_t), 'n')")
    start = loss(x, target)
    torch.testing.assert_close(start, F.cross_entropy(x, target))
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    compiled(x, target)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for progress in (0.25, 1.0):
            loss.set_progress(progress)
            torch.testing.assert_close(compiled(x, target), loss(x, target))
    assert loss.state_dict()["progress"] == 1
    with pytest.raises(UsageError, match="progress"):
        loss.set_progress(1.5)


def test_learnable_constants_learn_within_their_range(batch: Any) -> None:
    x, target = batch
    loss = classical("focal", learnable=True, gamma=2.0)
    assert {n for n, _ in loss.named_parameters()} == {"raw_alpha", "raw_gamma"}
    plain = classical("focal", gamma=2.0)
    torch.testing.assert_close(loss(x, target), plain(x, target), rtol=1e-6, atol=1e-6)
    optimiser = torch.optim.SGD(loss.parameters(), lr=100.0)
    for _ in range(20):
        optimiser.zero_grad()
        loss(x, target).backward()
        optimiser.step()
    constants = loss.constants
    assert 0 <= constants["alpha"] < 0.25
    assert 0 <= constants["gamma"] <= 5
    assert not list(plain.parameters())


def test_the_text_of_a_module_names_formula_constants_and_key() -> None:
    text = repr(classical("focal", gamma=1.5, identity="demo/1", ignore_index=0))
    for part in ("mean(-alpha", "gamma=1.5", "alpha=0.25", "ignore_index=0", "demo/1"):
        assert part in text
    assert classical("focal").key in repr(classical("focal"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"gama": 2.0}, UsageError),
        ({"gamma": 7.0}, FormulaError),
        ({"reduction": "average"}, ValueError),
        ({"label_smoothing": 2.0}, ValueError),
        ({"provided": {"prio": 1.0}}, UsageError),
    ],
)
def test_arguments_that_do_not_fit_raise(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        classical("focal", **arguments)


@pytest.mark.parametrize("name", ["gaussian_nll", "l2_regulariser"])
def test_a_loss_that_reads_more_than_a_call_gives_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="does not"):
        classical(name, REGRESSION)
    assert isinstance(ls.loss(name, space="regression"), NamedLoss)


def test_copies_are_equal_and_apart(batch: Any) -> None:
    x, target = batch
    loss: nn.Module = classical("class_balanced", count=torch.tensor([9.0, 5, 4, 3, 2]))
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert torch.equal(twin(x, target), loss(x, target))
        assert twin.count.data_ptr() != loss.count.data_ptr()


def test_scale_is_a_factor(batch: Any) -> None:
    x, target = batch
    got = classical("weighted_cross_entropy", scale=3.0)(x, target)
    torch.testing.assert_close(got, 3 * classical("weighted_cross_entropy")(x, target))
