"""The gradients of many losses at once are those of each alone."""

from __future__ import annotations

import pytest
import torch

from losssearch.execution.bank import GradientBank
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.reference import loss_gradient
from losssearch.execution.slopes import FunctionSlopes, HereSlopes, who_answers
from losssearch.spaces import load_space

SHAPES = {"multiclass": ("logits", 10), "binary": ("logit", None), "regression": ("pred", None)}


def batch(space, rows, samples, seed=0, spread=2.0):
    draw = torch.Generator().manual_seed(seed)
    prediction, classes = SHAPES[space]
    many = torch.rand(rows, classes or 1, generator=draw) + 0.1
    if classes is None:
        x = torch.randn(rows, samples, generator=draw) * spread
        target = torch.randn(rows, samples, generator=draw)
        if space == "binary":
            target = (target > 0).float()
        many = many.squeeze(1)
    else:
        x = (torch.randn(rows, classes, samples, generator=draw) * spread).transpose(1, 2)
        target = torch.eye(classes)[torch.randint(0, classes, (rows, samples), generator=draw)]
    inputs = {prediction: x, "target": target, "progress": torch.tensor(0.3)}
    for name in load_space(space).signature.inputs:
        if name not in inputs and name not in ("transition", "log_var", "params"):
            inputs[name] = many / many.sum(-1, keepdim=True) if name == "prior" else many * 50 + 1
    return inputs


def losses_of(space):
    loaded = load_space(space)
    able = set(batch(space, 1, 1))
    return [x.program for x in loaded.losses.values() if x.program.inputs <= able]


def own_rows(inputs, start, stop):
    return {n: v if n == "progress" else v[start:stop] for n, v in inputs.items()}


def compare(space, programs, counts, scales=None, spread=2.0):
    prediction = SHAPES[space][0]
    scales = scales or [1.0] * len(programs)
    gradients = {
        i: loss_gradient(p, prediction, s)
        for i, (p, s) in enumerate(zip(programs, scales, strict=True))
        if counts[i]
    }
    bank = GradientBank(gradients)
    inputs = batch(space, sum(counts), 16, spread=spread)
    plan = bank.plan(dict(enumerate(counts)), inputs[prediction], {"progress": True})
    found = plan(inputs)
    start = 0
    for i in bank.order:
        stop = start + counts[i]
        wanted = gradients[i](own_rows(inputs, start, stop))
        torch.testing.assert_close(found[i], wanted, rtol=2e-4, atol=2e-6 * scales[i])
        start = stop


@pytest.mark.parametrize("space", SHAPES)
def test_all_classical_losses_together_are_those_losses_alone(space):
    programs = losses_of(space)
    compare(space, programs, [3] * len(programs))


@pytest.mark.parametrize("space", SHAPES)
def test_every_classical_loss_stands_beside_one_other(space):
    reference = load_space(space).losses[load_space(space).reference].program
    for program in losses_of(space):
        compare(space, [reference, program], [2, 5])


def test_losses_that_differ_in_constants_run_as_one_structure():
    gce = load_space("multiclass").losses["gce"].program
    programs = [gce.with_constants({"q": q}) for q in (0.2, 0.5, 0.9)]
    bank = GradientBank({i: loss_gradient(p, "logits") for i, p in enumerate(programs)})
    assert len(bank.groups) == 1
    compare("multiclass", programs, [1, 4, 2], scales=[1.0, 2.0, 0.5])


def test_one_loss_alone_is_a_bank_too():
    compare("multiclass", losses_of("multiclass")[:1], [4])


def test_a_function_that_is_no_program_is_asked_by_itself():
    program = loss_gradient(losses_of("multiclass")[0], "logits")
    losses = {0: program, 1: lambda inputs: inputs["logits"]}
    found = who_answers(losses, "logits", Layout("n", "c", {"n": 4, "c": 3}), torch.device("cpu"))
    assert [(type(answer), answer.order) for answer in found] == [(HereSlopes, [0]), (FunctionSlopes, [1])]


def test_what_a_neighbour_holds_changes_no_bit():
    programs = losses_of("multiclass")[:6]
    bank = GradientBank({i: loss_gradient(p, "logits") for i, p in enumerate(programs)})
    inputs = batch("multiclass", 12, 16)
    plan = bank.plan(dict.fromkeys(range(6), 2), inputs["logits"], {"progress": True})
    before = plan(inputs)
    broken = bank.order[0]
    inputs["logits"] = inputs["logits"].clone()
    inputs["logits"][:2] = float("nan")
    after = plan(inputs)
    assert bool(torch.isnan(after[broken]).any())
    for i in bank.order[1:]:
        assert torch.equal(before[i], after[i])
