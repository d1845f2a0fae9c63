"""How do the strings of many candidates become one table that the kernel can run?

Fragments are copied one after the other, their operands replaced by those of the call. Then every operand
gets an address: a slot of the workspace, or an array elsewhere, of which each row reads its own line.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from losssearch.execution.kernel.interpreter import OUT, X, run_rows
from losssearch.screening.fragments import KIND, SCRATCH, TEMPORARY

Floats = NDArray[np.floating]
Wholes = NDArray[np.int64]

CALL = 7  # numbers of a call: fragment, x, y, z, value, slope, result
#: Which line of an array a row reads; a fixed one has one line.
BY_ROW, BY_BATCH, BY_CANDIDATE, FIXED_ROW = range(4)
_ALIGN = 64  # bytes: a cache line, and the widest register


class Bound:
    """Candidates on batches, ready to run as often as wanted; a row each, batches run fastest.

    Args:
        code, spans, slots: From `link`.
        kinds: Arrays of each kind of operand (literals, constants, inputs, results), and which line of them a
            row reads. They are kept alive here, and may be changed in place between runs.
        batches: Number of each batch.
        tile: Bytes of the largest value.
        results: Those of the arrays that are written.
    """

    def __init__(
        self,
        code: Wholes,
        spans: Wholes,
        slots: int,
        kinds: Sequence[Sequence[tuple[Floats, int]]],
        batches: Wholes,
        tile: int,
        results: list[Floats],
    ) -> None:
        self.results, self._code, self._spans, self._kinds = results, code, spans, kinds
        count, fixed, tile = len(spans), slots + 1, -(-tile // _ALIGN) * _ALIGN
        arrays = [pair for kind in kinds for pair in kind]
        self._fixed = fixed
        self._base = np.concatenate(
            [np.arange(fixed) * tile, np.array([array.ctypes.data for array, _ in arrays], np.int64)]
        )
        moves = [array.strides[0] if by != FIXED_ROW and len(array) > 1 else 0 for array, by in arrays]
        self._stride = np.array([0] * fixed + moves, np.int64)
        self._which = np.array([0] * fixed + [by % FIXED_ROW for _, by in arrays], np.int64)
        _renumber(code, slots, np.cumsum([fixed, *[len(kind) for kind in kinds[:-1]]]))
        every = np.arange(count)
        rows = [np.arange(count * len(batches)), np.tile(batches, count), np.repeat(every, len(batches))]
        self._maps = np.array(rows, np.int64)
        self._space = np.zeros(fixed * tile + _ALIGN, np.uint8)

    def run(self) -> None:
        """Fill `results`."""
        start = self._space.ctypes.data
        run_rows(
            0, self._maps.shape[1], self._maps[BY_CANDIDATE], self._spans, self._code, self._fixed,
            self._base, self._stride, self._maps, self._which, int(start + -start % _ALIGN),
        )  # fmt: skip


@njit(cache=True)
def link(calls: Wholes, starts: Wholes, rows: Wholes, spans: Wholes) -> tuple[Wholes, Wholes, int]:
    """Instructions of all candidates, each candidate's span of them, and the slots that they need.

    Temporaries of a fragment are dead when it ends, so that all fragments of a candidate share theirs.
    """
    total = 0
    for c in range(len(calls)):
        total += spans[calls[c, 0], 1] - spans[calls[c, 0], 0]
    code = np.empty((total, rows.shape[1]), np.int64)
    found = np.empty((len(starts) - 1, 2), np.int64)
    at = slots = 0
    for p in range(len(starts) - 1):
        own = 0
        for c in range(starts[p], starts[p + 1]):
            for k in range(1, 7):
                if calls[c, k] < SCRATCH:
                    own = max(own, calls[c, k] + 1)
        slots = max(slots, own)
        found[p, 0] = at
        for c in range(starts[p], starts[p + 1]):
            for r in range(spans[calls[c, 0], 0], spans[calls[c, 0], 1]):
                for k in range(rows.shape[1]):
                    code[at, k] = rows[r, k]
                for k in range(OUT, X + 3):
                    operand = rows[r, k]
                    if operand < TEMPORARY:
                        code[at, k] = calls[c, 1 + operand]
                    elif operand < SCRATCH:
                        code[at, k] = own + operand - TEMPORARY
                        slots = max(slots, code[at, k] + 1)
                at += 1
        found[p, 1] = at
    return code, found, slots


@njit(cache=True)
def _renumber(code: Wholes, scratch: int, starts: Wholes) -> None:
    """Operands as the interpreter numbers them: slots, scratch, then each kind from its start."""
    for i in range(len(code)):
        for k in range(OUT, X + 3):
            operand = code[i, k]
            if operand == SCRATCH:
                code[i, k] = scratch
            elif operand >= KIND:
                kind = operand // KIND - 1
                code[i, k] = starts[kind] + operand - (kind + 1) * KIND
