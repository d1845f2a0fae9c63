"""A budget in seconds holds, whatever a training costs. Workers and clock are made up; the search is real."""

from __future__ import annotations

import heapq
import json
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from losssearch.evaluation import RUNS_A_JOB, Contender, Evaluator
from losssearch.execution.plan import Run, RunResult
from losssearch.language.canonical import candidate_key
from losssearch.outcomes import Outcome
from losssearch.pareto import pareto_front
from losssearch.pools.base import Answer, Pool
from losssearch.proxies.registry import load_proxy
from losssearch.search import Search
from losssearch.selection import score
from losssearch.spaces import load_space
from losssearch.store.rows import CHOSEN, run_text
from losssearch.store.store import Store

TASKS = Path(__file__).parent / "tasks.py"
POINTS, BLACK = f"{TASKS}:points", f"{TASKS}:black"
SIZE = 2


class Workers(Pool):
    """Workers with a clock of their own: a training takes `cost` seconds and answers a number made up.

    Args:
        cost: Of a training; under a second condition it takes twice as long, with fewer epochs half as long.
        cold: Seconds that a worker's first job takes more.
    """

    def __init__(self, cost: float, cold: float = 0.0) -> None:
        self.now, self.cost, self.cold = 0.0, cost, cold
        self.jobs: list[list[dict[str, Any]]] = []
        self._free = [(0.0, worker) for worker in range(SIZE)]
        self._fresh = set(range(SIZE))
        self._ends: list[tuple[float, str, Answer]] = []

    @property
    def size(self) -> int:
        return SIZE

    def submit(self, job_id: str, job: Mapping[str, Any], deadline_s: float) -> None:
        free, worker = heapq.heappop(self._free)
        each = [
            self.cost * (1 if run["condition"] == "default" else 2) * (0.5 if run["epochs"] else 1)
            for run in job["runs"]
        ]
        if worker in self._fresh:
            self._fresh.discard(worker)
            each = [seconds + self.cold / len(each) for seconds in each]
        end = max(free, self.now) + sum(each)
        found = [self.answer(job, run, s) for run, s in zip(job["runs"], each, strict=True)]
        heapq.heappush(self._free, (end, worker))
        heapq.heappush(self._ends, (end, job_id, Answer(job_id, Outcome.ANSWERED, {"runs": found}, "", 0.0)))
        self.jobs.append(job["runs"])

    def answer(self, job: Mapping[str, Any], run: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        own = random.Random(f"{job['losses'][run['loss']]['formula']}").random() * 0.2
        luck = random.Random(json.dumps(run)).random() * 0.05
        return {"outcome": "SCORED", "metric": 0.3 + own + luck, "curve": [], "seconds": seconds}

    def wait(self, timeout_s: float | None = None) -> list[Answer]:
        if not self._ends:
            return []
        end, _, answer = heapq.heappop(self._ends)
        self.now = max(self.now, end)
        return [answer]

    def close(self) -> None:
        self._ends.clear()

    @property
    def busy(self) -> float:
        """When the last of them has nothing left to do."""
        return max(end for end, _ in self._free)


@pytest.fixture
def hire(monkeypatch: pytest.MonkeyPatch):
    """Workers that take the place of a search's own, and their clock of its own."""

    def hired(cost: float, cold: float = 0.0) -> Workers:
        workers = Workers(cost, cold)
        monkeypatch.setattr("losssearch.session.open_pool", lambda name: workers)
        monkeypatch.setattr("losssearch.session.clock", SimpleNamespace(perf_counter=lambda: workers.now))
        return workers

    return hired


@pytest.fixture(autouse=True)
def whole_finals(small_rounds: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finals as large as they are for a user."""
    usual = {"FINALISTS": 24, "TUNED": 4, "SETTINGS": 24, "SLIMMED": 2}
    for name, value in usual.items():
        monkeypatch.setattr(f"losssearch.finals.{name}", value)


def rounds(spec: Search) -> list[int]:
    """Proposals of each round, by what its first screen saw; the finals have none."""
    with Store.open(spec.storage, read_only=True) as store:
        return [done.counts["duplicate"]["seen"] for done in store.rounds(spec.name) if done.counts]


@pytest.mark.parametrize(("budget", "cost"), [(40, 0.7), (180, 0.7), (40, 3.0), (900, 3.0)])
def test_a_slow_task_keeps_its_time(search, hire, budget: float, cost: float) -> None:
    workers = hire(cost, cold=2.0)
    spec = search(space="boxes", proxy="scenes", start=None, controller="evolution")
    result = spec.run(time=budget)
    proxy, starts = load_proxy("scenes"), len(load_space("boxes").seeds)
    first, second = (len(proxy.runs(rung, [0])) for rung in (0, 1))
    assert proxy.rungs[0].epochs is not None  # half of the cost
    start = 2.0 + (second + first / 2 + starts * first / 2) * cost / SIZE
    assert workers.busy <= 1.3 * budget + start
    if start < budget / 2:
        assert workers.busy >= 0.7 * budget  # and it is used
    assert result.best.score is not None
    assert result.leaderboard[0].proposal.rung == CHOSEN
    assert sum(rounds(spec)) >= starts


def test_a_fast_task_has_whole_rounds_until_its_time_is_nearly_over(search, hire) -> None:
    workers = hire(0.001, cold=0.1)
    spec = search()
    spec.run(time=1.2)
    sizes = rounds(spec)
    whole = sizes.count(24)
    assert sizes[:whole] == [24] * whole
    assert sum(sizes[whole:]) <= 2 * 24
    assert whole >= 6
    assert workers.busy <= 1.1 * 1.2


def test_the_start_losses_are_trained_however_little_time_there_is(search, hire) -> None:
    workers = hire(5.0)
    spec = search()
    result = spec.run(time=1.0)
    assert result.best.score is not None
    assert rounds(spec)[0] == 2
    assert workers.busy == 5 * (4 + 8 * 2 + 4)  # the reference on two rungs, in one job, and one more loss


@pytest.mark.parametrize("more", [45, 700])
def test_after_short_finals_every_score_is_still_that_of_its_rung(search, hire, monkeypatch, more) -> None:
    """Finals of a lower rung, then more time: what is stored as of a rung is what its runs give."""
    monkeypatch.setattr("losssearch.session.FINALS_SHARE", 0.5)
    spec = search(controller="evolution")
    for seconds in (40, more):
        hire(2.0)
        spec.run(time=seconds)
        proxy = load_proxy(POINTS)
        with Store.open(spec.storage, read_only=True) as store:
            held = [e.payload for e in store.events("small") if e.kind == "finals"][-1]
            rows = [
                p for p in store.proposals("small", limit=10_000) if p.score is not None and not p.same_as
            ]
            stored = store.evaluations([p.candidate_key for p in rows], "points", proxy.protocol.hash)
            board = store.leaderboard("small", limit=3)
        assert sum(p.rung == CHOSEN for p in rows) == 1
        assert (board[0].proposal.rung, board[0].candidate.key) == (CHOSEN, held["chosen"])
        for row in rows:
            runs = proxy.runs(held["rung"] if row.rung == CHOSEN else row.rung, [0])
            found = stored[row.candidate_key]
            results = [RunResult(Outcome.SCORED, found[text(run)].metric) for run in runs]
            assert row.score == score(runs, results).value
        peers = {p.candidate_key for p in rows if p.rung >= held["rung"]}
        assert {d.key for d in pareto_front("small", spec.storage)} <= peers
    assert held["rung"] == (2 if more == 700 else 0)


def text(run: Run) -> str:
    return run_text({k: v for k, v in vars(run).items() if k != "loss"})


# Jobs.


@pytest.fixture
def contenders() -> list[Contender]:
    losses = list(load_space("multiclass").seeds)[:9]
    runs = tuple(load_proxy(BLACK).runs(1, [0]))
    return [Contender(candidate_key(x.program), x.program, 1.0, runs) for x in losses]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/jobs.db") as opened:
        yield opened


def evaluator(store: Store, workers: Workers, job_s: float | None, proxy: str = BLACK) -> Evaluator:
    return Evaluator(store, workers, load_space("multiclass"), load_proxy(proxy), proxy, job_s=job_s)


@pytest.mark.parametrize("cost", [0.7, 1.9, 50.0])
def test_slow_trainings_are_dealt_to_short_jobs(store: Store, contenders, cost: float) -> None:
    workers = Workers(cost)
    judge = evaluator(store, workers, job_s=4.0)
    found = judge.evaluate(contenders)
    first, *jobs = workers.jobs
    assert len(first) == len(contenders[0].runs)  # nobody knew
    assert max(len(job) for job in jobs) == max(1, math.floor(4 / cost))
    assert judge.trained == sum(len(results) for results in found) == 9 * len(contenders[0].runs)
    assert judge.price(contenders[0].runs[:4]) == 4 * cost / SIZE
    again = evaluator(store, Workers(cost), job_s=None).evaluate(contenders)
    assert again == found


def test_fast_trainings_stacked_ones_and_those_without_a_clock_make_the_usual_jobs(contenders) -> None:
    for job_s, cost, proxy in ((4.0, 0.001, BLACK), (4.0, 100.0, POINTS), (None, 100.0, BLACK)):
        workers = Workers(cost)
        with Store.open("sqlite://") as store:
            evaluator(store, workers, job_s, proxy).evaluate(contenders)
        sizes = [len(job) for job in workers.jobs]
        assert sum(sizes) == 9 * 8
        assert sizes.count(RUNS_A_JOB) == 2


def test_the_price_of_trainings_is_the_time_that_all_workers_take(store: Store, contenders) -> None:
    judge = evaluator(store, Workers(0.5, cold=60.0), job_s=4.0)
    judge.evaluate(contenders)
    usual = contenders[0].runs[:6]
    short, wide = [replace(run, epochs=1) for run in usual], [replace(run, condition="wide") for run in usual]
    assert judge.price(usual) == 6 * 0.5 / SIZE
    epochs = judge.proxy.setting().epochs
    assert judge.price(short) == pytest.approx(judge.price(usual) / epochs)  # until it is measured
    judge.evaluate([replace(contenders[0], runs=(*short, *wide))])
    assert [judge.price(runs) for runs in (usual, short, wide)] == [1.5, 0.75, 3.0]
