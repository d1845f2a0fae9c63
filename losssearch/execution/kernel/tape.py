"""What do K losses give on R rows? Value, gradient, whatever their programs compute, in one call.

A `Tape` holds programs as one instruction table for one shape of data; `bind` says which program runs on
which row, on which rows of the inputs and with which constants; `run` does it. Samples lie innermost in
memory: an input over (samples, classes) is given as (its rows, classes, samples).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from losssearch.errors import UsageError
from losssearch.execution.kernel.assembly import Assembler, Layout, Refused, Step
from losssearch.execution.kernel.interpreter import Whole, run_rows
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
        self.spans = np.zeros((len(programs), 2), np.int64)
        for k, program in enumerate(programs):
            first = len(self._code)
            try:
                self._add(program)
            except Refused as reason:
                self.refused[k] = str(reason)
            self.spans[k] = first, len(self._code)
        fixed = len(self.operands.offsets)
        self.code = np.array(self._code, np.int64).reshape(-1, 10)
        places = self.code[:, 1:5]
        places[places < 0] = fixed - 1 - places[places < 0]
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
        self._code.append([address(step.opcode, self.precision), out, *args, rows, size, *jumps])

    def bind(
        self,
        programs: NDArray[np.integer],
        *,
        which: Mapping[str, NDArray[np.integer]] | None = None,
        into: NDArray[np.integer] | None = None,
        constants: Sequence[Mapping[str, float]] | None = None,
        scales: NDArray[np.floating] | None = None,
    ) -> Bound:
        """Ready for any data of this shape.

        Args:
            programs: (R,) the program of each row; none may be refused.
            which: Input -> (R,) the row of it that each row reads; an input that is not named gives
                each row its own.
            into: (R,) the row of the outputs that each row writes; None means its own.
            constants: Values by name for each row; missing ones, or None: the program's own.
            scales: (R,) factors of the outputs, for a scaled tape.

        Raises:
            UsageError: A program is refused, or an index has the wrong shape.
        """
        return Bound(self, np.asarray(programs, np.int64), which or {}, into, constants, scales)


class Bound:
    """A tape with its rows, see `Tape.bind`."""

    def __init__(
        self,
        tape: Tape,
        programs: Whole,
        which: Mapping[str, NDArray[np.integer]],
        into: NDArray[np.integer] | None,
        constants: Sequence[Mapping[str, float]] | None,
        scales: NDArray[np.floating] | None,
    ) -> None:
        used = {int(k) for k in np.unique(programs)}
        if not used <= set(range(len(tape.programs))) - set(tape.refused):
            raise UsageError(f"programs {sorted(used & set(tape.refused))} are refused: see `Tape.refused`")
        self.tape, self.programs, self.rows = tape, programs, len(programs)
        operands = tape.operands
        # Which row of a tensor each row reads: a line a map, the first "its own".
        own = np.arange(self.rows)
        lines = [own, *which.values(), own if into is None else into]
        self._maps = np.array(lines, np.int64).reshape(len(lines), self.rows)
        self._line = {name: 1 + i for i, name in enumerate(which)}
        self._written = len(lines) - 1
        self._constants = self._pool(constants)
        self._scales = (
            np.ones(self.rows, tape.dtype) if scales is None else np.ascontiguousarray(scales, tape.dtype)
        )
        self._fixed = len(operands.offsets)
        count = self._fixed + len(operands.moving)
        self._base, self._stride = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._which = np.zeros(count, np.int64)
        self._base[: self._fixed] = operands.offsets
        for (kind, name), negative in operands.moving.items():
            o = self._fixed - 1 - negative
            if kind == CONSTANT:
                self._base[o] = self._constants.ctypes.data + int(name) * tape.dtype.itemsize
                self._stride[o] = self._constants.strides[0]
            elif kind == SCALE:
                self._base[o], self._stride[o] = self._scales.ctypes.data, tape.dtype.itemsize
            else:
                self._which[o] = self._written if kind == OUTPUT else self._line.get(str(name), 0)
        self._spaces: list[NDArray[np.uint8]] = []

    def _pool(self, given: Sequence[Mapping[str, float]] | None) -> NDArray[np.floating]:
        programs = self.tape.programs
        width = max([len(p.constants) for p in programs], default=0)
        pool = np.zeros((self.rows, max(width, 1)), self.tape.dtype)
        for r, k in enumerate(self.programs):
            own = {} if given is None else given[r]
            for j, constant in enumerate(programs[k].constants):
                pool[r, j] = own.get(constant.name, constant.value)
        return pool

    def run(
        self,
        inputs: Mapping[str, NDArray[np.floating]],
        outputs: Sequence[NDArray[np.floating]] | None = None,
        *,
        threads: int = 1,
    ) -> list[NDArray[np.floating]]:
        """One array an output, (R, *inner axis, *samples).

        Args:
            inputs: By name, (its rows, *inner axis, *samples), each row contiguous; what is the same
                for every row has one.
            outputs: Where to write; None makes new arrays.
            threads: Share the rows; the results are the same for any number.

        Raises:
            UsageError: An input is missing, or has another shape or type than the tape was made for.
        """
        tape, signature = self.tape, self.tape.programs[0].signature
        height = self._height(self._written)
        if outputs is None:
            outputs = [np.zeros((height, *self._shape(level)), tape.dtype) for level in tape.levels]
        results = list(outputs)
        for (kind, name), negative in tape.operands.moving.items():
            o = self._fixed - 1 - negative
            if kind == INPUT:
                if name not in inputs:
                    raise UsageError(f"The losses read the input {name!r}, which was not given.")
                level = tape.layout.level(signature.inputs[str(name)].axes)
                self._place(o, inputs[str(name)], f"input {name!r}", level, shared=True)
            elif kind == OUTPUT:
                self._place(o, results[int(name)], f"output {name}", tape.levels[int(name)], shared=False)
        if threads == 1:
            self._run(0, 0, self.rows)
        else:
            cuts = np.linspace(0, self.rows, threads + 1).astype(int)
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(self._run, range(threads), cuts[:-1], cuts[1:]))
        return results

    def _run(self, thread: int, first: int, last: int) -> None:
        tape = self.tape
        run_rows(
            first, last, self.programs, tape.spans, tape.code, self._fixed, self._base, self._stride,
            self._maps, self._which, self._workspace(thread),
        )  # fmt: skip

    def _workspace(self, thread: int) -> int:
        """Address of a thread's own workspace, literals filled in."""
        operands, tape = self.tape.operands, self.tape
        while thread >= len(self._spaces):
            self._spaces.append(np.zeros(operands.size + ALIGN, np.uint8))
        space = self._spaces[thread]
        start = -space.ctypes.data % ALIGN
        for value, place in operands.literals.items():
            at = start + operands.offsets[place]
            space[at : at + tape.dtype.itemsize].view(tape.dtype)[0] = value
        return int(space.ctypes.data + start)

    def _shape(self, level: int) -> tuple[int, ...]:
        layout = self.tape.layout
        names = [layout.inner] * (level >> 1) + [layout.samples] * (level & 1)
        return tuple(layout.sizes[name] for name in names)

    def _height(self, line: int) -> int:
        """Rows that a tensor must have to be read or written by this map."""
        return int(self._maps[line].max(initial=-1)) + 1

    def _place(self, o: int, array: NDArray[np.floating], name: str, level: int, shared: bool) -> None:
        """Note where an array lies. Addresses are used as they are, so what does not fit must stop here."""
        shape, item = self._shape(level), self.tape.dtype
        if array.dtype != item or array.shape[1:] != shape:
            raise UsageError(
                f"The {name} must be (rows, {', '.join(map(str, shape))}) of {item}, "
                f"but is {array.shape} of {array.dtype}."
            )
        if len(array) and not array[0].flags.c_contiguous:
            raise UsageError(f"Each row of the {name} must be contiguous.")
        alone = shared and len(array) == 1
        needed = 1 if alone else self._height(self._which[o])
        if len(array) < needed:
            raise UsageError(f"The {name} has {len(array)} rows, but {needed} are used.")
        self._base[o] = array.ctypes.data
        self._stride[o] = 0 if alone else array.strides[0]
