"""Body and weight of a loss, and why some have none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given

from losssearch.execution.reference import Compiled, evaluate
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import parse
from losssearch.language.heads import Coupled, Split, split
from losssearch.language.program import Program
from losssearch.spaces import load_space, space_names
from tests.language.programs import SPACE, inputs, programs
from tests.language.test_properties import relaxed


def value_of(parts: Split, data: dict[str, torch.Tensor]) -> torch.Tensor:
    [total] = Compiled(parts.total, plain=False)(data)
    assert total.shape == (5,)
    if parts.weight is None:
        return total.mean()
    [weight] = Compiled(parts.weight, plain=False)(data)
    return total.sum() / weight.sum()


@pytest.mark.parametrize(
    ("text", "body", "weight"),
    [
        ("mean(-log(p_t), 'n')", "-log(p_t)", None),
        ("3 * mean(p_t, 'n') - mean(w, 'n')", "3 * p_t - w", None),
        ("mean(p_t, 'n') + sum(prior**2, 'c')", "p_t + sum(prior**2, 'c')", None),
        ("sum(p_t, 'n') / N", "p_t", None),
        ("mean(p, 'n c')", "mean(p, 'c')", None),
        ("sum(mean(p, 'n') * prior, 'c')", "sum(p * prior, 'c')", None),
        ("mean(p_t, 'n', w)", "p_t", "w"),
        ("progress * mean(p_t, 'n', w) + mean(u, 'n', w)", "progress * p_t + u", "w"),
        ("mean(p, 'n c', target)", "mean(p, 'c', target)", "sum(target, 'c')"),
        ("sum(p_t, 'n') / sum(w, 'n')", "p_t / w", "w"),
        ("mean(p_t, 'n') / mean(w, 'n')", "p_t / w", "w"),
        ("(sum(p_t, 'n') + 2 * sum(u, 'n')) / sum(w, 'n')", "(p_t + 2 * u) / w", "w"),
        ("mean(p_t, 'n', softplus(progress) + 1)", "p_t", None),
    ],
)
def test_a_loss_splits(text: str, body: str, weight: str | None) -> None:
    program = parse(text, SPACE)
    parts = split(program)
    assert isinstance(parts, Split), parts
    assert candidate_key(parts.body) == candidate_key(parse(body, SPACE, scalar=False))
    assert (parts.weight is None) == (weight is None)
    if weight is not None and parts.weight is not None:
        assert candidate_key(parts.weight) == candidate_key(parse(weight, SPACE, scalar=False))
    data = inputs(0)
    assert torch.allclose(value_of(parts, data), evaluate(program, data))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("sum(p_t, 'n')", "grows with the batch"),
        ("progress", "does not reduce"),
        ("max(p_t, 'n')", "'max' over the samples"),
        ("sqrt(mean(p_t, 'n'))", "'sqrt' of a value of the whole batch"),
        ("mean(p_t - mean(p_t, 'n'), 'n')", "one sample and a value of the whole batch"),
        ("mean(p_t / N, 'n')", "of a value of the whole batch"),
        ("mean(mean(relu(u - like(u, m='n')), 'm'), 'n')", "through 'like'"),
        ("mean(mean(u, 'm', pairs), 'n')", "along the axis 'm'"),
        ("mean(p_t, 'n') + mean(u, 'n', w)", "different weights"),
        ("mean(mean(p, 'n', target), 'c')", "one weight for each of 'c'"),
        ("mean(softmax(u, 'n') * p_t, 'n')", "over the samples"),
        ("mean(p_t, 'n') + sum(p_t, 'n')", "adds a sum over samples"),
        (
            "mean(1 - 2 * sum(p * target, 'n') / (sum(p, 'n') + sum(target, 'n') + 1), 'c')",
            "adds a sum over samples",
        ),
    ],
)
def test_a_coupled_loss_says_why(text: str, why: str) -> None:
    parts = split(parse(text, SPACE))
    assert isinstance(parts, Coupled)
    assert why in parts.why


@relaxed
@given(programs())
def test_what_splits_has_the_value_of_the_loss(program: Program) -> None:
    parts = split(program)
    if isinstance(parts, Coupled):
        assert parts.why.endswith(".")
        return
    data = inputs(2)
    ours, expected = value_of(parts, data), evaluate(program, data)
    if bool(torch.isfinite(expected)) and abs(float(expected)) < 1e9:
        weight = 1.0 if parts.weight is None else float(Compiled(parts.weight)(data)[0].sum())
        if abs(weight) > 1e-3:
            assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-6)


def test_every_classical_loss_over_samples_splits() -> None:
    for name in space_names():
        space = load_space(name)
        if "n" not in space.signature.axes or space.head != "mean(body, 'n')":
            continue
        for loss in space.seeds:
            assert isinstance(split(loss.program), Split), (name, loss.name)


def test_a_space_without_samples_says_so() -> None:
    parts = split(parse("mean(p_t, 'n')", SPACE), axis="q")
    assert isinstance(parts, Coupled)
    assert "'q'" in parts.why
