"""A driver that searches until it is killed and says what it committed; see test_faults.py."""

from __future__ import annotations

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from losssearch.search import Search
from losssearch.store.store import Store

TASK = f"{Path(__file__).parent / 'tasks.py'}:points"
NAME = "killed"


class _Telling(Store):
    """A store that acknowledges every round as soon as it is committed."""

    pipe: Connection

    def commit_round(self, search: Any, number: int, *args: Any, **named: Any) -> Any:
        row = super().commit_round(search, number, *args, **named)
        self.pipe.send(number)
        return row


def drive(storage: str, candidates: int, workers: str, pipe: Connection) -> None:
    """Search to the end; sends the number of each round, and "done"."""
    import losssearch.session as house

    _Telling.pipe = pipe
    house.Store = _Telling  # type: ignore[misc]
    spec = Search(
        "multiclass", TASK, "evolution", ["cross_entropy", "brier"], storage, NAME,
        workers=workers, mirror=False,
    )  # fmt: skip
    spec.run(candidates=candidates)
    pipe.send("done")
