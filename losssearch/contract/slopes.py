"""Is the gradient the slope of the value at predictions of every size, kinks and learned constants included?

Every entry of the input is moved a little, up and down, in fp64, and the change of the value is held
against the gradient: a difference of fourth order, with an error near 1e-12 on smooth losses. The batches
are small and large predictions, all zeros and all ones (where losses like to have their kinks), and soft
labels if the loss takes them. At a kink the slopes from the left and from the right differ; there any number
between them is right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from losssearch.contract.case import Broken, Case

SIZES = (0.3, 1.0, 4.0, 10.0)  # of the predictions
STEP, NEAR = 1e-3, 1e-6  # of the difference; of the one-sided slopes
TOLERANCE = 1e-6  # of the largest slope in the batch
ROUGH = 1e-4  # one-sided slopes have so few digits


@dataclass
class Tally:
    """What was compared, and how well it agreed."""

    entries: int = 0
    worst: float = 0.0
    kinks: int = 0

    def __str__(self) -> str:
        kinks = f"; {self.kinks} at kinks lie between the slopes of both sides" if self.kinks else ""
        return f"{self.entries} slopes agree with differences to {self.worst:.1g} of the largest{kinks}."


def slopes_agree(case: Case) -> str:
    """Raises: Broken: Some slope is another; names the entry, its value and both slopes."""
    loss = copy.deepcopy(case.loss).double()
    tally = Tally()
    for name, x, target in _batches(case):
        leaf = x.clone().requires_grad_()
        compare({f"{name}: at input": leaf}, partial(loss, leaf, target), tally)
    compare(learned(loss), partial(loss, *case.batch(6, dtype=torch.float64)), tally)
    return str(tally)


def _batches(case: Case) -> Iterator[tuple[str, Tensor, Tensor]]:
    x, target = case.batch(6, dtype=torch.float64)
    for size in SIZES:
        yield f"predictions of about {2 * size:g}", x * size, target
    yield "predictions of 0", torch.zeros_like(x), target
    yield "predictions of 1", torch.ones_like(x), target
    if case.task == "regression":
        yield "predictions on the target", target.clone(), target
    elif case.takes_soft:
        yield "soft labels", x, case.soft(6, torch.float64)


def learned(loss: nn.Module) -> dict[str, Tensor]:
    """The learned constants, by what a sentence calls them."""
    parameters = loss.named_parameters()
    return {f"the learned constant {name}": p for name, p in parameters if p.requires_grad}


def compare(leaves: Mapping[str, Tensor], value: Callable[[], Tensor], tally: Tally) -> None:
    """Moves every entry of tensors that `value` reads, and holds its change against their gradient.

    Args:
        leaves: What a sentence calls each tensor, and the tensor: contiguous, in fp64, with a gradient.
        value: The loss; if it is no single number, its sum.
        tally: Where it is counted.

    Raises:
        Broken: Some slope is another.
    """
    if not leaves:
        return

    def total() -> float:
        with torch.no_grad():
            return float(value().sum())

    slopes = torch.autograd.grad(value().sum(), list(leaves.values()), materialize_grads=True)
    for (name, leaf), slope in zip(leaves.items(), slopes, strict=True):
        flat, wanted = leaf.detach().view(-1), slope.flatten().tolist()
        largest = max(map(abs, wanted), default=0.0)
        for index, entry in enumerate(wanted):
            start = flat[index].item()

            def moved(step: float, index: int = index, start: float = start, flat: Tensor = flat) -> float:
                flat[index] = start + step
                found = total()
                flat[index] = start
                return found

            if wrong := _wrong(entry, moved, largest, tally):
                place = [int(i) for i in torch.unravel_index(torch.tensor(index), leaf.shape)]
                where = f"{name}{place if place else ''} = {start:.4g}"
                raise Broken(f"{where} {wrong}")


def _wrong(slope: float, value: Callable[[float], float], largest: float, tally: Tally) -> str:
    """How a slope is not that of a value after a step; "" if it is."""
    middle = value(0.0)
    # Digits that the value has not, no difference can have.
    room = TOLERANCE * max(largest, 1e-3) + 1e-15 * abs(middle) / STEP * 10
    measured = (8 * (value(STEP) - value(-STEP)) - (value(2 * STEP) - value(-2 * STEP))) / (12 * STEP)
    tally.entries += 1
    if abs(measured - slope) <= room:
        tally.worst = max(tally.worst, abs(measured - slope) / max(largest, 1e-3))
        return ""
    left, right = (middle - value(-NEAR)) / NEAR, (value(NEAR) - middle) / NEAR
    rough = ROUGH * max(largest, abs(left), abs(right), 1e-3) + 1e-15 * abs(middle) / NEAR * 10
    if not min(left, right) - rough <= slope <= max(left, right) + rough or math.isnan(slope):
        return f"the gradient is {slope:.6g}, but the value's slope {measured:.6g}."
    tally.kinks += abs(left - right) > 2 * rough
    return ""
