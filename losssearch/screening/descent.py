"""Does descending the loss on free predictions improve the metric?

No network: the predictions themselves are the parameters, small at first (size <= 1, since from confident
wrong answers even the known optimum of a noisy task barely moves). Two dozen steps of momentum at two falling
rates; the better one counts. Some milliseconds.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from losssearch.execution.reference import loss_gradient
from losssearch.language.signature import Signature
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.probes import Probes, initial
from losssearch.screening.scale import gradient_scale

STEPS = 24
RATES = (0.3, 3.0)
MOMENTUM = 0.8
LEFT = 0.5  # of the error at the start may be left


class Descent(Screen):
    """Refuses a loss whose descent leaves more than half of the error."""

    name = "prediction"
    title = "descending it does not improve predictions"

    def judge(self, case: Case) -> Rejection | None:
        scale = gradient_scale(case.program, case.space)
        if not 0 < scale < float("inf"):
            return Rejection(Outcome.FLAT, "its gradient vanishes at the start of a training")
        before, after = self._descend(case, scale)
        if not after <= LEFT * before:
            return Rejection(Outcome.NOT_LEARNING, f"the error went from {before:.3g} to {after:.3g}")
        return None

    def _descend(self, case: Case, scale: float) -> tuple[float, float]:
        name = case.prediction
        probes = _start(case)
        slope = loss_gradient(case.program, name)
        truth = probes.inputs[_target_of(case)]
        free = probes.inputs[name].clone()
        samples = free.shape[1]
        rates = torch.tensor(RATES).reshape(-1, *[1] * (free.ndim - 1)) * samples * scale
        velocity = torch.zeros_like(free)
        before = float(_error(free, truth).max())
        with torch.no_grad():
            for step in range(STEPS):
                inputs = dict(probes.inputs)
                inputs[name] = free
                if "progress" in inputs:
                    inputs["progress"] = torch.full_like(inputs["progress"], step / STEPS)
                velocity = velocity * MOMENTUM - rates * (1 - step / STEPS) * slope(inputs)
                free = free + velocity
        errors = _error(free, truth)
        errors = errors.where(torch.isfinite(errors), float("inf"))
        return before, float(errors.min())


def _target_of(case: Case) -> str:
    signature = case.space.signature
    axes = signature.inputs[case.prediction].axes
    return next(n for n, i in signature.inputs.items() if i.role.value == "target" and i.axes == axes)


@lru_cache(maxsize=16)
def _cached_start(signature: Signature) -> Probes:
    source = initial(signature)
    # One population entry a rate, all from the same start, in single precision as in a training.
    inputs = {n: v[:1].expand(len(RATES), *v.shape[1:]).float() for n, v in source.inputs.items()}
    return Probes(inputs, len(RATES), source.ordinary[:1], {})


def _start(case: Case) -> Probes:
    return _cached_start(case.space.signature)


def _error(free: Tensor, truth: Tensor) -> Tensor:
    """Share of wrong answers of each batch, or mean absolute error for real targets."""
    if free.ndim > 2:
        return (free.argmax(-1) != truth.argmax(-1)).float().flatten(1).mean(1)
    if bool(((truth == 0) | (truth == 1)).all()):
        return ((free > 0) != (truth > 0.5)).float().flatten(1).mean(1)
    return (free - truth).abs().flatten(1).mean(1)
