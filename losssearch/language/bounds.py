"""Between which bounds does each value of a program lie, given the operating ranges of its inputs?

The primitives' interval rules, one step after the other, with one thing more: a weighted sum whose
weights are declared a simplex over the summed axes is a mean, so it lies within the bounds of what
it sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from losssearch.language import intervals as iv
from losssearch.language.intervals import Interval
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Constant, Instruction, Program
from losssearch.language.signature import Kind, Role, Signature
from losssearch.language.term import CONSTANT, INPUT, LITERAL, SIZE


def bounds(program: Program, *, any_input: bool = False, any_size: bool = False) -> tuple[Interval, ...]:
    """One interval an instruction; definitions must have been expanded, else they are unbounded.

    Args:
        program: What to bound.
        any_input: Believe no operating range but that of targets, so that what is shown holds for
            whatever a network or a user may feed.
        any_size: Do not count on an element along every axis; over nothing every reduction is 0.
    """
    found: list[Interval] = []
    constants = {c.name: c for c in program.constants}
    signature = program.signature
    for step in program.instructions:
        one = bound(signature, step, program.instructions, found, constants, any_input=any_input)
        row = PRIMITIVES.get(step.op)
        reduces = row is not None and row.form in (Form.REDUCTION, Form.CONTRACTION)
        if any_size and step.kind is not Kind.MASK and (reduces or step.op == SIZE):
            one = one.hull(iv.point(0.0))
        found.append(one)
    return tuple(found)


def bound(
    signature: Signature,
    step: Instruction,
    instructions: Sequence[Instruction],
    found: Sequence[Interval],
    constants: dict[str, Constant],
    *,
    any_input: bool = False,
) -> Interval:
    """The interval of one instruction from those before it; `any_input` as in `bounds`."""
    if step.op == LITERAL:
        return iv.point(cast(float, step.data))
    if step.op == CONSTANT:
        constant = constants[str(step.data)]
        return Interval(constant.low, constant.high)
    if step.op == INPUT:
        given = signature.inputs[str(step.data)]
        return iv.REALS if any_input and given.role is not Role.TARGET else given.interval
    if step.op == SIZE:
        return Interval(1.0, iv.INF)
    if step.kind is Kind.MASK:
        return iv.UNIT
    row = PRIMITIVES.get(step.op)
    if row is None:
        return iv.REALS
    if step.op == "dot":
        for weight, other in (step.args, step.args[::-1]):
            if is_distribution(signature, instructions, weight, step.data):
                return found[other]
    if step.op in ("add", "sub", "mul", "div") and step.args[0] == step.args[1]:
        x = found[step.args[0]]
        if step.op == "mul":
            return PRIMITIVES["square"].interval(x)
        if step.op == "sub" and x.is_bounded:
            return iv.point(0.0)
    result = row.interval(*(found[i] for i in step.args))
    return iv.REALS if result.low != result.low or result.high != result.high else result


def is_simplex(signature: Signature, step: Instruction, axes: object) -> bool:
    """Whether a value is an input that is declared a simplex over just these axes."""
    if step.op != INPUT or not isinstance(axes, tuple) or len(axes) != 1:
        return False
    properties = signature.inputs[str(step.data)].properties
    return f"simplex over {axes[0]}" in properties or f"one_hot over {axes[0]}" in properties


def is_distribution(
    signature: Signature, instructions: Sequence[Instruction], index: int, axes: object
) -> bool:
    """Whether a value sums to 1 over just these axes: a simplex, or a softmax over them."""
    step = instructions[index]
    if step.op == "softmax":
        return step.data == axes
    if step.op == "exp":
        inner = instructions[step.args[0]]
        return inner.op == "log_softmax" and inner.data == axes
    return is_simplex(signature, step, axes)
