"""By which factor is a loss multiplied before it is trained?

    scale = RMS over the probes of dL_reference/dprediction  /  RMS of dL/dprediction

Predictions are those of an untrained or half-trained network (size about 1). Then one grid of learning rates
serves every loss, and nobody wins by its units. Found once in double precision, stored, never renewed per
step.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from losssearch.execution.reference import loss_gradient
from losssearch.language.program import Program
from losssearch.screening.probes import initial
from losssearch.spaces import Space


def gradient_scale(program: Program, space: Space) -> float:
    """The factor; 0 or nan where the gradient vanishes or is not finite."""
    own = _size(program, space)
    return _reference_size(space) / own if own > 0 else 0.0


def _size(program: Program, space: Space) -> float:
    probes = initial(space.signature)
    slope = loss_gradient(program, space.signature.predictions[0])
    with torch.no_grad():
        found: Tensor = slope(probes.inputs)
    return float(found.square().mean().sqrt())


@lru_cache(maxsize=16)
def _reference_size(space: Space) -> float:
    return _size(space.losses[space.reference].program, space)
