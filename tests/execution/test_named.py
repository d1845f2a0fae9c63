"""Losses of named tensors: the reference's value, in every space, learnable, clear about what they take."""

from __future__ import annotations

import pickle

import pytest
import torch

import losssearch as ls
from losssearch.errors import UsageError
from losssearch.execution.module import MODULES, LossModule
from losssearch.execution.named import NamedLoss, loss_module
from losssearch.execution.reference import evaluate
from losssearch.proxies.base import Proxy
from losssearch.proxies.training import train
from losssearch.proxies.user import blackbox
from losssearch.screening.probes import stratified
from losssearch.spaces import load_space, space_names

OTHERS = [name for name in space_names() if name not in MODULES]
LOSSES = [
    (space, loss)
    for space in OTHERS
    for loss, row in load_space(space).losses.items()
    if row.candidate.is_one
]


def batch(space: str, loss: str) -> dict[str, torch.Tensor]:
    """One of the probes' batches."""
    shipped = load_space(space)
    probes = stratified(shipped.signature).inputs
    return {name: probes[name][5] for name in shipped.losses[loss].program.inputs}


@pytest.mark.parametrize(("space", "loss"), LOSSES)
def test_every_loss_of_every_other_space_is_a_module_with_the_references_value(space: str, loss: str) -> None:
    program, inputs = load_space(space).losses[loss].program, batch(space, loss)
    module = ls.loss(loss, space=space)
    assert isinstance(module, NamedLoss)
    if "progress" in inputs:
        module.set_progress(float(inputs.pop("progress")))
        inputs_all = inputs | {"progress": module.progress.double()}
    else:
        inputs_all = inputs
    assert set(module.inputs) == set(inputs)
    value = module(**inputs)
    assert value.shape == ()
    torch.testing.assert_close(value, evaluate(program, inputs_all).reshape(()))
    again = pickle.loads(pickle.dumps(module))
    torch.testing.assert_close(again(**inputs), value)


def test_three_spaces_keep_their_modules_of_input_and_target() -> None:
    assert all(isinstance(loss_module(load_space(s).seeds[0].program, s), LossModule) for s in MODULES)


def test_the_players_of_a_gan_learn_by_their_own_slopes() -> None:
    loss = ls.loss("wgan", space="gan")
    scores = {name: torch.randn(4, requires_grad=True) for name in loss.inputs}
    loss(**scores).backward()
    for name, slope in {"d_real": -0.25, "d_fake": 0.25, "g_fake": -0.25}.items():
        torch.testing.assert_close(scores[name].grad, torch.full((4,), slope))


def test_constants_are_learned_within_their_range_under_their_given_names() -> None:
    loss = ls.loss("dpo", space="preference", learnable=True)
    [(name, value)] = loss.constants.items()
    assert [n for n, _ in loss.named_parameters()] == [f"raw_{name}"]
    inputs = {n: v.float() for n, v in batch("preference", "dpo").items()}
    still = ls.loss("dpo", space="preference")(**inputs)
    torch.testing.assert_close(loss(**inputs), still)
    loss(**inputs).backward()
    assert float(getattr(loss, f"raw_{name}").grad.abs()) > 0
    assert loss.constants[name] == pytest.approx(value, rel=1e-4)
    assert f"raw_{name}" in repr(loss)
    other = ls.loss("dpo", space="preference", **{name: 2 * value})
    assert abs(float(other(**inputs) - still)) > 1e-6


def test_half_precision_is_computed_in_single() -> None:
    inputs = batch("ranking", "pairwise_logistic")
    low = {n: v.half() if n == "score" else v for n, v in inputs.items()}
    value = ls.loss("pairwise_logistic", space="ranking")(**low)
    assert value.dtype == torch.float32
    same = evaluate(
        load_space("ranking").losses["pairwise_logistic"].program, {n: v.float() for n, v in low.items()}
    )
    torch.testing.assert_close(value, same.reshape(()))


