"""Is the gradient the slope of the value at predictions of every size, kinks and learned constants included?

Every entry of the input is moved a little, up and down, in fp64, and the change of the value is held
against the gradient: a difference of fourth order, with an error near 1e-12 on smooth losses. The batches
are small and large predictions, all zeros and all ones (where losses like to have their kinks), and soft
labels. At a kink the slopes from the left and from the right differ; there any number between them is right.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
        _input_slopes(loss, name, x, target, tally)
    _constant_slopes(loss, *case.batch(6, dtype=torch.float64), tally)
    return str(tally)


def _batches(case: Case) -> Iterator[tuple[str, Tensor, Tensor]]:
    x, target = case.batch(6, dtype=torch.float64)
    for size in SIZES:
        yield f"predictions of about {2 * size:g}", x * size, target
    yield "predictions of 0", torch.zeros_like(x), target
    yield "predictions of 1", torch.ones_like(x), target
    if case.task == "regression":
        yield "predictions on the target", target.clone(), target
    else:
        yield "soft labels", x, case.soft(6, torch.float64)


def _input_slopes(loss: nn.Module, name: str, x: Tensor, target: Tensor, tally: Tally) -> None:
    leaf = x.clone().requires_grad_()
    total = loss(leaf, target).sum()
    (slope,) = torch.autograd.grad(total, leaf)
    where = x.clone()
    flat = where.view(-1)

    def value_at(index: int) -> Callable[[float], float]:
        start = flat[index].item()

        def value(step: float) -> float:
            flat[index] = start + step
            with torch.no_grad():
                found = float(loss(where, target).sum())
            flat[index] = start
            return found

        return value

    def told(index: int) -> str:
        place = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(index), x.shape))
        return f"{name}: at input[{place}] = {flat[index].item():.4g}"

    _compare(slope.flatten().tolist(), value_at, told, tally)


def _constant_slopes(loss: nn.Module, x: Tensor, target: Tensor, tally: Tally) -> None:
    for name, parameter in loss.named_parameters():
        if not parameter.requires_grad:
            continue
        found = torch.autograd.grad(loss(x, target).sum(), parameter, allow_unused=True)[0]
        slope = torch.zeros_like(parameter) if found is None else found
        flat = parameter.detach().view(-1)

        def value_at(index: int, flat: Tensor = flat) -> Callable[[float], float]:
            start = flat[index].item()

            def value(step: float) -> float:
                flat[index] = start + step
                with torch.no_grad():
                    result = float(loss(x, target).sum())
                flat[index] = start
                return result

            return value

        def told(index: int, name: str = name, flat: Tensor = flat) -> str:
            return f"the learned constant {name} = {flat[index].item():.4g}"

        _compare(slope.flatten().tolist(), value_at, told, tally)


def _compare(
    slopes: list[float],
    value_at: Callable[[int], Callable[[float], float]],
    told: Callable[[int], str],
    tally: Tally,
) -> None:
    largest = max(map(abs, slopes), default=0.0)
    for index, slope in enumerate(slopes):
        value = value_at(index)
        middle = value(0.0)
        # Digits that the value has not, no difference can have.
        room = TOLERANCE * max(largest, 1e-3) + 1e-15 * abs(middle) / STEP * 10
        measured = (8 * (value(STEP) - value(-STEP)) - (value(2 * STEP) - value(-2 * STEP))) / (12 * STEP)
        tally.entries += 1
        if abs(measured - slope) <= room:
            tally.worst = max(tally.worst, abs(measured - slope) / max(largest, 1e-3))
            continue
        left, right = (middle - value(-NEAR)) / NEAR, (value(NEAR) - middle) / NEAR
        rough = ROUGH * max(largest, abs(left), abs(right), 1e-3) + 1e-15 * abs(middle) / NEAR * 10
        if not min(left, right) - rough <= slope <= max(left, right) + rough or math.isnan(slope):
            raise Broken(f"{told(index)} the gradient is {slope:.6g}, but the value's slope {measured:.6g}.")
        tally.kinks += abs(left - right) > 2 * rough
