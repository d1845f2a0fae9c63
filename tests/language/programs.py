"""A small space, random well-typed formulas over it, and a second, dumber way to evaluate them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from losssearch.execution.reference import Compiled
from losssearch.language.derivative import gradient
from losssearch.language.formula import define
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Builder, Constant, Program, program_of
from losssearch.language.signature import Input, Kind, Role, Signature
from losssearch.language.term import Term

SIZES = {"n": 5, "c": 3, "d": 3, "m": 5}
CONSTANTS = (Constant("a", 0.7), Constant("b", 0.7, 0.0, 5.0), Constant("g", 2.5))


def space() -> Signature:
    """Classes and samples, each with a copy; every role and property that the rules look at."""
    simplex = frozenset({"simplex over c"})
    signature = Signature(
        axes=("n", "c", "d", "m"),
        copies={"d": "c", "m": "n"},
        inputs={
            i.name: i
            for i in (
                Input("logits", ("n", "c"), Role.PREDICTION, -30.0, 30.0),
                Input("target", ("n", "c"), Role.TARGET, 0.0, 1.0, simplex),
                Input("prior", ("c",), Role.PROVIDED, 1e-6, 1.0, simplex),
                Input("valid", ("n",), Role.MASK),
                Input("pairs", ("n", "m"), Role.MASK),
                Input("w", ("n",), Role.PROVIDED, 0.0, 10.0),
                Input("u", ("n",), Role.PARAMETER, -10.0, 10.0),
                Input("progress", (), Role.SCHEDULE, 0.0, 1.0),
            )
        },
        better="raise the true logit",
    )
    signature = define(signature, "log_p", "log_softmax(logits, 'c')")
    signature = define(signature, "p", "exp(log_p)")
    signature = define(signature, "p_t", "sum(target * p, 'c')")
    return signature


SPACE = space()
_UNARY = [n for n, r in PRIMITIVES.items() if not r.has_axes and r.arity == 1]
_BINARY = [n for n, r in PRIMITIVES.items() if not r.has_axes and r.arity == 2 and r.result is Kind.REAL]
_COMPARE = ["greater", "greater_equal", "less", "less_equal", "equal"]
_ALONG = [n for n, r in PRIMITIVES.items() if r.form is Form.ALONG]
_LITERALS = [0.0, 1.0, -1.0, 2.0, 0.5, 3.0, 1e-6, -0.25, 10.0]


@st.composite
def terms(draw: st.DrawFn, depth: int = 4, detach: bool = True) -> tuple[Term, int]:
    """A term that is a number, and the axes of its value."""
    if depth <= 0 or draw(st.integers(0, 5)) == 0:
        return draw(st.sampled_from(_terminals()))
    smaller = terms(depth - 1, detach)
    form = draw(st.sampled_from("uuubbbbbrrawlcd"))
    x, axes = draw(smaller)
    if form == "u":
        op = draw(st.sampled_from(_UNARY))
        return Term("neg" if op == "detach" and not detach else op, (x,)), axes
    if form == "b":
        y, more = draw(smaller)
        return Term(draw(st.sampled_from(_BINARY)), (x, y)), axes | more
    if form == "w":
        mask, more = draw(masks(depth - 1, detach))
        y, third = draw(smaller)
        return Term("where", (mask, x, y)), axes | more | third
    if form == "d":
        y, more = draw(smaller)
        over = _some(draw, axes | more)
        return (Term("dot", (x, y), over), (axes | more) & ~SPACE.axes_of(over)) if over else (x, axes)
    if form == "l":
        moves = [
            (to, origin)
            for a, b in SPACE.copies.items()
            for to, origin in ((a, b), (b, a))
            if axes & SPACE.bits[origin] and not axes & SPACE.bits[to]
        ]
        if not moves:
            return x, axes
        to, origin = draw(st.sampled_from(moves))
        return Term("like", (x,), ((to, origin),)), axes & ~SPACE.bits[origin] | SPACE.bits[to]
    if form == "a":
        over = _some(draw, axes)
        if not over:
            return x, axes
        op = draw(st.sampled_from(_ALONG))
        if PRIMITIVES[op].ordered:
            over = over[:1]
        if PRIMITIVES[op].arity == 1:
            return Term(op, (x,), over), axes
        key, more = draw(st.sampled_from(_keys()))
        return Term(op, (x, key), over), axes | more
    op = draw(st.sampled_from(["sum", "mean", "max", "min", "logsumexp"]))
    args: tuple[Term, ...] = (x,)
    if draw(st.integers(0, 2)) == 0:
        if draw(st.booleans()):
            weight, more = draw(masks(depth - 1, detach))
        else:
            weight, more = draw(st.sampled_from(_terminals()))
        args, axes = (x, weight), axes | more
    over = _some(draw, axes)
    if not over:
        return x, draw(st.just(axes)) if len(args) == 1 else _axes(x)
    return Term(op, args, over), axes & ~SPACE.axes_of(over)


@st.composite
def masks(draw: st.DrawFn, depth: int, detach: bool = True) -> tuple[Term, int]:
    if depth <= 0 or draw(st.integers(0, 2)) == 0:
        name = draw(st.sampled_from(["valid", "pairs"]))
        return Term("name", (), name), SPACE.axes_of(SPACE.inputs[name].axes)
    x, axes = draw(terms(depth - 1, detach))
    y, more = draw(terms(depth - 1, detach))
    mask, axes = Term(draw(st.sampled_from(_COMPARE)), (x, y)), axes | more
    over = _some(draw, axes)
    if over and draw(st.integers(0, 3)) == 0:
        return Term("any", (mask,), over), axes & ~SPACE.axes_of(over)
    return mask, axes


def _axes(term: Term) -> int:
    builder = Builder(SPACE, CONSTANTS)
    return builder.instructions[builder.add(term)].axes


def _terminals() -> list[tuple[Term, int]]:
    names = [n for n, i in SPACE.inputs.items() if i.role is not Role.MASK] * 2
    names += [*SPACE.definitions, *(c.name for c in CONSTANTS), "C", "N", "log_p", "p"]
    found = [(Term("name", (), n), _axes(Term("name", (), n))) for n in names]
    return found + [(Term("literal", (), v), 0) for v in _LITERALS]


def _keys() -> list[tuple[Term, int]]:
    """Inputs as they are: of a key that is computed, the last digit may decide the order."""
    return [(Term("name", (), n), _axes(Term("name", (), n))) for n in ("logits", "u", "w", "prior")]


def _some(draw: st.DrawFn, axes: int) -> tuple[str, ...]:
    names = SPACE.axes_names(axes)
    return tuple(draw(st.lists(st.sampled_from(names), min_size=1, unique=True))) if names else ()


@st.composite
def programs(draw: st.DrawFn, depth: int = 4, detach: bool = True) -> Program:
    """A loss: what is left of axes is averaged."""
    term, axes = draw(terms(depth, detach))
    if axes:
        term = Term("mean", (term,), SPACE.axes_names(axes))
    return program_of(SPACE, term, CONSTANTS)


def expanded(program: Program) -> Program:
    """The program as written, definitions expanded, and nothing else done to it."""
    builder = Builder(program.signature, program.constants, strict=False, expand=True)
    return builder.program([builder.add(program.term())])


def inputs(seed: int, scale: float = 2.0, soft: bool = False) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    n, c = SIZES["n"], SIZES["c"]
    labels = torch.randint(c, (n,), generator=generator)
    hard = torch.nn.functional.one_hot(labels, c).double()
    return {
        "logits": normal(n, c) * scale,
        "target": normal(n, c).softmax(-1) if soft else hard,
        "prior": normal(c).softmax(-1),
        "valid": torch.rand(n, generator=generator) > 0.3,
        "pairs": torch.rand(n, n, generator=generator) > 0.5,
        "w": torch.rand(n, generator=generator, dtype=torch.float64) * 3,
        "u": normal(n) * 2,
        "progress": torch.rand((), generator=generator, dtype=torch.float64),
    }


class Unguarded(Compiled):
    """Every guard off, whatever the bounds say."""

    def __init__(self, program: Program) -> None:
        super().__init__(program, plain=False)
        for k, step in enumerate(program.instructions):
            row, ready = PRIMITIVES.get(step.op), self._steps[k]
            if row is not None and row.plain is not None and ready is not None:
                self._steps[k] = (row.plain, *ready[1:])


def autograd(
    program: Program, given_inputs: dict[str, torch.Tensor], names: tuple[str, ...]
) -> list[torch.Tensor]:
    """The gradient by torch, as the canonical program is run."""
    leaves = {k: given_inputs[k].clone().requires_grad_() for k in names}
    [value] = Compiled(program, plain=False)({**given_inputs, **leaves})
    if not value.requires_grad:
        return [torch.zeros_like(v) for v in leaves.values()]
    found = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    return [
        torch.zeros_like(leaf) if slope is None else slope
        for slope, leaf in zip(found, leaves.values(), strict=True)
    ]


def slopes(
    program: Program, given_inputs: dict[str, torch.Tensor], names: tuple[str, ...]
) -> list[torch.Tensor]:
    """The gradient program's outputs, in the shapes of the inputs."""
    derivative = gradient(program, names)
    outputs = Compiled(derivative, plain=False)(given_inputs)
    result = []
    for output, index, name in zip(outputs, derivative.outputs, names, strict=True):
        axes = derivative.instructions[index].axes
        for k, axis in enumerate(program.signature.inputs[name].axes):
            if not axes & program.signature.bits[axis]:
                output = output.unsqueeze(k)
        result.append(output.expand_as(given_inputs[name]))
    return result
