"""Any sampler of Optuna as a controller.

Optuna has no trees, so a program is told to it as a fixed number of codons, integers that are
each one choice of the typed sampler ("grammatical evolution"): the first decide how the loss is
made, the next what stands at its top, and so on down. Every row of codons is a well-typed
program, and the same row is the same program. Samplers see codons as numbers between 0 and 1,
with which TPE is five times as fast as with integers; a proposal takes TPE about 20 ms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from losssearch.controllers.base import Controller, Idea, Start, Told
from losssearch.controllers.random import Fresh
from losssearch.controllers.studies import Entry, Studies
from losssearch.language.sampling import Draws
from losssearch.spaces import Space

CODONS = 24
BASE = 256
WINDOW = 200
OPEN = 4096  # proposals without an answer that are remembered

_NAMES = tuple(f"g{i:02d}" for i in range(CODONS))
_RANGES: dict[str, BaseDistribution] = dict.fromkeys(_NAMES, FloatDistribution(0, 1))


class OptunaController(Controller):
    """Proposes what a sampler of Optuna suggests.

    Args:
        sampler: A name such as "tpe", "nsgaii", "gp", "qmc" or "random".
    """

    def __init__(self, space: Space, start: Start, seed: int = 0, sampler: str = "tpe") -> None:
        super().__init__(space, start, seed)
        self.fresh = Fresh(space, self.sampler, start)
        self.studies = Studies(sampler, _RANGES, WINDOW)
        self._open: dict[int, Entry] = {}
        self._last: Entry | None = None

    def _propose(self, number: int, draws: Draws) -> Idea:
        if self._last is None:
            self._last = self.studies.suggest(self.seed, number)
            codons = [min(int(self._last.params[n] * BASE), BASE - 1) for n in _NAMES]
        else:  # what was suggested is known: change it a little, which costs less than asking again
            codons = _codons(self._last)
            for _ in range(3):
                codons[draws.below(CODONS)] = draws.below(BASE)
        self._last = replace(self._last, params=_params(codons))
        return self.fresh.draw(Draws.codons(codons, BASE))

    def _accept(self, number: int, idea: Idea) -> None:
        if self._last is not None:
            self._open[number] = self._last
            self._last = None
        while len(self._open) > OPEN:
            del self._open[next(iter(self._open))]

    def _learn(self, told: Told) -> None:
        entry = self._open.pop(told.number, None) or self.studies.told.get(told.number)
        if entry is not None:  # start losses have no codons
            entry.value = told.finite_score
            self.studies.tell(told.number, entry)

    def _state(self) -> dict[str, Any]:
        return {
            "told": [_row(number, entry) for number, entry in self.studies.told.items()],
            "open": [_row(number, entry) for number, entry in self._open.items()],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.studies.told.clear()
        for row in state["told"]:
            self.studies.tell(*_entry(row))
        self._open = dict(_entry(row) for row in state["open"])


def _params(codons: Iterable[int]) -> dict[str, Any]:
    """Each codon as the middle of its part of [0, 1]."""
    return {name: (codon + 0.5) / BASE for name, codon in zip(_NAMES, codons, strict=True)}


def _codons(entry: Entry) -> list[int]:
    return [int(entry.params[n] * BASE) for n in _NAMES]


def _row(number: int, entry: Entry) -> list[Any]:
    return [number, bytes(_codons(entry)).hex(), entry.value, entry.notes]


def _entry(row: list[Any]) -> tuple[int, Entry]:
    number, codons, value, notes = row
    notes = {str(k): int(v) for k, v in notes.items()}
    params = _params(bytes.fromhex(codons))
    return int(number), Entry(params, None if value is None else float(value), notes)
