"""What does one step of a program, and its share of the gradient, become in the kernel?

A gradient is made of few patterns: an operation, the levels of its arguments (see the kernel's `assembly`),
and the level of the slope that comes back. For each pattern the row's formula is broken down once, into a
fragment of loops over numbered operands; to differentiate a candidate is then to string fragments together
(`bulk.py`), without any formula being walked. How long the axes are is asked last, when a table is made: one
string of fragments serves batches of every size.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

from losssearch.execution.kernel.assembly import NEITHER, SAMPLES, Assembler, Layout, Refused, Step
from losssearch.execution.kernel.loops import Precision, address
from losssearch.language.formula import parse_term
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.term import INPUT, LITERAL, NAME, SIZE, Term

#: Operands of a fragment: the arguments, the value, the slope in it, the result, and from TEMPORARY its own.
X, Y, Z, OUT, G, RESULT, TEMPORARY = range(7)
SCRATCH = 5_000  # where a sum over samples keeps its halves
#: Operands of a whole string lie apart by kind: the candidate's own values from 0, then these.
KIND = 10_000
LITERALS, CONSTANTS, INPUTS, RESULTS = KIND, 2 * KIND, 3 * KIND, 4 * KIND
#: A level of its own: one number, which lies in memory as often as there are samples. So do literals.
REPEATED = 4
_LETTERS = "xyz"


class _Pattern(Assembler):
    """An assembler whose terminals are the operands of a fragment."""

    def given(self, name: str, level: int, *, is_repeated: bool) -> int:
        """An operand. That it is repeated already is noted where no rule of the assembler looks."""
        return self._emit(Step(INPUT, (), name, level, (True,) * is_repeated))

    def number(self, value: float) -> int:
        return self._literal(value)

    def operation(self, op: str, args: Sequence[int], over: int) -> int:
        return self._apply(op, args, over)

    def total(self, value: int, over: int) -> int:
        """A sum over axes; one that the value lacks counts as often as it is long."""
        return self._reduce("sum", value, over)

    def _length(self, axis: str) -> int:
        """A number that only a table's layout knows."""
        return self._emit(Step(SIZE, (), axis, NEITHER))


