"""The loops that a kernel consists of: one compiled function an opcode, all of one signature.

A value lies in memory as `rows` x `size` numbers, samples innermost. Every loop takes

    out, x, y, z        addresses
    rows, size          extents of the result (of the argument, for a reduction)
    x_step, y_step, z_step    numbers from one row of an argument to the next; 0 repeats its one row

The body of an elementwise loop is the `scalar` function of the primitive's row, nothing else. Compiled
when first used, some 0.3 s each, and kept on disk (by numba, beside this file or in the user's cache) under
a digest of everything it is made of.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Literal

import numba
import numpy as np
from numba import cfunc, njit, types
from numba.np.numpy_support import carray

from losssearch.execution.kernel import elementary
from losssearch.execution.kernel.interpreter import KEEPS
from losssearch.language import primitives
from losssearch.language.primitives import PRIMITIVES

Precision = Literal["single", "double"]
DTYPES: dict[Precision, type] = {"single": np.float32, "double": np.float64}

#: What lowered programs use besides the primitives: a logarithm without guard, and copying.
OWN: dict[str, Callable[..., float]] = {"ln": lambda x: math.log(x), "copy": lambda x: x}


def _elementwise(out, x, y, z, rows, size, x_step, y_step, z_step):  # type: ignore[no-untyped-def]
    results = carray(out, (rows * size,))
    xs = carray(x, ((rows - 1) * x_step + size,))
    ys = carray(y, ((rows - 1) * y_step + size,))
    zs = carray(z, ((rows - 1) * z_step + size,))
    for i in range(rows):
        result = results[i * size : (i + 1) * size]
        a = xs[i * x_step : i * x_step + size]
        b = ys[i * y_step : i * y_step + size]
        c = zs[i * z_step : i * z_step + size]
        for j in range(size):
            result[j] = body(a[j], b[j], c[j])  # type: ignore[name-defined]  # noqa: F821 - given below


def _spread(out, x, y, z, rows, size, x_step, y_step, z_step):  # type: ignore[no-untyped-def]
    """One number a row, repeated over the row."""
    results = carray(out, (rows * size,))
    xs = carray(x, ((rows - 1) * x_step + 1,))
    for i in range(rows):
        value = xs[i * x_step]
        result = results[i * size : (i + 1) * size]
        for j in range(size):
            result[j] = value


def _down(out, x, y, z, rows, size, x_step, y_step, z_step):  # type: ignore[no-untyped-def]
    """Over the rows: `size` results."""
    result = carray(out, (size,))
    xs = carray(x, (rows * size,))
    for j in range(size):
        result[j] = xs[j]
    for i in range(1, rows):
        a = xs[i * size : (i + 1) * size]
        for j in range(size):
            result[j] = body(result[j], a[j], a[j])  # type: ignore[name-defined]  # noqa: F821 - given below


def _across(out, x, y, z, rows, size, x_step, y_step, z_step):  # type: ignore[no-untyped-def]
    """Within each row, pairwise, in the scratch that `y` points to: an order that no machine changes."""
    results = carray(out, (rows,))
    xs = carray(x, (rows * size,))
    scratch = carray(y, (size,))
    for i in range(rows):
        a = xs[i * size : (i + 1) * size]
        half = (size + 1) // 2
        scratch[half - 1] = a[half - 1]
        for j in range(size - half):
            scratch[j] = body(a[j], a[half + j], a[j])  # type: ignore[name-defined]  # noqa: F821
        while half > 1:
            left, half = half, (half + 1) // 2
            for j in range(left - half):
                scratch[j] = body(scratch[j], scratch[half + j], a[0])  # type: ignore[name-defined]  # noqa: F821
        results[i] = scratch[0]


#: Reduction -> the primitive that joins two of its elements.
JOINS = {"sum": "add", "max": "maximum", "min": "minimum"}
#: Compiled code lives as long as somebody holds it.
_LOOPS: list[Any] = []


@cache
def address(opcode: str, precision: Precision) -> int:
    """Where the compiled loop of an opcode stands.

    Args:
        opcode: An elementwise primitive, a name of `OWN`, "spread", or "sum", "max", "min" with
            ":down" or ":across".
        precision: Of the numbers.
    """
    name, _, way = opcode.partition(":")
    template = {"down": _down, "across": _across, "": _spread if name == "spread" else _elementwise}[way]
    given: dict[str, Any] = {"carray": carray, "range": range}
    if name != "spread":
        word = JOINS.get(name, name)
        given["body"] = _body(OWN.get(word) or PRIMITIVES[word].scalar, precision)
    loop = FunctionType(template.__code__, given, f"loop_{opcode}_{precision}")
    loop.__module__ = __name__
    # The name is the key of numba's cache on disk: all that the loop is made of goes into it.
    loop.__qualname__ = f"loop_{name}_{way}_{precision}_{_digest()}"
    number = types.CPointer(numba.from_dtype(np.dtype(DTYPES[precision])))  # type: ignore[no-untyped-call]
    signature = types.void(*[number] * 4, *[types.int64] * 5)
    compiled = cfunc(signature, cache=KEEPS, fastmath={"contract"}, error_model="numpy")(loop)
    _LOOPS.append(compiled)
    return int(compiled.address or 0)


def _body(scalar: Callable[..., float] | None, precision: Precision) -> Any:
    """A row's scalar function, made to take three arguments and, if asked, to compute in single precision."""
    if scalar is None:
        raise ValueError("Only a primitive with a scalar function has a loop.")
    ran = in_single(scalar, math=elementary) if precision == "single" else scalar
    function = njit(fastmath={"contract"}, error_model="numpy")(ran)
    count = scalar.__code__.co_argcount
    if count == 3:
        return function
    if count == 2:
        return njit(lambda x, y, z: function(x, y))
    return njit(lambda x, y, z: function(x))


def in_single(scalar: Callable[..., float], **others: Any) -> Callable[..., float]:
    """A scalar function whose literals and constants are single, since one double makes everything double.

    Args:
        others: What names in it stand for instead; `math`, for example.
    """
    code = scalar.__code__
    code = code.replace(co_consts=tuple(_single(c) for c in code.co_consts))
    names = {name: _single(value) for name, value in scalar.__globals__.items()} | others
    return FunctionType(code, names, scalar.__name__)


def _single(value: Any) -> Any:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return np.float32(value) if is_number else value


@cache
def _digest() -> str:
    """Of everything that loops are made of."""
    files = [primitives.__file__, elementary.__file__, __file__]
    made_of = b"".join(Path(file).read_bytes() for file in files)
    return hashlib.sha256(made_of).hexdigest()[:16]
