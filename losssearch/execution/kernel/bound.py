"""What do K losses give on R rows? Value, gradient, whatever their programs compute, in one call.

A tape, bound to rows: which program runs on which row, on which rows of the inputs and with which constants.
Samples lie innermost in memory: an input over (samples, classes) is given as (its rows, classes, samples).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from losssearch.errors import UsageError
from losssearch.execution.kernel.interpreter import run_rows
from losssearch.execution.kernel.tape import ALIGN, OUTPUT, SCALE, Tape
from losssearch.language.term import CONSTANT, INPUT

Given = TypeVar("Given")


class Binding:
    """A tape with its rows; knows no processor.

    Args:
        tape: The programs.
        programs: (R,) the program of each row; none may be refused.
        which: Input -> (R,) the row of it that each row reads; an input that is not named gives each row
            its own.
        into: (R,) the row of the outputs that each row writes; None means its own.
        constants: Values by name for each row; missing ones, or None: the program's own.
        scales: (R,) factors of the outputs, for a scaled tape.

    Attributes:
        maps: Row of a tensor -> row here, a line a kind; the first is "its own".
        which: For each operand its line in `maps`.
        constants: (R, most constants of a program).

    Raises:
        UsageError: A program is refused, or an index has the wrong shape.
    """

    def __init__(
        self,
        tape: Tape,
        programs: NDArray[np.integer],
        *,
        which: Mapping[str, NDArray[np.integer]] | None = None,
        into: NDArray[np.integer] | None = None,
        constants: Sequence[Mapping[str, float]] | None = None,
        scales: NDArray[np.floating] | None = None,
    ) -> None:
        self.tape, self.programs, self.rows = tape, np.asarray(programs, np.int64), len(programs)
        used = {int(k) for k in np.unique(self.programs)}
        if not used <= set(range(len(tape.programs))) - set(tape.refused):
            raise UsageError(f"programs {sorted(used & set(tape.refused))} are refused: see `Tape.refused`")
        chosen = which or {}
        own = np.arange(self.rows)
        lines = [own, *chosen.values(), own if into is None else into]
        self.maps = np.array(lines, np.int64).reshape(len(lines), self.rows)
        self.constants = self._pool(constants)
        self.scales = (
            np.ones(self.rows, tape.dtype) if scales is None else np.ascontiguousarray(scales, tape.dtype)
        )
        self.which = np.zeros(tape.fixed + len(tape.operands.moving), np.int64)
        line = {name: 1 + i for i, name in enumerate(chosen)}
        for kind, name, o in self.moving():
            if kind in (INPUT, OUTPUT):
                self.which[o] = len(lines) - 1 if kind == OUTPUT else line.get(str(name), 0)

    def moving(self) -> Iterator[tuple[str, str | int, int]]:
        """Kind, name and number of every operand that lies elsewhere on every row."""
        for (kind, name), negative in self.tape.operands.moving.items():
            yield kind, name, self.tape.place(negative)

    def _pool(self, given: Sequence[Mapping[str, float]] | None) -> NDArray[np.floating]:
        programs = self.tape.programs
        width = max([len(p.constants) for p in programs], default=0)
        pool = np.zeros((self.rows, max(width, 1)), self.tape.dtype)
        for r, k in enumerate(self.programs):
            own = {} if given is None else given[r]
            for j, constant in enumerate(programs[k].constants):
                pool[r, j] = own.get(constant.name, constant.value)
        return pool

    def level(self, kind: str, name: str | int) -> int:
        """Over which axes an input or an output lies."""
        tape = self.tape
        if kind == OUTPUT:
            return tape.levels[int(name)]
        return tape.layout.level(tape.programs[0].signature.inputs[str(name)].axes)

    def shape(self, level: int) -> tuple[int, ...]:
        """Of one row of a tensor."""
        layout = self.tape.layout
        names = [layout.inner] * (level >> 1) + [layout.samples] * (level & 1)
        return tuple(layout.sizes[name] for name in names)

    def height(self, line: int) -> int:
        """Rows that a tensor must have to be read or written by this map."""
        return int(self.maps[line].max(initial=-1)) + 1

    def alone(self, o: int, kind: str, name: str | int, shape: Sequence[int]) -> bool:
        """Whether an input has one row for all.

        Raises:
            UsageError: The tensor's shape does not fit. Addresses are used as they are: it must stop here.
        """
        wanted = self.shape(self.level(kind, name))
        if tuple(shape[1:]) != wanted:
            rows = ", ".join(map(str, ("rows", *wanted)))
            raise UsageError(f"The {kind} {name!r} must be ({rows}), but is {tuple(shape)}.")
        alone = kind == INPUT and shape[0] == 1
        needed = 1 if alone else self.height(int(self.which[o]))
        if shape[0] < needed:
            raise UsageError(f"The {kind} {name!r} has {shape[0]} rows, but {needed} are used.")
        return alone

    @staticmethod
    def given(inputs: Mapping[str, Given], name: str | int) -> Given:
        """An input.

        Raises:
            UsageError: It is missing.
        """
        if name not in inputs:
            raise UsageError(f"The losses read the input {name!r}, which was not given.")
        return inputs[str(name)]


class Bound(Binding):
    """Rows that run here, by compiled loops; see `Binding`."""

    def __init__(self, tape: Tape, programs: NDArray[np.integer], **rows: Any) -> None:
        super().__init__(tape, programs, **rows)
        count, item = len(self.which), tape.dtype.itemsize
        self._base, self._stride = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._base[: tape.fixed] = tape.operands.offsets
        for kind, name, o in self.moving():
            if kind == CONSTANT:
                self._base[o] = self.constants.ctypes.data + int(name) * item
                self._stride[o] = self.constants.strides[0]
            elif kind == SCALE:
                self._base[o], self._stride[o] = self.scales.ctypes.data, item
        self._spaces: list[NDArray[np.uint8]] = []

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
        tape = self.tape
        if outputs is None:
            height = self.height(-1)
            outputs = [np.zeros((height, *self.shape(level)), tape.dtype) for level in tape.levels]
        results = list(outputs)
        for kind, name, o in self.moving():
            if kind in (INPUT, OUTPUT):
                array = results[int(name)] if kind == OUTPUT else self.given(inputs, name)
                alone = self.alone(o, kind, name, array.shape)
                if array.dtype != tape.dtype or (len(array) and not array[0].flags.c_contiguous):
                    raise UsageError(
                        f"The {kind} {name!r} must be of {tape.dtype} with contiguous rows, but is of "
                        f"{array.dtype} with strides {array.strides}."
                    )
                self._base[o] = array.ctypes.data
                self._stride[o] = 0 if alone else array.strides[0]
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
            first, last, self.programs, tape.spans, tape.loops, tape.fixed, self._base, self._stride,
            self.maps, self.which, self._workspace(thread),
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
