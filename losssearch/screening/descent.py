"""Does descending the loss on free predictions improve the metric?

No network: the predictions themselves are the parameters, small at first (size <= 1, since from confident
wrong answers even the known optimum of a noisy task barely moves). Two dozen steps of momentum at a falling
rate; where that is not enough, once more at a larger one, and the better one counts. A quarter of a
millisecond in the kernel, five by the torch reference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from losssearch.execution.reference import loss_gradient
from losssearch.language.signature import Signature
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.probes import Probes, initial
from losssearch.screening.scale import gradient_scales, initial_bulk

STEPS = 24
RATES = (0.3, 3.0)
MOMENTUM = 0.8
TOGETHER = 64  # candidates; what they hold then fits the cache
LEFT = 0.5  # of the error at the start may be left


class Descent(Screen):
    """Refuses a loss whose descent leaves more than half of the error."""

    name = "prediction"
    title = "descending it does not improve predictions"

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        programs, strings = [case.program for case in cases], [case.string for case in cases]
        scales = gradient_scales(programs, cases[0].space, strings) if cases else []
        for case, scale in zip(cases, scales, strict=True):
            case.scale = scale
        left = [c for c in cases if c.string is not None and 0 < (c.scale or 0) < math.inf]
        for rate in RATES:
            left = [case for case in left if not _improved(case)]
            for first in range(0, len(left), TOGETHER):
                _descend_all(left[first : first + TOGETHER], rate)
        return list(cases)

    def judge(self, case: Case) -> Rejection | None:
        scale = case.known_scale
        if not 0 < scale < math.inf:
            return Rejection(Outcome.FLAT, "its gradient vanishes at the start of a training")
        case.descent = case.descent or descend_by_reference(case)
        if not _improved(case):
            before, after = case.descent
            return Rejection(Outcome.NOT_LEARNING, f"the error went from {before:.3g} to {after:.3g}")
        return None


def _improved(case: Case) -> bool:
    """Whether a descent so far was good enough."""
    return case.descent is not None and case.descent[1] <= LEFT * case.descent[0]


def _descend_all(cases: Sequence[Case], rate: float) -> None:
    """Descend many at once at a rate, and note on each case the error before and the least one after."""
    case = cases[0]
    name, bulk = case.prediction, initial_bulk(case.space.signature)
    probes = _start(case)
    start = bulk.laid_out(name, probes.inputs[name][:1].numpy(), "single")
    free = np.repeat(start, len(cases), axis=0)
    own = {name: free}
    if "progress" in probes.inputs:
        own["progress"] = bulk.laid_out("progress", np.zeros(1), "single")
    strings = [c.string for c in cases if c.string is not None]
    batch = np.zeros(1, np.int64)
    bound = bulk.bind(strings, "single", batch, valued=False, wrt=[name], own=own)
    samples = probes.inputs[name].shape[1]
    # A loss that rises as predictions improve has its sign turned before it is judged.
    signed = [(-1.0 if c.known_reading.rises else 1.0) * (c.scale or 0.0) * samples * rate for c in cases]
    velocity = np.zeros_like(free)
    with np.errstate(all="ignore"):
        rates = np.array(signed, np.float32).reshape(-1, *[1] * (free.ndim - 1))
        for step in range(STEPS):
            if "progress" in own:
                own["progress"][:] = step / STEPS
            bound.run()
            velocity *= np.float32(MOMENTUM)
            velocity -= rates * np.float32(1 - step / STEPS) * bound.results[0]
            free += velocity
    truth = probes.inputs[_target_of(case)][:1]
    found = torch.from_numpy(bulk.read_back(name, free))
    errors = _error(found, truth.expand(len(found), *truth.shape[1:]))
    errors = errors.where(torch.isfinite(errors), math.inf)
    before = float(_error(probes.inputs[name], probes.inputs[_target_of(case)]).max())
    for one, after in zip(cases, errors.tolist(), strict=True):
        one.descent = before, min(after, one.descent[1] if one.descent else math.inf)


def descend_by_reference(case: Case) -> tuple[float, float]:
    """Error before and after, by the torch reference."""
    name = case.prediction
    probes = _start(case)
    slope = loss_gradient(case.program, name)
    truth = probes.inputs[_target_of(case)]
    free = probes.inputs[name].clone()
    samples = free.shape[1]
    rates = torch.tensor(RATES).reshape(-1, *[1] * (free.ndim - 1)) * samples * case.known_scale
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
    errors = errors.where(torch.isfinite(errors), math.inf)
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
