"""An Optuna user searches for a loss in a loop of their own, in the ways in which Optuna is used."""

from __future__ import annotations

import pickle
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState

import losssearch as ls

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(60, 4, generator=GENERATOR)
TRUE = (X[:, :3] + 0.3 * torch.randn(60, 3, generator=GENERATOR)).argmax(1)
NOISY = torch.where(torch.rand(60, generator=GENERATOR) < 0.3, (TRUE + 1) % 3, TRUE)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def sampler(seed: int = 0, **changes: Any) -> ls.LossSearchSampler:
    given = {"start": ["cross_entropy", "brier"], "seed": seed, **changes}
    return ls.LossSearchSampler("multiclass", **given)


def objective_of(own: ls.LossSearchSampler) -> Callable[[optuna.Trial], float]:
    """Error of a linear model on clean labels, after ten steps on noisy ones."""

    def objective(trial: optuna.Trial) -> float:
        loss = own.suggest(trial)
        rate = trial.suggest_float("rate", 0.01, 1.0, log=True)
        w = torch.zeros(4, 3, requires_grad=True)
        error = 1.0
        for step in range(10):
            (slope,) = torch.autograd.grad(loss(X @ w, NOISY), w)
            w = (w - rate * slope).detach().requires_grad_()
            error = float(((X @ w).argmax(1) != TRUE).double().mean())
            trial.report(error, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return error

    return objective


def formulas(study: optuna.Study) -> list[tuple[str, Any]]:
    return [(t.user_attrs["formula"], t.user_attrs["constants"]) for t in study.trials]


def searched(own: ls.LossSearchSampler, trials: int, **study: Any) -> optuna.Study:
    found = optuna.create_study(sampler=own, **study)
    found.optimize(objective_of(own), n_trials=trials)
    return found


def test_start_losses_come_first_and_each_trial_shows_its_formula() -> None:
    study = searched(sampler(), 6)
    texts = [text for text, _ in formulas(study)]
    assert texts[0] == ls.load_space("multiclass").losses["cross_entropy"].program.text
    assert [t.user_attrs["origin"] for t in study.trials[:2]] == ["start: cross_entropy", "start: brier"]
    assert len(set(texts)) == 6
    assert all(0.01 <= t.params["rate"] <= 1 for t in study.trials)


def test_the_loss_of_the_best_trial_is_had_again() -> None:
    own = sampler()
    study = searched(own, 4)
    loss = own.suggest(study.best_trial, reduction="none")
    assert loss.formula == study.best_trial.user_attrs["formula"]
    assert loss(X[:, :3], TRUE).shape == (60,)


def test_the_same_seed_gives_the_same_losses_and_another_gives_others() -> None:
    first, again, other = (searched(sampler(seed), 8) for seed in (0, 0, 1))
    assert formulas(first) == formulas(again)
    assert [t.params for t in first.trials] == [t.params for t in again.trials]
    assert formulas(first)[2:] != formulas(other)[2:]


@pytest.mark.parametrize("controller", ["evolution", "optuna", "q_learning"])
def test_a_stored_study_goes_on_as_if_it_had_never_stopped(tmp_path: Path, controller: str) -> None:
    def rate_free(own: ls.LossSearchSampler) -> Callable[[optuna.Trial], float]:
        return lambda trial: float(own.suggest(trial)(X[:, :3], NOISY).tanh())

    whole = sampler(controller=controller)
    study = optuna.create_study(sampler=whole)
    study.optimize(rate_free(whole), n_trials=12)
    place = f"sqlite:///{tmp_path}/study.db"
    stored = optuna.create_study(study_name="loss", storage=place)
    for _ in range(3):
        part = sampler(controller=controller)
        stored = optuna.load_study(study_name="loss", storage=place, sampler=part)
        stored.optimize(rate_free(part), n_trials=4)
    assert formulas(stored) == formulas(study)


def test_a_loss_of_ones_own_may_be_enqueued_with_parameters() -> None:
    own = sampler()
    study = optuna.create_study(sampler=own)
    study.enqueue_trial({"rate": 0.5}, user_attrs=own.point("focal", gamma=1.5))
    written = own.point("mean((1 - p_t)**a, 'n')", {"a": (0.5, 0, 1)})
    study.enqueue_trial({}, user_attrs=written)
    study.optimize(objective_of(own), n_trials=4)
    first, second, third, _ = study.trials
    assert first.params == {"rate": 0.5}
    assert own.suggest(first).constants["gamma"] == 1.5
    assert second.user_attrs["constants"] == {"a": [0.5, 0, 1]}
    assert third.user_attrs["origin"] == "start: cross_entropy"


def test_pruned_and_failed_trials_teach_and_the_search_goes_on() -> None:
    own = sampler()
    study = optuna.create_study(sampler=own, pruner=optuna.pruners.MedianPruner(2, 3))
    inner = objective_of(own)

    def objective(trial: optuna.Trial) -> float:
        error = inner(trial)
        if trial.number % 5 == 3:
            raise ArithmeticError("the user's own code failed")
        return error

    study.optimize(objective, n_trials=25, catch=ArithmeticError)
    states = {t.state for t in study.trials}
    assert states == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    own.suggest(study.ask())
    told = {t.key: t.score for t in own._dialogue.controller.population}
    done = [t.value for t in study.trials if t.state is TrialState.COMPLETE]
    pruned = [own._said[t.number].key for t in study.trials if t.state is TrialState.PRUNED]
    heard = [told[key] for key in pruned if key in told]
    assert heard
    assert min(heard) > min(done)


def test_what_is_maximised_is_told_the_other_way_round() -> None:
    values = [0.2, 0.9, 0.5]
    own = sampler()
    study = optuna.create_study(sampler=own, direction="maximize")
    for value in values:
        trial = study.ask()
        own.suggest(trial)
        study.tell(trial, value)
    own.suggest(study.ask())
    best = min(own._dialogue.controller.population, key=lambda one: one.score)
    assert best.key == own._said[1].key


def test_threads_share_the_search() -> None:
    own = sampler()
    study = optuna.create_study(sampler=own)
    study.optimize(objective_of(own), n_trials=12, n_jobs=2)
    assert len(set(map(str, formulas(study)))) == 12
    assert sorted(t.user_attrs["losssearch"]["order"] for t in study.trials) == list(range(12))


def test_two_processes_worth_of_samplers_learn_from_each_other(tmp_path: Path) -> None:
    place = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="loss", storage=place)
    pair = [pickle.loads(pickle.dumps(sampler())) for _ in range(2)]
    for turn in range(10):
        own = pair[turn % 2]
        optuna.load_study(study_name="loss", storage=place, sampler=own).optimize(
            objective_of(own), n_trials=1
        )
    study = optuna.load_study(study_name="loss", storage=place)
    assert len(set(map(str, formulas(study)))) == 10
    assert all(len(own._said) >= 9 for own in pair)


def test_what_cannot_be_is_said_in_one_line() -> None:
    own = sampler()
    study = optuna.create_study(sampler=own, directions=["minimize", "minimize"])
    with pytest.raises(ls.LossSearchError, match="2 objectives"):
        own.suggest(study.ask())
    with pytest.raises(ls.LossSearchError, match="has no loss"):
        own.suggest(optuna.trial.create_trial(value=1.0))
    with pytest.raises(ls.LossSearchError, match="Did you mean 'focal'"):
        own.point("focl")
    with pytest.raises(ls.LossSearchError, match="did you mean 'evolution'"):
        sampler(controller="evolutoin")


def test_the_example_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(__file__).parents[2] / "examples"
    monkeypatch.syspath_prepend(str(folder))
    example = runpy.run_path(str(folder / "optuna_study.py"))
    study = optuna.create_study(sampler=example["sampler"])
    study.enqueue_trial({"rate": 0.01}, user_attrs=example["sampler"].point("focal", gamma=1.0))
    study.optimize(example["objective"], n_trials=3)
    assert all(0 < value < 0.7 for value in (t.value for t in study.trials))
