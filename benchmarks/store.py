"""What does it cost to keep a candidate, when a thousand are stored and when a million are?

A round as a search commits it: 96 proposals, half of them rejected by a screen, the others trained on four
runs each, with formula, constants, metrics and curve of ordinary length, and 80 kB of the controller's
state. The same 20 rounds are committed to a small store and to a large one, in turn (A B A B ...), with the
store's own settings: every commit is flushed. The small store is made anew for each pair, and its log is
never emptied in that time; the large one pays for its own. Peer: Optuna's RDB on SQLite, trial by trial, as
a user would write it.

    python -m benchmarks.store [--full] [--postgresql URL]

The short form compares 10^3 with 10^5 candidates (40 s), the full one with 10^6 (10 minutes, 3 GB of disk).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from losssearch.store.rows import CandidateRow, EvaluationRow, ProposalRow, SearchRow, run_text
from losssearch.store.store import Store

RESULTS = Path(__file__).parent / "results"
ROUND = 96
ROUNDS = 20  # in each half of a pair
PAIRS = 6  # the first warms up
RUNS = [run_text({"split": s, "rate": r, "decay": 0, "epochs": 30}) for s in (0, 1) for r in (0.04, 0.08)]
RANGE = [-10.0, 10.0]


def key_of(number: int, kind: str = "key") -> str:
    return hashlib.sha256(f"{kind} {number}".encode()).hexdigest()[:32]


STATE = {
    "recent": [key_of(n, "recent")[:12] for n in range(4096)],
    "population": [{"formula": "x" * 60, "key": key_of(n), "score": 0.1, "size": 20} for n in range(120)],
}


def round_of(start: int, count: int) -> tuple[list[CandidateRow], list[EvaluationRow], list[ProposalRow]]:
    """The rows of the proposals from `start` on."""
    candidates, trainings, proposals = [], [], []
    for n in range(start, start + count):
        key, trained = key_of(n), n % 2 == 0
        formula = f"mean(-(1 - p_t)**c0 * log_p + c1 * tanh({n} * p_t), 'n')"
        constants = {"c0": [n / 7, *RANGE], "c1": [n / 3, *RANGE]}
        metrics = {"error": n / 9, "ece": n / 11, "worst_split": 0.3, "splits": 2, "rates": {"default": 0.04}}
        proposals.append(
            ProposalRow(
                n, key, formula, "mutation: subtree", "SCORED" if trained else "NOT_LEARNING",
                (key_of(n // 2),), score=(n * 7919 % 100003) / 100003 if trained else None,
                metrics=metrics if trained else {}, constants=constants, size=20,
            )
        )  # fmt: skip
        if trained:
            parts, canonical = {"loss": formula}, formula + " " * 70
            candidates.append(
                CandidateRow(
                    key, "multiclass", parts, canonical, key_of(n, "structure"), 20, constants, n / 5
                )
            )
            curve = [[5 * k, n / (k + 1)] for k in range(1, 7)]
            trainings += [
                EvaluationRow(
                    key, "digits-noisy", "abcdef", run, "SCORED", n / 9, {"ece": n / 8}, curve, 0.01
                )
                for run in RUNS
            ]
    return candidates, trainings, proposals


class Driver:
    """Commits rounds as a search does; `seconds` is the time of the last one's trainings and of all."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.search: SearchRow = store.open_search("s", "multiclass", "digits-noisy", "random", {}, 0)

    def commit(self, count: int = ROUND) -> tuple[float, float]:
        """One round; seconds for writing its trainings, and for all of it."""
        candidates, trainings, proposals = round_of(self.search.proposals, count)
        began = time.perf_counter()
        self.store.add_candidates(candidates)
        self.store.evaluations([row.key for row in candidates], "digits-noisy", "abcdef")
        middle = time.perf_counter()
        self.store.record_evaluations(trainings)
        written = time.perf_counter() - middle
        counts = {"probe": {"seen": count, "rejected": count // 2, "seconds": 0.1}}
        self.search = self.store.commit_round(self.search, self.search.rounds, proposals, counts, STATE, 1.0)
        return written, time.perf_counter() - began

    def fill(self, size: int) -> Driver:
        """Commit until the store holds `size` proposals, in rounds of up to 5,000."""
        while (left := size - self.search.proposals) > 0:
            self.commit(min(left, 5000))
        return self


def half(driver: Driver) -> tuple[float, float]:
    """Seconds for the trainings of ROUNDS rounds, and for the rounds."""
    times = [driver.commit() for _ in range(ROUNDS)]
    return sum(t[0] for t in times), sum(t[1] for t in times)


def optuna_trial(folder: Path) -> Callable[[], float]:
    """Gives the seconds of one trial, as a user would write it."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(storage=f"sqlite:///{folder}/optuna.db", sampler=sampler)

    def one() -> float:
        began = time.perf_counter()
        trial = study.ask()
        score = trial.suggest_float("c0", *RANGE) + trial.suggest_float("c1", *RANGE)
        trial.set_user_attr("formula", "mean(-(1 - p_t)**c0 * log_p + c1 * tanh(p_t), 'n')")
        for epoch in range(1, 7):
            trial.report(score / epoch, 5 * epoch)
        study.tell(trial, score)
        return time.perf_counter() - began

    return one


def compare(size: int, address: Callable[[str], str], folder: Path) -> dict[str, Any]:
    """The pairs of a store of 1,000 candidates and one of `size`, and the peer's trials beside them."""
    peer = optuna_trial(folder)
    began = time.perf_counter()
    with Store.open(address("large")) as store:
        large = Driver(store).fill(size)
        loading = time.perf_counter() - began
        pairs, trials = [], []
        for pair in range(PAIRS):
            with Store.open(address(f"small{pair}")) as fresh:
                small = half(Driver(fresh).fill(1000))
            pairs.append({"small": small, "large": half(large)})
            trials.append(statistics.median(peer() for _ in range(8)))
    file = folder / "large.db"
    return summary(size, pairs[1:], trials[1:], loading, file.stat().st_size if file.exists() else None)


def summary(
    size: int,
    pairs: list[dict[str, tuple[float, float]]],
    trials: list[float],
    loading: float,
    file: int | None,
) -> dict[str, Any]:
    """Medians and spread over the pairs."""
    ratios = [pair["large"][1] / pair["small"][1] for pair in pairs]
    each = [pair["large"][1] / (ROUNDS * ROUND) for pair in pairs]
    whole = sum(p["large"][1] for p in pairs) / sum(p["small"][1] for p in pairs)
    evaluations = ROUNDS * ROUND // 2 * len(RUNS)
    written = [evaluations / pair["large"][0] for pair in pairs]
    slower = [trial / cost for trial, cost in zip(trials, each, strict=True)]
    return {
        "candidates": size,
        "ratio to 1,000 candidates": [statistics.median(ratios), min(ratios), max(ratios)],
        "ratio of the sums": whole,
        "ms a candidate": [1e3 * v for v in (statistics.median(each), min(each), max(each))],
        "evaluations written a second": [statistics.median(written), min(written), max(written)],
        "Optuna, ms a trial": [1e3 * v for v in (statistics.median(trials), min(trials), max(trials))],
        "Optuna / ours": [statistics.median(slower), min(slower), max(slower)],
        "bytes a candidate": None if file is None else file / size,
        "seconds to load": loading,
    }


def report(title: str, rows: dict[str, Any]) -> None:
    print(title)
    for name, value in rows.items():
        if isinstance(value, list):
            print(f"  {name:32} {value[0]:10.3f}   ({value[1]:.3f} to {value[2]:.3f})")
        elif value is not None:
            print(f"  {name:32} {value:10.3f}")


def main(arguments: list[str] | None = None) -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store")
    parser.add_argument("--full", action="store_true", help="a million candidates")
    parser.add_argument("--postgresql", metavar="URL", help="also on this server, with {} for a database")
    chosen = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        size = 1_000_000 if chosen.full else 100_000
        found["SQLite"] = compare(size, lambda name: f"sqlite:///{place}/{name}.db", place)
        report("SQLite, cost per candidate", found["SQLite"])
    if chosen.postgresql:
        with tempfile.TemporaryDirectory() as folder:
            found["PostgreSQL"] = compare(20_000, chosen.postgresql.format, Path(folder))
            report("PostgreSQL, cost per candidate", found["PostgreSQL"])
    RESULTS.mkdir(exist_ok=True)
    name = "store-full.json" if chosen.full else "store.json"
    (RESULTS / name).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
