"""What is trained, in which jobs, and what becomes of a job that dies."""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from losssearch.evaluation import RUNS_A_JOB, TRIES, Contender, Evaluator
from losssearch.language.canonical import candidate_key
from losssearch.outcomes import Outcome
from losssearch.pools.base import Answer, Pool
from losssearch.proxies.registry import load_proxy
from losssearch.spaces import load_space
from losssearch.store.rows import EvaluationRow
from losssearch.store.store import ACCIDENTS, Store

TASK = f"{Path(__file__).parent / 'tasks.py'}:points"
SPACE = load_space("multiclass")
PROXY = load_proxy(TASK)
RUNS = tuple(PROXY.runs(0, [0]))


class FakePool(Pool):
    """Answers each run by a number made of its formula, split and rate; trains nothing.

    Args:
        fails: Formula -> what a job with it ends as, once for each outcome in the list.
        shuffled: Answer in an order of its own.
    """

    def __init__(self, fails: Mapping[str, list[Outcome]] | None = None, shuffled: bool = False) -> None:
        self.jobs: list[dict[str, Any]] = []
        self.fails = {formula: deque(ends) for formula, ends in (fails or {}).items()}
        self.random = random.Random(0) if shuffled else None
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    @property
    def size(self) -> int:
        return 1

    def submit(self, job_id: str, job: Mapping[str, Any], deadline_s: float) -> None:
        assert deadline_s > 0
        assert job_id not in dict(self._waiting)
        plain = json.loads(json.dumps(dict(job)))
        self.jobs.append(plain)
        self._waiting.append((job_id, plain))

    def wait(self, timeout_s: float | None = None) -> list[Answer]:
        if not self._waiting:
            return []
        job_id, job = self._waiting.pop(self.random.randrange(len(self._waiting)) if self.random else 0)
        for loss in job["losses"]:
            if ends := self.fails.get(loss["formula"]):
                return [Answer(job_id, ends.popleft(), None, "it says why", 1.0)]
        found = []
        for run in job["runs"]:
            error = metric(job["losses"][run["loss"]]["formula"], run["split"], run["rate"])
            found.append({"outcome": "SCORED", "metric": error, "curve": [[4, error]], "seconds": 0.1})
        return [Answer(job_id, Outcome.ANSWERED, {"runs": found}, "", 1.0)]

    def close(self) -> None:
        self._waiting.clear()

    def formulas(self) -> list[list[str]]:
        """Those of each job, in the order of submission."""
        return [[loss["formula"] for loss in job["losses"]] for job in self.jobs]


def metric(formula: str, split: int, rate: float) -> float:
    return len(formula) / 1000 + split / 100 + rate


def contenders(count: int, names: tuple[str, ...] = ()) -> list[Contender]:
    losses = [SPACE.losses[n] for n in names] or list(SPACE.losses.values())[:count]
    return [Contender(candidate_key(x.program), x.program, 1.0, RUNS) for x in losses]


def text(contender: Contender) -> str:
    return contender.program.text


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(f"sqlite:///{tmp_path}/losses.db") as opened:
        yield opened


def evaluator(store: Store, pool: Pool) -> Evaluator:
    return Evaluator(store, pool, SPACE, PROXY, TASK)


def outcomes(store: Store, contender: Contender) -> set[str]:
    found = store.evaluations([contender.key], PROXY.name, PROXY.protocol.hash)
    return {row.outcome for row in found[contender.key].values()}


@pytest.mark.parametrize("shuffled", [False, True])
def test_results_come_in_the_order_asked_whatever_the_order_of_answers(store: Store, shuffled: bool) -> None:
    asked = contenders(9)
    found = evaluator(store, FakePool(shuffled=shuffled)).evaluate(asked)
    for contender, results in zip(asked, found, strict=True):
        wanted = [metric(text(contender), run.split, run.rate) for run in RUNS]
        assert [r.metric for r in results] == wanted


def test_nothing_asked_is_no_job(store: Store) -> None:
    pool = FakePool()
    assert evaluator(store, pool).evaluate([]) == []
    assert not pool.jobs


def test_a_job_holds_no_more_runs_than_it_may(store: Store) -> None:
    pool = FakePool()
    evaluator(store, pool).evaluate(contenders(20))
    assert all(len(job["runs"]) <= RUNS_A_JOB for job in pool.jobs)
    assert all(len(job["runs"]) > RUNS_A_JOB - len(RUNS) for job in pool.jobs[:-1])


def test_what_is_stored_is_given_back_and_not_trained_again(store: Store) -> None:
    asked = contenders(6)
    first = evaluator(store, FakePool()).evaluate(asked)
    pool = FakePool()
    again = evaluator(store, pool)
    assert again.evaluate(asked) == first
    assert not pool.jobs
    assert again.trained == 0


