"""What is the same loss, what is not, and what is made stable."""

from __future__ import annotations

import pytest
import torch

from losssearch.execution.reference import Compiled, evaluate
from losssearch.language.canonical import candidate_key, canonical, structure_key
from losssearch.language.derivative import gradient
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature
from tests.language.programs import SPACE, autograd, inputs, slopes


def program(text: str, **constants: float) -> Program:
    return parse(text, SPACE, constants)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mean(p_t * w + progress, 'n')", "mean(progress + w * p_t, 'n')"),
        ("mean(p_t - w, 'n')", "mean(-w + p_t, 'n')"),
        ("mean(p_t - w, 'n')", "-mean(w - p_t, 'n')"),
        ("mean(-2 * p_t, 'n')", "-2 * mean(p_t, 'n')"),
        ("mean(p_t, 'n') + mean(p_t, 'n')", "2 * mean(p_t, 'n')"),
        ("mean(p_t * p_t, 'n')", "mean(p_t**2, 'n')"),
        ("mean(sum(target * p, 'c'), 'n')", "mean(dot(p, target, 'c'), 'n')"),
        ("mean(sum(p, 'c', target), 'n')", "mean(p_t, 'n')"),
        ("mean(mean(p, 'c'), 'n')", "mean(p, 'n c')"),
        ("mean(log(softmax(logits, 'c')), 'n c')", "mean(log_p, 'n c')"),
        ("mean(log(1 + exp(w)), 'n')", "mean(softplus(w), 'n')"),
        ("mean(log(sigmoid(u)), 'n')", "mean(-softplus(-u), 'n')"),
        ("mean(1 - sigmoid(-u), 'n')", "mean(sigmoid(u), 'n')"),
        ("mean(abs(-u), 'n')", "mean(abs(u), 'n')"),
        ("mean(tanh(-u), 'n')", "-mean(tanh(u), 'n')"),
        ("mean(p_t / 2, 'n')", "mean(0.5 * p_t, 'n')"),
        ("mean(where(u < w, u, w), 'n')", "mean(where(w > u, u, w), 'n')"),
        ("mean(maximum(u, w), 'n')", "mean(maximum(w, u), 'n')"),
        ("mean(u**3, 'n')", "mean(u * u * u, 'n')"),
        ("sum(u, 'n') / N", "sum(u / N, 'n')"),
    ],
)
def test_the_same_loss_has_the_same_key(one: str, other: str) -> None:
    assert candidate_key(program(one)) == candidate_key(program(other))
    data = inputs(0)
    assert torch.allclose(evaluate(program(one), data), evaluate(program(other), data))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("mean(p_t, 'n')", "mean(-p_t, 'n')"),
        ("mean(p_t, 'n')", "mean(p_t, 'n', w)"),
        ("sum(p_t, 'n')", "mean(p_t, 'n')"),
        ("mean(mean(p, 'c', target), 'n')", "mean(p, 'n c', target)"),
        ("mean(u / u, 'n')", "mean(1 + 0 * u, 'n')"),  # nothing proves that u is not 0
        ("mean(maximum(u, w), 'n')", "mean(minimum(u, w), 'n')"),
        ("mean(detach(u) * u, 'n')", "mean(u * u, 'n')"),
        ("mean(2 * u, 'n')", "mean(3 * u, 'n')"),
        ("mean(relu(u), 'n')", "mean(softplus(u), 'n')"),
        ("mean(where(u > 0, u, w), 'n')", "mean(where(u >= 0, u, w), 'n')"),
    ],
)
def test_different_losses_have_different_keys(one: str, other: str) -> None:
    assert candidate_key(program(one)) != candidate_key(program(other))


def test_names_of_constants_are_no_difference_but_values_are() -> None:
    a = program("mean(k * p_t, 'n')", k=0.5)
    b = program("mean(scale * p_t, 'n')", scale=0.5)
    c = program("mean(k * p_t, 'n')", k=0.7)
    assert candidate_key(a) == candidate_key(b) != candidate_key(c)
    assert structure_key(a) == structure_key(b) == structure_key(c)
    assert structure_key(a) != structure_key(program("mean(0.5 * p_t, 'n')"))


def test_two_constants_that_change_places_are_no_difference() -> None:
    a = program("mean(a * p_t + b * w, 'n')", a=1.0, b=2.0)
    b = program("mean(a * w + b * p_t, 'n')", a=2.0, b=1.0)
    assert candidate_key(a) == candidate_key(b)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sum(0 * logits, 'n c')", 0.0),
        ("sum(dot(logits, 0, 'n'), 'c')", 0.0),
        ("sum(where(u > 0, 1, 1), 'n')", 5.0),
        ("sum(exp(logits - logits), 'n c')", 15.0),
        ("mean((logits - logits) + 3, 'n c')", 3.0),
        ("max(0 * u + 2, 'n')", 2.0),
        ("max(0 * u + 2, 'n', u > 100)", 0.0),
        ("mean(0 * u + 2, 'n', u > 100)", 0.0),
        ("logsumexp(0 * u, 'n')", 1.6094379124341003),
        ("sum(log_softmax(0 * u, 'n'), 'n')", -8.047189562170502),
        ("sum(like(0 * u + 1, m='n'), 'm')", 5.0),
        ("dot(0 * u + 1, 0 * w + 1, 'n')", 5.0),
        ("sum(u**0, 'n')", 5.0),
    ],
)
def test_a_sum_over_an_axis_that_a_rewrite_removed_still_counts_it(text: str, expected: float) -> None:
    assert float(evaluate(program(text), inputs(0))) == pytest.approx(expected, abs=1e-12)


