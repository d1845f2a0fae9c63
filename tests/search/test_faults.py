"""A driver may die at any moment: its search loses nothing, does nothing twice and finds the same."""

from __future__ import annotations

import multiprocessing
import random
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from losssearch.store.store import Store
from tests.search.conftest import content
from tests.search.driver import NAME, drive

# Drivers are forked from a process that has imported torch, so that most kills hit the search itself.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["losssearch.search", "losssearch.proxies.user", "sklearn.model_selection"])
PATIENCE_S = 300.0


@dataclass
class Database:
    """A database with one search in it, and what its drivers said of it."""

    path: Path
    candidates: int
    acknowledged: int = 0
    drivers: int = 0
    rows: dict[int, tuple[object, ...]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def drive(self, seconds: float, workers: str = "inline") -> bool:
        """Start a driver and kill it after `seconds`; whether it was done before."""
        ours, theirs = PROCESSES.Pipe(duplex=False)
        driver = PROCESSES.Process(target=drive, args=(self.url, self.candidates, workers, theirs))
        driver.start()
        theirs.close()
        driver.join(seconds)
        driver.kill()
        driver.join()
        self.drivers += 1
        said = _heard(ours)
        ours.close()
        if driver.exitcode == 0:
            assert "done" in said
        else:
            assert driver.exitcode == -9, f"the driver failed by itself: {driver.exitcode}"
        rounds = [number for number in said if isinstance(number, int)]
        self._check(rounds)
        return "done" in said

    def _check(self, rounds: list[int]) -> None:
        """Every round that any driver acknowledged is there, whole, once; and none was driven twice."""
        assert all(number >= self.acknowledged for number in rounds), "an acknowledged round was done again"
        self.acknowledged = max([self.acknowledged, *(number + 1 for number in rounds)])
        if not self.path.exists() or not self.acknowledged:
            return
        with Store.open(self.url, read_only=True) as store:
            stored = [r.number for r in store.rounds(NAME)]
            found = store.proposals(NAME)
        assert stored == list(range(len(stored)))
        assert len(stored) >= self.acknowledged
        assert [p.number for p in found] == list(range(len(found)))
        now = {p.number: (p.candidate_key, p.formula, p.origin, p.same_as) for p in found}
        assert {n: now.get(n) for n in self.rows} == self.rows, "a committed proposal was lost or altered"
        self.rows = dict(now)


def _heard(pipe: Connection) -> list[object]:
    """All that a dead driver said; the last word may have been cut off."""
    said: list[object] = []
    try:
        while pipe.poll():
            said.append(pipe.recv())
    except (EOFError, OSError):
        pass
    return said


def _import_everything() -> None:
    first = PROCESSES.Process(target=id, args=(0,))
    first.start()
    first.join()


def kill_many(folder: Path, kills: int, candidates: int, pools: tuple[str, ...]) -> None:
    """Kill drivers at random moments, in one search after the other until `kills` are reached."""
    _import_everything()
    undisturbed = Database(folder / "whole.db", candidates)
    began = time.monotonic()
    assert undisturbed.drive(PATIENCE_S)
    took = time.monotonic() - began
    wanted = content(undisturbed.url, NAME)
    moments = random.Random(0)
    killed = searches = 0
    while killed < kills:
        searches += 1
        database = Database(folder / f"killed{searches}.db", candidates)
        while killed < kills and not database.drive(
            moments.uniform(0, took / 4), pools[database.drivers % len(pools)]
        ):
            killed += 1
        if killed == kills:
            assert database.drive(PATIENCE_S)
        assert database.rows
        assert content(database.url, NAME) == wanted, f"{searches=}, {database.drivers=}"
    print(f"{killed} kills in {searches} searches; undisturbed {took:.1f} s")


def test_a_search_killed_four_times_equals_an_undisturbed_one(tmp_path: Path) -> None:
    kill_many(tmp_path, kills=4, candidates=110, pools=("inline",))


@pytest.mark.faults
def test_a_search_killed_fifty_times_equals_an_undisturbed_one(tmp_path: Path) -> None:
    kill_many(tmp_path, kills=50, candidates=400, pools=("inline", "inline", "inline", "processes:1"))