def test_only_the_runs_that_are_missing_are_trained(store: Store) -> None:
    [asked] = contenders(1)
    evaluator(store, FakePool()).evaluate([replace(asked, runs=RUNS[:2])])
    pool = FakePool()
    [results] = evaluator(store, pool).evaluate([asked])
    assert [(r["split"], r["rate"]) for r in pool.jobs[0]["runs"]] == [(r.split, r.rate) for r in RUNS[2:]]
    assert len(results) == len(RUNS)


def test_who_trains_with_whom_does_not_depend_on_what_is_stored(store: Store, tmp_path: Path) -> None:
    asked = contenders(20)
    whole, rest = FakePool(), FakePool()
    with Store.open(f"sqlite:///{tmp_path}/whole.db") as other:
        evaluator(other, whole).evaluate(asked)
    known = {text(c) for c in asked[3:5]}
    evaluator(store, FakePool()).evaluate(asked[3:5])
    evaluator(store, rest).evaluate(asked)
    left = [[f for f in job if f not in known] for job in whole.formulas()]
    assert rest.formulas() == [job for job in left if job]


@pytest.mark.parametrize("stored", [*(Outcome[name] for name in ACCIDENTS), Outcome.POISON])
def test_a_stored_accident_is_tried_again_and_a_verdict_is_not(store: Store, stored: Outcome) -> None:
    [asked] = contenders(1)
    evaluator(store, FakePool()).evaluate([asked])
    rows = store.evaluations([asked.key], PROXY.name)[asked.key]
    with Store.open(f"{store.url}.other") as other:
        evaluator(other, FakePool()).evaluate([])
        other.add_candidates(store.candidates([asked.key]).values())
        other.record_evaluations(
            EvaluationRow(asked.key, PROXY.name, PROXY.protocol.hash, run, stored.name, None, {}, [], 1.0)
            for run in rows
        )
        pool = FakePool()
        [results] = evaluator(other, pool).evaluate([asked])
    accident = stored is not Outcome.POISON
    assert len(pool.jobs) == accident
    assert {r.outcome for r in results} == {Outcome.SCORED if accident else stored}


@pytest.mark.parametrize("end", [Outcome.DIED, Outcome.TIMEOUT])
def test_the_culprit_is_found_poisoned_and_its_neighbours_are_scored(store: Store, end: Outcome) -> None:
    asked = contenders(8)
    for index, culprit in enumerate(asked):
        key = f"{culprit.key}-{index}"
        with Store.open(f"sqlite:///{Path(store.url.removeprefix('sqlite:///')).parent}/{key}.db") as own:
            pool = FakePool({text(culprit): [end] * 99})
            found = evaluator(own, pool).evaluate(asked)
            for contender, results in zip(asked, found, strict=True):
                wanted = Outcome.POISON if contender is culprit else Outcome.SCORED
                assert {r.outcome for r in results} == {wanted}
                assert outcomes(own, contender) == {wanted.name}
            alone = [job for job in pool.formulas() if job == [text(culprit)]]
            assert len(alone) == TRIES
            # Halves: not one job for each neighbour.
            assert max(Counter(f for job in pool.formulas() for f in job).values()) <= 5


def test_poison_is_never_tried_again(store: Store) -> None:
    [asked] = contenders(1)
    evaluator(store, FakePool({text(asked): [Outcome.DIED] * 99})).evaluate([asked])
    pool = FakePool()
    [results] = evaluator(store, pool).evaluate([asked])
    assert not pool.jobs
    assert {r.outcome for r in results} == {Outcome.POISON}


def test_a_loss_whose_worker_died_once_gets_its_score(store: Store) -> None:
    [asked] = contenders(1)
    pool = FakePool({text(asked): [Outcome.DIED]})
    [results] = evaluator(store, pool).evaluate([asked])
    assert len(pool.jobs) == 2
    assert {r.outcome for r in results} == {Outcome.SCORED}


def test_a_failed_job_is_split_so_that_one_loss_alone_has_failed(store: Store) -> None:
    asked = contenders(5)
    pool = FakePool({text(asked[2]): [Outcome.FAILED] * 99})
    found = evaluator(store, pool).evaluate(asked)
    assert [{r.outcome.name for r in results} for results in found] == [
        {"FAILED"} if i == 2 else {"SCORED"} for i in range(5)
    ]
    assert {r.detail for r in found[2]} == {"it says why"}
    assert pool.formulas().count([text(asked[2])]) == 1, "an error is not tried again"


def test_every_training_is_counted_once(store: Store) -> None:
    asked = contenders(7)
    seen: list[int] = []
    pool = FakePool({text(asked[3]): [Outcome.DIED] * 99})
    counting = evaluator(store, pool)
    counting.watch = seen.append
    counting.evaluate(asked)
    assert counting.trained == 7 * len(RUNS) == seen[-1]
    assert seen == sorted(seen)
