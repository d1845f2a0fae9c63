"""Any sampler of Optuna as a controller, for one objective or for three.

Optuna has no trees, so a program is told to it as a fixed number of codons, integers that are
each one choice of the typed sampler ("grammatical evolution"): the first decide how the loss is
made, the next what stands at its top, and so on down. Every row of codons is a well-typed
program, and the same row is the same program. Samplers see codons as numbers between 0 and 1,
with which TPE is five times as fast as with integers; what an answer costs stands in `studies`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution

from losssearch.controllers.base import Controller, Idea, Start, Told
from losssearch.controllers.random import Fresh
from losssearch.controllers.studies import Entry, Studies
from losssearch.language.draws import Draws
from losssearch.spaces import Space

CODONS = 24
BASE = 256
WINDOW = 200
WINDOWS = {"gp": 100, "cmaes": 960}  # GP is slow on more; CMA-ES goes through twenty generations
SHARED = {"gp": 8}  # proposals around one answer: GP's would hardly differ before more is told
GENERATION = 48  # of CMA-ES; half a round of a search
CHANGED = 3  # codons that make a neighbour
OPEN = 4096  # proposals without an answer that are remembered

_NAMES = tuple(f"g{i:02d}" for i in range(CODONS))
_RANGES: dict[str, BaseDistribution] = dict.fromkeys(_NAMES, FloatDistribution(0, 1))


class OptunaController(Controller):
    """Proposes what a sampler of Optuna suggests.

    Args:
        sampler: A name such as "tpe", "cmaes", "gp", "nsgaii", "qmc" or "random".
    """

    objectives = 1

    def __init__(self, space: Space, start: Start, seed: int = 0, sampler: str = "tpe") -> None:
        super().__init__(space, start, seed)
        self.fresh = Fresh(space, self.sampler, start)
        window = WINDOWS.get(sampler.lower(), WINDOW)
        self.studies = Studies(sampler, _RANGES, window, self.objectives, GENERATION)
        self._shared = SHARED.get(self.studies.sampler, 1)
        self._answers: dict[int, Entry] = {}  # question -> answer, until something is told
        self._open: dict[int, Entry] = {}
        self._last: Entry | None = None

    def _propose(self, number: int, draws: Draws) -> Idea:
        again = self._last is not None
        entry = self._last or self._answer(number // self._shared)
        codons = _codons(entry)
        if again or number % self._shared:
            # What was suggested is known, or stands for several: change it a little.
            for _ in range(CHANGED):
                codons[draws.below(CODONS)] = draws.below(BASE)
        self._last = replace(entry, params=_params(codons))
        return self.fresh.draw(Draws.codons(codons, BASE))

    def _answer(self, question: int) -> Entry:
        if question not in self._answers:
            self._answers = {question: self.studies.suggest(self.seed, question)}
        return self._answers[question]

    def _accept(self, number: int, idea: Idea) -> None:
        if self._last is not None:
            self._open[number] = self._last
            self._last = None
        while len(self._open) > OPEN:
            del self._open[next(iter(self._open))]

    def _learn(self, told: Told) -> None:
        entry = self._open.pop(told.number, None) or self.studies.told.get(told.number)
        if entry is not None:  # start losses have no codons
            entry.value, entry.further = told.finite_score, self._further(told)
            self.studies.tell(told.number, entry)
            self._answers = {}

    def _further(self, told: Told) -> tuple[float | None, ...]:
        """The objectives besides the score."""
        return ()

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
        self._answers = {}


class Pareto(OptunaController):
    """Looks for losses that are good, safe and short at once: score, first guard metric, size.

    NSGA-II sorts by which losses no other beats in all three. Without guards there are two objectives.
    """

    objectives = 3

    def __init__(self, space: Space, start: Start, seed: int = 0, sampler: str = "nsgaii") -> None:
        super().__init__(space, start, seed, sampler)

    def _further(self, told: Told) -> tuple[float | None, ...]:
        return told.guard, float(told.size)


def _params(codons: Iterable[int]) -> dict[str, Any]:
    """Each codon as the middle of its part of [0, 1]."""
    return {name: (codon + 0.5) / BASE for name, codon in zip(_NAMES, codons, strict=True)}


def _codons(entry: Entry) -> list[int]:
    return [min(int(entry.params[n] * BASE), BASE - 1) for n in _NAMES]


def _row(number: int, entry: Entry) -> list[Any]:
    return [number, bytes(_codons(entry)).hex(), entry.value, entry.notes, list(entry.further)]


def _entry(row: list[Any]) -> tuple[int, Entry]:
    number, codons, value, notes, further = row
    notes = {str(k): int(v) for k, v in notes.items()}
    values = tuple(None if v is None else float(v) for v in (value, *further))
    return int(number), Entry(_params(bytes.fromhex(codons)), values[0], notes, values[1:])
