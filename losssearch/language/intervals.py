"""Between which bounds does a value lie? Interval rules that the primitives' rows are made of.

Bounds are Python floats and may be infinite; a rule never returns nan. Rounding is not directed: a
bound is meant for choosing signs and skipping guards, and a proof that needs the last digit must
not rest on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

INF = math.inf


class Interval(NamedTuple):
    """All numbers from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def is_bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def hull(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))


REALS = Interval(-INF, INF)
POSITIVE = Interval(0.0, INF)
UNIT = Interval(0.0, 1.0)
SIGNED_UNIT = Interval(-1.0, 1.0)


def point(value: float) -> Interval:
    return Interval(value, value)


def of(values: list[float]) -> Interval:
    """The hull of some values; nan (such as inf - inf) widens to all numbers."""
    if any(math.isnan(v) for v in values):
        return REALS
    return Interval(min(values), max(values))


def _times(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y


def add(x: Interval, y: Interval) -> Interval:
    return Interval(x.low + y.low, x.high + y.high)


def sub(x: Interval, y: Interval) -> Interval:
    return Interval(x.low - y.high, x.high - y.low)


def mul(x: Interval, y: Interval) -> Interval:
    return of([_times(a, b) for a in x for b in y])


def neg(x: Interval) -> Interval:
    return Interval(-x.high, -x.low)


def increasing(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """The rule of an increasing function of one argument."""

    def rule(x: Interval) -> Interval:
        return Interval(function(x.low), function(x.high))

    return rule


def even(function: Callable[[float], float]) -> Callable[[Interval], Interval]:
    """The rule of a function of |x| that increases with |x|."""

    def rule(x: Interval) -> Interval:
        far = function(max(abs(x.low), abs(x.high)))
        return Interval(function(0.0) if 0.0 in x else function(min(abs(x.low), abs(x.high))), far)

    return rule


def maximum(x: Interval, y: Interval) -> Interval:
    return Interval(max(x.low, y.low), max(x.high, y.high))


def minimum(x: Interval, y: Interval) -> Interval:
    return Interval(min(x.low, y.low), min(x.high, y.high))


def wave(x: Interval) -> Interval:
    return SIGNED_UNIT


def constantly(result: Interval) -> Callable[..., Interval]:
    """The rule of a primitive whose range does not depend on its arguments."""

    def rule(*arguments: Interval) -> Interval:
        return result

    return rule
