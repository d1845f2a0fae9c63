"""Looks at losses without a database."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import losssearch as ls
from losssearch.insight.insight import Insight


@pytest.fixture(scope="session")
def explain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Insight]:
    storage = f"sqlite:///{tmp_path_factory.mktemp('insight')}/none.db"
    known: dict[str, Insight] = {}

    def look(loss: str, **arguments: object) -> Insight:
        key = f"{loss} {sorted(arguments.items())}"
        if key not in known:
            known[key] = ls.explain(loss, storage=storage, **arguments)
        return known[key]

    return look
