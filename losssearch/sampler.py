"""How does an Optuna user search for a loss, in a training loop of their own?

    sampler = LossSearchSampler("multiclass", start=["cross_entropy"])
    study = optuna.create_study(sampler=sampler, storage="sqlite:///study.db", study_name="loss")

    def objective(trial):
        loss = sampler.suggest(trial)                          # a torch module: loss(logits, target)
        rate = trial.suggest_float("rate", 1e-3, 1, log=True)  # further parameters as ever
        return ...                                             # train with them; the error

    study.optimize(objective, n_trials=100)
    loss = sampler.suggest(study.best_trial)

A loss is no parameter of Optuna's kinds: it stands in the trial's user attributes, as a formula with its
constants. There, too, stands what the controller had heard when it made it. So nothing else needs to be
kept: a sampler that meets a stored study holds the same dialogue again, at some milliseconds a trial, and
goes on as if it had never stopped. Loaded only when it is asked for, since it loads Optuna.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from losssearch.catalogue import with_constants
from losssearch.controllers.registry import make_controller
from losssearch.dialogue import Dialogue, Said
from losssearch.errors import UsageError
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import ConstantLike, parse
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.records import constants_of, read_program
from losssearch.screening.pipeline import Screens
from losssearch.spaces import load_space

if TYPE_CHECKING:
    from losssearch.execution.module import LossModule
    from losssearch.execution.named import NamedLoss

FORMULA, CONSTANTS, SCALE, ORIGIN = "formula", "constants", "scale", "origin"
MARK = "losssearch"


class LossSearchSampler(BaseSampler):
    """Drives a search for a loss through `study.optimize`.

    Works with pruners (a pruned trial counts as its last report, and as no better than half of the
    finished ones), threads (`n_jobs`), stored studies and several processes on one of them. With one
    thread the losses depend on the seed and the results alone, restarts included.

    Args:
        space: What may be written: a shipped space, or the path of a TOML file.
        controller: What proposes: "evolution", "portfolio", "optuna:cmaes", ...
        start: Names of the classical losses that are tried first; None for all seed points.
        seed: Of the controller and of `others`.
        screen: Whether losses that cannot work, or that equal a known one, are left out untrained.
        others: The sampler of all other parameters; None takes TPE.

    Raises:
        LossSearchError: An argument does not fit.
    """

    def __init__(
        self,
        space: str | Path,
        controller: str = "evolution",
        start: Sequence[str] | None = None,
        seed: int = 0,
        screen: bool = True,
        others: BaseSampler | None = None,
    ) -> None:
        self.space = load_space(space)
        self.others = others or TPESampler(seed=seed)
        self._given: dict[str, Any] = {
            "space": space, "controller": controller, "start": start, "seed": seed, "screen": screen,
            "others": others,
        }  # fmt: skip
        losses = [self.space.loss(n) for n in start] if start is not None else list(self.space.seeds)
        self._start = [(loss.name, loss.program) for loss in losses]
        self._controller, self._seed, self._screen = controller, seed, screen
        self._lock = threading.Lock()
        self._begin()

    def suggest(self, trial: Trial | FrozenTrial, **arguments: Any) -> LossModule | NamedLoss:
        """The loss of a trial, as a torch module `loss(input, target)`, scaled to the reference's gradient.

        Args:
            trial: A running trial gets a loss at the first call; of a finished one, such as
                `study.best_trial`, it is the loss that it had.
            arguments: Those of `LossModule`, such as `weight` or `reduction`.

        Raises:
            UsageError: A finished trial has no loss; the study has several objectives.
        """
        from losssearch.execution.named import loss_module

        if isinstance(trial, Trial) and _mark(trial) is None:
            with self._lock:
                self._propose(trial)
        if FORMULA not in trial.user_attrs:
            raise UsageError(f"Trial {trial.number} has no loss: its objective never called `suggest`.")
        scale, identity = trial.user_attrs.get(SCALE, 1.0), f"trial {trial.number}"
        return loss_module(self._read(trial), self.space.task, scale=scale, identity=identity, **arguments)

    def point(
        self, loss: str, constants: Mapping[str, ConstantLike] | None = None, **values: float
    ) -> dict[str, Any]:
        """A loss of yours, for `study.enqueue_trial({"rate": 0.1}, user_attrs=sampler.point("focal"))`.

        Args:
            loss: Name of a classical loss of the space, or a formula.
            constants: Those of a formula: name -> value, (value, low, high) or `Constant`.
            values: Constants of the classical loss that are not at their usual value.

        Raises:
            LossSearchError: There is no such loss or constant, or the formula cannot be read.
        """
        if loss.isidentifier():
            program = with_constants(self.space.loss(loss), values)
        else:
            program = parse(loss, self.space.signature, {**(constants or {}), **values})
        return {FORMULA: program.text, CONSTANTS: constants_of(program)}

    # What the controller says and hears.

    def _begin(self) -> None:
        """Nothing has been said yet, in no study."""
        controller = make_controller(self._controller, self.space, self._start, self._seed)
        self._dialogue = Dialogue(self.space, controller, Screens.of(self.space) if self._screen else None)
        self._study: str | None = None
        self._said: dict[int, Said] = {}  # trial -> loss
        self._heard: set[int] = set()  # trials
        self._values: list[float] = []  # of finished trials

    def _propose(self, trial: Trial) -> None:
        """Tell what is new, then write a loss into the trial's user attributes."""
        study = trial.study
        self._raise_if_several(study)
        if self._study not in (None, study.study_name):
            self._begin()
        self._study = study.study_name
        trials = {t.number: t for t in study.get_trials(deepcopy=False)}
        self._catch_up(trials, study.direction)
        done = [n for n, t in trials.items() if t.state.is_finished() and n in self._said]
        news = sorted(set(done) - self._heard)
        self._listen(trials, news, study.direction)
        if FORMULA in trial.user_attrs:
            said = self._dialogue.bring(-1 - trial.number, self._read(trial))
        else:
            said = self._dialogue.ask()
            trial.set_user_attr(FORMULA, said.program.text)
            trial.set_user_attr(CONSTANTS, constants_of(said.program))
        trial.set_user_attr(SCALE, said.scale)
        trial.set_user_attr(ORIGIN, said.origin)
        mark = {"trial": trial.number, "order": len(self._said), "number": said.number, "heard": news}
        trial.set_user_attr(MARK, mark)
        self._said[trial.number] = said

    def _catch_up(self, trials: Mapping[int, FrozenTrial], direction: StudyDirection) -> None:
        """Hold the dialogue again that led to trials of an earlier run, or of another process."""
        marks = {n: mark for n, t in trials.items() if n not in self._said and (mark := _mark(t))}
        for number in sorted(marks, key=lambda n: (int(marks[n]["order"]), n)):
            self._listen(trials, [int(n) for n in marks[number]["heard"]], direction)
            program = self._read(trials[number])
            said = None if int(marks[number]["number"]) < 0 else self._dialogue.ask()
            if said is None or said.key != candidate_key(program):
                # The user's own, or said by a process that knew something else.
                said = self._dialogue.bring(-1 - number, program)
            self._said[number] = said

    def _read(self, trial: Trial | FrozenTrial) -> Program:
        """The loss of a trial, checked anew."""
        attributes = trial.user_attrs
        return read_program(attributes[FORMULA], attributes[CONSTANTS], self.space)

    def _listen(
        self, trials: Mapping[int, FrozenTrial], numbers: Sequence[int], direction: StudyDirection
    ) -> None:
        for number in numbers:
            if number in self._said and number not in self._heard:
                self._heard.add(number)
                self._dialogue.tell(self._said[number], *self._result(trials[number], direction))

    def _result(self, trial: FrozenTrial, direction: StudyDirection) -> tuple[float | None, Outcome]:
        """Score, lower is better, and outcome of a finished trial."""
        sign = -1.0 if direction is StudyDirection.MAXIMIZE else 1.0
        if trial.state is TrialState.COMPLETE and trial.value is not None:
            self._values.append(sign * trial.value)
            return self._values[-1], Outcome.SCORED
        if trial.state is TrialState.PRUNED and trial.last_step is not None:
            last = sign * trial.intermediate_values[trial.last_step]
            return max([last, *([statistics.median(self._values)] if self._values else [])]), Outcome.PRUNED
        return None, Outcome.FAILED

    def _raise_if_several(self, study: Study) -> None:
        if len(study.directions) > 1:
            raise UsageError(
                "LossSearchSampler minimises or maximises one value, but the study has "
                f"{len(study.directions)} objectives."
            )

    # What Optuna asks of a sampler: all parameters besides the loss are another sampler's affair.

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.others.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self.others.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self.others.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self.others.before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        self.others.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        self.others.reseed_rng()

    def __reduce__(self) -> tuple[Any, ...]:
        """Arguments are all of it: the rest follows from the study."""
        return partial(LossSearchSampler, **self._given), ()


def _mark(trial: Trial | FrozenTrial) -> Mapping[str, Any] | None:
    """What the sampler wrote into this very trial; a retried trial has the attributes of another."""
    mark = trial.user_attrs.get(MARK)
    return mark if isinstance(mark, Mapping) and mark.get("trial") == trial.number else None
