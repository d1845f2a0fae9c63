"""How good are these losses? What is stored is reused, the rest goes to the workers in chunks.

A chunk of losses is one job, and its composition does not depend on the number of workers, so that a search
gives the same results on any pool and after any restart. Answers that arrive together are stored in one
transaction, and workers begin while later jobs are still being written, so that one driver keeps a thousand
workers busy. Where time is the budget and runs are trained one after the other, a job holds some seconds of
work at most, so that slow trainings keep all workers busy too. A job that kills or hangs its worker is split
until the culprit is alone; it gets one more try and is then recorded as poison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from statistics import median_low
from typing import Any

from losssearch.execution.plan import MLP, Run, RunResult
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.pools.base import Answer, Pool
from losssearch.proxies.base import Proxy
from losssearch.records import candidate_row, constants_of, space_id
from losssearch.spaces import Space
from losssearch.store.rows import CandidateRow, EvaluationRow, run_text
from losssearch.store.store import ACCIDENTS, Store

RUNS_A_JOB = 32
JOBS_AT_ONCE = 256  # written and submitted before answers are looked at again
DEADLINE_S = 60.0
TRIES = 2


@dataclass(frozen=True)
class Contender:
    """A loss to be trained, and the runs it needs (their `loss` index is ignored).

    Args:
        key: Key of the candidate.
        program: As written.
        scale: Factor for its gradient.
        runs: What to train.
        row: Its row for the store, if the caller has it.
    """

    key: str
    program: Program
    scale: float
    runs: tuple[Run, ...]
    row: CandidateRow | None = None


Results = dict[tuple[str, Run], RunResult]
_Kind = tuple[str, int | None]  # condition and epochs: what the cost of a training hangs on


@dataclass
class _Job:
    contenders: list[Contender]
    tries: int = 0


@dataclass
class Evaluator:
    """Trains losses on one proxy, through a pool, into a store.

    Args:
        store: Open for writing.
        pool: Where trainings happen.
        space, proxy: What is searched, and on what.
        proxy_name: How a worker finds the proxy.
        deadline_s: Seconds that one training may take.
        runs_a_job: About how many trainings make one job.
        job_s: About how many seconds a job takes at most, unless the proxy stacks runs; None is as long as
            `runs_a_job` trainings take.
        watch: Called as answers arrive, with the number of trainings done.
        trained: Trainings done so far by this object, reused ones not counted.
        costs: Seconds that a worker takes for a training, by condition and epochs; of those looked at last.
    """

    store: Store
    pool: Pool
    space: Space
    proxy: Proxy
    proxy_name: str
    deadline_s: float = DEADLINE_S
    runs_a_job: int = RUNS_A_JOB
    job_s: float | None = None
    watch: Callable[[int], None] = lambda trained: None
    trained: int = 0
    costs: dict[_Kind, float] = field(default_factory=dict)
    _number: int = field(default=0, repr=False)
    _space: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._space = space_id(self.space)  # looks into the folder of spaces: once, not for every job

    def evaluate(self, contenders: Sequence[Contender]) -> list[list[RunResult]]:
        """The results of every contender's runs, in their order. Rows of unknown losses are added."""
        if self._in_short_jobs and not self.costs and len(contenders) > 1:
            # Nobody knows yet how much a job may hold: the first loss tells it.
            return self.evaluate(contenders[:1]) + self.evaluate(contenders[1:])
        results: Results = {}
        waiting: dict[str, _Job] = {}
        protocol = self.proxy.protocol.hash
        chunks = self._chunks(contenders)
        for start in range(0, len(chunks), JOBS_AT_ONCE):
            for job in self._missing(chunks[start : start + JOBS_AT_ONCE], results, protocol):
                self._submit(job, waiting)
            if len(waiting) >= JOBS_AT_ONCE:
                self._collect(waiting, results, protocol, timeout_s=0.0)
        while waiting:
            self._collect(waiting, results, protocol, timeout_s=1.0)
        self._learn_costs(results)
        return [[results[c.key, run] for run in c.runs] for c in contenders]

    @property
    def _in_short_jobs(self) -> bool:
        return self.job_s is not None and not self.proxy.stacked

    @property
    def _side_by_side(self) -> int:
        """How many trainings a worker does in the time of one; modules and other tasks may have to queue."""
        return self.pool.appetite if self.proxy.stacked and isinstance(self.proxy.setting().model, MLP) else 1

    def price(self, runs: Sequence[Run]) -> float:
        """About how many seconds all workers together take; an epoch of an unknown kind costs the most."""
        return max(sum(map(self._cost, runs)) / self.pool.size, 1e-9)

    def _cost(self, run: Run) -> float:
        known = self.costs.get(_kind(run))
        if known is not None:
            return known
        usual = self.proxy.setting().epochs
        dearest = max((cost / (epochs or usual) for (_, epochs), cost in self.costs.items()), default=0.0)
        return dearest * (run.epochs or usual)

    def _learn_costs(self, results: Results) -> None:
        seconds: dict[_Kind, list[float]] = {}
        for (_, run), result in results.items():
            if result.outcome is Outcome.SCORED or not self.costs:
                seconds.setdefault(_kind(run), []).append(result.seconds)
        # Not the means: a worker's first training is slow where it compiles.
        self.costs |= {kind: median_low(found) for kind, found in seconds.items()}

    def _chunks(self, contenders: Sequence[Contender]) -> list[list[Contender]]:
        """What makes one job each; where jobs are short, the runs of one loss are dealt to several."""
        most = self.runs_a_job * self._side_by_side
        if self.job_s is not None and self._in_short_jobs:
            dearest = max((self._cost(run) for c in contenders for run in c.runs), default=0.0)
            most = max(1, min(most, int(self.job_s / max(dearest, 1e-9))))
        if most < self.runs_a_job:  # in short jobs
            contenders = [
                replace(c, runs=c.runs[start : start + most])
                for c in contenders
                for start in range(0, len(c.runs), most)
            ]
        return _chunks(contenders, most)

    def _missing(
        self, chunks: Sequence[Sequence[Contender]], results: Results, protocol: str
    ) -> Iterator[_Job]:
        """One job a chunk, of those runs that are not stored; the others are put into `results`."""
        contenders = [contender for chunk in chunks for contender in chunk]
        self.store.add_candidates(
            c.row or candidate_row(c.program, self.space, scale=c.scale) for c in contenders
        )
        stored = self.store.evaluations([c.key for c in contenders], self.proxy.name, protocol)
        for chunk in chunks:
            left: list[Contender] = []
            for contender in chunk:
                known, missing = stored.get(contender.key, {}), []
                for run in contender.runs:
                    row = known.get(_text(run))
                    if row is None or row.outcome in ACCIDENTS:
                        missing.append(run)
                    else:
                        results[contender.key, run] = _result(row)
                if missing:
                    left.append(replace(contender, runs=tuple(missing)))
            if left:
                yield _Job(left)

    def _collect(self, waiting: dict[str, _Job], results: Results, protocol: str, timeout_s: float) -> None:
        """Take in the answers that are there, in one transaction, and submit what must be tried again."""
        rows: list[EvaluationRow] = []
        again: list[_Job] = []
        for answer in self.pool.wait(timeout_s=timeout_s):
            again += self._take(waiting.pop(answer.job_id), answer, results, rows, protocol)
        self.store.record_evaluations(rows)
        self.trained += len(rows)
        for job in again:
            self._submit(job, waiting)
        self.watch(self.trained)

    def _submit(self, job: _Job, waiting: dict[str, _Job]) -> None:
        self._number += 1
        name = f"job-{self._number}"
        runs = [(i, run) for i, c in enumerate(job.contenders) for run in c.runs]
        waiting[name] = job
        self.pool.submit(
            name,
            {
                "task": "train",
                "proxy": self.proxy_name,
                "space": self._space,
                "losses": [
                    {"formula": c.program.text, "constants": constants_of(c.program), "scale": c.scale}
                    for c in job.contenders
                ],
                "runs": [_plain(run) | {"loss": i} for i, run in runs],
            },
            deadline_s=self.deadline_s * max(1, len(runs) / self._side_by_side),
        )

    def _take(
        self, job: _Job, answer: Answer, results: Results, rows: list[EvaluationRow], protocol: str
    ) -> list[_Job]:
        """Read an answer into `results` and `rows`; gives the jobs to be tried again."""
        if answer.outcome is Outcome.ANSWERED and answer.result is not None:
            found = [_read(raw) for raw in answer.result["runs"]]
            rows += self._rows(job, found, results, protocol)
            return []
        if len(job.contenders) > 1:
            half = len(job.contenders) // 2
            return [_Job(job.contenders[:half]), _Job(job.contenders[half:])]
        outcome, detail = Outcome.FAILED, answer.detail
        if answer.outcome in (Outcome.DIED, Outcome.TIMEOUT):
            if job.tries + 1 < TRIES:
                return [_Job(job.contenders, job.tries + 1)]
            outcome, detail = Outcome.POISON, answer.outcome.value
        count = sum(len(c.runs) for c in job.contenders)
        failed = RunResult(outcome, seconds=answer.seconds / max(count, 1), detail=detail)
        rows += self._rows(job, [failed] * count, results, protocol)
        return []

    def _rows(
        self,
        job: _Job,
        found: Sequence[RunResult],
        results: Results,
        protocol: str,
    ) -> list[EvaluationRow]:
        pairs = [(c, run) for c in job.contenders for run in c.runs]
        rows = []
        for (contender, run), result in zip(pairs, found, strict=True):
            results[contender.key, run] = result
            rows.append(
                EvaluationRow(
                    contender.key,
                    self.proxy.name,
                    protocol,
                    _text(run),
                    result.outcome.name,
                    result.metric,
                    dict(result.metrics),
                    [list(point) for point in result.curve],
                    result.seconds,
                )
            )
        return rows


