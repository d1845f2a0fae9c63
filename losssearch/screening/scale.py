"""By which factor is a loss multiplied before it is trained?

    scale = RMS over the probes of dL_reference/dprediction  /  RMS of dL/dprediction

Predictions are those of an untrained or half-trained network (size about 1). Then one grid of learning rates
serves every loss, and nobody wins by its units. Found once in double precision, stored, never renewed per
step.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from losssearch.execution.reference import loss_gradient
from losssearch.language.program import Program
from losssearch.language.signature import Signature
from losssearch.screening.bulk import Bulk, String
from losssearch.screening.measure import string_of
from losssearch.screening.probes import initial
from losssearch.spaces import Space


def gradient_scale(program: Program, space: Space) -> float:
    """The factor; 0 or nan where the gradient vanishes or is not finite."""
    own = _size(program, space)
    return _reference_size(space) / own if own > 0 else 0.0


def gradient_scales(
    programs: Sequence[Program], space: Space, strings: Sequence[String | None] | None = None
) -> list[float]:
    """The factors of many canonical programs, in one kernel call; equal to the last digits.

    Args:
        programs, space: As for `gradient_scale`.
        strings: Of the programs, as `string_of` gives them, if somebody has them.
    """
    if not programs:
        return []
    strings = [string_of(program) for program in programs] if strings is None else strings
    sizes = [_size(p, space) if s is None else 0.0 for p, s in zip(programs, strings, strict=True)]
    ran = [k for k, string in enumerate(strings) if string is not None]
    if ran:
        wrt = space.signature.predictions[:1]
        ready = [string for string in strings if string is not None]
        found = initial_bulk(space.signature).run(ready, "double", valued=False, wrt=wrt)
        [slopes] = found.slopes.values()
        with np.errstate(all="ignore"):
            own = np.sqrt(np.square(slopes.reshape(len(ran), -1)).mean(axis=1))
        for k, size in zip(ran, own, strict=True):
            sizes[k] = float(size)
    reference = _reference_size(space)
    return [reference / size if size > 0 else 0.0 for size in sizes]


@lru_cache(maxsize=16)
def initial_bulk(signature: Signature) -> Bulk:
    """Runs candidates on the probes of an untrained network."""
    return Bulk(signature, {name: value.numpy() for name, value in initial(signature).inputs.items()})


def _size(program: Program, space: Space) -> float:
    """Root mean square of the slope, by the torch reference."""
    probes = initial(space.signature)
    slope = loss_gradient(program, space.signature.predictions[0])
    with torch.no_grad():
        found: Tensor = slope(probes.inputs)
    return float(found.square().mean().sqrt())


@lru_cache(maxsize=16)
def _reference_size(space: Space) -> float:
    return _size(space.losses[space.reference].program, space)
