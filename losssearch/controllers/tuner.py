"""Which constants, learning rate and weight decay serve a fixed loss best?

The structure stays; a sampler of Optuna proposes values for the constants and for further knobs.
The loss's own constants come first, so that tuning never makes it worse. The same tuner serves a
search's finalists and the classical losses that they are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from losssearch.controllers.studies import Entry, Studies
from losssearch.errors import UsageError
from losssearch.language.program import Constant, Program

WINDOW = 1000
_CONSTANT, _KNOB = "constant:", "knob:"


@dataclass(frozen=True)
class Trial:
    """One setting to try.

    Args:
        number: Counts from 0.
        program: The loss with its constants set.
        knobs: Value of each further knob.
    """

    number: int
    program: Program
    knobs: Mapping[str, float]


class ConstantTuner:
    """Asks for settings of a fixed loss and learns from their scores.

    Args:
        program: Its structure is kept; its constants vary in their ranges.
        knobs: Name -> values worth trying, first the usual one, for example
            {"rate": (0.1, 0.03, 0.3), "decay": (0, 1e-4, 1e-3), "epochs": (30, 60)}.
        seed: The same seed and answers give the same settings.
        sampler: A sampler of Optuna by name.

    Raises:
        UsageError: A knob has no values, or there is no such sampler.
    """

    def __init__(
        self,
        program: Program,
        knobs: Mapping[str, Sequence[float]] | None = None,
        seed: int = 0,
        sampler: str = "tpe",
    ) -> None:
        self.program, self.seed = program, seed
        self.knobs = {name: tuple(values) for name, values in (knobs or {}).items()}
        for name, values in self.knobs.items():
            if not values:
                raise UsageError(f"The knob {name!r} has no values to try.")
        ranges: dict[str, BaseDistribution] = {
            _CONSTANT + c.name: _range(c) for c in program.constants if c.low < c.high
        }
        ranges |= {
            _KNOB + name: CategoricalDistribution(values)
            for name, values in self.knobs.items()
            if len(values) > 1
        }
        self.is_fixed = not ranges
        self.studies = Studies(sampler, ranges, WINDOW)
        self.number = 0
        self.best: tuple[float, Trial] | None = None
        self._open: dict[int, Entry] = {}

    def ask(self, count: int) -> list[Trial]:
        """The next settings; the first is the loss as it came, with each knob's usual value."""
        trials = []
        for _ in range(count):
            number = self.number
            self.number += 1
            if number == 0 or self.is_fixed:
                entry = Entry(self._usual())
            else:
                entry = self.studies.suggest(self.seed, number)
            self._open[number] = entry
            trials.append(self._trial(number, entry))
        return trials

    def tell(self, number: int, score: float | None) -> None:
        """The score of a setting, lower is better; None or nan for a failure.

        Raises:
            UsageError: No such setting was asked for.
        """
        entry = self._open.pop(number, None) or self.studies.told.get(number)
        if entry is None:
            raise UsageError(f"Setting {number} was not asked for, or is long forgotten.")
        entry.value = score if score is not None and math.isfinite(score) else None
        self.studies.tell(number, entry)
        if entry.value is not None and (self.best is None or entry.value < self.best[0]):
            self.best = entry.value, self._trial(number, entry)

    def state(self) -> dict[str, Any]:
        """All that decides the next settings, as plain data."""
        return {
            "number": self.number,
            "told": [_row(n, e) for n, e in self.studies.told.items()],
            "open": [_row(n, e) for n, e in self._open.items()],
            "best": None if self.best is None else [self.best[0], *self._row_of_best()],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()` of a tuner of the same loss, knobs and seed.

        Raises:
            UsageError: The state does not fit.
        """
        try:
            self.number = int(state["number"])
            self.studies.told.clear()
            for row in state["told"]:
                number, entry = self._entry(row)
                self.studies.tell(number, entry)
            self._open = dict(self._entry(row) for row in state["open"])
            self.best = None
            if state["best"] is not None:
                score, *row = state["best"]
                self.best = float(score), self._trial(*self._entry(row))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"The saved state of the tuner does not fit: {error!r}.") from error

    def _usual(self) -> dict[str, Any]:
        params: dict[str, Any] = {}
        for constant in self.program.constants:
            if _CONSTANT + constant.name in self.studies.distributions:
                params[_CONSTANT + constant.name] = constant.value
        for name, values in self.knobs.items():
            if _KNOB + name in self.studies.distributions:
                params[_KNOB + name] = values[0]
        return params

    def _trial(self, number: int, entry: Entry) -> Trial:
        constants = {
            k.removeprefix(_CONSTANT): float(v) for k, v in entry.params.items() if k.startswith(_CONSTANT)
        }
        knobs = {n: entry.params.get(_KNOB + n, values[0]) for n, values in self.knobs.items()}
        return Trial(number, self.program.with_constants(constants), knobs)

    def _row_of_best(self) -> list[Any]:
        if self.best is None:
            return []
        number = self.best[1].number
        return _row(number, self._entry_of(self.best[1], self.best[0]))

    def _entry_of(self, trial: Trial, value: float) -> Entry:
        values = {_CONSTANT + c.name: c.value for c in trial.program.constants}
        values |= {_KNOB + name: value for name, value in trial.knobs.items()}
        known = self.studies.distributions
        return Entry({k: v for k, v in values.items() if k in known}, value)

    def _entry(self, row: Sequence[Any]) -> tuple[int, Entry]:
        number, params, value, notes = row
        if set(params) != set(self.studies.distributions):
            raise ValueError(f"it speaks of {sorted(params)}")
        notes = {str(k): int(v) for k, v in notes.items()}
        return int(number), Entry(dict(params), None if value is None else float(value), notes)


def _range(constant: Constant) -> FloatDistribution:
    """Even on a logarithmic scale where the range is positive and spans more than a decade."""
    low, high = constant.low, constant.high
    return FloatDistribution(low, high, log=low > 0 and high / low > 10)


def _row(number: int, entry: Entry) -> list[Any]:
    return [number, entry.params, entry.value, entry.notes]
