"""How many workers can one driver keep busy, and how much memory does it need for a million candidates?

Simulated workers: each job keeps one for half a second without using the processor, and answers one
training. All the rest is real: the evaluator, the crew with one thread a worker, SQLite with every commit
flushed. Efficiency is the time that the jobs need on so many workers, divided by the time it took. What is
trained was screened before, and so that is not in this time. Peer: a loop as a user would write it, asyncio
with a semaphore and one SQLite transaction a result (Ray Tune is not installed with our Ray, and would need
a process a worker).

Memory: a ledger and the screen for duplicates filled with candidates of which half pass; the gradients that
the fingerprint screen remembers are not in it. Bytes are those by which the resident size grows.

    python -m benchmarks.driver [--full]

The short form takes 50 s and counts to 100,000 candidates, the full one 4 minutes and to a million.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import os
import sqlite3
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from losssearch.evaluation import Contender, Evaluator
from losssearch.execution.plan import Run
from losssearch.ledger import Entry, Ledger
from losssearch.pools.crew import CrewPool, Hand
from losssearch.proxies.registry import load_proxy
from losssearch.records import candidate_row
from losssearch.screening.pipeline import Screens
from losssearch.selection import Score
from losssearch.spaces import load_space
from losssearch.store.store import Store

RESULTS = Path(__file__).parent / "results"
JOB_S = 0.5
WORKERS = (1, 10, 100, 1000)
RUN = Run(0, 0, 0.1)
ANSWER = {
    "outcome": "ANSWERED",
    "detail": "",
    "result": {
        "runs": [
            {
                "outcome": "SCORED",
                "metric": 0.25,
                "metrics": {"error": 0.25},
                "curve": [[10, 0.3], [30, 0.25]],
            }
        ]
    },
}


class Sleeper(Hand):
    """A worker that answers after JOB_S seconds and needs no processor."""

    reply = json.dumps(ANSWER)

    def start(self, deadline_s: float) -> None:
        return

    def fit(self) -> bool:
        return True

    def ask(self, text: str, deadline_s: float) -> str:
        time.sleep(JOB_S)
        return self.reply

    def kill(self) -> None:
        return

    def dispose(self) -> None:
        return


class SleepingPool(CrewPool):
    """The crew that our pools are made of, of sleepers."""

    def _new_hand(self) -> Hand:
        return Sleeper()


def key_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()[:32]


def contenders(count: int) -> list[Contender]:
    """The classical losses again and again, each time under another key."""
    space = load_space("multiclass")
    losses = [(s.program, candidate_row(s.program, space, scale=1.0)) for s in space.seeds]
    found = []
    for number in range(count):
        program, row = losses[number % len(losses)]
        key = key_of(number)
        found.append(Contender(key, program, 1.0, (RUN,), replace(row, key=key)))
    return found


def ours(workers: int, jobs: int, folder: Path) -> float:
    """Seconds in which the evaluator trains so many jobs."""
    space, proxy = load_space("multiclass"), load_proxy("digits-noisy")
    wanted = contenders(jobs)
    with (
        Store.open(str(folder / f"ours-{time.monotonic_ns()}.db")) as store,
        SleepingPool(workers, 10) as pool,
    ):
        evaluator = Evaluator(store, pool, space, proxy, "digits-noisy", runs_a_job=1)
        began = time.perf_counter()
        evaluator.evaluate(wanted)
        took = time.perf_counter() - began
        if (
            evaluator.trained != jobs
            or len(store.known([c.key for c in wanted], proxy.name, proxy.protocol.hash)) != jobs
        ):
            raise RuntimeError(f"Of {jobs} trainings {evaluator.trained} were answered.")
    return took


def naive(workers: int, jobs: int, folder: Path) -> float:
    """Seconds of the loop that a user would write."""
    database = sqlite3.connect(folder / f"naive-{time.monotonic_ns()}.db")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    database.execute("CREATE TABLE result (key TEXT PRIMARY KEY, formula TEXT, answer TEXT)")
    wanted = contenders(jobs)

    async def train(contender: Contender, free: asyncio.Semaphore) -> None:
        async with free:
            await asyncio.sleep(JOB_S)
        row = (contender.key, contender.program.text, json.dumps(ANSWER["result"]))
        with database:
            database.execute("INSERT INTO result VALUES (?, ?, ?)", row)

    async def all_of_them() -> None:
        free = asyncio.Semaphore(workers)
        await asyncio.gather(*(train(contender, free) for contender in wanted))

    began = time.perf_counter()
    asyncio.run(all_of_them())
    took = time.perf_counter() - began
    database.close()
    return took


def scaling(workers: int, each: int, pairs: int) -> dict[str, Any]:
    """`each` jobs a worker, both ways in turn."""
    jobs, rows = workers * each, []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(pairs):
            rows.append((ours(workers, jobs, Path(folder)), naive(workers, jobs, Path(folder))))
    ideal = each * JOB_S
    efficiencies = [ideal / mine for mine, _ in rows]
    ratios = [theirs / mine for mine, theirs in rows]
    return {
        "workers": workers,
        "results": jobs,
        "results_a_second": statistics.median(jobs / mine for mine, _ in rows),
        "efficiency": [statistics.median(efficiencies), min(efficiencies), max(efficiencies)],
        "efficiency_of_the_loop": statistics.median(ideal / theirs for _, theirs in rows),
        "ratio": [statistics.median(ratios), min(ratios), max(ratios)],
    }


def resident() -> int:
    """Bytes of memory that this process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory(count: int) -> dict[str, Any]:
    """Bytes that a driver needs for `count` candidates, if half of them pass all screens."""
    space = load_space("multiclass")
    program = space.seeds[0].program
    before = resident()
    screens = Screens.of(space)
    ledger = Ledger(lambda number: program)
    began = time.perf_counter()
    for number in range(count):
        key = key_of(number)
        screens.remember(key, None)
        if number % 2:
            entry = Entry(number, key, 20, number / 7)
            ledger.add(entry, program)
            ledger.take(
                entry, Score((number * 7919 % 100003) / 100003, per_split=(0.1, 0.2), trace=key[:16]), 0
            )
        if number % 96 == 95:
            for due in ledger.to_promote(0, 0.1):
                ledger.take(due, Score(due.value), 1)
            ledger.settle()
            ledger.leader()
    took = time.perf_counter() - began
    used = resident() - before
    return {
        "candidates": count,
        "bytes_a_candidate": used / count,
        "megabytes": used / 1e6,
        "of_the_process": resident() / 1e6,
        "microseconds_a_candidate": 1e6 * took / count,
    }


