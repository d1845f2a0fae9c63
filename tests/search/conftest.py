"""Searches that take seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from losssearch.search import Search

TASKS = Path(__file__).parent / "tasks.py"


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
