"""How does any sampler of Optuna become a pure function of a short history?

Optuna's samplers keep random streams, and some keep notes beside the trials. Here a study in
memory is made anew from the last few hundred results whenever something was told, and the sampler
is made anew for each question, seeded by that question. So the answer depends on the history and
the question alone, the same after any restart, and its cost does not grow. Failures count as
worse than all that was seen.
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

from losssearch.errors import UsageError

# Samplers that need more than a seed, and one that keeps its state as a pickle.
_UNFIT = {"Base", "BaseGA", "Grid", "PartialFixed", "CmaEs"}
_SETTINGS: Mapping[str, Any] = {
    "multivariate": True,
    "constant_liar": False,  # a question must not depend on which others are open
    "scramble": True,
    "warn_asynchronous_seeding": False,
    "warn_independent_sampling": False,
}


@dataclass
class Entry:
    """A point that was asked for: parameters, value (None if it failed), the sampler's notes."""

    params: dict[str, Any]
    value: float | None = None
    notes: dict[str, int] = field(default_factory=dict)


def sampler_names() -> tuple[str, ...]:
    """Names of the samplers that can be used, such as "tpe" and "nsgaii"."""
    found = (n.removesuffix("Sampler") for n in optuna.samplers.__all__ if n.endswith("Sampler"))
    return tuple(n.lower() for n in found if n not in _UNFIT)


class Studies:
    """Suggests points of a fixed space from the last results.

    Args:
        sampler: One of `sampler_names()`.
        distributions: Parameter -> range.
        window: How many results are remembered.

    Raises:
        UsageError: No such sampler.
    """

    def __init__(self, sampler: str, distributions: Mapping[str, BaseDistribution], window: int) -> None:
        if sampler.lower() not in sampler_names():
            raise UsageError(
                f"Optuna's sampler {sampler!r} cannot be used here; known are {', '.join(sampler_names())}."
            )
        by_name = {n.lower(): n for n in optuna.samplers.__all__ if n.endswith("Sampler")}
        self._class = getattr(optuna.samplers, by_name[sampler.lower() + "sampler"])
        known = inspect.signature(self._class.__init__).parameters
        self._settings = {k: v for k, v in _SETTINGS.items() if k in known}
        self._has_seed = "seed" in known
        self.distributions, self.window = dict(distributions), window
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
        return Entry(dict(trial.params), None, notes)

    def tell(self, number: int, entry: Entry) -> None:
        """Take in a result, or a better measurement of one."""
        self.told[number] = entry
        while len(self.told) > self.window:
            del self.told[next(iter(self.told))]
        self._study = None

    def _current(self) -> optuna.Study:
        if self._study is None:
            verbosity = optuna.logging.get_verbosity()
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            self._study = optuna.create_study(direction="minimize")
            optuna.logging.set_verbosity(verbosity)
            entries = list(self.told.values())
            penalty = penalty_of([e.value for e in entries])
            self._study.add_trials(
                optuna.trial.create_trial(
                    value=penalty if entry.value is None else entry.value,
                    params=entry.params,
                    distributions=self.distributions,
                    system_attrs=dict(entry.notes),
                )
                for entry in entries
            )
        return self._study

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
