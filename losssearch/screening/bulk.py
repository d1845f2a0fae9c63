"""What are the values and slopes of many candidates on the same batches, in one call?

Each canonical program becomes a string of calls to fragments (`fragments.py`): its steps forwards, then the
slopes backwards, reverse accumulation as in `losssearch.language.derivative`, but on levels instead of terms.
The strings of all candidates are linked into one instruction table (`links.py`), which the kernel runs, a row
a candidate and batch. Rows do not know each other, so a verdict does not depend on who is judged beside.

A candidate of twenty nodes costs about 40 us to string, and 25 us to run on twelve batches of 12 x 5 numbers.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from losssearch.execution.kernel.assembly import BOTH, NEITHER, SAMPLES, Layout, Refused
from losssearch.execution.kernel.loops import DTYPES, Precision
from losssearch.language.program import Program
from losssearch.language.signature import Signature
from losssearch.language.term import CONSTANT, INPUT, SIZE
from losssearch.screening.fragments import CONSTANTS, INPUTS, REPEATED, RESULTS, Fragments
from losssearch.screening.links import BY_BATCH, BY_CANDIDATE, BY_ROW, CALL, FIXED_ROW, Bound, link

Floats = NDArray[np.floating]
Wholes = NDArray[np.int64]

_PADDING = {1: (0, 0, 0, 0), 2: (0, 0, 0), 3: (0, 0)}
_MOST = 400  # steps and slopes that a candidate may have here


class Found(NamedTuple):
    """Values (candidates, batches) and, by input, slopes (candidates, batches, *axes of the input)."""

    values: Floats
    slopes: Mapping[str, Floats]


class Bulk:
    """Runs candidates of one signature on batches of one shape.

    Args:
        signature: Of the candidates.
        inputs: Name -> (batches, *sizes of the input's axes).
        wrt: Inputs whose slopes are wanted.
        valued: Whether values are wanted too.

    Attributes:
        wrt: Those of them that the kernel can lay out.
    """

    def __init__(
        self,
        signature: Signature,
        inputs: Mapping[str, NDArray[Any]],
        wrt: Sequence[str],
        *,
        valued: bool = True,
    ) -> None:
        self.signature, self.valued = signature, valued
        self.layout, self.refusal = _layout(signature, inputs)
        self.fragments = Fragments(self.layout)
        self.batches = len(next(iter(inputs.values())))
        self._levels = {name: self._level_of(name) for name in signature.inputs}
        self._names = [name for name in inputs if self._levels[name] is not None]
        self._place = {name: INPUTS + k for k, name in enumerate(self._names)}
        self._inputs = inputs
        self._arrays: dict[Precision, list[Floats]] = {}
        self._tables: dict[Precision, Wholes] = {}
        self.wrt = tuple(name for name in wrt if self._levels[name] is not None)

    def _level_of(self, name: str) -> int | None:
        try:
            return self.layout.level(self.signature.inputs[name].axes) or REPEATED
        except Refused:
            return None

    def arrays(self, precision: Precision) -> list[Floats]:
        """The inputs as the kernel reads them."""
        if precision not in self._arrays:
            self._arrays[precision] = [self.laid_out(n, self._inputs[n], precision) for n in self._names]
        return self._arrays[precision]

    def laid_out(self, name: str, value: NDArray[Any], precision: Precision) -> Floats:
        """One input as the kernel reads it: samples innermost, one number as often as there are samples."""
        laid: Floats = np.asarray(value, DTYPES[precision])
        if self._levels[name] == BOTH:
            laid = laid.swapaxes(1, 2) if self._swaps else laid
        elif self._levels[name] == REPEATED:
            laid = np.repeat(laid.reshape(-1, 1), self.layout.sizes[self.layout.samples], axis=1)
        return np.ascontiguousarray(laid)

    def read_back(self, name: str, value: Floats) -> Floats:
        """`laid_out` undone, for an input over samples."""
        swaps = self._levels[name] == BOTH and self._swaps
        return np.ascontiguousarray(value.swapaxes(1, 2)) if swaps else value

    @property
    def _swaps(self) -> bool:
        axes = self.signature.axes
        return axes.index(self.layout.samples) < axes.index(self.layout.inner)

    # Strings.

    def string(self, program: Program) -> array[int]:
        """Calls of fragments: fragment, x, y, z, value, slope, result; seven numbers a call.

        Raises:
            Refused: The kernel cannot run it.
        """
        if self.refusal:
            raise Refused(self.refusal)
        calls = array("q")
        fragments = self.fragments
        operand: list[int] = []
        level: list[int] = []
        reached: list[bool] = []  # by an input whose slope is wanted
        constants = 0
        for op, args, data, _, _ in program.instructions:
            if args:
                fragment, found = fragments.forward(op, tuple([level[i] for i in args]), data)
                calls.extend((fragment, *[operand[i] for i in args], *_PADDING[len(args)], len(operand)))
                operand.append(len(operand))
                level.append(found)
                reached.append(True in [reached[i] for i in args])
                continue
            reached.append(op == INPUT and data in self.wrt)
            level.append(REPEATED)
            if op == INPUT:
                level[-1] = self._levels[cast(str, data)] or 0
                operand.append(self._place.get(cast(str, data), -1))
                if operand[-1] < 0:
                    raise Refused(f"input {data!r} has axes that the kernel lacks")
            elif op == CONSTANT:
                operand.append(CONSTANTS + constants)
                constants += 1
            elif op == SIZE:
                if data not in self.layout.sizes:
                    raise Refused(f"the size of {data!r} is unknown to the kernel")
                operand.append(fragments.literal(float(self.layout.sizes[cast(str, data)])))
            else:
                operand.append(fragments.literal(cast(float, data)))
        root = program.outputs[-1]
        if self.valued:
            self._put(calls, operand[root], level[root], NEITHER, 0)
        self._backwards(program, calls, operand, level, reached)
        return calls

    def _backwards(
        self, program: Program, calls: array[int], operand: list[int], level: list[int], reached: list[bool]
    ) -> None:
        fragments = self.fragments
        root, free = program.outputs[-1], len(operand)
        slope: dict[int, tuple[int, int]] = {root: (fragments.literal(1.0), REPEATED)}
        for i in range(root, -1, -1):
            if i not in slope or not reached[i]:
                continue
            op, args, data, _, _ = program.instructions[i]
            if not args:
                continue
            g, g_level = slope[i]
            given = tuple([level[j] for j in args])
            places = [*[operand[j] for j in args], 0, 0][:3]
            for place, j in enumerate(args):
                if not reached[j]:
                    continue
                found = fragments.backward(op, given, data, level[i], g_level, place)
                if found is None:
                    continue
                fragment, part = found
                calls.extend((fragment, *places, operand[i], g, free))
                if j in slope:
                    before, before_level = slope[j]
                    fragment, part = fragments.forward("add", (before_level, part), None)
                    calls.extend((fragment, before, free, 0, 0, 0, free + 1))
                    free += 1
                slope[j] = (free, part)
                free += 1
        if free > _MOST:
            raise Refused("it is too long")
        for number, name in enumerate(self.wrt):
            found_at = (fragments.literal(0.0), REPEATED)
            for i, step in enumerate(program.instructions):
                if step.op == INPUT and step.data == name:
                    found_at = slope.get(i, found_at)
            self._put(calls, *found_at, self._result_level(name), number + self.valued)

    def _put(self, calls: array[int], place: int, level: int, wanted: int, number: int) -> None:
        fragment, _ = self.fragments.spread(level, wanted)
        calls.extend((fragment, place, 0, 0, 0, 0, RESULTS + number))

    # Runs.

    def run(
        self,
        strings: Sequence[array[int]],
        constants: Sequence[Sequence[float]],
        precision: Precision,
        batches: Wholes | None = None,
    ) -> Found:
        """Values and slopes of candidates on the batches.

        Args:
            strings: One a candidate.
            constants: Their values, in order of use.
            precision: "single" or "double".
            batches: Which of the batches; None for all.
        """
        chosen = np.arange(self.batches) if batches is None else batches
        bound = self.bind(strings, constants, precision, chosen)
        bound.run()
        count = len(strings)
        shaped = [r.reshape(count, len(chosen), *r.shape[1:]) for r in bound.results]
        values = shaped[0] if self.valued else np.zeros((count, 0), DTYPES[precision])
        slopes = {
            name: found.swapaxes(2, 3) if found.ndim == 4 and self._swaps else found
            for name, found in zip(self.wrt, shaped[self.valued :], strict=True)
        }
        return Found(values, slopes)

    def bind(
        self,
        strings: Sequence[array[int]],
        constants: Sequence[Sequence[float]],
        precision: Precision,
        batches: Wholes,
        own: Mapping[str, Floats] | None = None,
    ) -> Bound:
        """Candidates, constants and batches as one table, ready to run; a row each, batches run fastest.

        Args:
            strings, constants, precision, batches: As for `run`; a batch may be named twice.
            own: Inputs, laid out, that have a row for every row here, or one for all; they may be changed in
                place between runs.
        """
        calls = np.frombuffer(b"".join([s.tobytes() for s in strings]), np.int64).reshape(-1, CALL)
        starts = np.zeros(len(strings) + 1, np.int64)
        np.cumsum([len(s) // CALL for s in strings], out=starts[1:])
        table = self._tables.get(precision)
        if table is None or len(table) != self.fragments.spans[-1][1]:
            table = self._tables[precision] = np.array(self.fragments.table(precision), np.int64)
        dtype, samples = np.dtype(DTYPES[precision]), self.layout.sizes[self.layout.samples]
        pool = np.zeros((len(strings), max([len(c) for c in constants], default=0), samples), dtype)
        for k, numbers in enumerate(constants):
            pool[k, : len(numbers)] = np.array(numbers)[:, None]
        literals = np.repeat(np.array(list(self.fragments.literals), dtype)[:, None], samples, axis=1)
        shapes = [self._shape(level) for level in self._result_levels()]
        results: list[Floats] = [np.zeros((len(strings) * len(batches), *shape), dtype) for shape in shapes]
        tile = self.layout.numbers(BOTH if self.layout.inner else SAMPLES) * dtype.itemsize
        kinds = [
            [(literal, FIXED_ROW) for literal in literals],
            [(pool[:, j], BY_CANDIDATE) for j in range(pool.shape[1])],
            [
                (own[name], BY_ROW) if own and name in own else (laid, BY_BATCH)
                for name, laid in zip(self._names, self.arrays(precision), strict=True)
            ],
            [(result, BY_ROW) for result in results],
        ]
        spans = np.array(self.fragments.spans, np.int64)
        return Bound(*link(calls, starts, table, spans), kinds, batches, tile, results)

    def _result_levels(self) -> list[int]:
        return [NEITHER] * self.valued + [self._result_level(name) for name in self.wrt]

    def _result_level(self, name: str) -> int:
        return (self._levels[name] or 0) & ~REPEATED

    def _shape(self, level: int) -> tuple[int, ...]:
        names = [self.layout.inner] * (level >> 1) + [self.layout.samples] * (level & 1)
        return tuple(self.layout.sizes[name] for name in names)


def _layout(signature: Signature, inputs: Mapping[str, NDArray[Any]]) -> tuple[Layout, str]:
    """Samples and at most one more axis; and why the kernel cannot serve the signature, if so."""
    sizes: dict[str, int] = {}
    for name, value in inputs.items():
        sizes |= dict(zip(signature.inputs[name].axes, value.shape[1:], strict=True))
    axes = [a for a in signature.axes if a in sizes and a not in signature.copies]
    predicted = signature.inputs[signature.predictions[0]].axes
    inner = next((a for a in axes[1:] if a in predicted), "")
    fits = bool(axes) and set(predicted) <= {axes[0], inner}
    refusal = "" if fits else f"predictions over {' '.join(predicted)} do not fit the kernel"
    return Layout(axes[0], inner, {a: sizes[a] for a in (axes[0], inner) if a}), refusal
