"""A loss on class indices is the loss on one-hot rows, in value and gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from losssearch.controllers.registry import make_controller
from losssearch.execution.labels import by_index
from losssearch.execution.module import module_for
from losssearch.execution.parts import parts_of
from losssearch.execution.reference import evaluate
from losssearch.exporters.printing import printed
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.spaces import load_space

SPACE = load_space("multiclass")
#: Every way in which a formula reads its target, and some that need rows after all.
FORMULAS = [
    "mean(-log_pt, 'n')",
    "mean((1 - p_t)**1.5 * sqrt(1 - p_t) / (1 - p_t + 0.1), 'n')",
    "mean(log(1 - p_t + 0.01) - log(p_t), 'n')",
    "mean(1 / (1 - p_t), 'n')",
    "mean(log(1 - p_t), 'n')",
    "mean(sum((p - target)**2, 'c'), 'n')",
    "mean(sum(abs(logits + target), 'c'), 'n')",
    "mean(sum(sqrt(abs(target - 0.3*p)), 'c'), 'n')",
    "mean(mean(exp(target*logits/20) - target/p, 'c'), 'n')",
    "mean(max(logits, 'c', target) - max(logits, 'c', 1 - target), 'n')",
    "mean(min(logits, 'c', 1 - target), 'n')",
    "mean(max(p - target, 'c'), 'n')",
    "mean(logsumexp(logits, 'c', target) * relu(margin), 'n')",
    "mean(sum(where(target > p, logits, 2*p), 'c'), 'n')",
    "mean(sum(target*target + C*target*prior, 'c') * log_pt, 'n', dot(target, prior, 'c'))",
    "mean(-dot(target, log_softmax(logits - 3*target, 'c'), 'c'), 'n')",
    "mean(sum(square(mean(p - target, 'n')), 'c') + square(logits), 'n c')",
    "mean(sum(detach(p - target) * logits, 'c'), 'n')",
    "mean(dot(p, maximum(log(target), -4), 'c'), 'n')",
]
PROGRAMS = [parse(formula, SPACE.signature) for formula in FORMULAS]
PROGRAMS += [
    loss.program for loss in SPACE.losses.values() if not loss.requires or loss.requires == {"prior"}
]


def batch(samples: int, classes: int, size: float) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(samples)
    x = size * torch.randn(samples, classes, generator=draw, dtype=torch.float64)
    return x, torch.randint(classes, (samples,), generator=draw)


def slope(value: Tensor, leaf: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(value, leaf, allow_unused=True)
    return torch.zeros_like(leaf) if found is None else found


@pytest.mark.parametrize("size", [1.0, 30.0])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.text[:60])
def test_indices_give_what_one_hot_rows_give(program: Program, size: float) -> None:
    """The second way is the reference on the program as it was written, on rows."""
    for samples, classes in ((9, 5), (1, 2)):
        x, index = batch(samples, classes, size)
        prior = torch.linspace(1, 2, classes, dtype=torch.float64)
        given = (
            {"prior": prior / prior.sum()}
            if "prior" in parts_of(program, "multiclass").program.inputs
            else {}
        )
        leaf = x.clone().requires_grad_()
        value = module_for(program, "multiclass", provided=given).double()(leaf, index)
        rows = x.clone().requires_grad_()
        inputs = {"logits": rows, "target": torch.eye(classes, dtype=torch.float64)[index], **given}
        wanted = evaluate(program, inputs)
        got, expected = slope(value, leaf), slope(wanted, rows)
        tolerance = 1e-12 * max(1.0, float(wanted.detach().abs()), float(expected.abs().max()))
        torch.testing.assert_close(value, wanted, rtol=1e-9, atol=tolerance)
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=tolerance)


def test_random_losses_are_the_same_on_indices_and_on_rows() -> None:
    """Whatever a search may propose; where rounding decides, as in cos(1e9 * x), nothing is compared."""
    asked = make_controller("random", SPACE, [], 7).ask(200)
    programs = [q.program for q in asked if not q.program.inputs & {"prior", "count", "progress"}]
    seen = 0
    for program in programs:
        loss = module_for(program, "multiclass").double()
        if loss.dense:
            continue
        seen += 1
        x, index = batch(6, 4, 2.0)
        leaf, rows = x.clone().requires_grad_(), x.clone().requires_grad_()
        value, wanted = (
            loss(leaf, index),
            evaluate(program, {"logits": rows, "target": torch.eye(4).double()[index]}),
        )
        expected = slope(wanted, rows)
        size = max(1.0, float(expected.abs().max()), float(wanted.detach().abs()))
        if size < 1e6:
            torch.testing.assert_close(value, wanted, rtol=1e-7, atol=1e-9 * size, msg=program.text)
            torch.testing.assert_close(
                slope(value, leaf), expected, rtol=1e-6, atol=1e-9 * size, msg=program.text
            )
    assert seen > 0.9 * len(programs) > 90


@pytest.mark.parametrize(
    ("formula", "by_hand"),
    [
        ("mean(sum(abs(target - p), 'c'), 'n')", "(2 - 2 * p_t).squeeze(1)"),
        ("mean(1 - p_t, 'n')", "(1 - p_t).squeeze(1)"),
        ("mean(-dot(p, maximum(log(target), -4), 'c'), 'n')", "(4 * (1 - p_t)).squeeze(1)"),
    ],
)
def test_a_sum_over_classes_becomes_what_one_would_write_by_hand(formula: str, by_hand: str) -> None:
    program = parse(formula, SPACE.signature)
    code = printed(parts_of(program, "multiclass"), program.signature, True)
    assert code.by_index is not None
    lines, outputs = code.by_index
    assert outputs == [by_hand]
    assert lines[0] == "log_p = logits.log_softmax(-1)"


def test_no_loss_walks_over_the_classes_for_a_label_twice() -> None:
    """One gather a value, whatever the formula reads of the label: each costs a pass in the backward."""
    formula = "mean((1 - p_t)**2 * log_pt * p_t + log(p_t) * dot(target, exp(2*log_p), 'c'), 'n')"
    program = parse(formula, SPACE.signature)
    code = printed(parts_of(program, "multiclass"), program.signature, True)
    assert code.by_index is not None
    assert "\n".join([*code.by_index[0], *code.by_index[1]]).count("gather") == 1


def test_what_needs_rows_says_so() -> None:
    program = parse("mean(-dot(target, log_softmax(logits*target, 'c'), 'c'), 'n')", SPACE.signature)
    parts = parts_of(program, "multiclass")
    assert by_index(parts.program, parts.target) is None
    assert module_for(program, "multiclass").dense


def test_a_loss_that_is_constant_for_one_class_still_has_a_gradient() -> None:
    x, index = batch(4, 3, 1.0)
    leaf = x.requires_grad_()
    value = module_for(parse("mean(log(p_t) - log_pt, 'n')", SPACE.signature), "multiclass")(leaf, index)
    assert not torch.autograd.grad(value, leaf)[0].abs().max() > 1e-12


@pytest.mark.parametrize("classes", [1, 2])
def test_few_classes_are_no_special_case(classes: int) -> None:
    x, index = batch(4, classes, 2.0)
    for formula in (
        "mean(relu(1 - margin), 'n')",
        "mean(sum((p - target)**2, 'c'), 'n')",
        "mean(logsumexp(logits, 'c', 1 - target) * p_t, 'n')",
    ):
        program: Any = parse(formula, SPACE.signature)
        loss = module_for(program, "multiclass")
        rows = torch.eye(classes, dtype=torch.float64)[index]
        leaf = x.clone().requires_grad_()
        torch.testing.assert_close(loss(leaf, index), loss(x, rows))
        assert torch.isfinite(slope(loss(leaf, index), leaf)).all()
