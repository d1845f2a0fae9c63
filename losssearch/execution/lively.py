"""On which of some batches does a loss of named tensors have the most slopes?

A hinge that nothing touches, or boxes that never meet, tell little of a loss. One forward and one backward
pass a batch, and no more batches once every slope is alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lively:
    """A batch, its value (which requires a gradient if any comes back), and the slopes by input."""

    inputs: dict[str, Tensor]
    value: Tensor
    slopes: dict[str, Tensor]

    @property
    def alive(self) -> int:
        """How many slopes are not 0."""
        return sum(int(slope.count_nonzero()) for slope in self.slopes.values())


def liveliest(
    loss: Callable[..., Tensor], batches: Iterable[dict[str, Tensor]], moved: Sequence[str]
) -> Lively | None:
    """The first of the batches with the most slopes in `moved`; None if all is finite on none of them."""
    best: Lively | None = None
    for inputs in batches:
        found = sloped(loss, inputs, moved)
        if not all(bool(x.isfinite().all()) for x in (found.value, *found.slopes.values())):
            continue
        if best is None or found.alive > best.alive:
            best = found
        if best.alive == sum(inputs[name].numel() for name in moved):
            break
    return best


def sloped(loss: Callable[..., Tensor], inputs: dict[str, Tensor], moved: Sequence[str]) -> Lively:
    """Value and slopes on a batch; slopes are 0 where no gradient comes back."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in moved}
    value = loss(**{**inputs, **leaves})
    if value.requires_grad:
        slopes = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
    else:
        slopes = tuple(torch.zeros_like(leaf) for leaf in leaves.values())
    return Lively(inputs, value, dict(zip(moved, slopes, strict=True)))
