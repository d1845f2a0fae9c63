"""A program, broken down into loops: what is a list of instructions on tensors becomes one on rows.

Every value lies over the inner axis (classes), the samples, both, or neither: its *level*. Softmax, means,
weighted reductions and the like are replaced by the elementwise primitives and plain sums, maxima and
minima that their rows name. Whatever does not fit (a third axis, pairs of samples, sorting) is refused with
the reason, and runs on the reference instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple, cast

from losssearch.errors import UsageError
from losssearch.language.formula import parse_term
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Program
from losssearch.language.term import CONSTANT, INPUT, LITERAL, NAME, SIZE, TERMINALS, Term

NEITHER, SAMPLES, INNER, BOTH = range(4)  # levels: a bit for samples, a bit for the inner axis


class Refused(UsageError):
    """The kernel cannot run this program; says why."""


class Step(NamedTuple):
    """One loop, or a terminal.

    Args:
        opcode: See `loops.address`; "input", "literal" or "constant" for a terminal.
        args: Earlier steps.
        data: Name or value of a terminal.
        level: Of the result.
        steps: For each argument whether its one row is repeated.
        extents: Level over which the loop runs: the result's, or a reduction's argument's.
    """

    opcode: str
    args: tuple[int, ...]
    data: str | float | None
    level: int
    repeats: tuple[bool, ...] = ()
    over: int = NEITHER


class Layout(NamedTuple):
    """Which axes a kernel knows, and their sizes.

    Args:
        samples: Name of the sample axis, which lies innermost in memory.
        inner: Name of the other axis, or "".
        sizes: Axis -> its length.
    """

    samples: str
    inner: str
    sizes: Mapping[str, int]

    def level(self, axes: Sequence[str]) -> int:
        """The level of a value over these axes."""
        unknown = [a for a in axes if a not in (self.samples, self.inner)]
        if unknown:
            raise Refused(f"it has the axis {unknown[0]!r}")
        return SAMPLES * (self.samples in axes) + INNER * (self.inner in axes)

    def extents(self, level: int) -> tuple[int, int]:
        """Rows and row length of a value."""
        rows = self.sizes[self.inner] if level & INNER else 1
        return rows, self.sizes[self.samples] if level & SAMPLES else 1

    def numbers(self, level: int) -> int:
        rows, size = self.extents(level)
        return rows * size


class Assembler:
    """Breaks one program down; equal steps are made once.

    Args:
        layout: Axes and sizes.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.steps: list[Step] = []
        self._index: dict[Step, int] = {}

    def add(self, program: Program, levels: Sequence[int]) -> list[int]:
        """The steps that hold the program's outputs, each spread over its level in `levels`."""
        signature = program.signature
        values: list[int] = []
        for instruction in program.instructions:
            if instruction.op in TERMINALS:
                level = self.layout.level(signature.axes_names(instruction.axes))
                values.append(self._terminal(instruction.op, instruction.data, level))
                continue
            axes = instruction.data if PRIMITIVES[instruction.op].has_axes else ()
            if axes and not isinstance(axes[0], str):  # type: ignore[index]
                raise Refused(f"{instruction.op} needs two copies of an axis")
            over = self.layout.level(cast("tuple[str, ...]", axes))
            values.append(self._apply(instruction.op, [values[i] for i in instruction.args], over))
        return [self.spread(values[i], level) for i, level in zip(program.outputs, levels, strict=True)]

    def multiply(self, value: int, name: str) -> int:
        """A value times a constant."""
        return self._elementwise("mul", [value, self._emit(Step(CONSTANT, (), name, NEITHER))])

    def spread(self, value: int, level: int) -> int:
        """A value repeated over a higher level."""
        own = self.steps[value].level
        if own == level:
            return value
        if own & ~level:
            raise Refused("an output has an axis that its place lacks")
        if level == BOTH and own == SAMPLES:
            return self._emit(Step("copy", (value,), None, BOTH, (True,), BOTH))
        if level == BOTH and own == NEITHER:
            return self.spread(self.spread(value, SAMPLES), BOTH)
        return self._emit(Step("spread", (value,), None, level, (own == NEITHER,), level))

    def _terminal(self, op: str, data: object, level: int) -> int:
        if op == SIZE:
            if str(data) not in self.layout.sizes:
                raise Refused(f"it counts the axis {data!r}")
            return self._length(str(data))
        if op == LITERAL:
            return self._literal(cast(float, data))
        if op in (INPUT, CONSTANT):
            return self._emit(Step(op, (), str(data), level))
        raise Refused(f"{op} {data!r} is not canonical")

    def _literal(self, value: float) -> int:
        return self._emit(Step(LITERAL, (), value, NEITHER))

    def _length(self, axis: str) -> int:
        return self._literal(float(self.layout.sizes[axis]))

    def _apply(self, op: str, args: Sequence[int], over: int) -> int:
        if op in ("ln", "copy") or PRIMITIVES[op].scalar is not None:
            return self._elementwise(op, args)
        row = PRIMITIVES[op]
        if row.lowering is None:
            raise Refused(f"{op} has no loop")
        weighted = row.has_weight and len(args) == 2
        text = row.lowering[-1 if weighted else 0]
        if not text:
            return self._reduce(op, args[0], over)
        # Both arguments of a weighted reduction count over what either has.
        names = dict(zip("xy", args, strict=False))
        if weighted:
            whole = 0
            for i in args:
                whole |= self.steps[i].level
            names["y"] = self.spread(args[1], self.steps[args[1]].level | whole & over)
        return self._lower(_lowering(text), names, over)

    def _lower(self, term: Term, names: Mapping[str, int], over: int) -> int:
        if term.op == NAME:
            return names[str(term.data)]
        if term.op == LITERAL:
            return self._literal(cast(float, term.data))
        return self._apply(term.op, [self._lower(arg, names, over) for arg in term.args], over)

    def _elementwise(self, op: str, args: Sequence[int]) -> int:
        level = 0
        for i in args:
            level |= self.steps[i].level
        ready, repeats = [], []
        for i in args:
            own = self.steps[i].level
            if own not in (level, SAMPLES):  # a row can be repeated, a single number cannot
                i = self.spread(i, SAMPLES if own == NEITHER and level & SAMPLES else level)
                own = self.steps[i].level
            ready.append(i)
            repeats.append(own != level)
        return self._emit(Step(op, tuple(ready), None, level, tuple(repeats), level))

    def _reduce(self, op: str, value: int, over: int) -> int:
        """Over the inner axis first, then over the samples; an axis that is absent counts."""
        for axis, way in ((INNER, "down"), (SAMPLES, "across")):
            if not over & axis:
                continue
            level = self.steps[value].level
            if level & axis:
                value = self._emit(Step(f"{op}:{way}", (value,), None, level & ~axis, (), level))
            elif op == "sum":
                length = self._length(self.layout.inner if axis == INNER else self.layout.samples)
                value = self._elementwise("mul", [value, length])
        return value

    def _emit(self, step: Step) -> int:
        if step not in self._index:
            self._index[step] = len(self.steps)
            self.steps.append(step)
        return self._index[step]


@cache
def _lowering(text: str) -> Term:
    return parse_term(text)
