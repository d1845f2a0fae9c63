"""How do the strings of many candidates become one table that the kernel can run?

Fragments are copied one after the other, their operands replaced by those of the call; calls that no wanted
result needs are left out. Then every operand gets an address: a slot of the workspace, or an array elsewhere,
of which each row reads its own line. A slot is free again after the last call that reads it, so that what a
row holds fits the cache nearest to the processor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from losssearch.execution.kernel.interpreter import KEEPS, OUT, X, run_rows
from losssearch.screening.fragments import KIND, RESULT, RESULTS, SCRATCH, TEMPORARY

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


@njit(cache=KEEPS)
def link(
    calls: Wholes, starts: Wholes, rows: Wholes, spans: Wholes, places: Wholes
) -> tuple[Wholes, Wholes, int]:
    """Instructions of all candidates, each candidate's span of them, and the slots that they need.

    Temporaries of a fragment are dead when it ends, so that all fragments share theirs: the first slots.

    Args:
        calls: Of all candidates; see `bulk.String`.
        starts: Candidate -> its first call.
        rows, spans: Of all fragments.
        places: Result -> its place among those that are wanted, or -1.
    """
    reads, temporaries = _reads(rows, spans)
    total = 0
    for c in range(len(calls)):
        total += spans[calls[c, 0], 1] - spans[calls[c, 0], 0]
    code = np.empty((total, rows.shape[1]), np.int64)
    found = np.empty((len(starts) - 1, 2), np.int64)
    last = np.empty(SCRATCH, np.int64)  # value -> the last call that reads it, or -1
    slot = np.empty(SCRATCH, np.int64)
    free = np.empty(SCRATCH, np.int64)
    at, slots = 0, temporaries
    for p in range(len(starts) - 1):
        last[:] = -1
        for c in range(starts[p + 1] - 1, starts[p] - 1, -1):
            if _is_needed(calls[c, RESULT + 1], last, places):
                for k in range(RESULT):
                    value = calls[c, k + 1]
                    if reads[calls[c, 0], k] and value < SCRATCH and last[value] < 0:
                        last[value] = c
        found[p, 0] = at
        own, spare = temporaries, 0
        for c in range(starts[p], starts[p + 1]):
            result = calls[c, RESULT + 1]
            if not _is_needed(result, last, places):
                continue
            if result >= RESULTS:
                target = RESULTS + places[result - RESULTS]
            elif spare:
                spare -= 1
                target = slot[result] = free[spare]
            else:
                target = slot[result] = own
                own += 1
            for r in range(spans[calls[c, 0], 0], spans[calls[c, 0], 1]):
                code[at] = rows[r]
                for k in range(OUT, X + 3):
                    operand = rows[r, k]
                    if operand == RESULT:
                        code[at, k] = target
                    elif operand < RESULT:
                        value = calls[c, operand + 1]
                        code[at, k] = slot[value] if value < SCRATCH else value
                    elif operand < SCRATCH:
                        code[at, k] = operand - TEMPORARY
                at += 1
            for k in range(RESULT):
                value = calls[c, k + 1]
                if reads[calls[c, 0], k] and value < SCRATCH and last[value] == c:
                    last[value] = -1  # it may be read twice
                    free[spare] = slot[value]
                    spare += 1
        found[p, 1] = at
        slots = max(slots, own)
    return code[:at], found, slots


@njit(cache=KEEPS)
def _reads(rows: Wholes, spans: Wholes) -> tuple[NDArray[np.bool_], int]:
    """Which of its operands each fragment reads, and the most temporaries that one has."""
    reads = np.zeros((len(spans), RESULT), np.bool_)
    temporaries = 0
    for f in range(len(spans)):
        for r in range(spans[f, 0], spans[f, 1]):
            for k in range(OUT, X + 3):
                operand = rows[r, k]
                if operand < RESULT:
                    reads[f, operand] = True
                elif TEMPORARY <= operand < SCRATCH:
                    temporaries = max(temporaries, operand - TEMPORARY + 1)
    return reads, temporaries


@njit(cache=KEEPS)
def _is_needed(result: int, last: Wholes, places: Wholes) -> bool:
    """Whether a call's result is wanted, or read later."""
    return bool(places[result - RESULTS] >= 0 if result >= RESULTS else last[result] >= 0)


@njit(cache=KEEPS)
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
