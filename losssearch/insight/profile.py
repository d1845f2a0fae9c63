"""What are value, gradient and curvature of a loss along its walk?

All in double precision and per sample. The gradient is that of the loss's own derivative program, the
one that training uses; the curvature is the gradient's derivative. At a kink the gradient jumps and the
curvature, which would be infinite there, is that of the side the language picks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.execution.reference import evaluate, loss_gradient
from losssearch.insight.walk import Walk, names
from losssearch.language.program import Program


@dataclass(frozen=True)
class Profile:
    """A loss at some positions of its walk; four lists of one length.

    Args:
        x: Positions: true logit, margin or residual; see `walk`.
        value: Loss of the one sample, as written: nothing is subtracted or scaled.
        slope: d value / d x: below 0 the loss pushes x up.
        curvature: d slope / d x.
    """

    x: tuple[float, ...]
    value: tuple[float, ...]
    slope: tuple[float, ...]
    curvature: tuple[float, ...]


def profile(program: Program, walk: Walk, x: Sequence[float]) -> Profile:
    """Value, slope and curvature of a loss at the positions `x` of its walk."""
    at = torch.tensor(list(x), dtype=torch.float64, requires_grad=True)
    inputs = walk.inputs(program.signature, at)
    prediction, _ = names(program.signature)
    with torch.no_grad():
        value = evaluate(program, inputs).expand(len(at))
    slope = walk.along(loss_gradient(program, prediction)(inputs).expand_as(inputs[prediction]))
    bent = torch.zeros_like(at)
    if slope.requires_grad:  # a straight line has a constant slope
        bent = torch.autograd.grad(slope.sum(), at)[0]
    return Profile(tuple(x), numbers(value), numbers(slope), numbers(bent))


def slopes(program: Program, walk: Walk, x: Sequence[float]) -> tuple[float, ...]:
    """The slope alone, without the cost of a second derivative."""
    at = torch.tensor(list(x), dtype=torch.float64)
    inputs = walk.inputs(program.signature, at)
    prediction, _ = names(program.signature)
    with torch.no_grad():
        return numbers(walk.along(loss_gradient(program, prediction)(inputs).expand_as(inputs[prediction])))


def numbers(tensor: Tensor) -> tuple[float, ...]:
    """As floats; a slope of zeros that autograd never stored is stored first."""
    return tuple((tensor.detach().double() + 0.0).tolist())
