"""Which operations can a module run faster, or export further, with the same result?

Functions equal to a primitive's own wherever they are used, to rounding: for class indices, (n, 1),
instead of one-hot rows, (n, c), for powers that cannot overflow, and for words that a compiler lacks.
They need torch alone, and exported losses carry them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from losssearch.language import intervals as iv
from losssearch.language.intervals import Interval
from losssearch.language.primitives import CEILING, EPS, PRIMITIVES, Primitive


def is_idle(row: Primitive, ranges: Sequence[Interval]) -> bool:
    """Whether a primitive's guard does nothing between these bounds of its arguments."""
    return row.plain is not None and row.harmless is not None and row.harmless(*ranges)


def quickest(row: Primitive, ranges: Sequence[Interval]) -> Callable[..., Tensor]:
    """The quickest function that is equal to a primitive between these bounds of its arguments."""
    if is_idle(row, ranges):
        return cast("Callable[..., Tensor]", row.plain)
    if row.name in ("softplus", "log"):
        return softplus if row.name == "softplus" else log
    if row.name == "div" and ranges[1].low >= 0:
        return divide
    if row.name == "pow":
        base = Interval(max(ranges[0].low, EPS), max(ranges[0].high, EPS))
        if iv.mul(ranges[1], PRIMITIVES["log"].interval(base)).high <= CEILING:
            return power
    return row.torch


def softplus(x: Tensor) -> Tensor:
    """log(1 + e**x); from 60 on it is x to the last digit of any dtype."""
    return torch.nn.functional.softplus(x, threshold=60.0)


def power(x: Tensor, y: Tensor | float) -> Tensor:
    """A power that cannot overflow; below 1e-6 its tangent in x there."""
    slope = y * 1e-6 ** (y - 1)
    return x.clamp(min=1e-6) ** y - (1e-6 - x).relu() * slope


def log(x: Tensor) -> Tensor:
    """Logarithm; below 1e-6 its tangent there."""
    kept = x.clamp(min=1e-6)
    return kept.log().sub((1e-6 - x).relu(), alpha=1e6)


def divide(x: Tensor | float, y: Tensor) -> Tensor:
    """Division by what is never negative; below 1e-6 1/y goes on along its tangent."""
    return x * y.clamp(min=1e-6).reciprocal().add((1e-6 - y).relu(), alpha=1e12)


def as_tensor(x: Tensor | float, like: Tensor) -> Tensor:
    """A number as a tensor without axes."""
    return x if isinstance(x, Tensor) else like.new_full((), x)


def at_label(x: Tensor, target: Tensor) -> Tensor:
    """x at the label: sum_c target_c x_c for one-hot rows."""
    return x.gather(1, target)


def off_label(x: Tensor, target: Tensor) -> Tensor:
    """Sum of x over the other classes: sum_c (1 - target_c) x_c."""
    return x.scatter(1, target, 0.0).sum(1, keepdim=True)


def max_off_label(x: Tensor, target: Tensor) -> Tensor:
    """The largest x over the other classes; 0 if there is none."""
    if x.shape[1] < 2:
        return x.gather(1, target) * 0.0
    return x.scatter(1, target, -float("inf")).amax(1, keepdim=True)


def log_off_label(x: Tensor, target: Tensor) -> Tensor:
    """log of the sum of e**x over the other classes; 0 if there is none."""
    if x.shape[1] < 2:
        return x.gather(1, target) * 0.0
    return x.scatter(1, target, -float("inf")).logsumexp(1, keepdim=True)


def plus_label(x: Tensor, target: Tensor) -> Tensor:
    """x + target for one-hot rows."""
    return x.scatter_add(1, target, torch.ones_like(target, dtype=x.dtype))


def minus_label(x: Tensor, target: Tensor) -> Tensor:
    """x - target for one-hot rows."""
    return x.scatter_add(1, target, -torch.ones_like(target, dtype=x.dtype))


__all__ = [
    "as_tensor",
    "at_label",
    "divide",
    "is_idle",
    "log",
    "log_off_label",
    "max_off_label",
    "minus_label",
    "off_label",
    "plus_label",
    "power",
    "quickest",
    "softplus",
]
