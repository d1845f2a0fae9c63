"""What are the values and slopes of many candidates on the same batches, in one call?

Each canonical program becomes a string of calls to fragments (`fragments.py`): its steps forwards, then the
slopes backwards, reverse accumulation as in `losssearch.language.derivative`, but on levels instead of terms.
The strings of all candidates are linked into one instruction table (`links.py`), which the kernel runs, a row
a candidate and batch. Rows do not know each other, so a verdict does not depend on who is judged beside. A
string is made once a candidate, and runs on batches of any size.

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
from losssearch.screening.fragments import CONSTANTS, INPUTS, REPEATED, RESULTS, fragments_over
from losssearch.screening.links import BY_BATCH, BY_CANDIDATE, BY_ROW, CALL, FIXED_ROW, Bound, link

Floats = NDArray[np.floating]
Wholes = NDArray[np.int64]

_PADDING = {1: (0, 0), 2: (0,), 3: ()}
_TERMINAL = (-1, ())
_MOST = 400  # steps and slopes that a candidate may have here


class String(NamedTuple):
    """A candidate as calls of fragments.

    Args:
        calls: Fragment, x, y, z, value, slope, result; seven numbers a call. Result 0 is the value, the
            others are the slopes in the signature's differentiable inputs.
        numbers: Its constants and literals, in order of use.
    """

    calls: array[int]
    numbers: list[float]


class Found(NamedTuple):
    """Values (candidates, batches) and, by input, slopes (candidates, batches, *axes of the input)."""

    values: Floats
    slopes: Mapping[str, Floats]


class Bulk:
    """Runs candidates of one signature on batches of one shape.

    Args:
        signature: Of the candidates.
        inputs: Name -> (batches, *sizes of the input's axes).

    Attributes:
        wrt: The differentiable inputs that the kernel can lay out.
    """

    def __init__(self, signature: Signature, inputs: Mapping[str, NDArray[Any]]) -> None:
        self.signature = signature
        self.layout, self.refusal = _layout(signature, inputs)
        self.fragments = fragments_over(self.layout.samples, self.layout.inner)
        self.batches = len(next(iter(inputs.values())))
        self._levels = {name: self._level_of(name) for name in signature.inputs}
        self._names = [name for name in inputs if self._levels[name] is not None]
        self._place = {name: INPUTS + k for k, name in enumerate(self._names)}
        self._inputs = inputs
        self._arrays: dict[Precision, list[Floats]] = {}
        self._tables: dict[Precision, Wholes] = {}
        self.wrt = tuple(name for name in signature.differentiable if self._levels[name] is not None)

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

    def string(self, program: Program) -> String:
        """The calls for the value of a canonical program and its slopes; for every `Bulk` of its signature.

        Raises:
            Refused: The kernel cannot run it.
        """
        if self.refusal:
            raise Refused(self.refusal)
        fragments = self.fragments
        calls: list[int] = []
        made: list[tuple[int, tuple[int, ...]]] = []  # the fragment of each step, and its operands
        operand: list[int] = []
        level: list[int] = []
        reached: list[bool] = []  # by an input whose slope is wanted
        steps = dict.fromkeys(self.wrt, -1)
        constants = iter(program.constants)
        numbers: list[float] = []
        operand_of, level_of, is_reached = operand.__getitem__, level.__getitem__, reached.__getitem__
        for step, (op, args, data, _, _) in enumerate(program.instructions):
            if args:
                fragment, found = fragments.forward(op, tuple(map(level_of, args)), data)
                places = (*map(operand_of, args), *_PADDING[len(args)])
                made.append((fragment, places))
                calls += (fragment, *places, 0, 0, step)
                operand.append(step)
                level.append(found)
                reached.append(any(map(is_reached, args)))
                continue
            made.append(_TERMINAL)
            reached.append(op == INPUT and data in steps)
            level.append(REPEATED)
            if op == INPUT:
                name = cast(str, data)
                level[-1] = self._levels[name] or 0
                operand.append(self._place.get(name, -1))
                if operand[-1] < 0:
                    raise Refused(f"input {data!r} has axes that the kernel lacks")
                if name in steps:
                    steps[name] = step
            elif op == SIZE:
                if data not in self.layout.sizes:
                    raise Refused(f"the size of {data!r} is unknown to the kernel")
                operand.append(fragments.literal(cast(str, data)))
            else:
                operand.append(CONSTANTS + len(numbers))
                numbers.append(next(constants).value if op == CONSTANT else cast(float, data))
        root = program.outputs[-1]
        self._put(calls, operand[root], level[root], NEITHER, 0)
        slope = self._backwards(program, calls, made, operand, reached)
        nothing = (fragments.literal(0.0), REPEATED)
        for number, (name, step) in enumerate(steps.items(), 1):
            self._put(calls, *slope.get(step, nothing), self._result_level(name), number)
        return String(array("q", calls), numbers)

    def _backwards(
        self,
        program: Program,
        calls: list[int],
        made: Sequence[tuple[int, tuple[int, ...]]],
        operand: Sequence[int],
        reached: Sequence[bool],
    ) -> Mapping[int, tuple[int, int]]:
        """Add the calls for slopes; gives operand and level of the slope in each step that is reached."""
        fragments = self.fragments
        root, free = program.outputs[-1], len(operand)
        slope: dict[int, tuple[int, int]] = {root: (fragments.literal(1.0), REPEATED)}
        for i in range(root, -1, -1):
            if i not in slope or not reached[i]:
                continue
            forward, places = made[i]
            g, g_level = slope[i]
            for place, j in enumerate(program.instructions[i].args):
                found = fragments.backward(forward, g_level, place) if reached[j] else None
                if found is None:
                    continue
                fragment, part = found
                calls += (fragment, *places, operand[i], g, free)
                if j in slope:
                    before, before_level = slope[j]
                    fragment, part = fragments.forward("add", (before_level, part), None)
                    calls += (fragment, before, free, 0, 0, 0, free + 1)
                    free += 1
                slope[j] = (free, part)
                free += 1
        if free > _MOST:
            raise Refused("it is too long")
        return slope

    def _put(self, calls: list[int], place: int, level: int, wanted: int, number: int) -> None:
        fragment, _ = self.fragments.spread(level, wanted)
        calls += (fragment, place, 0, 0, 0, 0, RESULTS + number)

    # Runs.

    def run(
        self,
        strings: Sequence[String],
        precision: Precision,
        batches: Wholes | None = None,
        *,
        valued: bool = True,
        wrt: Sequence[str] | None = None,
    ) -> Found:
        """Values and slopes of candidates on the batches.

        Args:
            strings: One a candidate.
            precision: "single" or "double".
            batches: Which of the batches; None for all.
            valued: Whether values are wanted.
            wrt: Inputs whose slopes are wanted; None for all.
        """
        chosen = np.arange(self.batches) if batches is None else batches
        names = self.wrt if wrt is None else wrt
        bound = self.bind(strings, precision, chosen, valued=valued, wrt=names)
        bound.run()
        count = len(strings)
        shaped = [r.reshape(count, len(chosen), *r.shape[1:]) for r in bound.results]
        values = shaped[0] if valued else np.zeros((count, 0), DTYPES[precision])
        slopes = {
            name: found.swapaxes(2, 3) if found.ndim == 4 and self._swaps else found
            for name, found in zip(names, shaped[valued:], strict=True)
        }
        return Found(values, slopes)

    def bind(
        self,
        strings: Sequence[String],
        precision: Precision,
        batches: Wholes,
        *,
        valued: bool,
        wrt: Sequence[str],
        own: Mapping[str, Floats] | None = None,
    ) -> Bound:
        """Candidates and batches as one table, ready to run; a row each, batches run fastest.

        Args:
            strings, precision, batches, valued, wrt: As for `run`; a batch may be named twice.
            own: Inputs, laid out, that have a row for every row here, or one for all; they may be changed in
                place between runs.
        """
        calls = np.frombuffer(b"".join([s.calls for s in strings]), np.int64).reshape(-1, CALL)
        starts = np.zeros(len(strings) + 1, np.int64)
        np.cumsum([len(s.calls) // CALL for s in strings], out=starts[1:])
        dtype, samples = np.dtype(DTYPES[precision]), self.layout.sizes[self.layout.samples]
        numbers = np.zeros((len(strings), max([len(s.numbers) for s in strings], default=0)), dtype)
        for k, string in enumerate(strings):
            numbers[k, : len(string.numbers)] = string.numbers
        pool = np.repeat(numbers[:, :, None], samples, axis=2)
        literals = np.repeat(np.array(self.fragments.literals(self.layout), dtype)[:, None], samples, axis=1)
        levels = [NEITHER] * valued + [self._result_level(name) for name in wrt]
        results: list[Floats] = [
            np.zeros((len(strings) * len(batches), *self._shape(level)), dtype) for level in levels
        ]
        places = np.full(1 + len(self.wrt), -1, np.int64)
        places[[0] * valued + [1 + self.wrt.index(name) for name in wrt]] = np.arange(len(results))
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
        linked = link(calls, starts, self._table(precision), spans, places)
        return Bound(*linked, kinds, batches, tile, results)

    def _table(self, precision: Precision) -> Wholes:
        """The rows of all fragments, as far as there are some by now."""
        known = [self._tables[precision]] if precision in self._tables else []
        if more := self.fragments.table(self.layout, precision, sum(len(rows) for rows in known)):
            self._tables[precision] = np.concatenate([*known, np.array(more, np.int64)])
        return self._tables[precision]

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
