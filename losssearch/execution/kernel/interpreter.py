"""Runs an instruction table, row after row. The only part that sees raw addresses; knows nothing of losses.

For each row it finds where the row's inputs, constants and results lie, and then calls the loops of its
program one after the other. A row uses a workspace that fits the cache, and no row reads another's, so that
results depend neither on neighbours nor on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Whole = NDArray[np.int64]


def _keeps() -> bool:
    """Whether compiled code can be kept on disk: numba refuses where it finds no place to write."""
    try:
        njit(cache=True)(_keeps)
    except RuntimeError:
        return False
    return True


KEEPS = _keeps()

#: Columns of an instruction: address of its loop, operands, extents, steps.
LOOP, OUT, X, Y, Z, ROWS, SIZE, X_STEP, Y_STEP, Z_STEP = range(10)


@intrinsic
def _call(
    typing: Any,
    loop: Any,
    out: Any,
    x: Any,
    y: Any,
    z: Any,
    rows: Any,
    size: Any,
    x_step: Any,
    y_step: Any,
    z_step: Any,
) -> Any:
    """Call the loop at an address."""
    signature = types.void(*[types.int64] * 10)

    def generate(context: Any, builder: Any, sig: Any, given: Any) -> Any:
        pointer, whole = ir.IntType(8).as_pointer(), ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [pointer] * 4 + [whole] * 5)
        address = builder.inttoptr(given[0], function.as_pointer())
        operands = [builder.inttoptr(v, pointer) for v in given[1:5]]
        builder.call(address, [*operands, *given[5:]])
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=KEEPS)
def run_rows(
    first: int,
    last: int,
    programs: Whole,
    spans: Whole,
    code: Whole,
    fixed: int,
    base: Whole,
    stride: Whole,
    maps: Whole,
    which: Whole,
    workspace: int,
) -> None:
    """Run rows [first, last).

    Args:
        programs: Program of each row.
        spans: Program -> first and last + 1 of its instructions.
        code: Instructions, (count, 10).
        fixed: Operands below it lie where `base` says, from the start of `workspace`; the others at
            base + stride * maps[which, row].
        base, stride, which: By operand.
        maps: Row of a tensor -> row here, a line a kind.
        workspace: Address.
    """
    place = np.empty(base.size, np.int64)
    for o in range(fixed):
        place[o] = workspace + base[o]
    for row in range(first, last):
        for o in range(fixed, base.size):
            place[o] = base[o] + stride[o] * maps[which[o], row]
        program = programs[row]
        for i in range(spans[program, 0], spans[program, 1]):
            _call(  # type: ignore[call-arg]
                code[i, LOOP],
                place[code[i, OUT]],
                place[code[i, X]],
                place[code[i, Y]],
                place[code[i, Z]],
                code[i, ROWS],
                code[i, SIZE],
                code[i, X_STEP],
                code[i, Y_STEP],
                code[i, Z_STEP],
            )
