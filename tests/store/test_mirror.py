"""The mirror shows every trained loss in Optuna, and can do the search no harm."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from optuna_dashboard import get_note
from sqlalchemy import text

from losssearch.store import mirror as mirror_module
from losssearch.store.mirror import Mirror
from losssearch.store.store import ScoreUpdate, SearchRow, Store, run_text
from tests.store.make import begin, candidate, key_of, proposal, training


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Most of these facts do not depend on the kind of database: SQLite is the faster one."""
    with Store.open(f"sqlite:///{tmp_path}/store.db", timeout_s=5) as opened:
        yield opened


def fill(store: Store, count: int = 8) -> SearchRow:
    """A round with a classical loss, scored, pruned, diverged, screened and credited ones."""
    search = begin(store)
    kinds: list[dict[str, Any]] = [
        {"origin": "start: focal", "score": 0.5, "metrics": {"error": 0.5, "ece": math.nan}},
        {"score": 0.2, "rung": 2, "metrics": {"error": 0.2, "note": "x" * 3000}, "parents": (0,)},
        {"score": 0.3, "outcome": "PRUNED"},
        {"score": None, "outcome": "DIVERGED", "detail": "nan at epoch 3"},
        {"score": None, "outcome": "FLAT"},
        {"score": 0.2, "outcome": "EQUIVALENT", "same_as": key_of(1)},
        {"score": math.inf},
        {"score": 0.25},
    ]
    start = search.proposals
    rows = [proposal(start + n, **kinds[n % len(kinds)]) for n in range(count)]
    classical: dict[str, Any] = {"name": "focal", "source": "Lin"}
    losses = [
        candidate(
            start + n,
            constants={"c0": [0.5, 0, 1], "gamma": [2.0, None, math.inf], "size": [1, 0, 2]},
            **(classical if n == 0 else {}),
        )
        for n in range(count)
    ]
    store.add_candidates(losses)
    runs = [
        (0, 0.3, [[10, 0.4], [20, 0.3]]),
        (1, 0.2, [[10, 0.3], [20, 0.2]]),
        (2, 0.1, [[5, 0.1]]),
    ]
    store.record_evaluations(
        training(n, run_text({"split": split}), metric=metric, curve=curve, seconds=1.5)
        for n in range(start, start + count)
        for split, metric, curve in runs
    )
    return store.commit_round(search, search.rounds, rows, {}, None, 0.0)


@contextlib.contextmanager
def optuna_storage(store: Store) -> Iterator[optuna.storages.RDBStorage]:
    storage = optuna.storages.RDBStorage(store.optuna_url())
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def trials(store: Store) -> list[FrozenTrial]:
    with optuna_storage(store) as storage:
        return optuna.load_study(study_name="demo", storage=storage).get_trials()


def plain(trial: FrozenTrial) -> dict[str, Any]:
    """All that the public interface tells about a trial, but for its id."""
    names = (
        "number", "state", "values", "params", "distributions", "user_attrs", "system_attrs",
        "intermediate_values", "datetime_start", "datetime_complete",
    )  # fmt: skip
    return {name: getattr(trial, name) for name in names}


def test_every_trained_loss_becomes_a_readable_trial(store: Store) -> None:
    search = fill(store)
    done = Mirror(store, search).update()
    assert (done.added, done.problem) == (6, "")
    shown = trials(store)
    assert [t.user_attrs["reference"] for t in shown] == [f"demo@{n}" for n in (0, 1, 2, 3, 6, 7)]
    assert [t.state for t in shown] == [
        TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED,
        TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE,
    ]  # fmt: skip
    first, best = shown[0], shown[1]
    assert first.user_attrs["classical loss"] == "focal"
    assert first.user_attrs["metric: ece"] == "nan"
    assert best.value == 0.2
    assert best.user_attrs["formula"] == "mean(p * 1, 'n')"
    assert best.user_attrs["outcome"] == "Trained and scored."
    assert best.params == {"size": 5, "rung": 2, "c0": 0.5, "gamma": 2.0}
    assert best.intermediate_values == {10: 0.3, 20: 0.2}
    assert best.datetime_complete is not None
    assert best.datetime_start is not None
    assert (best.datetime_complete - best.datetime_start).total_seconds() == 4.5


def test_both_ways_read_back_equal_through_the_public_interface(url: str) -> None:
    """The contract that lets us write into Optuna's own tables."""
    with Store.open(url) as store:
        search = fill(store, 16)
        quick = Mirror(store, search)
        assert quick.update().problem == ""
        assert quick._fast, "the fast path must be in use with the Optuna that is tested"
        fast = [plain(trial) for trial in trials(store)]
        slow_mirror = Mirror(store, search, fast=False)
        assert slow_mirror.rebuild().problem == ""
        assert not slow_mirror._fast
        assert [plain(trial) for trial in trials(store)] == fast
        # And what the public way wrote, the fast way rewrites equally.
        assert Mirror(store, search).rebuild().problem == ""
        assert [plain(trial) for trial in trials(store)] == fast


