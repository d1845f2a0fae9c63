"""K programs as one instruction table, for one shape of data.

Knows no processor: the first column of the table numbers opcodes, operands are numbered places. `bound.py`
runs it here, `gpu.py` on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from losssearch.execution.kernel.assembly import Assembler, Layout, Refused, Step
from losssearch.execution.kernel.interpreter import LOOP, Whole
from losssearch.execution.kernel.loops import DTYPES, Precision, address
from losssearch.language.program import Program
from losssearch.language.term import CONSTANT, INPUT, LITERAL

OUTPUT, SCALE = "output", "scale"
ALIGN = 64  # bytes: a cache line, and the widest register


class Operands:
    """Where values lie: in the workspace (numbered from 0), or somewhere else on every row (from -1 down).

    Args:
        itemsize: Bytes a number.
    """

    def __init__(self, itemsize: int) -> None:
        self.itemsize = itemsize
        self.offsets: list[int] = []
        self.size = 0  # bytes of the workspace
        self.literals: dict[float, int] = {}
        self.moving: dict[tuple[str, str | int], int] = {}

    def reserve(self, numbers: int) -> int:
        """A new place in the workspace."""
        self.offsets.append(self.size)
        self.size += -(-numbers * self.itemsize // ALIGN) * ALIGN
        return len(self.offsets) - 1

    def literal(self, value: float) -> int:
        if value not in self.literals:
            self.literals[value] = self.reserve(1)
        return self.literals[value]

    def elsewhere(self, kind: str, name: str | int) -> int:
        """An input, a constant, the scale or an output."""
        return self.moving.setdefault((kind, name), -1 - len(self.moving))


class Tape:
    """Programs as one instruction table.

    Args:
        programs: Canonical, over one signature, each with as many outputs as `outputs`.
        outputs: The axes over which each output is laid out.
        layout: Axes and their sizes.
        precision: "single" or "double".
        scaled: Whether the outputs are multiplied by a number a row, see `bind`.

    Attributes:
        refused: Index of a program that the kernel cannot run -> why.
        inputs: Names of the inputs that some program reads.
        opcodes: What the first column of `code` numbers, see `loops.address`.
        code: Instructions, see `interpreter`; operands below `fixed` lie in the workspace.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        outputs: Sequence[Sequence[str]],
        layout: Layout,
        precision: Precision = "single",
        *,
        scaled: bool = False,
    ) -> None:
        self.programs, self.layout, self.precision, self.scaled = programs, layout, precision, scaled
        self.dtype = np.dtype(DTYPES[precision])
        self.levels = [layout.level(axes) for axes in outputs]
        self.refused: dict[int, str] = {}
        self.operands = Operands(self.dtype.itemsize)
        self._slots: list[list[int]] = [[] for _ in range(4)]  # by level: its workspace operands
        self._scratch = self.operands.reserve(max(layout.sizes.values()))
        self._code: list[list[int]] = []
        self._numbers: dict[str, int] = {}
        self.spans = np.zeros((len(programs), 2), np.int64)
        for k, program in enumerate(programs):
            first = len(self._code)
            try:
                self._add(program)
            except Refused as reason:
                self.refused[k] = str(reason)
            self.spans[k] = first, len(self._code)
        self.fixed = len(self.operands.offsets)
        self.code = np.array(self._code, np.int64).reshape(-1, 10)
        places = self.code[:, 1:5]
        places[places < 0] = self.fixed - 1 - places[places < 0]
        self.opcodes = tuple(self._numbers)
        self.inputs = tuple(str(name) for kind, name in self.operands.moving if kind == INPUT)

    def _add(self, program: Program) -> None:
        """Instructions of one program; a slot is free again when its last reader has run."""
        assembler = Assembler(self.layout)
        ends = assembler.add(program, self.levels)
        if self.scaled:
            ends = [assembler.multiply(end, SCALE) for end in ends]
        steps = assembler.steps
        names = {c.name: j for j, c in enumerate(program.constants)}
        last = {i: position for position, step in enumerate(steps) for i in step.args}
        free = [list(reversed(slots)) for slots in self._slots]
        place: list[int] = []
        for position, step in enumerate(steps):
            if step.opcode == INPUT:
                place.append(self.operands.elsewhere(INPUT, str(step.data)))
            elif step.opcode == LITERAL:
                place.append(self.operands.literal(float(step.data or 0.0)))
            elif step.opcode == CONSTANT:
                kind, name = (SCALE, 0) if step.data == SCALE else (CONSTANT, names[str(step.data)])
                place.append(self.operands.elsewhere(kind, name))
            elif position in ends:
                place.append(self.operands.elsewhere(OUTPUT, ends.index(position)))
            else:
                if not free[step.level]:
                    self._slots[step.level].append(self.operands.reserve(self.layout.numbers(step.level)))
                    free[step.level].append(self._slots[step.level][-1])
                place.append(free[step.level].pop())
            if step.args:
                self._emit(step, place[position], [place[i] for i in step.args])
            for i in set(step.args):
                if last[i] == position and place[i] in self._slots[steps[i].level]:
                    free[steps[i].level].append(place[i])
        for number, end in enumerate(ends):
            result = self.operands.elsewhere(OUTPUT, number)
            if place[end] != result:  # an input, a literal, or the same as an earlier output
                level = steps[end].level
                self._emit(Step("copy", (end,), None, level, (False,), level), result, [place[end]])

    def _emit(self, step: Step, out: int, args: list[int]) -> None:
        rows, size = self.layout.extents(step.over)
        jumps = [0, 0, 0]  # from one row of an argument to the next
        if step.opcode == "spread":
            jumps[0] = 0 if step.repeats[0] else 1
        elif step.opcode.endswith(":across"):
            args = [*args, self._scratch]
        elif True in step.repeats:
            jumps = [0 if repeated else size for repeated in step.repeats]
        elif ":" not in step.opcode:
            rows, size = 1, rows * size
        args = [*args, *[args[0]] * (3 - len(args))]
        jumps = [*jumps, *[0] * (3 - len(jumps))]
        number = self._numbers.setdefault(step.opcode, len(self._numbers))
        self._code.append([number, out, *args, rows, size, *jumps])

    def place(self, negative: int) -> int:
        """The number in `code` of an operand that lies elsewhere."""
        return self.fixed - 1 - negative

    @cached_property
    def loops(self) -> Whole:
        """`code` with the addresses of compiled loops in the first column."""
        code = self.code.copy()
        addresses = np.array([address(opcode, self.precision) for opcode in self.opcodes], np.int64)
        code[:, LOOP] = addresses[code[:, LOOP]]
        return code
