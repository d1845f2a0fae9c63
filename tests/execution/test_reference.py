"""Torch's answer: populations, shapes, sizes, and against torch's own losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losssearch.errors import UsageError
from losssearch.execution.reference import Compiled, compiled, evaluate, loss_gradient
from losssearch.language.canonical import canonical
from losssearch.language.formula import parse
from losssearch.language.program import Program
from tests.language.programs import SPACE, inputs, programs
from tests.language.test_properties import relaxed

CE = parse("mean(-log(p_t), 'n')", SPACE)


@relaxed
@given(programs(depth=3), st.booleans())
def test_a_population_is_a_loop(program: Program, shared: bool) -> None:
    run = compiled(program)
    members = [inputs(seed) for seed in range(3)]
    stacked = {k: torch.stack([m[k] for m in members]) for k in members[0]}
    if shared:
        for name in ("target", "prior", "progress"):
            stacked[name] = members[0][name]
            members = [{**m, name: members[0][name]} for m in members]
    values = {c.name: torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64) for c in run.program.constants}
    [together] = run(stacked, values)
    together = together.double()
    for k, member in enumerate(members):
        [alone] = run(member, {name: v[k] for name, v in values.items()})
        alone = alone.double()
        ours = together if together.ndim == 0 else together[k]
        assert torch.allclose(ours, alone, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_two_population_dimensions_are_kept() -> None:
    data = inputs(0)
    logits = torch.randn(2, 3, 5, 3, dtype=torch.float64)
    value = evaluate(CE, {**data, "logits": logits})
    assert value.shape == (2, 3)
    expected = torch.nn.functional.cross_entropy(logits[1, 2], data["target"].argmax(1))
    assert torch.allclose(value[1, 2], expected)


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
def test_cross_entropy_and_its_gradient_are_torchs(scale: float) -> None:
    data = inputs(0, scale)
    logits = data["logits"].clone().requires_grad_()
    expected = torch.nn.functional.cross_entropy(logits, data["target"].argmax(1))
    expected.backward()
    assert torch.allclose(evaluate(CE, data), expected.detach(), rtol=1e-12)
    ours = loss_gradient(CE, "logits")(data)
    assert logits.grad is not None
    assert torch.allclose(ours, logits.grad, rtol=1e-9, atol=1e-15)
    assert torch.allclose(loss_gradient(CE, "logits", 2.0)(data), 2 * ours)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean(3 * u, 'n')", 0.6),
        ("sum(u, 'n')", 1.0),
        ("0 * sum(u, 'n') + progress", 0.0),
        ("mean(w, 'n')", 0.0),
    ],
)
def test_a_gradient_that_is_the_same_everywhere_has_the_inputs_shape(text, expected) -> None:
    ours = loss_gradient(parse(text, SPACE), "u")(inputs(0))
    assert ours.shape == (5,)
    assert torch.allclose(ours, torch.full((5,), expected, dtype=torch.float64))


def test_a_constant_gradient_of_a_population_has_the_populations_shape() -> None:
    data = {**inputs(0), "u": torch.randn(4, 5, dtype=torch.float64)}
    ours = loss_gradient(parse("mean(u * w, 'n')", SPACE), "u")(data)
    assert ours.shape == (4, 5)
    assert torch.allclose(ours[3], data["w"] / 5)


@pytest.mark.parametrize("n", [0, 1])
def test_the_empty_and_the_one_sample_batch_have_a_value(n: int) -> None:
    data = {k: v[:n] if v.ndim and k != "prior" else v for k, v in inputs(0).items()}
    for text in ("mean(-log(p_t), 'n')", "mean(-log(p_t), 'n', w)", "mean(u, 'n', valid)"):
        program = parse(text, SPACE)
        value = evaluate(program, data)
        assert value.shape == ()
        assert torch.isfinite(value)
        assert loss_gradient(program, "logits")(data).shape == (n, 3)
        if n == 0:
            assert float(value) == 0.0


def test_sizes_follow_the_inputs() -> None:
    assert float(evaluate(parse("N * 100 + C * 10 + 0 * sum(u, 'n')", SPACE), inputs(0))) == 530.0
    few = {k: v[:2] if v.ndim and k != "prior" else v for k, v in inputs(0).items()}
    assert float(evaluate(parse("N * 100 + C * 10 + 0 * sum(u, 'n')", SPACE), few)) == 230.0


def test_a_copy_of_an_axis_is_a_loop_over_pairs() -> None:
    data = inputs(0)
    program = parse("mean(mean(softplus(like(u, m='n') - u), 'm', pairs), 'n')", SPACE)
    u, pairs = data["u"], data["pairs"]
    rows = []
    for i in range(5):
        row = [torch.nn.functional.softplus(u[j] - u[i]) for j in range(5) if pairs[i, j]]
        rows.append(torch.stack(row).mean() if row else torch.tensor(0.0, dtype=torch.float64))
    assert torch.allclose(evaluate(program, data), torch.stack(rows).mean())


def test_masks_count_as_numbers() -> None:
    data = inputs(0)
    ours = evaluate(parse("sum(valid * u, 'n') + sum(pairs, 'n m')", SPACE), data)
    assert torch.allclose(ours, data["u"][data["valid"]].sum() + data["pairs"].sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_value_has_the_type_of_the_prediction(dtype: torch.dtype) -> None:
    data = {k: v if v.dtype == torch.bool else v.to(dtype) for k, v in inputs(0).items()}
    assert evaluate(CE, data).dtype == dtype


def test_a_missing_or_misshapen_input_is_named() -> None:
    data = inputs(0)
    with pytest.raises(UsageError, match="'logits'"):
        evaluate(CE, {"target": data["target"]})
    with pytest.raises(UsageError, match="shape"):
        evaluate(CE, {**data, "logits": data["logits"][0]})
    with pytest.raises(UsageError, match="at least one"):
        evaluate(CE, {})
    with pytest.raises(UsageError, match="canonical"):
        Compiled(CE)
    assert canonical(CE).inputs == CE.inputs == {"logits", "target"}
