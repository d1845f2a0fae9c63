"""The loop: what it finds, keeps, reuses and resumes."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
import torch

from losssearch.errors import LossSearchError, ProxyError, StoreError, UsageError
from losssearch.language.canonical import candidate_key
from losssearch.records import program_of_row
from losssearch.spaces import load_space
from losssearch.store.rows import CHOSEN, CLIMBED
from losssearch.store.store import Store
from tests.search.conftest import content

TASKS = Path(__file__).parent / "tasks.py"


def test_a_search_ends_with_a_module_that_trains(search):
    result = search().run(candidates=40)
    loss = result.best.module(reduction="mean")
    logits = torch.randn(5, 3, requires_grad=True)
    loss(logits, torch.tensor([0, 1, 2, 0, 1])).backward()
    assert logits.grad is not None
    assert result.best.reference == "small/1"
    assert result.leaderboard[0].proposal.rung == CHOSEN
    assert result.proposals >= 40  # the tuned finalists come on top


def test_the_start_losses_are_the_first_proposals(search):
    spec = search()
    spec.run(candidates=10)
    with Store.open(spec.storage, read_only=True) as store:
        origins = [p.origin for p in store.proposals("small")]
    assert origins[:2] == ["start: cross_entropy", "start: brier"]


def test_every_proposal_has_an_outcome_and_every_screen_a_count(search):
    spec = search()
    spec.run(candidates=70)
    with Store.open(spec.storage, read_only=True) as store:
        assert sum(store.outcomes("small").values()) == store.search("small").proposals >= 70
        counts = [r.counts for r in store.rounds("small")]
    assert sum(c["duplicate"]["seen"] for c in counts if c) >= 70


def test_the_same_seed_finds_the_same_whatever_the_pool(search, tmp_path):
    first = search(storage=f"sqlite:///{tmp_path}/a.db", controller="evolution")
    second = search(storage=f"sqlite:///{tmp_path}/b.db", controller="evolution", workers="processes:2")
    first.run(candidates=80)
    second.run(candidates=80)
    assert content(first.storage, "small") == content(second.storage, "small")


def interrupted(search, candidates, *after):
    """Run a search and break it off, once after each of so many candidates."""
    for most in after:

        def interrupt(progress, most=most):
            if progress.seen > most:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            search.run(candidates=candidates, watch=interrupt)


@pytest.mark.parametrize("controller", ["random", "evolution", "optuna"])
def test_a_search_interrupted_in_its_rounds_equals_an_undisturbed_one(search, tmp_path, controller):
    whole = search(storage=f"sqlite:///{tmp_path}/a.db", controller=controller)
    parts = search(storage=f"sqlite:///{tmp_path}/b.db", controller=controller)
    whole.run(candidates=80)
    interrupted(parts, 80, 10, 40, 60)
    parts.run(candidates=80)
    assert content(whole.storage, "small") == content(parts.storage, "small")


@pytest.mark.parametrize("controller", ["evolution", "portfolio:evolution,map_elites,q_learning,random"])
def test_a_search_on_four_rungs_is_the_same_if_it_is_interrupted(search, tmp_path, controller):
    whole, parts = (
        search(storage=f"sqlite:///{tmp_path}/{n}.db", controller=controller, proxy=f"{TASKS}:ladder")
        for n in "ab"
    )
    whole.run(candidates=200)
    interrupted(parts, 200, 70, 150)
    parts.run(candidates=200)
    assert content(whole.storage, "small") == content(parts.storage, "small")
    with Store.open(whole.storage, read_only=True) as store:
        rows = [p for p in store.proposals("small") if p.outcome == "SCORED"]
    reached = Counter(p.rung for p in rows)
    assert all(reached[rung] >= 3 for rung in (0, 1, 2, 3)), reached
    trained = sum(reached.values())
    assert sum(n for rung, n in reached.items() if rung >= 1) == pytest.approx(trained * 0.32, rel=0.25)
    climbed = [[rung for rung, _ in p.metrics.get(CLIMBED, ())] for p in rows if p.rung == 2]
    assert climbed == [[0, 1]] * len(climbed)


@pytest.mark.parametrize("controller", ["random", "evolution"])
def test_what_is_read_again_from_the_store_changes_nothing(search, tmp_path, monkeypatch, controller):
    """With no program kept in memory and small pages on resume the same is found."""
    whole = search(storage=f"sqlite:///{tmp_path}/a.db", controller=controller)
    parts = search(storage=f"sqlite:///{tmp_path}/b.db", controller=controller)
    whole.run(candidates=80)
    monkeypatch.setattr("losssearch.ledger.HELD", 0)
    monkeypatch.setattr("losssearch.session.PAGE", 7)

    interrupted(parts, 80, 60)
    parts.run(candidates=80)
    assert content(whole.storage, "small") == content(parts.storage, "small")


def test_of_a_rejected_candidate_one_proposal_is_kept_and_can_be_found(search):
    spec = search()
    spec.run(candidates=60)
    with Store.open(spec.storage, read_only=True) as store:
        rows = store.proposals("small")
        stored = store.candidates(p.candidate_key for p in rows)
        rejected = [p for p in rows if p.outcome in ("FLAT", "BLIND", "NOT_FINITE", "NOT_LEARNING")]
        assert rejected
        assert all(p.candidate_key not in stored or stored[p.candidate_key].name for p in rejected)
        assert all(p.candidate_key in stored for p in rows if p.outcome == "SCORED")
        found = store.find(f"small@{rejected[0].number}").candidate
    program = program_of_row(found, load_space("multiclass"))
    assert (program.text, program.size) == (rejected[0].formula, found.size)
    assert candidate_key(program) == found.key


def test_running_again_with_the_budget_spent_trains_nothing(search):
    spec = search()
    spec.run(candidates=30)
    before = content(spec.storage, "small")
    spec.run(candidates=30)
    assert content(spec.storage, "small") == before


@pytest.mark.parametrize("finalists", [1, 3])
def test_finals_held_twice_choose_the_same(search, monkeypatch, finalists):
    """A driver may be killed after the finals were stored and before the search was called finished."""
    monkeypatch.setattr("losssearch.finals.FINALISTS", finalists)
    spec = search(controller="evolution")
    spec.run(candidates=160)
    before = content(spec.storage, "small")
    spec.run(candidates=160)
    assert content(spec.storage, "small") == before


def test_another_search_reuses_stored_trainings(search):
    spec = search()
    spec.run(candidates=20)
    seen = []
    search(name="again").run(candidates=20, watch=lambda p: seen.append(p.trainings))
    assert max(seen) == 0


def test_resuming_with_another_setup_is_refused_by_name(search):
    search().run(candidates=10)
    with pytest.raises(UsageError, match="begun with controller = 'random', not 'evolution'"):
        search(controller="evolution").run(candidates=20)


@pytest.mark.parametrize(
    ("changes", "budget", "error", "says"),
    [
        ({"space": "multiclas"}, {"candidates": 5}, LossSearchError, "multiclass"),
        ({"proxy": "digts"}, {"candidates": 5}, ProxyError, "digits"),
        ({"controller": "evolutoin"}, {"candidates": 5}, UsageError, "evolution"),
        ({"start": ["focl"]}, {"candidates": 5}, LossSearchError, "focal"),
        ({"workers": "threads"}, {"candidates": 5}, UsageError, "processes"),
        ({"storage": "sqlite:////nowhere/at/all.db"}, {"candidates": 5}, StoreError, "nowhere"),
        ({"proxy": "diabetes"}, {"candidates": 5}, UsageError, "regression"),
        ({}, {}, UsageError, "budget"),
        ({}, {"time": "3 parsecs"}, UsageError, "3m"),
        ({}, {"candidates": 0}, UsageError, "candidates >= 1"),
        ({"name": "a/b"}, {"candidates": 5}, UsageError, "a/b"),
    ],
)
def test_bad_arguments_get_one_line_that_says_what_to_do(search, changes, budget, error, says):
    with pytest.raises(error, match=says) as caught:
        search(**changes).run(**budget)
    assert "\n" not in str(caught.value)


def test_a_misspelt_screen_leaves_no_search_behind(search, tmp_path):
    text = load_space("multiclass").path.read_text()
    own = tmp_path / "own.toml"
    own.write_text(re.sub(r"^(screens +=) \[", r'\1 ["flt", ', text, flags=re.M))
    with pytest.raises(LossSearchError, match="'flt'"):
        search(space=str(own)).run(candidates=5)
    assert not (tmp_path / "losses.db").exists()


def test_a_task_that_always_raises_ends_the_search_with_its_reason(search):
    with pytest.raises(ProxyError, match="no such GPU"):
        search(proxy=f"{TASKS}:raises").run(candidates=30)


def test_a_task_that_always_answers_nan_ends_the_search(search):
    with pytest.raises(ProxyError, match="could train none"):
        search(proxy=f"{TASKS}:answers_nan").run(candidates=30)


def test_a_black_box_is_searched_like_any_task(search):
    result = search(proxy=f"{TASKS}:black").run(candidates=20)
    assert result.best.score == pytest.approx(0.1, abs=0.08)


@pytest.mark.parametrize("task", ["hangs_on_brier", "dies_of_brier"])
def test_a_poisonous_candidate_is_recorded_and_the_search_goes_on(search, task):
    spec = search(proxy=f"{TASKS}:{task}", workers="processes:1", deadline_s=2.0)
    result = spec.run(candidates=2)
    assert result.best.formula == "mean(-log_pt, 'n')"
    with Store.open(spec.storage, read_only=True) as store:
        outcomes = [p.outcome for p in store.proposals("small")]
    assert outcomes == ["SCORED", "POISON"]


def test_a_time_budget_counts_what_earlier_runs_spent(search):
    spec = search()
    spec.run(time="4s")
    with Store.open(spec.storage, read_only=True) as store:
        rounds = len(store.rounds("small"))
    spec.run(time="4s")
    with Store.open(spec.storage, read_only=True) as store:
        assert len(store.rounds("small")) <= rounds + 1


def test_an_interrupted_search_keeps_its_rounds_and_goes_on(search):
    spec = search()

    def interrupt(progress):
        if progress.seen > 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        spec.run(candidates=60, watch=interrupt)
    with Store.open(spec.storage, read_only=True) as store:
        assert len(store.rounds("small")) == 1
    assert spec.run(candidates=60).proposals >= 60


def test_the_mirror_shows_the_search_in_optuna(search, tmp_path):
    import optuna

    spec = search(mirror=True)
    spec.run(candidates=30)
    study = optuna.load_study(study_name="small", storage=spec.storage)
    assert len(study.trials) >= 2
    assert any("formula" in str(t.user_attrs) for t in study.trials)
    tables = sqlite3.connect(tmp_path / "losses.db").execute("select name from sqlite_master")
    assert {"ls_search", "trials"} <= {row[0] for row in tables}


def test_a_search_inside_a_worker_is_refused(search, monkeypatch):
    monkeypatch.setenv("LOSSSEARCH_WORKER", "1")
    with pytest.raises(UsageError, match="__main__"):
        search().run(candidates=5)
