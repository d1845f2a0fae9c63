"""Which parts of a loss matter: planted passengers fall, planted helpers stay."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from losssearch.ablation import ablate, not_worse, scores_of, slimmed, table_of
from losssearch.errors import UsageError
from losssearch.evaluation import Evaluator
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import parse
from losssearch.pools.inline import InlinePool
from losssearch.proxies.registry import load_proxy
from losssearch.selection import Score
from losssearch.spaces import load_space
from losssearch.store.store import Store

PROXY = f"{Path(__file__).parent}/ablation_tasks.py:quick"  # the best loss is log(1 + r^2 / 3)
HELPER = "log(1 + square(r))"
PASSENGER = "0.0001*cos(r)"

SPACE = """
title = "Start from a loss with a passenger"
task = "regression"
axes = { n = {} }
sets = ["", "n"]
head = "mean(body, 'n')"
better = "shrink the residual"
reference = "mse"
screens = ["probe"]

[inputs]
pred = { axes = "n", role = "prediction", range = [-10, 10] }
target = { axes = "n", role = "target", range = [-10, 10] }

[define]
r = "pred - target"

[search]
primitives = ["add", "mul", "abs", "square", "log", "cos"]
terminals = ["r"]
sets = ["", "n"]
nodes = 12
depth = 6
mix = { role = 0.3, mutation = 0.3, growth = 0.4 }

[losses.mse]
title = "Mean squared error"
formula = "mean(square(r), 'n')"
source = "Gauss 1809"

[losses.padded]
title = "Cauchy's loss with a passenger"
formula = "mean(log(1 + square(r)) + 0.0001*cos(r), 'n')"
source = "made for this test"
"""


def program(body: str):
    return parse(f"mean({body}, 'n')", load_space("regression").signature)


@pytest.fixture
def evaluator(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/losses.db") as store, InlinePool() as pool:
        yield Evaluator(store, pool, load_space("regression"), load_proxy(PROXY), PROXY)


def test_the_table_tells_a_helper_from_a_passenger(evaluator):
    table = table_of(program(f"{HELPER} + {PASSENGER}"), evaluator)
    matters = {row.drop.what: row.matters for row in table.rows}
    assert matters["log(...)"] == "yes"  # mean squares have half the efficiency under these outliers
    assert matters["0.0001 * cos(r)"] == "no"
    assert table.splits == 4
    costs = [math.inf if row.error is None else row.error for row in table.rows]
    assert costs == sorted(costs, reverse=True)


def test_a_row_is_what_training_both_losses_side_by_side_gives(evaluator):
    whole, left = program(f"{HELPER} + abs(r)"), program("abs(r)")
    own, other = scores_of([whole, left], evaluator, rung=2)
    [row] = [
        r for r in table_of(whole, evaluator).rows if candidate_key(r.drop.program) == candidate_key(left)
    ]
    assert row.error == other.value
    gaps = [a - b for a, b in zip(other.per_split, own.per_split, strict=True)]
    assert row.versus.difference == pytest.approx(sum(gaps) / len(gaps))
    assert row.to_dict()["left"] == left.text


def test_slimming_drops_passengers_one_by_one_and_stops_at_what_helps(evaluator):
    path = slimmed(program(f"{HELPER} + {PASSENGER} + 0.0001*tanh(r)"), evaluator)
    keys = [candidate_key(p) for p in path]
    assert candidate_key(program(HELPER)) in keys
    assert [p.size for p in path] == sorted((p.size for p in path), reverse=True)
    assert candidate_key(program("square(r)")) not in keys
    assert all("log" in p.text for p in path)


def test_slimming_keeps_to_the_trainings_it_may_spend(evaluator):
    runs = len(evaluator.proxy.runs(1, [0]))
    assert slimmed(program(f"{HELPER} + {PASSENGER}"), evaluator, most=runs) == []
    assert evaluator.trained == runs  # the whole itself


@pytest.mark.parametrize(
    ("gaps", "verdict"),
    [
        ([0.0, 0.0], True),
        ([0.1, 0.1], False),
        ([-0.1, -0.2], True),
        ([0.3, -0.28], True),
        ([0.3, 0.1], False),
    ],
)
def test_not_worse_is_within_half_a_standard_error(gaps, verdict):
    whole = Score(0.5, per_split=(0.5, 0.5))
    assert not_worse(Score(0.5, per_split=tuple(0.5 + gap for gap in gaps)), whole) is verdict


def test_what_cannot_be_trained_is_worse():
    fine = Score(0.5, per_split=(0.5,))
    assert not not_worse(Score(None), fine)
    assert not not_worse(fine, Score(None))


def test_the_table_of_a_classical_loss_by_name(tmp_path):
    table = ablate("huber", PROXY, storage=f"sqlite:///{tmp_path}/a.db", workers="inline").to_dict()
    assert table["metric"] == "relative_mse"
    assert {"without", "matters", "error", "difference", "low", "high", "left"} == set(table["rows"][0])


def test_a_loss_of_no_search_needs_a_task_and_a_task_that_fits(tmp_path):
    storage = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(UsageError, match="name the task"):
        ablate("huber", storage=storage, workers="inline")
    with pytest.raises(UsageError, match="trains regression losses"):
        ablate("multiclass/focal", PROXY, storage=storage, workers="inline")


def test_the_finals_of_a_search_shed_a_passenger(search, tmp_path, monkeypatch):
    monkeypatch.setattr("losssearch.finals.FINALISTS", 24)  # ablation may cost as much as so many
    path: Path = tmp_path / "padded.toml"
    path.write_text(SPACE)
    spec = search(space=str(path), proxy=PROXY, start=["padded"])
    result = spec.run(candidates=1)
    assert result.best.program.size < load_space(path).losses["padded"].program.size
    assert "cos" not in result.best.formula
    assert "log" in result.best.formula
    assert result.best.proposal.origin == "slimmed"
    table = ablate(result.best.reference, storage=spec.storage, workers="inline")
    assert {row.drop.what: row.matters for row in table.rows}["log(...)"] == "yes"