def main(arguments: list[str] | None = None) -> None:
    """Print the tables and write them as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.driver")
    parser.add_argument("--full", action="store_true", help="longer runs, and a million candidates")
    full = parser.parse_args(arguments).full
    held = memory(1_000_000 if full else 100_000)
    print(
        f"memory at {held['candidates']:,} candidates: {held['megabytes']:.0f} MB, "
        f"{held['bytes_a_candidate']:.0f} bytes each; {held['of_the_process']:.0f} MB with libraries"
    )
    print("workers  results/s  efficiency (min to max)   of the plain loop   loop / ours (min to max)")
    rows = []
    for workers in WORKERS:
        row = scaling(workers, *((16, 5) if full else (4, 5) if workers == WORKERS[-1] else (3, 1)))
        rows.append(row)
        print(
            f"{workers:7}  {row['results_a_second']:9.0f}  {row['efficiency'][0]:10.3f} "
            f"({row['efficiency'][1]:.3f} to {row['efficiency'][2]:.3f})  "
            f"{row['efficiency_of_the_loop']:14.3f}   {row['ratio'][0]:15.2f} "
            f"({row['ratio'][1]:.2f} to {row['ratio'][2]:.2f})",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    name = "driver-full.json" if full else "driver.json"
    (RESULTS / name).write_text(json.dumps({"memory": held, "scaling": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
