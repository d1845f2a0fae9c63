"""Tuning keeps the structure, starts from the loss as it came, and goes on after a restart."""

from __future__ import annotations

import json
import math

import pytest

from losssearch.controllers.tuner import ConstantTuner, Trial
from losssearch.errors import UsageError
from losssearch.language.program import Program
from losssearch.spaces import load_space

KNOBS = {"rate": (0.1, 0.03, 0.3), "decay": (0.0, 1e-3)}


@pytest.fixture(scope="module")
def focal() -> Program:
    return load_space("multiclass").losses["focal"].program


def error(trial: Trial) -> float:
    """Least at gamma = 4 and rate 0.3."""
    return abs(trial.program.constant("gamma").value - 4) + abs(trial.knobs["rate"] - 0.3)


def run(tuner: ConstantTuner, count: int) -> None:
    for _ in range(count):
        for trial in tuner.ask(2):
            tuner.tell(trial.number, error(trial))


def test_the_loss_as_it_came_is_tried_first(focal: Program) -> None:
    first = ConstantTuner(focal, KNOBS).ask(1)[0]
    assert first == Trial(0, focal, {"rate": 0.1, "decay": 0.0})


def test_every_setting_keeps_the_structure_and_the_ranges(focal: Program) -> None:
    for trial in ConstantTuner(focal, KNOBS, sampler="random").ask(50):
        assert trial.program.instructions == focal.instructions
        assert all(trial.knobs[name] in values for name, values in KNOBS.items())


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsgaii", "gp", "cmaes"])
def test_it_goes_on_after_a_restart_as_if_nothing_had_been(focal: Program, sampler: str) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    first = ConstantTuner(focal, KNOBS, 1, sampler)
    run(first, 9 if sampler == "cmaes" else 7)  # CMA-ES has learnt from two generations
    late = first.ask(1)[0]
    second = ConstantTuner(focal, KNOBS, 1, sampler)
    second.restore(json.loads(json.dumps(first.state(), allow_nan=False)))
    for tuner in (first, second):
        tuner.tell(late.number, error(late))
    assert first.ask(2) == second.ask(2)
    assert first.best == second.best


def test_tpe_comes_near_the_best_constants(focal: Program) -> None:
    tuner = ConstantTuner(focal, KNOBS, 2)
    run(tuner, 30)
    assert tuner.best is not None
    assert tuner.best[0] < 0.3
    assert error(tuner.best[1]) == tuner.best[0]


def test_failures_are_survived_and_never_best(focal: Program) -> None:
    tuner = ConstantTuner(focal, KNOBS, 3)
    for bad in (None, math.nan, math.inf):
        for trial in tuner.ask(5):
            tuner.tell(trial.number, bad)
    assert tuner.best is None
    run(tuner, 2)
    assert tuner.best is not None


def test_a_loss_with_nothing_to_tune_is_tried_as_it_is() -> None:
    plain = load_space("multiclass").losses["cross_entropy"].program
    tuner = ConstantTuner(plain)
    assert [t.program for t in tuner.ask(3)] == [plain] * 3
    tuner.tell(0, 0.5)
    assert ConstantTuner(plain, {"rate": (0.1, 0.2)}, 1).ask(1)[0].knobs == {"rate": 0.1}


def test_what_does_not_fit_is_refused(focal: Program) -> None:
    tuner = ConstantTuner(focal, KNOBS)
    with pytest.raises(UsageError, match="Setting 9 was not asked for"):
        tuner.tell(9, 0.5)
    with pytest.raises(UsageError, match="has no values"):
        ConstantTuner(focal, {"rate": ()})
    run(tuner, 2)
    with pytest.raises(UsageError, match="does not fit"):
        ConstantTuner(focal).restore(tuner.state())
