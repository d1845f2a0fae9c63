"""How does any sampler of Optuna become a pure function of a short history?

Optuna's samplers keep random streams, and some keep notes beside the trials. Here a study in
memory is made anew from the last few hundred results whenever something was told, and the sampler
is made anew for each question, seeded by that question. So the answer depends on the history and
the question alone, the same after any restart, and its cost does not grow. Failures count as
worse than all that was seen. For 24 numbers an answer takes about 10 ms with TPE and CMA-ES, 2 ms with
NSGA-II, and with GP 100 ms after 100 results and 230 ms after 200, so let it remember less.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState

from losssearch.controllers.generations import add_generations, need_cmaes
from losssearch.errors import UsageError

_UNFIT = {"Base", "BaseGA", "Grid", "PartialFixed"}  # these need more than a seed
CMA_ES = "cmaes"
_SETTINGS: Mapping[str, Any] = {
    "multivariate": True,
    "constant_liar": False,  # a question must not depend on which others are open
    "scramble": True,
    "warn_asynchronous_seeding": False,
    "warn_independent_sampling": False,
}


@dataclass
class Entry:
    """A point that was asked for.

    Args:
        params: Name -> value.
        value: Lower is better; None if it failed.
        notes: The sampler's own.
        further: The other objectives, where there are several; lower is better, None where unknown.
    """

    params: dict[str, Any]
    value: float | None = None
    notes: dict[str, int] = field(default_factory=dict)
    further: tuple[float | None, ...] = ()


def sampler_names() -> tuple[str, ...]:
    """Names of the samplers that can be used, such as "tpe" and "nsgaii"."""
    found = (n.removesuffix("Sampler") for n in optuna.samplers.__all__ if n.endswith("Sampler"))
    return tuple(n.lower() for n in found if n not in _UNFIT)


class Studies:
    """Suggests points of a fixed space from the last results.

    Args:
        sampler: One of `sampler_names()`.
        distributions: Parameter -> range.
        window: How many results are remembered. CMA-ES forgets half of them at once and begins anew from
            the rest, since its memory is a summary of all results in their order.
        objectives: How many values each result has, all to be minimised.
        generation: Results that make a generation of CMA-ES.

    Raises:
        UsageError: No such sampler, or it knows one objective only.
    """

    def __init__(
        self,
        sampler: str,
        distributions: Mapping[str, BaseDistribution],
        window: int,
        objectives: int = 1,
        generation: int = 8,
    ) -> None:
        self.sampler = sampler.lower()
        if self.sampler not in sampler_names():
            raise UsageError(
                f"Optuna's sampler {sampler!r} cannot be used here; known are {', '.join(sampler_names())}."
            )
        if self.sampler == CMA_ES:
            need_cmaes()
            if objectives > 1:
                raise UsageError("CMA-ES knows one objective only; nsgaii, tpe and gp know several.")
        by_name = {n.lower(): n for n in optuna.samplers.__all__ if n.endswith("Sampler")}
        self._class = getattr(optuna.samplers, by_name[self.sampler + "sampler"])
        known = inspect.signature(self._class.__init__).parameters
        settings = {**_SETTINGS, "popsize": generation}
        self._settings = {k: v for k, v in settings.items() if k in known}
        self._has_seed = "seed" in known
        self.distributions, self.window = dict(distributions), window
        self.objectives, self.generation = objectives, generation
        self.told: dict[int, Entry] = {}
        self._study: optuna.Study | None = None

    def suggest(self, *question: int) -> Entry:
        """A point, decided by what was told and by these numbers alone."""
        study = self._current()
        study.sampler = self._sampler(question)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trial = study.ask(fixed_distributions=self.distributions)
        notes = _plain_notes(study._storage.get_trial_system_attrs(trial._trial_id))
        study.tell(trial, state=TrialState.FAIL)  # open trials would sway the next answer
        return Entry(dict(trial.params), None, notes)

    def tell(self, number: int, entry: Entry) -> None:
        """Take in a result, or a better measurement of one."""
        self.told[number] = entry
        if len(self.told) > self.window:
            for oldest in list(self.told)[: self.window // 2 if self.sampler == CMA_ES else 1]:
                del self.told[oldest]
        self._study = None

    def _current(self) -> optuna.Study:
        if self._study is None:
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._study = optuna.create_study(directions=["minimize"] * self.objectives)
            optuna.logging.set_verbosity(verbosity)
            entries = list(self.told.values())
            values = self._values(entries)
            if self.sampler == CMA_ES:
                self._study.sampler = self._sampler((0,))
                results = [(entry.params, row[0]) for entry, row in zip(entries, values, strict=True)]
                add_generations(self._study, results, self.distributions, self.generation)
            else:
                self._study.add_trials(
                    optuna.trial.create_trial(
                        values=row,
                        params=entry.params,
                        distributions=self.distributions,
                        system_attrs=dict(entry.notes),
                    )
                    for entry, row in zip(entries, values, strict=True)
                )
        return self._study

    def _values(self, entries: Sequence[Entry]) -> list[list[float]]:
        """All objectives of each entry; what failed is worse in all of them."""
        nothing = (None,) * self.objectives
        rows = [nothing if e.value is None else (e.value, *e.further) for e in entries]
        penalties = [penalty_of([row[k] for row in rows]) for k in range(self.objectives)]
        return [[p if v is None else v for v, p in zip(row, penalties, strict=True)] for row in rows]

    def _sampler(self, question: Sequence[int]) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence(question).generate_state(1)[0]) >> 1
        seeded = {"seed": seed} if self._has_seed else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made: optuna.samplers.BaseSampler = self._class(**self._settings, **seeded)
        return made


def penalty_of(values: Sequence[float | None]) -> float:
    """Clearly worse than every value there is; 1 if there is none."""
    known = [v for v in values if v is not None]
    if not known:
        return 1.0
    return max(known) + max(max(known) - min(known), 0.1 * abs(max(known)), 1e-9)


def _plain_notes(attributes: Mapping[str, Any]) -> dict[str, int]:
    """What a genetic sampler must find again: each trial's generation."""
    return {k: v for k, v in attributes.items() if k.endswith("generation") and isinstance(v, int)}