def _chunks(contenders: Sequence[Contender], runs_a_job: int) -> list[list[Contender]]:
    """Losses in the order given, as many as make about so many runs."""
    chunks: list[list[Contender]] = []
    room = 0
    for contender in contenders:
        if room < len(contender.runs):
            chunks.append([])
            room = runs_a_job
        chunks[-1].append(contender)
        room -= len(contender.runs)
    return chunks


def _kind(run: Run) -> _Kind:
    return run.condition, run.epochs


@lru_cache(maxsize=4096)
def _plain(run: Run) -> dict[str, Any]:
    return asdict(run)


@lru_cache(maxsize=4096)
def _text(run: Run) -> str:
    return run_text({k: v for k, v in _plain(run).items() if k != "loss"})


def _read(raw: Mapping[str, Any]) -> RunResult:
    """A worker's answer, believed only as far as it fits."""
    metric = raw.get("metric")
    return RunResult(
        Outcome[raw["outcome"]],
        None if metric is None else float(metric),
        {str(k): float(v) for k, v in raw.get("metrics", {}).items()},
        [(int(e), float(v)) for e, v in raw.get("curve", [])],
        float(raw.get("seconds", 0.0)),
        str(raw.get("detail", "")),
    )


def _result(row: EvaluationRow) -> RunResult:
    curve = [(int(e), float(v)) for e, v in row.curve]
    return RunResult(Outcome[row.outcome], row.metric, dict(row.metrics), curve, row.seconds)
