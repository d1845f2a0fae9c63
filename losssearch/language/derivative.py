"""What is the slope of a loss? Another program, made from the rows' derivative formulas.

Reverse accumulation over the canonical instruction list: each step hands `g`, the slope in its
value, on to its arguments through the formulas of its row. What an argument was broadcast over is
summed back. The result runs on every back end, can be bounded by intervals, and can be
differentiated again.
"""

from __future__ import annotations

from functools import cache, lru_cache

from losssearch.language.canonical import canonical
from losssearch.language.formula import parse_term
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Program
from losssearch.language.signature import AxisSet
from losssearch.language.simplify import Simplifier
from losssearch.language.term import INPUT, LITERAL, NAME, Term


@lru_cache(maxsize=512)  # several judges ask for the slope of the same candidate
def gradient(program: Program, wrt: tuple[str, ...]) -> Program:
    """A program with one output for each input in `wrt`: the derivative of the scalar in it.

    Axes that an output lacks mean that the slope is the same along them.
    """
    source = canonical(program)
    builder = Simplifier(source.signature, source.constants)
    values: list[int] = []
    for step in source.instructions:
        values.append(builder.visit(step.op, [values[i] for i in step.args], step.data))
    slopes: dict[int, int] = {source.outputs[-1]: builder.literal(1.0)}
    found: dict[str, int] = {}
    reached = _reached(source, wrt)
    for i in reversed(range(len(source.instructions))):
        step = source.instructions[i]
        if i not in slopes:
            continue
        if step.op == INPUT and step.data in wrt:
            found[str(step.data)] = slopes[i]
        row = PRIMITIVES.get(step.op)
        if row is None:
            continue
        spread = 0
        for j in step.args:
            spread |= source.instructions[j].axes
        for position, j in enumerate(step.args):
            rule = row.derivative[position]
            if rule is None or j not in reached:
                continue
            if row.form is Form.COPY:
                part = _copied_back(builder, slopes[i], step.data)
            else:
                names = {"g": slopes[i], "out": values[i]}
                names |= dict(zip("xyz", (values[k] for k in step.args), strict=False))
                axes = step.data if row.has_axes else ()
                part = _instantiate(builder, _template(rule), names, axes)
                part = _summed_back(builder, part, spread, source.instructions[j].axes)
            slopes[j] = builder.apply("add", (slopes[j], part)) if j in slopes else part
    outputs = [found[name] if name in found else builder.literal(0.0) for name in wrt]
    return builder.program(outputs)


@cache
def _template(rule: str) -> Term:
    return parse_term(rule)


def _reached(program: Program, wrt: tuple[str, ...]) -> frozenset[int]:
    """The instructions that the inputs `wrt` can move."""
    reached: set[int] = set()
    for i, step in enumerate(program.instructions):
        if (step.op == INPUT and step.data in wrt) or any(j in reached for j in step.args):
            reached.add(i)
    return frozenset(reached)


def _instantiate(builder: Simplifier, term: Term, names: dict[str, int], axes: object) -> int:
    """A derivative formula with its letters replaced by values."""
    if term.op == NAME:
        # A weight that was not given counts as 1.
        return names[str(term.data)] if term.data in names else builder.literal(1.0)
    if term.op == LITERAL:
        return builder.literal(term.data)
    args = [_instantiate(builder, arg, names, axes) for arg in term.args]
    if term.op == "sum":
        return _sum(builder, args[0], tuple(str(a) for a in axes))  # type: ignore[attr-defined]
    data = tuple(str(a) for a in axes) if term.data == ("A",) else term.data  # type: ignore[attr-defined]
    return builder.apply(term.op, args, data)


def _sum(builder: Simplifier, value: int, axes: tuple[str, ...]) -> int:
    """Sum over axes; one that the value lacks counts as often as it is long."""
    return builder.apply("sum", (value,), axes) if axes else value


def _summed_back(builder: Simplifier, value: int, spread: AxisSet, wanted: AxisSet) -> int:
    return _sum(builder, value, builder.signature.axes_names(spread & ~wanted))


def _copied_back(builder: Simplifier, value: int, pairs: object) -> int:
    """`like` undone, axis by axis; a slope that is the same along the copy needs nothing."""
    signature = builder.signature
    for to, origin in reversed(pairs):  # type: ignore[call-overload]
        if builder.instructions[value].axes & signature.bits[to]:
            value = builder.apply("like", (value,), ((origin, to),))
    return value
