"""Is it a known loss up to one positive factor?

Two losses are the *same* when their gradients in all differentiable inputs agree to 1e-8 on the stratified
probes up to one factor common to all batches: the known result is credited. They are *step-size variants*
when the factor changes from batch to batch (a squared cross entropy, a schedule in front of it): that is
tagged, never called a discovery, but trained.

Looking up costs three dictionary reads. What is kept of a known loss is its formula and one number, under
1 kB; its gradient is found anew when a candidate falls into its bucket, some thousandths of a second for one
candidate of twenty.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from losssearch.language.formula import parse
from losssearch.language.signature import Signature
from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.measure import Floats, readings

AGREE = 1e-8
VARIANT = "step-size variant of"
_BUCKET = 1e-5


class _Known(NamedTuple):
    """A loss that passed: how it runs, with its constants, and how it was written."""

    key: str
    text: str
    formula: str
    constants: tuple[tuple[str, float], ...]


class _Print(NamedTuple):
    """Direction of each batch's gradient, and the logarithm of its size."""

    directions: NDArray[np.float64]
    sizes: NDArray[np.float64]


class Fingerprint(Screen):
    """Remembers every loss that passed all screens, by the direction of its gradient."""

    name = "fingerprint"
    title = "the gradient of a known loss up to one factor"

    def __init__(self) -> None:
        self._known: dict[int, list[_Known]] = {}

    def judge(self, case: Case) -> Rejection | None:
        if not case.slopes:  # no screen before this one asked
            return Rejection(Outcome.NOT_FINITE, "nan or inf in single precision")
        own = _print_of(case.slopes)
        if np.isnan(own.sizes).any():
            return Rejection(Outcome.NOT_FINITE, "its gradient is nan on some batch")
        if not np.isfinite(own.sizes).any():
            return Rejection(Outcome.FLAT, "its gradient vanishes on every batch")
        bucket = _bucket(own)
        for near in (bucket - 1, bucket, bucket + 1):
            for known in self._known.get(near, ()):
                other = _print_of_known(known, case.space.signature)
                if other.directions.shape != own.directions.shape:
                    continue
                if float(np.abs(other.directions - own.directions).max()) > AGREE:
                    continue
                both = np.isfinite(own.sizes) & np.isfinite(other.sizes)
                alive = own.sizes[both] - other.sizes[both]
                if float(alive.max() - alive.min()) <= AGREE:
                    return Rejection(Outcome.EQUIVALENT, f"same as {known.text}", known.key)
                tag = f"{VARIANT} {known.text}"
                if tag not in case.tags:
                    case.tags.append(tag)
        return None

    def admit(self, case: Case) -> None:
        constants = tuple([(c.name, c.value) for c in case.program.constants])
        known = _Known(case.key, case.written.text, case.program.text, constants)
        self._known.setdefault(_bucket(_print_of(case.slopes)), []).append(known)


def _print_of(slopes: tuple[Floats, ...]) -> _Print:
    flat = np.concatenate([s.reshape(len(s), -1) for s in slopes], axis=1)
    sizes = np.sqrt(np.square(flat).sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        return _Print(flat / np.maximum(sizes, 1e-300), np.log(sizes[:, 0]))


@lru_cache(maxsize=4096)  # 6 kB each
def _print_of_known(known: _Known, signature: Signature) -> _Print:
    [reading] = readings([parse(known.formula, signature, dict(known.constants))])
    return _print_of(reading.slopes)


def _bucket(own: _Print) -> int:
    return round(float((own.directions * _projection(own.directions.shape)).sum()) / _BUCKET)


@lru_cache(maxsize=16)
def _projection(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.random.default_rng(3).standard_normal(shape)
