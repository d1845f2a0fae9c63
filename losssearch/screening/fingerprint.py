"""Is it a known loss up to one positive factor?

Two losses are the *same* when their gradients in all differentiable inputs agree to 1e-8 on the stratified
probes up to one factor common to all batches: the known result is credited. They are *step-size variants*
when the factor changes from batch to batch (a squared cross entropy, a schedule in front of it): that is
tagged, never called a discovery, but trained.

Prints that agree have the same two marks, sums of all directions with fixed weights, but for rounding. One
mark is looked up, three dictionary reads; the other tells strangers apart, of whom there are some in every
bucket once a million losses are known. What is kept of a known loss is its formula and one number, under 1
kB, and for the few thousand met last the gradient too; of another it is found anew when a candidate has its
marks, which takes some thousandths of a second.
"""

from __future__ import annotations

from collections import OrderedDict
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
RECENT = 4096  # losses whose prints are kept, 6 kB each
_BUCKET = 1e-5


class _Print(NamedTuple):
    """Direction of each batch's gradient, the logarithm of its size, and marks of all directions."""

    directions: NDArray[np.float64]
    sizes: NDArray[np.float64]
    marks: tuple[float, float]

    @property
    def bucket(self) -> int:
        return round(self.marks[0] / _BUCKET)


class _Known(NamedTuple):
    """A loss that passed: how it runs, with its constants, how it was written, and its second mark."""

    key: str
    text: str
    formula: str
    constants: tuple[tuple[str, float], ...]
    mark: float


class Fingerprint(Screen):
    """Remembers every loss that passed all screens, by the direction of its gradient."""

    name = "fingerprint"
    title = "the gradient of a known loss up to one factor"

    def __init__(self) -> None:
        self._known: dict[int, list[_Known]] = {}
        self._recent: OrderedDict[str, _Print] = OrderedDict()

    def judge(self, case: Case) -> Rejection | None:
        if not case.slopes:  # no screen before this one asked
            return Rejection(Outcome.NOT_FINITE, "nan or inf in single precision")
        own = self._kept(case.key, _print_of(case.slopes))
        if np.isnan(own.sizes).any():
            return Rejection(Outcome.NOT_FINITE, "its gradient is nan on some batch")
        if not np.isfinite(own.sizes).any():
            return Rejection(Outcome.FLAT, "its gradient vanishes on every batch")
        for near in (own.bucket - 1, own.bucket, own.bucket + 1):
            for known in self._known.get(near, ()):
                if abs(known.mark - own.marks[1]) > 2 * _BUCKET:
                    continue
                other = self._print_of_known(known, case.space.signature)
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
        own = self._recent.get(case.key) or _print_of(case.slopes)
        constants = tuple([(c.name, c.value) for c in case.program.constants])
        known = _Known(case.key, case.written.text, case.program.text, constants, own.marks[1])
        self._known.setdefault(own.bucket, []).append(known)

    def _print_of_known(self, known: _Known, signature: Signature) -> _Print:
        own = self._recent.get(known.key)
        if own is None:
            [reading] = readings([parse(known.formula, signature, dict(known.constants))])
            own = _print_of(reading.slopes)
        return self._kept(known.key, own)

    def _kept(self, key: str, own: _Print) -> _Print:
        self._recent[key] = own
        self._recent.move_to_end(key)
        if len(self._recent) > RECENT:
            self._recent.popitem(last=False)
        return own


def _print_of(slopes: tuple[Floats, ...]) -> _Print:
    flat = np.concatenate([s.reshape(len(s), -1) for s in slopes], axis=1)
    sizes = np.sqrt(np.square(flat).sum(axis=1, keepdims=True))
    with np.errstate(divide="ignore"):
        directions, logs = flat / np.maximum(sizes, 1e-300), np.log(sizes[:, 0])
    first, second = (_weights(directions.shape) * directions).sum(axis=(1, 2))
    return _Print(directions, logs, (float(first), float(second)))


@lru_cache(maxsize=16)
def _weights(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """What the two marks weigh directions by."""
    return np.random.default_rng(3).standard_normal((2, *shape))
