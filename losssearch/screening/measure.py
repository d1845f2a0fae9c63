"""What do the probes show of many candidates? Found for all of them in a few kernel calls.

Single precision first, on the stratified batches, then double precision for what stayed finite, on the same
batches and one more in which the targets belong to other samples. What the kernel cannot run (a third axis,
sorting) goes through the torch reference, one candidate at a time: the same numbers, some fifty times slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from losssearch.execution.kernel.assembly import Refused
from losssearch.execution.reference import Compiled
from losssearch.language.derivative import gradient
from losssearch.language.program import Program
from losssearch.language.signature import Role, Signature
from losssearch.screening.bulk import Bulk, String
from losssearch.screening.probes import Probes, stratified

Floats = NDArray[np.floating]
SMALLEST = 1e-10
ROUNDING = 1e-12  # of the largest slope of a batch
_TOLD_BY = 4  # the batch of which a second version with other targets is looked at first


@dataclass(frozen=True, slots=True)
class Reading:
    """What the probes show of one candidate.

    Args:
        is_finite_in_single, is_finite_in_double: Value and every slope; the first slope.
        peak: Largest slope on ordinary predictions.
        alive: Share of ordinary samples whose slope does not vanish.
        rises: Whether descending it moves most samples the wrong way, weighed by how much they move.
        sees_target: Whether other targets give another slope.
        slopes: In double precision on the stratified batches, of each differentiable input that it reads, and
            of its shape. Empty if it is not finite in single precision.
    """

    is_finite_in_single: bool
    is_finite_in_double: bool = False
    peak: float = 0.0
    alive: float = 0.0
    rises: bool = False
    sees_target: bool = False
    slopes: tuple[Floats, ...] = ()


def readings(programs: Sequence[Program], strings: Sequence[String | None] | None = None) -> list[Reading]:
    """What the probes show of programs of one signature.

    Args:
        programs: Canonical.
        strings: Of the programs, as `string_of` gives them, if somebody has them.
    """
    if not programs:
        return []
    strings = [string_of(program) for program in programs] if strings is None else strings
    ran = [(p, s) for p, s in zip(programs, strings, strict=True) if s is not None]
    bulk = _bulk(programs[0].signature)
    found = iter(_read([p for p, _ in ran], [s for _, s in ran], bulk) if ran else ())
    return [
        reading_by_reference(p) if s is None else next(found) for p, s in zip(programs, strings, strict=True)
    ]


def string_of(program: Program) -> String | None:
    """A canonical program as the kernel runs it; None for one that it cannot run."""
    try:
        return _bulk(program.signature).string(program)
    except Refused:
        return None


def names_of(program: Program) -> tuple[str, ...]:
    """The inputs whose slopes are looked at: the differentiable ones that it reads, or the prediction."""
    signature = program.signature
    return tuple(n for n in signature.differentiable if n in program.inputs) or signature.predictions[:1]


@lru_cache(maxsize=16)
def _bulk(signature: Signature) -> Bulk:
    """The stratified batches, and all of them again with other targets."""
    probes = stratified(signature)
    other = with_other_targets(signature, probes)
    inputs = {n: torch.cat([probes.inputs[n], other[n]]).numpy() for n in probes.inputs}
    return Bulk(signature, inputs)


def with_other_targets(signature: Signature, probes: Probes) -> Mapping[str, Tensor]:
    """The batches with each sample's target given to its neighbour."""
    targets = {n for n, spec in signature.inputs.items() if spec.role is Role.TARGET}
    return {n: v.roll(1, dims=1) if n in targets else v for n, v in probes.inputs.items()}


