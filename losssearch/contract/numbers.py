"""Are value and gradient finite and right, in every dtype and at saturated predictions?

Gradients break first: `(1 - p)**0.5 * log(p)` has value 0 and gradient nan where p rounds to 1.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from losssearch.contract.case import Broken, Case, finite, same, value_and_gradient
from losssearch.contract.slopes import slopes_agree

LEVELS = (0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 6e4, -6e4)
DTYPES = {torch.float16: 3e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-9}


def saturation(case: Case) -> str:
    """Value and gradient are finite at logits 0, +-1, +-20, +-100 and +-6e4, right or wrong.

    In fp16 and bf16 only where they fit: no half holds the difference of 6e4 and -6e4.
    """
    for dtype in DTYPES:
        for level in LEVELS:
            for x, target in _saturated(case, level, dtype):
                if dtype.itemsize == 2 and not _fits(case, x, target):
                    continue
                value, slope = value_and_gradient(case.loss, x, target)
                where = f"at logits of {level:g} in {str(dtype)[6:]}"
                finite(value, f"The value {where}")
                finite(slope, f"The gradient {where}")
    return "Finite up to +-6e4."


def _fits(case: Case, x: Tensor, target: Tensor) -> bool:
    goal = target.float() if target.is_floating_point() else target
    value, slope = value_and_gradient(case.loss, x.float(), goal)
    largest = max(value.abs().item() * len(x), slope.abs().max().item())
    return largest < torch.finfo(x.dtype).max / 2


def _saturated(case: Case, level: float, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Batches in which the level stands at one output, at every other and at all."""
    c = case.classes
    x = torch.stack(
        [
            level * torch.eye(c, dtype=dtype)[0],
            level * torch.tensor([(-1.0) ** k for k in range(c)], dtype=dtype),
            torch.full((c,), level, dtype=dtype),
        ]
    )
    if case.task == "multiclass":
        goals = [torch.arange(c).repeat(len(x))]
        x = x.repeat_interleave(c, 0)
    else:
        x = x.flatten()
        goals = [torch.zeros_like(x), torch.ones_like(x)]
    if case.task == "regression":
        goals.append(x.clone())
    elif case.takes_soft:
        goals.append(case.soft(len(x), dtype))
    return [(x, goal) for goal in goals]


def dtypes(case: Case) -> str:
    """fp16, bf16, fp32 and fp64 agree; the gradient has the dtype of the input."""
    x, target = case.batch(8, dtype=torch.float64)
    wanted, wanted_slope = value_and_gradient(copy.deepcopy(case.loss).double(), x, target)
    for dtype, tolerance in DTYPES.items():
        goal = target.to(dtype) if target.is_floating_point() else target
        value, slope = value_and_gradient(copy.deepcopy(case.loss).to(dtype), x.to(dtype), goal)
        name = str(dtype)[6:]
        if slope.dtype != dtype:
            raise Broken(f"The gradient of a {name} input is {str(slope.dtype)[6:]}.")
        same(value, wanted, f"The value in {name}", tolerance)
        same(slope, wanted_slope, f"The gradient in {name}", tolerance)
    return "Four dtypes agree."


def autocast(case: Case) -> str:
    """Under autocast the loss is computed in fp32, as if the logits had been cast before it."""
    for dtype in (torch.bfloat16, torch.float16):
        x, target = case.batch(8, dtype=dtype)
        labels = case.soft(8) if case.takes_soft else None
        wanted = case.loss(x.float(), target.float() if target.is_floating_point() else target)
        with torch.autocast("cpu", dtype=dtype):
            got = case.loss(x, target)
            soft = None if labels is None else case.loss(x, labels)
        name = str(dtype)[6:]
        if got.dtype != torch.float32:
            raise Broken(f"Under {name} autocast the value is {str(got.dtype)[6:]}, not float32.")
        same(got, wanted, f"The value under {name} autocast", 1e-5)
        if soft is not None:
            same(soft, case.loss(x.float(), labels), f"Soft labels under {name} autocast")
    return "An fp32 island under bf16 and fp16."


def gradcheck(case: Case) -> str:
    """The gradient is that of the value, by finite differences in fp64, at predictions of every size."""
    found = slopes_agree(case)  # first, as it names the place and both numbers
    x, target, loss = _precise(case)
    torch.autograd.gradcheck(lambda z: loss(z, target), (x,), raise_exception=True)
    return found


def gradgradcheck(case: Case) -> str:
    """So is the gradient of the gradient."""
    x, target, loss = _precise(case)
    torch.autograd.gradgradcheck(lambda z: loss(z, target), (x,), raise_exception=True)
    return "Agrees with finite differences."


def _precise(case: Case) -> tuple[Tensor, Tensor, torch.nn.Module]:
    x, target = case.batch(3, dtype=torch.float64)
    return x.requires_grad_(), target, copy.deepcopy(case.loss).double()
