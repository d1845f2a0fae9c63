"""Which controller finds the best losses with an equal budget, and does any beat random search?

Every controller of the registry that needs nobody outside, on digits with 40 % wrong labels, on diabetes with
wild targets, and on three regressions whose noise is known. Two budgets: losses trained (those that passed
the screens) and seconds of processor time with one worker on one thread, which on an idle machine is wall
time, and on a busy one is not the time of the others. At each checkpoint the loss in hand is noted; outside
the budget each is audited as in `losssearch audit`: rate, decay and constants tuned with the same number of
settings, then fresh splits that no search saw, the same for everyone. The loss in hand is the one that leads
by the search's own scores, not the best by the audit: a curve may fall.

Where the noise is known the audit gives the efficiency relative to the likelihood, paired on the same 1,500
data sets. `controller_scores.py` says how scores are normalised and compared; random search is the control.

    python -m benchmarks.controllers [--processes 2] [--seeds 0 1 2 3 4] [--tasks ...] [--controllers ...]
    python -m benchmarks.controllers --short

Each finished run is a line of `runs.jsonl`, each audited loss one of `audits.jsonl`: after Ctrl-C or a
crash the same command goes on. The full form, without any argument, is about 300 runs of 15 to 200 s and
the audit: some 6 hours of one core, half of that with `--processes 2` on two idle ones. The load of the
machine stands in the report: where two processes share a core, each takes up to half as much processor time
again (measured: 46 s in place of 30). The short form runs two controllers on one task, in under a minute,
and shows nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import torch

from benchmarks.controller_report import Judge, in_hand, report
from benchmarks.controller_runs import (
    CONTROL,
    TASKS,
    Budget,
    Finished,
    Journal,
    Task,
    contenders,
    plain,
    run,
)
from benchmarks.time_to_target import SharedAudit, say
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.tuning import CONFIRMED

RESULTS = Path(__file__).parent / "results" / "controllers"
SHORT = {
    "tasks": ["known-noise-laplace"],
    "controllers": [CONTROL, "evolution"],
    "seeds": [0, 1],
    "budget": [6, 12],
    "seconds": [1.0, 2.0],
    "settings": 1,
    "splits": 2,
}
CMAES = "optuna:cmaes"
BATCH = 16  # losses that are audited between two writings
PATIENCE_S = 1800  # without any answer; a process that is killed takes its run with it

Job = tuple[str, str, int, Budget]  # controller, task, seed


# The runs.


def wanted(options: argparse.Namespace, budget: Budget) -> list[Job]:
    """All controllers of a seed before the next seed, so that they are even whenever it stops."""
    return [
        (controller, task, seed, budget)
        for seed in options.seeds
        for task in options.tasks
        for controller in options.controllers
    ]


def kept(jobs: Sequence[Job], journal: Journal) -> list[Finished]:
    """The runs of these jobs that were finished before, with the same settings."""
    rows = {(f.controller, f.task, f.seed, json.dumps(f.settings)): f for f in journal.finished()}
    settings = {(task, budget): json.dumps(budget.settings(TASKS[task])) for _, task, _, budget in jobs}
    places = [(name, task, seed, settings[task, budget]) for name, task, seed, budget in jobs]
    return [rows[place] for place in places if place in rows]


def run_all(jobs: Sequence[Job], processes: int, journal: Journal) -> int:
    """Run what is missing, each run in one process; gives how many failed."""
    failed = 0
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _ready) as pool:  # which is ended, not waited for
        answers = pool.imap_unordered(_attempt, jobs)
        for number in range(1, len(jobs) + 1):
            try:
                answer = answers.next(timeout=PATIENCE_S)
            except multiprocessing.TimeoutError:
                say(f"{len(jobs) - number + 1} runs never answered: their processes died, or hang.")
                return failed + len(jobs) - number + 1
            if isinstance(answer, str):
                failed += 1
                say(f"{number} of {len(jobs)}: FAILED, {answer}")
                continue
            journal.add(plain(answer))
            say(
                f"{number} of {len(jobs)}: {answer.controller} on {answer.task}, seed {answer.seed}: "
                f"{answer.trained} losses trained of {answer.proposals}, {answer.seconds:.0f} s"
            )
    return failed


def _ready() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    torch.set_num_threads(1)


def _attempt(job: Job) -> Finished | str:
    """The run, or what it failed of: the others go on, and the next call tries it again."""
    controller, task, seed, budget = job
    try:
        return run(controller, TASKS[task], seed, budget)
    except Exception as error:
        return f"{controller} on {task}, seed {seed}: {type(error).__name__}: {error}"


# The audit.


def audited(
    task: Task, programs: Sequence[Program], options: argparse.Namespace, journal: Journal
) -> dict[str, float]:
    """Audited error by the loss's key; infinite where it could not be trained."""
    with ExitStack() as stack:
        workers = "inline" if options.processes == 1 else f"processes:{options.processes}"
        audit = SharedAudit(stack, workers, options.settings, options.splits, task.proxy)
        settings = {
            "settings": options.settings,
            "confirmed": CONFIRMED,
            "splits": options.splits,
            "protocol": audit.proxy.protocol.hash,
        }
        found = {
            row["key"]: math.inf if row["error"] is None else float(row["error"])
            for row in journal.rows
            if row["task"] == task.proxy and row["audit"] == settings
        }
        fresh = {key: p for p in programs if (key := candidate_key(p)) not in found}
        keys = list(fresh)
        for first in range(0, len(keys), BATCH):
            some = keys[first : first + BATCH]
            errors = audit.errors([fresh[key] for key in some])
            if not any(map(math.isfinite, errors)):
                raise RuntimeError(f"{task.proxy}: none of {len(some)} losses could be trained: not kept.")
            for key, error in zip(some, errors, strict=True):
                found[key] = error
                row = {"task": task.proxy, "key": key, "formula": fresh[key].text, "audit": settings}
                journal.add({**row, "error": error if math.isfinite(error) else None})
            say(f"{task.proxy}: {first + len(some)} of {len(keys)} losses audited")
        return found