def _read(programs: Sequence[Program], strings: Sequence[String], bulk: Bulk) -> list[Reading]:
    count = bulk.batches // 2
    plain, other = np.arange(count), np.arange(count) + count
    first = bulk.run(strings, "single", plain)
    finite = np.isfinite(first.values).all(axis=1)
    for slope in first.slopes.values():
        finite &= _every(np.isfinite(slope))
    result = [Reading(False)] * len(programs)
    kept = np.flatnonzero(finite)
    if not len(kept):
        return result
    whole = [strings[int(k)] for k in kept]
    second = bulk.run(whole, "double", np.append(plain, other[_TOLD_BY]), valued=False)
    names = [names_of(programs[int(k)]) for k in kept]
    for name in dict.fromkeys(own[0] for own in names):
        rows = np.array([row for row, own in enumerate(names) if own[0] == name])
        slopes = second.slopes[name][rows]
        sees = _differ(slopes[:, [count]], slopes[:, [_TOLD_BY]])
        if not sees.all():  # on one batch it did not tell: all of them decide
            unsure = [whole[row] for row in rows[~sees]]
            swapped = bulk.run(unsure, "double", other, valued=False, wrt=[name]).slopes[name]
            sees[~sees] = _differ(swapped, slopes[~sees, :count])
        shown = _shown(bulk.signature, name, slopes[:, :count])
        for i, row in enumerate(rows):
            own_slopes = tuple([second.slopes[n][row, :count] for n in names[row]])
            result[kept[row]] = _reading(shown, i, bool(sees[i]), own_slopes)
    return result


def reading_by_reference(program: Program) -> Reading:
    """The same from the torch reference, for one canonical program."""
    signature, names = program.signature, names_of(program)
    probes = stratified(signature)
    slope = Compiled(gradient(program, names))
    with torch.no_grad():
        single = {name: value.float() for name, value in probes.inputs.items()}
        if not all(bool(torch.isfinite(v).all()) for v in (*Compiled(program)(single), *slope(single))):
            return Reading(False)
        own, swapped = slope(probes.inputs), slope(with_other_targets(signature, probes))[0]
    shapes = [probes.inputs[name].shape for name in names]
    slopes = tuple([spread(slope.program, k, own[k], n, shapes[k]).numpy() for k, n in enumerate(names)])
    shown = _shown(signature, names[0], slopes[0][None])
    other = spread(slope.program, 0, swapped, names[0], shapes[0]).numpy()
    sees = bool(_differ(other[None], slopes[0][None])[0])
    return _reading(shown, 0, sees, slopes)


def spread(slope: Program, index: int, value: Tensor, name: str, shape: torch.Size) -> Tensor:
    """An output of a gradient over all axes of its input; where it lacks one, it is the same along it."""
    has = slope.instructions[slope.outputs[index]].axes
    if value.ndim == 0:
        return value.expand(shape)
    axes = slope.signature.inputs[name].axes
    slices = tuple(slice(None) if slope.signature.bits[a] & has else None for a in axes)
    return value[(..., *slices)].expand(shape)


def _shown(signature: Signature, name: str, slopes: Floats) -> tuple[NDArray[Any], ...]:
    """Finite, peak, alive and rises of slopes (candidates, batches, samples, ...) in one input."""
    probes = stratified(signature)
    ordinary = slopes[:, probes.ordinary.numpy()]
    size = np.abs(ordinary)
    alive: NDArray[Any] = size > SMALLEST
    if alive.ndim > 3:
        alive = np.asarray(alive.any(axis=tuple(range(3, alive.ndim))))
    rises: NDArray[Any] = np.zeros(len(slopes), bool)
    if name in probes.aligned:
        direction = probes.aligned[name].numpy()[probes.ordinary.numpy()]
        with np.errstate(invalid="ignore"):
            rises = (ordinary * direction).reshape(len(slopes), -1).sum(axis=1) > 0
    flat = size.reshape(len(slopes), -1)
    return _every(np.isfinite(slopes)), flat.max(axis=1), alive.reshape(len(slopes), -1).mean(axis=1), rises


def _reading(
    shown: tuple[NDArray[Any], ...], index: int, sees_target: bool, slopes: tuple[Floats, ...]
) -> Reading:
    finite, peak, alive, rises = (column[index] for column in shown)
    return Reading(True, bool(finite), float(peak), float(alive), bool(rises), sees_target, slopes)


def _every(yes: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(yes.reshape(len(yes), -1).all(axis=1))


def _differ(one: Floats, other: Floats) -> NDArray[np.bool_]:
    """Whether slopes (candidates, batches, ...) differ on some batch by more than rounding.

    t - (t - p) is p, but not to the last digit.
    """
    shape = (*one.shape[:2], -1)
    with np.errstate(invalid="ignore"):  # what is infinite is refused before
        gap = np.abs(one - other).reshape(shape).max(axis=2)
    return np.asarray((gap > ROUNDING * np.abs(other).reshape(shape).max(axis=2)).any(axis=1))
