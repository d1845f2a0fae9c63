"""Exponential, logarithm and their kin in single precision, written so that a compiler vectorises them.

The C library takes one number at a time. These take a register full: no branch, no table, the exponent's
bits moved by hand. A choice between two results is a choice between two finished numbers, or the compiler
would branch. Largest relative errors, against double precision: `exp` and `log` 8e-8, `log1p` and `tanh`
1.4e-7. What is nan stays nan. Sine, cosine, arc tangent and the error function are left to the C library:
they are rare, and large arguments of a sine need more digits than fit here.

Coefficients: near-minimax polynomials of the Cephes library (S. L. Moshier, single precision).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit

Number = Any  # what the compiler sees is single precision, and the interpreter never runs these


def _compiled(function: Callable[[Number], Number]) -> Callable[[Number], Number]:
    # "contract" allows fused multiply-add. Reordering is not allowed: it would undo the exact steps
    # below; nor is the assumption that there is no nan.
    found: Callable[[Number], Number] = njit(fastmath={"contract"}, error_model="numpy")(function)
    return found


f4, i4 = np.float32, np.int32

_LOG2_E = f4(math.log2(math.e))
_LN2_HIGH, _LN2_LOW = (
    f4(0.693359375),
    f4(-2.12194440e-4),
)  # ln 2 in two; the first is short
_ROUND = f4(12582912.0)  # 1.5 * 2^23: adding it rounds to a whole number, which then stands in the low bits
_ROUND_BITS = i4(_ROUND.view(i4))
_SQRT_HALF_BITS = i4(f4(math.sqrt(0.5)).view(i4))
_ONE, _TWO, _HALF = f4(1), f4(2), f4(0.5)
_EXP_LOW, _EXP_HIGH = f4(-87.3), f4(88.72)
_BIAS, _MANTISSA = i4(127), i4(23)

_E2, _E3, _E4 = f4(5.0000001201e-1), f4(1.6666665459e-1), f4(4.1665795894e-2)
_E5, _E6, _E7 = f4(8.3334519073e-3), f4(1.3981999507e-3), f4(1.9875691500e-4)

_L0, _L1, _L2 = f4(3.3333331174e-1), f4(-2.4999993993e-1), f4(2.0000714765e-1)
_L3, _L4, _L5 = f4(-1.6668057665e-1), f4(1.4249322787e-1), f4(-1.2420140846e-1)
_L6, _L7, _L8 = f4(1.1676998740e-1), f4(-1.1514610310e-1), f4(7.0376836292e-2)

_T0, _T1, _T2 = f4(-3.33332819422e-1), f4(1.33314422036e-1), f4(-5.37397155531e-2)
_T3, _T4 = f4(2.06390887954e-2), f4(-5.70498872745e-3)
_TANH_SMALL = f4(0.625)


@_compiled
def exp(x: Number) -> Number:
    """e^x; that of -87.3 below it, and that of 88.7 above it."""
    kept = min(max(x, _EXP_LOW), _EXP_HIGH)
    shifted = f4(kept * _LOG2_E + _ROUND)
    whole = shifted - _ROUND
    r = kept - whole * _LN2_HIGH
    r = r - whole * _LN2_LOW
    p = ((((_E7 * r + _E6) * r + _E5) * r + _E4) * r + _E3) * r + _E2
    p = p * r * r + r + _ONE
    # 2^whole in two halves: 2^128 alone would be infinite.
    n = i4(shifted.view(i4) - _ROUND_BITS)
    half = i4(n >> i4(1))
    scale = f4(i4((half + _BIAS) << _MANTISSA).view(f4))
    rest = f4(i4((n - half + _BIAS) << _MANTISSA).view(f4))
    return p * scale * rest


@_compiled
def log(x: Number) -> Number:
    """Natural logarithm of a positive normal number; nan for nan and infinity."""
    bits = i4(f4(x).view(i4))
    n = i4((bits - _SQRT_HALF_BITS) >> _MANTISSA)
    r = f4(i4(bits - (n << _MANTISSA)).view(f4)) - _ONE
    p = (((((((_L8 * r + _L7) * r + _L6) * r + _L5) * r + _L4) * r + _L3) * r + _L2) * r + _L1) * r + _L0
    square = r * r
    whole = f4(n)
    value = r * square * p + whole * _LN2_LOW - _HALF * square + r + whole * _LN2_HIGH
    return value + (x - x)


@_compiled
def log1p(x: Number) -> Number:
    """log(1 + x) for x >= 0, to full precision also where x is small."""
    u = _ONE + x
    lost = x - (u - _ONE)
    return log(u) + lost / u


@_compiled
def tanh(x: Number) -> Number:
    """Hyperbolic tangent."""
    size = abs(x)
    t = exp(-_TWO * size)
    far = (_ONE - t) / (_ONE + t)
    z = min(size, _TANH_SMALL)
    s = z * z
    near = ((((_T4 * s + _T3) * s + _T2) * s + _T1) * s + _T0) * s * z + z
    # A sum in place of a choice: the compiler would move the costly side behind a branch.
    is_near = _ONE if size < _TANH_SMALL else f4(0)
    value = near * is_near + far * (_ONE - is_near)
    return value if x >= f4(0) else -value


@_compiled
def sqrt(x: Number) -> Number:
    return math.sqrt(x)


@_compiled
def sin(x: Number) -> Number:
    return math.sin(x)


@_compiled
def cos(x: Number) -> Number:
    return math.cos(x)


@_compiled
def erf(x: Number) -> Number:
    return math.erf(x)


@_compiled
def atan(x: Number) -> Number:
    return math.atan(x)
