"""Which operations can a module run faster, or export further, with the same result?

Functions equal to a primitive's own wherever they are used, to rounding: for class indices
instead of one-hot rows, for powers that cannot overflow, and for words that a compiler lacks.
They need torch alone, and exported losses carry them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from losssearch.language.primitives import PRIMITIVES

_max = PRIMITIVES["max"].torch
_logsumexp = PRIMITIVES["logsumexp"].torch


def softplus(x: Tensor) -> Tensor:
    """log(1 + e**x); from 60 on it is x to the last digit of any dtype."""
    return torch.nn.functional.softplus(x, threshold=60.0)


def power(x: Tensor, y: Tensor | float) -> Tensor:
    """A power that cannot overflow; below 1e-6 its tangent in x there."""
    result = x.clamp(min=1e-6) ** y
    return result - result * y * (1 - 1e6 * x).relu()


def divide(x: Tensor | float, y: Tensor) -> Tensor:
    """Division by what is never negative; below 1e-6 1/y goes on along its tangent."""
    inverse = 1 / y.clamp(min=1e-6) + (1e-6 - y).relu() * 1e12
    return x * inverse


def as_tensor(x: Tensor | float, like: Tensor) -> Tensor:
    """A number as a tensor without axes."""
    return x if isinstance(x, Tensor) else like.new_full((), x)


def at_label(x: Tensor, target: Tensor) -> Tensor:
    """sum_c target_c x_c, for class indices or labels."""
    if target.is_floating_point():
        return (x * target).sum(1, keepdim=True)
    return x.gather(1, target)


def off_label(x: Tensor, target: Tensor) -> Tensor:
    """sum_c (1 - target_c) x_c, for class indices or labels."""
    if target.is_floating_point():
        return (x * (1 - target)).sum(1, keepdim=True)
    return x.scatter(1, target, 0.0).sum(1, keepdim=True)


def chance_off_label(log_p: Tensor, target: Tensor) -> Tensor:
    """1 - sum_c target_c p_c of a softmax, for class indices or labels."""
    if target.is_floating_point():
        return (log_p.exp() * (1 - target)).sum(1, keepdim=True)
    return -log_p.gather(1, target).expm1()


def log_at_label(x: Tensor, target: Tensor) -> Tensor:
    """log sum_c target_c e**x_c, for class indices or labels."""
    if target.is_floating_point():
        return _logsumexp(x, (1,), target)
    return x.gather(1, target)


def max_off_label(x: Tensor, target: Tensor) -> Tensor:
    """The largest x_c with target_c < 1, for class indices or labels; 0 if there is none."""
    if target.is_floating_point():
        return _max(x, (1,), 1 - target)
    top = x.scatter(1, target, -float("inf")).amax(1, keepdim=True)
    return top.where(top > -float("inf"), 0.0)


__all__ = [
    "as_tensor",
    "at_label",
    "chance_off_label",
    "divide",
    "log_at_label",
    "max_off_label",
    "off_label",
    "power",
    "softplus",
]
