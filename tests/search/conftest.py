"""Searches that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from losssearch.search import Search
from losssearch.store.store import Store

TASKS = Path(__file__).parent / "tasks.py"


@pytest.fixture(autouse=True)
def small_rounds(monkeypatch):
    """Several rounds in few candidates, and short finals."""
    monkeypatch.setattr("losssearch.session.ROUND", 24)
    for name, value in {"FINALISTS": 4, "TUNED": 1, "SETTINGS": 8, "SLIMMED": 1}.items():
        monkeypatch.setattr(f"losssearch.finals.{name}", value)


@pytest.fixture
def search(tmp_path):
    """A small search; what is given replaces its arguments."""

    def make(**changes):
        given = {
            "space": "multiclass",
            "proxy": f"{TASKS}:points",
            "controller": "random",
            "start": ["cross_entropy", "brier"],
            "storage": f"sqlite:///{tmp_path}/losses.db",
            "name": "small",
            "workers": "inline",
            "mirror": False,
        }
        return Search(**{**given, **changes})

    return make


def content(storage, name):
    """All that a search found, without times."""
    with Store.open(storage, read_only=True) as store:
        proposals = [
            (p.number, p.candidate_key, p.formula, p.outcome, p.score, p.rung, p.origin, p.same_as)
            for p in store.proposals(name)
        ]
        keys = [p[1] for p in proposals]
        runs = {
            key: {run: row.metric for run, row in rows.items()}
            for key, rows in store.evaluations(keys, "points").items()
        }
    return proposals, runs
