"""On which made-up data is a loss looked at before any training?

Fixed batches in double precision, drawn from what the space declares of its inputs: predictions of every size
from almost zero to the end of their range, right and wrong ones, even and skewed priors, several stages of
training. They are *stratified* on purpose: on residuals drawn from N(0, 1), a Huber loss with a wide
threshold equals the squared error to the last digit, and only larger residuals tell them apart.

Every batch is one entry of a leading population dimension, so that a loss sees all of them in one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from losssearch.language.signature import Input, Role, Signature

Floats = NDArray[np.float64]

SIZES = {"n": 12, "c": 5}
OTHER_SIZE = 4


@dataclass(frozen=True)
class Probes:
    """Batches for one signature.

    Args:
        inputs: Name -> tensor of shape (batches, *sizes of the input's axes), float64.
        batches: How many there are.
        ordinary: Which batches hold predictions of ordinary size; on those a loss must not be flat.
        aligned: For each prediction the direction that improves it, as a tensor of its shape; it points from
            the prediction to the target.
    """

    inputs: Mapping[str, Tensor]
    batches: int
    ordinary: Tensor
    aligned: Mapping[str, Tensor]


@lru_cache(maxsize=16)
def stratified(signature: Signature) -> Probes:
    """Strata of prediction size x several priors and stages: 12 batches."""
    spreads = _spreads(signature)
    count = len(spreads) * 2
    scales = np.repeat(np.array(spreads), 2)
    progress = np.tile([0.0, 0.7], len(spreads))
    ordinary = np.array([0.3 <= s <= 3.0 for s in scales])
    return _draw(signature, scales, progress, ordinary, seed=1, sizes=SIZES, count=count)


@lru_cache(maxsize=16)
def initial(signature: Signature) -> Probes:
    """Predictions as an untrained or half-trained network makes them; gradients are scaled on these."""
    scales, progress = np.ones(3), np.array([0.0, 0.5, 1.0])
    sizes = {"n": 64, "c": 10}
    ordinary = np.ones(3, bool)
    return _draw(signature, scales, progress, ordinary, seed=2, sizes=sizes, count=3, skewed=False)


def _spreads(signature: Signature) -> list[float]:
    """Sizes of predictions, from almost zero to two thirds of the declared range."""
    ranges = [signature.inputs[name].high for name in signature.predictions]
    top = min([r for r in ranges if np.isfinite(r)], default=150.0)
    return [0.01, 0.3, 1.0, 3.0, top / 6, top * 2 / 3]


def _draw(
    signature: Signature,
    scales: Floats,
    progress: Floats,
    ordinary: NDArray[np.bool_],
    *,
    seed: int,
    sizes: Mapping[str, int],
    count: int,
    skewed: bool = True,
) -> Probes:
    rng = np.random.default_rng(seed)
    drawn: dict[str, Floats] = {}
    aligned: dict[str, Floats] = {}
    targets = [i for i in signature.inputs.values() if i.role is Role.TARGET]
    for spec in targets:
        drawn[spec.name] = _target(spec, count, _shape(signature, spec, sizes), rng)
    for spec in signature.inputs.values():
        shape = (count, *_shape(signature, spec, sizes))
        column = (count, *[1] * len(spec.axes))
        if spec.role is Role.PREDICTION:
            noise = rng.standard_normal(shape) * scales.reshape(column)
            target = next((t for t in targets if t.axes == spec.axes), None)
            if target is None:
                drawn[spec.name] = np.clip(noise, spec.low, spec.high)
                continue
            truth = drawn[target.name]
            if _is_real(target):
                # A real target: the prediction is off by residuals of every size.
                drawn[spec.name] = truth + noise
                aligned[spec.name] = -np.sign(noise)
            else:
                # Labels: half of the samples are pushed towards the right answer, half are left to chance.
                push = (
                    (truth * 2 - 1)
                    * scales.reshape(column)
                    * (rng.random(shape[:2]) < 0.5).reshape(count, shape[1], *[1] * (len(shape) - 2))
                )
                drawn[spec.name] = np.clip(noise + push, spec.low, spec.high)
                aligned[spec.name] = (
                    truth - truth.mean(axis=-1, keepdims=True) if truth.ndim > 2 else truth * 2 - 1
                )
        elif spec.role is Role.SCHEDULE:
            drawn[spec.name] = np.broadcast_to(progress.reshape(column), shape).copy()
        elif spec.role is not Role.TARGET:
            drawn[spec.name] = _other(spec, signature, shape, rng, skewed)
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in drawn.items()}
    return Probes(
        tensors,
        count,
        torch.tensor(ordinary),
        {name: torch.tensor(value) for name, value in aligned.items()},
    )


def _shape(signature: Signature, spec: Input, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes.get(signature.copies.get(a, a), OTHER_SIZE) for a in spec.axes)


def _is_real(spec: Input) -> bool:
    return not (spec.low >= 0 and spec.high <= 1)


def _target(spec: Input, count: int, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    over = next((p.partition(" over ")[2] for p in spec.properties if " over " in p), None)
    if over is not None:
        axis = spec.axes.index(over)
        labels = rng.integers(0, shape[axis], (count, *shape[:axis], *shape[axis + 1 :]))
        return np.moveaxis(np.eye(shape[axis])[labels], -1, axis + 1)
    if not _is_real(spec):
        return rng.integers(0, 2, (count, *shape)).astype(float)
    low, high = max(spec.low, -3.0), min(spec.high, 3.0)
    return np.clip(rng.standard_normal((count, *shape)), low, high)


def _other(
    spec: Input,
    signature: Signature,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    skewed: bool,
) -> Floats:
    """Even in every other batch, skewed in the rest (if asked), within the declared range."""
    if spec.role is Role.MASK:
        return (rng.random(shape) < 0.7).astype(float)
    odd = (np.arange(shape[0]) % 2 * skewed).reshape(-1, *[1] * (len(shape) - 1)) > 0
    if any(p.startswith("simplex over") for p in spec.properties):
        weight = np.where(odd, rng.gamma(0.5, size=shape) + 0.02, 1.0)
        share = weight / weight.sum(axis=-1, keepdims=True)
        if len(spec.axes) == 2 and signature.copies.get(spec.axes[1]) == spec.axes[0]:
            share = 0.6 * np.eye(shape[-1]) + 0.4 * share  # a transition keeps most labels
        return np.asarray(share)
    if spec.low >= 1 and not np.isfinite(spec.high):  # a count
        return np.where(odd, np.floor(np.exp(rng.uniform(1, 6, shape))), 50.0)
    low = spec.low if np.isfinite(spec.low) else -2.0
    high = spec.high if np.isfinite(spec.high) else low + 4.0
    return np.where(odd, rng.uniform(low, high, shape), (low + high) / 2)