class Fragments:
    """All fragments that were ever asked for, over the same two axes.

    Args:
        samples, inner: Names of the axes, as of a layout.

    Attributes:
        spans: Fragment -> its first and last + 1 of the table's rows.
    """

    def __init__(self, samples: str, inner: str) -> None:
        self.layout = Layout(samples, inner, {})
        self.spans: list[tuple[int, int]] = []
        self._literals: dict[float | str, int] = {}
        self._rows: list[tuple[Step, list[int]]] = []
        self._forward: dict[object, tuple[int, int]] = {}
        self._backward: dict[tuple[int, int, int], tuple[int, int] | None] = {}
        self._meant: dict[int, tuple[str, tuple[int, ...], object, int]] = {}

    def table(self, layout: Layout, precision: Precision, first: int = 0) -> list[list[int]]:
        """Instructions of the kernel's table from a row on, with the operands above."""
        return [_row(step, operands, layout, precision) for step, operands in self._rows[first:]]

    def literals(self, layout: Layout) -> list[float]:
        """The numbers that fragments use; number k is the operand LITERALS + k."""
        return [float(layout.sizes[v]) if isinstance(v, str) else v for v in self._literals]

    def literal(self, value: float | str) -> int:
        """The operand that holds a number, or the length of an axis."""
        return LITERALS + self._literals.setdefault(value, len(self._literals))

    def forward(self, op: str, levels: tuple[int, ...], axes: object) -> tuple[int, int]:
        """Fragment that computes an operation, and the level of its value.

        Raises:
            Refused: The kernel has no loop for it.
        """
        key = (op, levels, axes)
        found = self._forward.get(key)
        if found is None:
            assembler, names = self._begin(levels)
            value = assembler.operation(op, names, self._over(axes))
            found = self._forward[key] = self._end(assembler, names, value)
            self._meant[found[0]] = (*key, found[1])
        return found

    def spread(self, level: int, wanted: int) -> tuple[int, int]:
        """Fragment that repeats a value over a higher level."""
        key = ("", level, wanted)
        found = self._forward.get(key)
        if found is None:
            assembler, names = self._begin((level,))
            found = self._forward[key] = self._end(assembler, names, assembler.spread(names[0], wanted))
        return found

    def backward(self, forward: int, slope: int, place: int) -> tuple[int, int] | None:
        """Fragment that computes the slope in one argument, and its level; None where none flows.

        Args:
            forward: Fragment that computes the operation.
            slope: Level of the slope in its value. A slope that lacks an axis is the same along it.
            place: Of the argument.

        Raises:
            Refused: The kernel cannot differentiate it.
        """
        key = (forward, slope, place)
        if key not in self._backward:
            op, levels, axes, value = self._meant[forward]
            rule = PRIMITIVES[op].derivative[place]
            if PRIMITIVES[op].form is Form.COPY:
                raise Refused(f"{op} needs two copies of an axis")
            self._backward[key] = (
                None if rule is None else self._derive(rule, levels, axes, value, slope, place)
            )
        return self._backward[key]

    def _derive(
        self, rule: str, levels: tuple[int, ...], axes: object, value: int, slope: int, place: int
    ) -> tuple[int, int]:
        assembler, names = self._begin(levels, value, slope)
        letters = dict(zip(_LETTERS, names[: len(levels)], strict=False)) | {"out": names[-2], "g": names[-1]}
        part = self._lowered(assembler, _template(rule), letters, self._over(axes))
        union = 0
        for level in levels:
            union |= level & ~REPEATED
        part = assembler.total(part, union & ~levels[place])
        return self._end(assembler, names, part)

    def _lowered(self, assembler: _Pattern, term: Term, letters: dict[str, int], over: int) -> int:
        if term.op == NAME:
            known = letters.get(str(term.data))
            return assembler.number(1.0) if known is None else known  # a weight that was not given
        if term.op == LITERAL:
            return assembler.number(float(str(term.data)))
        args = [self._lowered(assembler, arg, letters, over) for arg in term.args]
        if term.op == "sum":
            return assembler.total(args[0], over)
        return assembler.operation(term.op, args, over if PRIMITIVES[term.op].has_axes else 0)

    def _over(self, axes: object) -> int:
        return self.layout.level([str(a) for a in axes]) if isinstance(axes, tuple) else 0

    def _begin(self, levels: Sequence[int], *more: int) -> tuple[_Pattern, list[int]]:
        assembler = _Pattern(self.layout)
        names = [*_LETTERS[: len(levels)], *("out", "g")[: len(more)]]
        for name, level in zip(names, (*levels, *more), strict=True):
            assembler.given(name, level & ~REPEATED, is_repeated=level == REPEATED)
        return assembler, list(range(len(names)))

    def _end(self, assembler: _Pattern, names: list[int], value: int) -> tuple[int, int]:
        """Keep the loops that lead to a value; its own place is RESULT."""
        steps, first = assembler.steps, len(self._rows)
        given = {"x": X, "y": Y, "z": Z, "out": OUT, "g": G}
        operands: list[int] = []
        temporaries = 0
        needed = _needed(steps, value)
        for i, step in enumerate(steps):
            if step.opcode == INPUT:
                operands.append(given[str(step.data)])
            elif step.opcode in (LITERAL, SIZE):
                operands.append(self.literal(step.data or 0.0))
            elif i == value:
                operands.append(RESULT)
            elif step.opcode == "spread" and step.level == SAMPLES and _is_repeated(steps[step.args[0]]):
                operands.append(operands[step.args[0]])
                continue
            else:
                operands.append(TEMPORARY + temporaries)
                temporaries += i in needed
            if step.args and i in needed:
                self._rows.append((step, [operands[i], *[operands[j] for j in step.args]]))
        if not steps[value].args:  # an argument, or a number
            level = steps[value].level
            copy = Step("copy", (value,), None, level, (False,), level)
            self._rows.append((copy, [RESULT, operands[value]]))
        self.spans.append((first, len(self._rows)))
        return len(self.spans) - 1, steps[value].level


@lru_cache(maxsize=16)
def fragments_over(samples: str, inner: str) -> Fragments:
    """The fragments that all batches over these axes share."""
    return Fragments(samples, inner)


def _row(step: Step, operands: Sequence[int], layout: Layout, precision: Precision) -> list[int]:
    """One instruction of the kernel's table."""
    rows, size = layout.extents(step.over)
    out, *args = operands
    jumps = [0, 0, 0]
    if step.opcode == "spread":
        jumps[0] = 0 if step.repeats[0] else 1
    elif step.opcode.endswith(":across"):
        args = [*args, SCRATCH]
    elif True in step.repeats:
        jumps = [0 if repeated else size for repeated in step.repeats]
    elif ":" not in step.opcode:
        rows, size = 1, rows * size
    args = [*args, *[args[0]] * (3 - len(args))]
    jumps = [*jumps, *[0] * (3 - len(jumps))]
    return [address(step.opcode, precision), out, *args, rows, size, *jumps]


def _is_repeated(step: Step) -> bool:
    return step.opcode in (LITERAL, SIZE) or (step.level == NEITHER and True in step.repeats)


def _needed(steps: Sequence[Step], value: int) -> set[int]:
    needed = {value}
    for i in range(value, -1, -1):
        if i in needed:
            needed.update(steps[i].args)
    return needed


@cache
def _template(rule: str) -> Term:
    return parse_term(rule)