def judge_all(
    runs: Sequence[Finished], budget: Budget, options: argparse.Namespace, journal: Journal
) -> dict[str, Judge]:
    """Audit what was in hand anywhere, and the losses that set the scale."""
    judges = {}
    for name in options.tasks:
        task = TASKS[name]
        programs = [task.program(loss) for loss in (*task.start, *task.known)]
        for own in runs:
            if own.task == name:
                programs += [i.program(task) for part in in_hand(own, budget).values() for i in part if i]
        judges[name] = Judge(task, audited(task, programs, options, journal))
    return judges


# The command.


def main(arguments: Sequence[str] = ("--short",)) -> int:
    """Run what is missing, audit, print the tables, write them with JSON and pictures."""
    options = _options(arguments)
    budget = Budget(tuple(sorted(options.budget)), tuple(sorted(options.seconds)))
    with ExitStack() as stack:
        if options.out is None:
            options.out = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        journal = Journal(options.out / "runs.jsonl")
        jobs = wanted(options, budget)
        there = {(f.controller, f.task, f.seed) for f in kept(jobs, journal)}
        missing = [job for job in jobs if job[:3] not in there]
        if there:
            say(f"{len(there)} runs are kept from {journal.path}, {len(missing)} are missing.")
        try:
            failed = run_all(missing, options.processes, journal) if missing else 0
            runs = kept(jobs, journal)
            if not runs:
                raise SystemExit("No run was finished, so there is nothing to compare.")
            judges = judge_all(runs, budget, options, Journal(options.out / "audits.jsonl"))
        except KeyboardInterrupt:
            say(f"Interrupted; what was finished is kept in {options.out}. The same command goes on.")
            return 130
        audit = {"settings": options.settings, "splits": options.splits}
        print(report(runs, judges, budget, options.out, audit))
    if options.short:
        print("This was a try of the machinery: a dozen losses show nothing about anyone.")
    return 1 if failed else 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--short", action="store_true", help="try everything once; nothing is kept")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--controllers", nargs="+", choices=contenders(), help="all by default")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--budget", type=int, nargs="+", default=[50, 100, 200, 400, 800], metavar="LOSSES",
        help="checkpoints in losses trained; the last is the budget",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[5, 10, 20, 40], metavar="S",
        help="checkpoints in processor time",
    )  # fmt: skip
    parser.add_argument("--processes", type=int, default=1, help="runs at a time")
    parser.add_argument("--settings", type=int, default=8, help="of the audit, for every loss")
    parser.add_argument("--splits", type=int, default=30, help="of the audit")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the runs and the report")
    options = parser.parse_args(arguments)
    if min(*options.budget, *options.seconds, options.processes, options.settings, options.splits) <= 0:
        parser.error("checkpoints, processes, settings and splits must be above 0.")
    if options.short:
        vars(options).update({**SHORT, "out": None})
    if options.controllers is None:
        options.controllers = [name for name in contenders() if name != CMAES or find_spec("cmaes")]
        if CMAES not in options.controllers:
            say(f"{CMAES} is left out: it needs the package cmaes, which is not installed.")
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
