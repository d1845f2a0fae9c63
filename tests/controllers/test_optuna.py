"""Samplers of Optuna learn, forget, and go on from plain data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import FloatDistribution

from losssearch.controllers.base import Told
from losssearch.controllers.optuna import OptunaController, Pareto
from losssearch.controllers.studies import Entry, Studies
from losssearch.errors import UsageError
from losssearch.outcomes import Outcome
from losssearch.search import Search
from losssearch.spaces import load_space

RANGES = {name: FloatDistribution(0, 1) for name in "abcdef"}


def sphere(entry: Entry) -> float:
    """Least at 0.3 everywhere."""
    return sum((value - 0.3) ** 2 for value in entry.params.values())


def descend(studies: Studies, asks: int, batch: int = 8) -> list[float]:
    values = []
    for start in range(0, asks, batch):
        entries = [studies.suggest(0, start + i) for i in range(batch)]
        for i, entry in enumerate(entries):
            entry.value = sphere(entry)
            values.append(entry.value)
            studies.tell(start + i, entry)
    return values


def test_cmaes_closes_in_and_still_does_after_it_forgot_the_half() -> None:
    pytest.importorskip("cmaes")
    values = descend(Studies("cmaes", RANGES, window=120), 240)
    assert np.median(values[-40:]) < 0.1 * np.median(values[:8])


def test_cmaes_in_plain_data_is_cmaes_as_optuna_keeps_it() -> None:
    """The package itself, told the same generations, has the same mean and step size."""
    cmaes = pytest.importorskip("cmaes")
    studies = Studies("cmaes", RANGES, window=1000)
    descend(studies, 32)
    plain = cmaes.CMA(
        mean=np.full(6, 0.5), sigma=1 / 6, bounds=np.array([[0.0, 1.0]] * 6), population_size=8, seed=1
    )
    told = list(studies.told.values())
    for start in range(0, 32, 8):
        plain.tell([(np.array([e.params[n] for n in RANGES]), e.value) for e in told[start : start + 8]])
    asked = [[studies.suggest(9, i).params[n] for n in RANGES] for i in range(100)]
    ours, theirs = np.array(asked), np.array([plain.ask() for _ in range(100)])
    error = theirs.std(0) / np.sqrt(100)
    assert np.all(abs(ours.mean(0) - theirs.mean(0)) < 6 * error)
    assert np.allclose(ours.std(0), theirs.std(0), rtol=0.3)


def test_without_its_package_cmaes_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "cmaes", None)
    with pytest.raises(UsageError, match="pip install cmaes"):
        Studies("cmaes", RANGES, window=10)


def test_a_state_of_cmaes_is_text_numbers_and_names_alone() -> None:
    pytest.importorskip("cmaes")
    space = load_space("regression")
    controller = OptunaController(space, [], 0, sampler="cmaes")
    for _ in range(3):
        asked = controller.ask(40)
        controller.tell([told(p.number, p.program.size, i / 40, None) for i, p in enumerate(asked)])
    state = json.dumps(controller.state())
    assert "optimizer" not in state
    assert len(state) < 120 * 200


def told(number: int, size: int, score: float, guard: float | None) -> Told:
    program = load_space("regression").losses["mse"].program
    return Told(number, f"key {number}", program, score, Outcome.SCORED, size, 0, guard)


def test_pareto_keeps_short_safe_losses_beside_accurate_ones() -> None:
    """What is worse in score but best in guard or size is a parent; what is worse in all is none."""
    controller = Pareto(load_space("regression"), [], 0)
    proposals = controller.ask(50)
    for p in proposals:
        kind = p.number % 4
        score, guard, size = [(0.1, 0.9, 20), (0.9, 0.1, 20), (0.9, 0.9, 3), (0.95, 0.95, 30)][kind]
        controller.tell([told(p.number, size, score, guard)])
    study = controller.studies._current()
    assert {t.number % 4 for t in study.best_trials} == {0, 1, 2}


def test_a_guard_that_is_unknown_counts_as_the_worst() -> None:
    controller = Pareto(load_space("regression"), [], 0)
    controller.ask(3)
    controller.tell([told(0, 5, 0.5, 0.2), told(1, 5, 0.5, None), told(2, 5, 0.5, 0.3)])
    rows = controller.studies._values(list(controller.studies.told.values()))
    assert rows[1][1] > max(rows[0][1], rows[2][1])


def test_cmaes_knows_one_objective_only() -> None:
    pytest.importorskip("cmaes")
    with pytest.raises(UsageError, match="one objective"):
        Pareto(load_space("regression"), [], 0, sampler="cmaes")


def test_a_search_is_told_at_once_that_there_is_no_such_tuner(tmp_path: Path) -> None:
    place = tmp_path / "losses.db"
    search = Search("regression", "diabetes-outliers", storage=f"sqlite:///{place}", tuner="tpee")
    with pytest.raises(UsageError, match="'tpee' cannot be used"):
        search.run(candidates=10)
    assert not place.exists()
