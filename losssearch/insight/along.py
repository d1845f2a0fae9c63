"""What are value, slope and curvature of a loss along a line of its space?

The slope is the derivative by x of what the loss teaches: what is detached counts as fixed, as in training.
At a kink the slope is the one that torch takes, between those of both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from losssearch.execution.reference import compiled, evaluate
from losssearch.insight.profile import Profile, numbers
from losssearch.insight.walk import neutral
from losssearch.language.canonical import canonical
from losssearch.language.program import Program
from losssearch.language.signature import Signature
from losssearch.lines import Line, Nest, X

ASIDE = 1e-9  # for curves: a kink at a round number would draw a point between its two sides


def lines_of(program: Program, lines: Mapping[str, Line]) -> dict[str, Line]:
    """Those that move something a loss reads."""
    read = canonical(program).inputs
    return {name: line for name, line in lines.items() if line.moved & set(read)}


def along(program: Program, line: Line, x: Sequence[float]) -> Profile:
    """A loss at the positions `x` of a line."""
    at = torch.tensor(list(x), dtype=torch.float64, requires_grad=True)
    value = evaluate(program, batches(line, program.signature, at)).expand(len(at))
    slope = bent = torch.zeros_like(at)
    if value.requires_grad:
        (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    if slope.requires_grad:
        (bent,) = torch.autograd.grad(slope.sum(), at)
    return Profile(tuple(x), numbers(value), numbers(slope), numbers(bent))


def positions(line: Line, count: int, aside: float = 0.0) -> list[float]:
    """Even ones, both ends included; `aside` moves all, such as beside the kinks at round numbers."""
    return [line.low + (line.high - line.low) * i / (count - 1) + aside for i in range(count)]


def batches(line: Line, signature: Signature, x: Tensor) -> dict[str, Tensor]:
    """Inputs at every position, (positions, *axes); what the line does not name is neutral."""
    found = {}
    for name, spec in signature.inputs.items():
        if name in line.inputs:
            found[name] = _stacked(line.inputs[name], x)
        else:
            sizes = [line.sizes.get(signature.copies.get(axis, axis), 1) for axis in spec.axes]
            found[name] = neutral(spec, sizes)
    return found


def _stacked(nest: Nest, x: Tensor) -> Tensor:
    if isinstance(nest, list):
        return torch.stack([_stacked(each, x) for each in nest], 1)
    if X not in nest.inputs:
        return evaluate(nest, {X: x.new_zeros(())}).expand(len(x))
    return compiled(nest)({X: x})[0]
