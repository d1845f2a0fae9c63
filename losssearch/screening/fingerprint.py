"""Is it a known loss up to one positive factor?

Two losses are the *same* when their gradients in all differentiable inputs agree to 1e-8 on the stratified
probes up to one factor common to all batches: the known result is credited. They are *step-size variants*
when the factor changes from batch to batch (a squared cross entropy, a schedule in front of it): that is
tagged, never called a discovery, but trained.

What is kept of a gradient is the size of each batch, and eight *marks* of all directions: sums with fixed
random weights, so that the root mean square of the differences of two losses' marks estimates how far their
directions lie apart (Johnson and Lindenstrauss). Half a kB a known loss; the first mark is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.measure import Floats

AGREE = 1e-8
VARIANT = "step-size variant of"
MARKS = 8
_BUCKET = 1e-5

Row = NDArray[np.float64]  # the marks, then the logarithm of each batch's size


class _Known(NamedTuple):
    """A loss that passed: how it was written, and its row."""

    key: str
    text: str
    row: Row


class Fingerprint(Screen):
    """Remembers every loss that passed all screens, by the direction of its gradient."""

    name = "fingerprint"
    title = "the gradient of a known loss up to one factor"

    def __init__(self) -> None:
        self._known: dict[int, list[_Known]] = {}

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        shapes: dict[tuple[tuple[int, ...], ...], list[Case]] = {}
        for case in [c for c in cases if c.known_reading.slopes]:
            shapes.setdefault(tuple([s.shape for s in case.known_reading.slopes]), []).append(case)
        for alike in shapes.values():
            for case, row in zip(alike, _rows([c.known_reading.slopes for c in alike]), strict=True):
                case.fingerprint = row
        return list(cases)

    def judge(self, case: Case) -> Rejection | None:
        if not case.slopes:  # no screen before this one asked
            return Rejection(Outcome.NOT_FINITE, "nan or inf in single precision")
        own = _row_of(case)
        sizes = own[MARKS:]
        if np.isnan(sizes).any():
            return Rejection(Outcome.NOT_FINITE, "its gradient is nan on some batch")
        if not np.isfinite(sizes).any():
            return Rejection(Outcome.FLAT, "its gradient vanishes on every batch")
        bucket = _bucket(own)
        for near in (bucket - 1, bucket, bucket + 1):
            for known in self._known.get(near, ()):
                apart = known.row[:MARKS] - own[:MARKS]
                if float(apart @ apart) > MARKS * AGREE**2:
                    continue
                both = np.isfinite(sizes) & np.isfinite(known.row[MARKS:])
                factors = sizes[both] - known.row[MARKS:][both]
                if float(factors.max() - factors.min()) <= AGREE:
                    return Rejection(Outcome.EQUIVALENT, f"same as {known.text}", known.key)
                tag = f"{VARIANT} {known.text}"
                if tag not in case.tags:
                    case.tags.append(tag)
        return None

    def admit(self, case: Case) -> None:
        row = _row_of(case)
        self._known.setdefault(_bucket(row), []).append(_Known(case.key, case.written.text, row))


def _row_of(case: Case) -> Row:
    """The row of a case; its marks change sides with the sign of the loss."""
    if case.fingerprint is None:
        [case.fingerprint] = _rows([case.known_reading.slopes])
    if not case.flipped:
        return case.fingerprint
    return np.concatenate([-case.fingerprint[:MARKS], case.fingerprint[MARKS:]])


def _bucket(row: Row) -> int:
    return round(float(row[0]) / _BUCKET)


def _rows(slopes: Sequence[tuple[Floats, ...]]) -> Row:
    """The rows of gradients of the same shapes: (losses, marks and batches)."""
    inputs = [np.stack(own) for own in zip(*slopes, strict=True)]
    flat = np.concatenate([i.reshape(*i.shape[:2], -1) for i in inputs], axis=2)
    sizes = np.sqrt(np.square(flat).sum(axis=2))
    with np.errstate(divide="ignore", invalid="ignore"):
        directions, logs = flat / np.maximum(sizes, 1e-300)[:, :, None], np.log(sizes)
        marks = directions.reshape(len(directions), -1) @ _weights(directions[0].size)
    return np.concatenate([marks, logs], axis=1)


@lru_cache(maxsize=16)
def _weights(size: int) -> Row:
    """What the marks weigh directions by."""
    return np.random.default_rng(3).standard_normal((size, MARKS))