def test_what_does_not_fit_is_told_with_what_is_taken() -> None:
    loss = ls.loss("contrastive", space="embedding")
    inputs = batch("embedding", "contrastive")
    with pytest.raises(ValueError, match=r"needs the input 'e'\. It takes e \(n c\)"):
        loss(**{n: v for n, v in inputs.items() if n != "e"})
    with pytest.raises(ValueError, match="reads no input 'labels'"):
        loss(**inputs, labels=inputs["e"])
    with pytest.raises(ValueError, match=r"`e` must have the axes \(n, c\), but has shape \(5,\)"):
        loss(**inputs | {"e": torch.zeros(5)})
    with pytest.raises(ValueError, match=r"its n is (3, but that of `\w+` is 12|12, but that of `e` is 3)"):
        loss(**inputs | {"e": inputs["e"][:3]})
    with pytest.raises(UsageError, match="takes no 'reduction'"):
        ls.loss("contrastive", space="embedding", reduction="sum")
    with pytest.raises(UsageError, match="`0 <= progress <= 1` must hold"):
        loss.set_progress(2.0)
    assert "reads e (n c)" in repr(loss)


@pytest.mark.parametrize("filler", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("space", "loss"), [(s, n) for s, n in LOSSES if s in ("ranking", "segmentation", "boxes")]
)
def test_what_stands_where_nothing_is_reaches_neither_value_nor_slope(
    space: str, loss: str, filler: float
) -> None:
    module, inputs = ls.loss(loss, space=space), batch(space, loss)
    assert module.there
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items() if name in module.predictions}
    wanted = module(**{**inputs, **leaves})
    slopes = torch.autograd.grad(wanted, list(leaves.values()), materialize_grads=True)
    padded = dict(inputs)
    for name, mask in module.there.items():
        over, axes = module.inputs[mask].split(), module.inputs[name].split()
        index = tuple(slice(None) if axis in over else None for axis in axes)
        absent = ~inputs[mask].bool()[index].expand_as(inputs[name])
        assert absent.any()
        padded[name] = inputs[name].masked_fill(absent, filler)
    leaves = {name: padded[name].clone().requires_grad_() for name in leaves}
    value = module(**{**padded, **leaves})
    torch.testing.assert_close(value, wanted)
    for slope, other in zip(
        torch.autograd.grad(value, list(leaves.values()), materialize_grads=True), slopes, strict=True
    ):
        torch.testing.assert_close(slope, other)


def test_calls_that_cannot_be_meant_are_told() -> None:
    loss, inputs = ls.loss("list_net", space="ranking"), batch("ranking", "list_net")
    with pytest.raises(
        ValueError, match=r"called by names, loss\(name=tensor, ...\). It takes score \(n s\)"
    ):
        loss(*inputs.values())
    for wrong, words in (
        ([[1.0]], "must be a tensor, but is of type list"),
        (inputs["score"].long(), "real numbers of a float dtype, but is torch.int64"),
        (inputs["score"].to(torch.complex64), "torch.complex64"),
        (inputs["score"][0], "They are n: queries, s: documents of a query"),
    ):
        with pytest.raises(ValueError, match=words):
            loss(**{**inputs, "score": wrong})


def judge(loss, budget, seed, device):
    """A black box of another space than the three."""
    return float(loss(**batch("boxes", "iou")))


def test_a_black_box_of_any_space_gets_a_module(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy: Proxy = blackbox(space="boxes")(judge)
    monkeypatch.setattr("losssearch.proxies.training.load_proxy", lambda name: proxy)
    job = {
        "proxy": "mine", "space": "boxes", "runs": [{"loss": 0, "split": 0, "rate": 1.0}],
        "losses": [{"formula": "mean(1 - iou, 'n s', pos)", "constants": {}, "scale": 2.0}],
    }  # fmt: skip
    [run] = train(job)["runs"]
    wanted = evaluate(load_space("boxes").losses["iou"].program, batch("boxes", "iou"))
    assert run["metric"] == pytest.approx(2 * float(wanted))
