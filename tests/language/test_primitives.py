"""Each row of the table of primitives, held to plain mathematics and to autograd."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from losssearch.execution.reference import Compiled
from losssearch.language.bounds import bounds
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.formula import parse
from losssearch.language.primitives import CEILING, EPS, PRIMITIVES, Form
from losssearch.language.program import Builder, Program
from losssearch.language.signature import Input, Kind, Role, Signature
from losssearch.language.term import Term
from tests.language.programs import slopes

LINE = Signature(("n",), {k: Input(k, ("n",), Role.PREDICTION) for k in "xyz"})
TABLE = Signature(("n", "c"), {k: Input(k, ("n", "c"), Role.PREDICTION) for k in "xy"})
# Kinks, guards from both sides, and far away.
POINTS = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.3,
    -0.7,
    2.5,
    EPS,
    -EPS,
    0.99 * EPS,
    1.01 * EPS,
    1e-13,
    1e-7,
    -1e-7,
]
POINTS += [CEILING - 0.1, CEILING + 0.1, 100.0, -100.0, 1e3, -1e3]

PLAIN = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x: -x,
    "abs": abs,
    "square": lambda x: x**2,
    "sqrt": math.sqrt,
    "pow": lambda x, y: x**y,
    "exp": math.exp,
    "log": math.log,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "softplus": lambda x: math.log(1 + math.exp(x)),
    "relu": lambda x: max(x, 0.0),
    "sin": math.sin,
    "cos": math.cos,
    "erf": math.erf,
    "atan": math.atan,
    "maximum": max,
    "minimum": min,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "equal": lambda x, y: x == y,
    "where": lambda x, y, z: y if x > 0 else z,
    "detach": lambda x: x,
}
ELEMENTWISE = [row for row in PRIMITIVES.values() if row.form is Form.ELEMENTWISE]


def term_of(name: str, letters: str) -> Term:
    args = [Term("name", (), letter) for letter in letters]
    if name == "where":
        args[0] = Term("greater", (args[0], Term("literal", (), 0.0)))
    return Term(name, tuple(args))


def as_written(signature: Signature, term: Term) -> Program:
    builder = Builder(signature)
    return builder.program([builder.add(term)])


def grid(arity: int) -> dict[str, torch.Tensor]:
    rows = (
        list(itertools.product(POINTS, repeat=arity))
        if arity < 3
        else [(a, b, c) for a in (-1.0, 0.0, 2.0) for b in POINTS for c in POINTS]
    )
    columns = torch.tensor(rows, dtype=torch.float64).T
    return dict(zip("xyz", columns, strict=False))


def test_every_primitive_has_a_plain_meaning_here() -> None:
    assert {row.name for row in ELEMENTWISE} == set(PLAIN)


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_an_ordinary_value_is_plain_mathematics(row) -> None:
    values = [0.3, 1.7, 2.5]
    arguments = list(itertools.product(values, repeat=row.arity))
    columns = torch.tensor(arguments, dtype=torch.float64).T
    program = as_written(LINE, term_of(row.name, "xyz"[: row.arity]))
    [value] = Compiled(program, plain=False)(dict(zip("xyz", columns, strict=False)))
    expected = [float(PLAIN[row.name](*a)) for a in arguments]
    assert value.double().tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_finite_argument_never_gives_nan(row, dtype) -> None:
    program = as_written(LINE, term_of(row.name, "xyz"[: row.arity]))
    far = torch.tensor([1e30, -1e30], dtype=dtype)
    values = {k: v.to(dtype) for k, v in grid(row.arity).items()}
    if row.arity == 1:
        values["x"] = torch.cat([values["x"], far])
    [value] = Compiled(program, plain=False)(values)
    assert not value.double().isnan().any()


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_the_derivative_is_that_of_autograd_at_kinks_and_guards_too(row) -> None:
    letters = "xyz"[: row.arity]
    term = Term("sum", (term_of(row.name, letters),), ("n",))
    leaves = {k: v.clone().requires_grad_() for k, v in grid(row.arity).items()}
    [value] = Compiled(as_written(LINE, term), plain=False)(leaves)
    program = as_written(LINE, term)
    slopes = Compiled(gradient(program, tuple(letters)), plain=False)(
        {k: v.detach() for k, v in leaves.items()}
    )
    theirs = [torch.zeros_like(v) for v in leaves.values()]
    if value.requires_grad:
        found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        theirs = [z if f is None else f for z, f in zip(theirs, found, strict=True)]
    for ours, expected in zip(slopes, theirs, strict=True):
        ours = ours.expand_as(expected)
        close = torch.isclose(ours, expected, rtol=1e-9, atol=1e-12)
        where = [
            (tuple(float(v[i]) for v in leaves.values()), float(ours[i]), float(expected[i]))
            for i in (~close).nonzero()[:, 0].tolist()
        ]
        assert not where, where[:5]


@pytest.mark.parametrize("row", ELEMENTWISE, ids=lambda row: row.name)
def test_the_bounds_hold(row) -> None:
    letters = "xyz"[: row.arity]
    for lows in itertools.product([-2.0, 0.0, 1e-7, 0.5, 50.0], repeat=row.arity):
        inputs = {
            k: Input(k, ("n",), Role.PREDICTION, low, low + 20.0)
            for k, low in zip(letters, lows, strict=True)
        }
        program = as_written(Signature(("n",), inputs), term_of(row.name, letters))
        interval = bounds(program)[-1]
        generator = torch.Generator().manual_seed(0)
        values = {}
        for k, low in zip(letters, lows, strict=True):
            v = low + 20 * torch.rand(200, generator=generator, dtype=torch.float64)
            v[0], v[1] = low, low + 20
            values[k] = v
        [value] = Compiled(program, plain=False)(values)
        slack = 1e-9 * (1 + value.double().abs())
        assert bool((value.double() >= interval.low - slack).all()), (lows, interval)
        assert bool((value.double() <= interval.high + slack).all()), (lows, interval)


@pytest.mark.parametrize("row", [r for r in ELEMENTWISE if r.rising], ids=lambda row: row.name)
def test_rising_is_what_the_row_says(row) -> None:
    values = grid(row.arity)
    program = as_written(LINE, term_of(row.name, "xyz"[: row.arity]))
    run = Compiled(program, plain=False)
    [before] = run(values)
    for letter, sign in zip("xyz", row.rising, strict=False):
        moved = values[letter] + 0.1 * (values[letter].sign() if sign == 2 else 1.0)
        [after] = run({**values, letter: moved})
        assert bool(((after - before) * min(sign, 1) >= 0).all())


@pytest.mark.parametrize("row", [r for r in ELEMENTWISE if r.curvature], ids=lambda row: row.name)
def test_curvature_is_what_the_row_says(row) -> None:
    program = as_written(LINE, term_of(row.name, "xyz"[: row.arity]))
    run = Compiled(program, plain=False)
    generator = torch.Generator().manual_seed(1)
    pick = [grid(row.arity) for _ in range(2)]
    order = torch.randperm(len(pick[0]["x"]), generator=generator)
    pick[1] = {k: v[order] for k, v in pick[1].items()}
    middle = {k: (pick[0][k] + pick[1][k]) / 2 for k in pick[0]}
    [a], [b], [m] = run(pick[0]), run(pick[1]), run(middle)
    gap = (a + b) / 2 - m
    slack = 1e-9 * (1 + a.abs() + b.abs() + m.abs())
    if row.curvature in ("convex", "affine"):
        assert bool((gap >= -slack).all())
    if row.curvature in ("concave", "affine"):
        assert bool((gap <= slack).all())


# Words with axes.

REDUCTIONS = ["sum", "mean", "max", "min", "logsumexp"]


def loop(op: str, x: list[float], w: list[float] | None) -> float:
    pairs = [(a, 1.0 if w is None else b) for a, b in zip(x, w or x, strict=True)]
    if op == "sum":
        return math.fsum(a * b for a, b in pairs)
    if op == "mean":
        total = math.fsum(b for _, b in pairs)
        return math.fsum(a * b for a, b in pairs) / total if total else 0.0
    kept = [(a, b) for a, b in pairs if b > 0]
    if not kept:
        return 0.0
    if op in ("max", "min"):
        return {"max": max, "min": min}[op](a for a, _ in kept)
    top = max(a for a, _ in kept)
    return top + math.log(math.fsum(b * math.exp(a - top) for a, b in kept))


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("weight", ["", "y", "mask", "none"])
def test_a_reduction_is_a_loop_and_nothing_at_all_gives_zero(op: str, weight: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64) * 5
    y = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    y[1] = 0.0
    y[2, 0] = 0.0
    if weight == "none":
        y[:] = 0
    text = {"": f"{op}(x, 'c')", "mask": f"{op}(x, 'c', y > 0)"}.get(weight, f"{op}(x, 'c', y)")
    program = parse(text, TABLE, scalar=False)
    [value] = Compiled(program, plain=False)({"x": x, "y": y})
    w = None if weight == "" else ((y > 0).double() if weight == "mask" else y).tolist()
    expected = [loop(op, row, w and w[i]) for i, row in enumerate(x.tolist())]
    assert value.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)
    [ours] = Compiled(canonical(program), plain=False)({"x": x, "y": y})
    assert ours.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("op", [*REDUCTIONS, "softmax", "log_softmax", "dot"])
@pytest.mark.parametrize("case", ["plain", "weight", "ties", "nothing", "far"])
def test_the_slope_of_words_with_axes_is_that_of_autograd(op: str, case: str) -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    y = torch.rand(4, 3, generator=generator, dtype=torch.float64)
    if case == "ties":
        x = x.round()
    if case == "far":
        x = x * 100
    if case == "nothing":
        y[1], y[2, 0] = 0.0, -1.0 if op != "mean" else 0.0
    weighted = case in ("weight", "nothing") and op in REDUCTIONS
    inner = "dot(x, y, 'c')" if op == "dot" else f"{op}(x, 'c'{', y' if weighted else ''})"
    axes = "n c" if op in ("softmax", "log_softmax") else "n"
    program = parse(f"sum(sin({inner}), '{axes}')", TABLE)
    x, y = x.requires_grad_(), y.requires_grad_()
    [value] = Compiled(canonical(program), plain=False)({"x": x, "y": y})
    expected = torch.autograd.grad(value, [x, y], allow_unused=True)
    ours = slopes(program, {"x": x.detach(), "y": y.detach()}, ("x", "y"))
    for mine, theirs, leaf in zip(ours, expected, (x, y), strict=True):
        theirs = torch.zeros_like(leaf) if theirs is None else theirs
        assert torch.allclose(mine, theirs, rtol=1e-9, atol=1e-12)


def test_a_new_primitive_must_say_its_kind_and_arity() -> None:
    for row in PRIMITIVES.values():
        assert len(row.derivative) == row.arity
        assert all(0 <= i < row.arity for i in row.masks)
        if row.result is Kind.MASK:
            assert row.derivative == (None,) * row.arity
