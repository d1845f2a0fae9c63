"""What is left of a loss when a part of it is dropped?

An operation gives way to one of its arguments that has the same type: `a + b` to a or b, `a * b` to either
factor, `tanh(a)` to a, a weighted mean to a plain one. `a - b` without a is -b, and `a / b` without a is
1 / b. A minus sign is no part, so it stays when the factor that holds it goes: `-2 * a` without -2 is -a, and
`c * a` without a constant c below 0 too. What no longer speaks of both prediction and target, or of a
prediction of each player, is no loss, and what is the same loss in other words is no drop. Takes some tenths
of a millisecond a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from losssearch.errors import FormulaError
from losssearch.language.canonical import candidate_key, canonical
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Program, program_of
from losssearch.language.signature import Role
from losssearch.language.term import CONSTANT, Term, at, literal, replaced
from losssearch.language.tidy import tidied

BINARY = ("add", "sub", "mul", "div", "pow", "maximum", "minimum")


@dataclass(frozen=True)
class Drop:
    """A loss without one of its parts.

    Args:
        what: The part, as a person reads it: a term, a factor, or `tanh(...)` for a function that gave way to
            its argument.
        program: What is left, tidied.
    """

    what: str
    program: Program


def drops(program: Program) -> list[Drop]:
    """Every loss that is this one without one part, smaller than it; each once, smallest first."""
    known = {candidate_key(program)}
    found: list[Drop] = []
    for what, term in _cuts(program):
        try:
            left = tidied(program_of(program.signature, term, program.constants))
            key = candidate_key(left)
            whole = _roles(left) >= _roles(program)
        except FormulaError:  # it does not fit, or nothing is left to average
            continue
        if whole and key not in known and left.size < program.size:
            known.add(key)
            found.append(Drop(what, left))
    return sorted(found, key=lambda drop: drop.program.size)


def _cuts(program: Program) -> Iterator[tuple[str, Term]]:
    """What is dropped, and the whole term without it; some do not check."""
    whole, steps = program.term(), program.instructions
    stack: list[tuple[tuple[int, ...], int]] = [((), program.outputs[-1])]
    while stack:
        path, index = stack.pop()
        step, term = steps[index], at(whole, path)
        texts = [replace(program, outputs=(i,)).text for i in step.args]
        for i, argument in enumerate(step.args if step.op != "neg" else ()):
            if (steps[argument].kind, steps[argument].axes) != (step.kind, step.axes):
                continue
            part = term.args[i]
            if step.op in ("sub", "div") and i == 1:
                part = Term("neg", (part,)) if step.op == "sub" else Term("div", (literal(1.0), part))
            if step.op in ("mul", "div") and _negative(program, step.args[1 - i]):
                part = Term("neg", (part,))
            other = texts[1 - i] if step.op in BINARY else f"{step.op}(...)"
            yield other, replaced(whole, path, part)
        row = PRIMITIVES.get(step.op)
        if row is not None and row.has_weight and len(step.args) == row.arity:
            yield f"weight {texts[-1]}", replaced(whole, path, Term(step.op, term.args[:-1], term.data))
        stack += [((*path, i), argument) for i, argument in enumerate(step.args)]


def _negative(program: Program, index: int) -> bool:
    """Whether a factor holds a minus sign: before it, in its factors, or in the value of a constant."""
    op, args, data, *_ = program.instructions[index]
    if op == CONSTANT:
        data = program.constant_values[str(data)]
    if isinstance(data, float):
        return data < 0
    if op == "neg":
        return not _negative(program, args[0])
    return op in ("mul", "div") and _negative(program, args[0]) != _negative(program, args[1])


def _roles(program: Program) -> set[tuple[Role, str]]:
    """Which of each player's predictions and the target it really depends on."""
    read = [program.signature.inputs[name] for name in canonical(program).inputs]
    return {(i.role, i.player) for i in read if i.role in (Role.PREDICTION, Role.TARGET)}
