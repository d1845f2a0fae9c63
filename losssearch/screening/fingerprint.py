"""Is it a known loss up to one positive factor?

Two losses are the *same* when their gradients in all differentiable inputs agree to 1e-8 on the stratified
probes up to one factor common to all batches: the known result is credited. They are *step-size variants*
when the factor changes from batch to batch (a squared cross entropy, a schedule in front of it): that is
tagged, never called a discovery, but trained.

What is kept of a gradient is the size of each batch, and eight *marks* of all directions: sums with fixed
random weights, so that the root mean square of the differences of two losses' marks estimates how far their
directions lie apart (Johnson and Lindenstrauss). A known loss takes less than half a kB.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.measure import Floats, readings

AGREE = 1e-8
VARIANT = "step-size variant of"
MARKS = 8
_BUCKET = 1e-5

Row = NDArray[np.float64]  # the marks, then the logarithm of each batch's size


class _Known:
    """Losses that passed: row, key and formula, by the first mark.

    Packed: a million small objects, scattered among those that come and go, would slow down all others.
    """

    def __init__(self) -> None:
        self._rows = np.empty((0, 0))
        self._words = bytearray()  # of each loss: key, blank, formula
        self._ends = array("q", [0])
        self._newest: dict[int, int] = {}  # bucket -> the loss that came last
        self._before = array("q")  # loss -> the one before it in its bucket, or -1

    def add(self, row: Row, key: str, text: str) -> None:
        number, bucket = len(self._before), _bucket(row)
        if number == len(self._rows):
            rows = np.empty((max(1024, 2 * number), len(row)))
            rows[:number] = self._rows.reshape(number, len(row))
            self._rows = rows
        self._rows[number] = row
        self._words += f"{key} {text}".encode()
        self._ends.append(len(self._words))
        self._before.append(self._newest.get(bucket, -1))
        self._newest[bucket] = number

    def near(self, row: Row) -> Iterator[tuple[int, Row]]:
        """Number and row of those whose first mark is about the same, the oldest of a bucket first."""
        bucket = _bucket(row)
        for one in (bucket - 1, bucket, bucket + 1):
            found = []
            number = self._newest.get(one, -1)
            while number >= 0:
                found.append(number)
                number = self._before[number]
            for number in reversed(found):
                yield number, self._rows[number]

    def name(self, number: int) -> tuple[str, str]:
        """Key and formula."""
        key, _, text = self._words[self._ends[number] : self._ends[number + 1]].decode().partition(" ")
        return key, text


class Fingerprint(Screen):
    """Remembers every loss that passed all screens, by the direction of its gradient."""

    name = "fingerprint"
    title = "the gradient of a known loss up to one factor"

    def __init__(self) -> None:
        self._known = _Known()

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        shapes: dict[tuple[tuple[int, ...], ...], list[Case]] = {}
        unread = [case for case in cases if case.reading is None]
        found = readings([case.program for case in unread], [case.string for case in unread])
        for case, reading in zip(unread, found, strict=True):
            case.reading = reading
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
        if not np.isfinite(own[:MARKS]).all() or np.isnan(sizes).any():
            return Rejection(Outcome.NOT_FINITE, "its gradient is nan on some batch")
        if not np.isfinite(sizes).any():
            return Rejection(Outcome.FLAT, "its gradient vanishes on every batch")
        for number, row in self._known.near(own):
            apart = row[:MARKS] - own[:MARKS]
            if float(apart @ apart) > MARKS * AGREE**2:
                continue
            key, text = self._known.name(number)
            both = np.isfinite(sizes) & np.isfinite(row[MARKS:])
            factors = sizes[both] - row[MARKS:][both]
            if float(factors.max() - factors.min()) <= AGREE:
                return Rejection(Outcome.EQUIVALENT, f"same as {text}", key)
            tag = f"{VARIANT} {text}"
            if tag not in case.tags:
                case.tags.append(tag)
        return None

    def admit(self, case: Case) -> None:
        self._known.add(_row_of(case), case.key, case.written.text)


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