@pytest.mark.parametrize("fast", [True, False])
def test_updates_add_only_what_is_new_also_after_a_restart(store: Store, fast: bool) -> None:
    search = fill(store)
    mirror = Mirror(store, search, fast=fast)
    assert [mirror.update().added for _ in range(2)] == [6, 0]
    fill(store)
    assert Mirror(store, search, fast=fast).update().added == 6
    assert [t.user_attrs["proposal"] % 8 for t in trials(store)] == [0, 1, 2, 3, 6, 7] * 2
    assert [t.number for t in trials(store)] == list(range(12))


def test_a_new_score_is_shown_after_a_rebuild(store: Store) -> None:
    search = fill(store)
    mirror = Mirror(store, search)
    mirror.update()
    store.update_scores(search, [ScoreUpdate(0, "SCORED", 3, 0.01)])
    assert mirror.rebuild().added == 6
    shown = trials(store)
    assert (shown[0].value, len(shown)) == (0.01, 6)
    assert mirror.update().added == 0


def test_the_mirror_keeps_classical_best_and_newest_when_it_is_full(store: Store) -> None:
    search = fill(store)
    mirror = Mirror(store, search, cap=20)
    for _ in range(8):
        search = fill(store)
        assert mirror.update().problem == ""
        assert len(trials(store)) <= 20
    shown = [trial.user_attrs["proposal"] for trial in trials(store)]
    assert shown == sorted(shown)
    assert 0 in shown  # classical
    assert 1 in shown  # the best
    assert search.proposals - 1 in shown  # the newest
    mirror.rebuild()
    assert len(trials(store)) == 20


def test_the_slow_way_stops_when_full_and_says_so_once(store: Store) -> None:
    search = fill(store, 16)
    mirror = Mirror(store, search, cap=10, fast=False)
    told = [mirror.update().problem for _ in range(5)]
    assert "it is full" in told[0]
    assert len(set(told)) == 1
    assert [row.kind for row in store.events("demo")] == ["mirror"]


def test_a_rebuild_keeps_the_notes_of_the_study(store: Store) -> None:
    search = fill(store)
    mirror = Mirror(store, search)
    mirror.update()
    with optuna_storage(store) as storage:
        study = optuna.load_study(study_name="demo", storage=storage)
        study.set_user_attr("mine", [1, 2])
        mirror.rebuild()
        study = optuna.load_study(study_name="demo", storage=storage)
        assert study.user_attrs["mine"] == [1, 2]
        assert study.metric_names == ["score"]
        best = optuna.trial.Trial(study, study.best_trial._trial_id)
        assert "## demo/1" in get_note(best)
        assert "`mean(p * 1, 'n')`" in get_note(best)


def test_a_study_of_somebody_else_is_left_alone(store: Store) -> None:
    with optuna_storage(store) as storage:
        theirs = optuna.create_study(storage=storage, study_name="demo", direction="maximize")
        theirs.add_trial(optuna.trial.create_trial(value=1.0))
    mirror = Mirror(store, fill(store))
    for done in (mirror.update(), mirror.rebuild()):
        assert "an Optuna study 'demo' that losssearch did not make" in done.problem
    assert len(trials(store)) == 1


def test_a_study_deleted_by_hand_comes_back(store: Store) -> None:
    search = fill(store)
    mirror = Mirror(store, search)
    mirror.update()
    with optuna_storage(store) as storage:
        optuna.delete_study(study_name="demo", storage=storage)
    fill(store)
    assert "its study was deleted" in mirror.update().problem
    assert mirror.update().added == 12


def test_a_broken_optuna_never_reaches_the_search(store: Store) -> None:
    search = fill(store)
    mirror = Mirror(store, search)
    mirror.update()
    with store.engine.begin() as connection:
        connection.execute(text("DROP TABLE trial_intermediate_values"))
    search = fill(store)
    told = [mirror.update().problem for _ in range(6)]
    assert told[0].startswith("The Optuna mirror of 'demo' was not updated: ")
    assert "\n" not in told[0]
    assert store.search("demo").rounds == 2
    assert store.events("demo")[-1].kind == "mirror"


def test_a_locked_database_is_a_message(tmp_path: Path) -> None:
    with Store.open(str(tmp_path / "x.db"), timeout_s=0.1) as store:
        search = fill(store)
        mirror = Mirror(store, search)
        mirror.update()
        search = fill(store)
        other = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert "is locked by another program" in mirror.update().problem
        other.execute("ROLLBACK")
        other.close()
        assert mirror.update().added == 6


def test_an_optuna_that_was_never_tried_is_spoken_to_through_its_public_interface(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "TRIED_SCHEMA", "v9.9.9.a")
    mirror = Mirror(store, fill(store))
    assert mirror.update().added == 6
    assert not mirror._fast
    assert len(trials(store)) == 6


def test_a_store_in_memory_or_without_optuna_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open("sqlite://") as store:
        mirror = Mirror(store, fill(store))
        assert "cannot be shared with Optuna" in mirror.update().problem
        monkeypatch.setitem(sys.modules, "optuna", None)
        assert "optuna" in Mirror(store, store.search("demo")).update().problem


def test_an_empty_search_has_an_empty_study(store: Store) -> None:
    assert Mirror(store, begin(store)).update() == mirror_module.Mirrored()
    assert trials(store) == []