def test_the_logarithm_of_a_probability_is_exact_where_it_underflows() -> None:
    data = inputs(0, scale=200.0)
    ours = evaluate(program("mean(-log(p_t), 'n')"), data)
    exact = torch.nn.functional.cross_entropy(data["logits"], data["target"].argmax(1))
    assert torch.allclose(ours, exact, rtol=1e-12)


def test_one_minus_the_true_probability_keeps_its_digits() -> None:
    data = inputs(0)
    data["logits"] = data["target"] * 60.0
    ours = evaluate(program("mean(1 - p_t, 'n')"), data)
    assert float(ours) == pytest.approx(2 * 8.75651076269652e-27, rel=1e-9)


def test_an_empty_weight_is_not_taken_for_a_probability() -> None:
    """log(dot(w, p)) with w = 0 is the guarded log of 0, not the 0 of an empty logsumexp."""
    data = inputs(0)
    data["progress"] = torch.zeros((), dtype=torch.float64)
    text = "mean(log(dot(maximum(target - 1 + progress, 0), p, 'c')), 'n')"
    assert float(evaluate(program(text), data)) < -10


@pytest.mark.parametrize("scale", [1.0, 30.0, 100.0])
@pytest.mark.parametrize(
    "text",
    [
        "mean(-log(p_t), 'n')",
        "mean(-(1 - p_t)**2.5 * log(p_t), 'n')",
        "mean(sum((p - target)**2, 'c'), 'n')",
        "mean(relu(1 - dot(target, logits, 'c') + max(logits, 'c', 1 - target)), 'n')",
        "1 - (2 * sum(p * target, 'n c') + 1) / (sum(p, 'n c') + sum(target, 'n c') + 1)",
        "mean(mean(softplus(like(u, m='n') - u), 'm', pairs), 'n', any(pairs, 'm'))",
        "mean(-log(p_t), 'n', w)",
        "mean(sqrt(sum(logits**2, 'c')), 'n')",
    ],
)
def test_the_gradient_of_the_gradient_is_that_of_autograd(text: str, scale: float) -> None:
    source = program(text)
    data = inputs(1, scale)
    names = ("logits", "u")
    for ours, theirs in zip(
        slopes(source, data, names), autograd(canonical(source), data, names), strict=True
    ):
        assert torch.allclose(ours, theirs, rtol=1e-8, atol=1e-10)
    # The squared length of the gradient is a scalar; its slope needs every second derivative.
    name = "u" if "u" in source.inputs else "logits"
    first = gradient(source, (name,))
    builder_text = _squared(first)
    leaf = data[name].clone().requires_grad_()
    [value] = Compiled(canonical(source), plain=False)({**data, name: leaf})
    [slope] = torch.autograd.grad(value, [leaf], create_graph=True)
    if not slope.requires_grad:
        return
    [expected] = torch.autograd.grad((slope**2).sum(), [leaf])
    [ours] = slopes(builder_text, data, (name,))
    size = float(expected.abs().max())
    assert torch.allclose(ours, expected, rtol=1e-6, atol=1e-9 + 1e-8 * size)


def _squared(slope: Program) -> Program:
    from losssearch.language.simplify import Simplifier

    builder = Simplifier(slope.signature, slope.constants)
    values: list[int] = []
    for step in slope.instructions:
        values.append(builder.visit(step.op, [values[i] for i in step.args], step.data))
    squared = builder.apply("square", (values[slope.outputs[0]],))
    axes = slope.signature.axes_names(builder.instructions[squared].axes)
    return builder.program([builder.apply("sum", (squared,), axes)])


def test_a_wide_sum_does_not_exhaust_the_stack() -> None:
    """A balanced sum of 199 terms is 12 deep as written and 199 deep in canonical form."""
    signature = Signature(("n",), {"x": Input("x", ("n",), Role.PREDICTION)})
    text = "+".join(f"sin({i}*x)" for i in range(1, 90))
    source = parse(f"mean({text}, 'n')", signature)
    once = canonical(source)
    assert canonical(once) == once
    parts = [f"sin({i}*x)" for i in range(1, 200)]
    while len(parts) > 1:
        parts = [
            f"({a}+{b})" if b else a
            for a, b in zip(parts[::2], [*parts[1::2], *[""] * (len(parts) % 2)], strict=True)
        ]
    source = parse(f"mean({parts[0]}, 'n')", signature)
    once = canonical(source)
    assert canonical(once) == once
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    expected = sum(torch.sin(i * x) for i in range(1, 200)).mean()
    assert torch.allclose(evaluate(source, {"x": x}), expected)
    gradient(source, ("x",))
