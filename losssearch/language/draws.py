"""Where does randomness come from, and what is made of it?

It is counted: proposal k of seed s draws from its own Philox stream, so that it is the same after any
restart. A stream opens in thirteen microseconds.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator, Sequence
from statistics import NormalDist
from typing import TypeVar

import numpy as np

T = TypeVar("T")

_UNIT_NORMAL = NormalDist()


class Draws:
    """A stream of uniform numbers, and what is made of them; one number a choice."""

    def __init__(self, numbers: Iterator[float]) -> None:
        self._numbers = numbers

    @classmethod
    def counted(cls, seed: int, *counter: int) -> Draws:
        """The stream that belongs to a seed and a counter, on every machine."""
        return cls(_philox(seed, *counter))

    @classmethod
    def codons(cls, codons: Sequence[int], base: int) -> Draws:
        """Integers in [0, base) as choices; when they are used up, a stream that they determine."""
        return cls(_decoded(codons, base))

    def uniform(self) -> float:
        return next(self._numbers)

    def below(self, n: int) -> int:
        return min(int(next(self._numbers) * n), n - 1)

    def chance(self, share: float) -> bool:
        return next(self._numbers) < share

    def pick(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def weighted(self, totals: Sequence[float]) -> int:
        """An index, from running totals of the weights."""
        return min(bisect(totals, next(self._numbers) * totals[-1]), len(totals) - 1)

    def normal(self) -> float:
        return _UNIT_NORMAL.inv_cdf(min(max(next(self._numbers), 1e-9), 1 - 1e-9))

    def between(self, low: float, high: float) -> float:
        """Even on a logarithmic scale."""
        return float(low * (high / low) ** next(self._numbers))


def _philox(seed: int, *counter: int) -> Iterator[float]:
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, *counter))))
    while True:
        yield from generator.random(64).tolist()


def _decoded(codons: Sequence[int], base: int) -> Iterator[float]:
    for codon in codons:
        yield (codon + 0.5) / base
    yield from _philox(len(codons), *codons)
