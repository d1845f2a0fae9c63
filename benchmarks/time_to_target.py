"""How long until a search has a loss that is really good? Ours against what one would write without it.

The task: digits with 40 % of the labels wrong, from cross entropy and Brier score, until the loss in hand
has an audited error of at most .05. Peers (`plain_peers.py`): Optuna's TPE, genetic programming and random
search, each with a plain PyTorch loop. Our row is `Search` with its defaults; the row with the random
controller tells the engine's share from that of guidance.

One audit for all, outside the clock: that of `losssearch audit`, the same number of settings of rate, decay
and constants, the same fresh splits. What is audited

    of a peer    every loss that was its best so far, even if it is replaced a second later; its time is when
                 it was found
    of ours      what `run(time=t)` hands over, in a search of its own for each t; its time is the wall time
                 of a fresh process from its start to the answer, so that it is rounded up to the next t

so that what doubt there is favours the peers. `reached` is the time of the first such loss with the wanted
error, `stays` that of the first after which no worse one was handed over. Of several seeds the median
counts. A peer that does not arrive within its budget gives a lower bound only: how long we looked, not how
long it would take.

    python -m benchmarks.time_to_target [--budget 1200] [--own 180] [--seeds 0 1 2] [--resume]
    python -m benchmarks.time_to_target --audit-again FILE ...
    python -m benchmarks.time_to_target --short

`--audit-again` judges the losses of earlier rows once more, by the audit of today.

The long form takes budget x 3 peers x seeds, and about 20 minutes a seed for ours and the audits: 4 hours
with the defaults, on a machine that does nothing else. The short form runs everything once, in about 90 s,
and shows nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from benchmarks import plain_losses, plain_peers
from benchmarks.plain_loop import PROXY
from benchmarks.plain_losses import START
from benchmarks.plain_peers import PEERS
from benchmarks.target_rows import OURS, Point, Row, conclusions, read, table, write
from losssearch.evaluation import Evaluator
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.pools.open import open_pool
from losssearch.proxies.registry import load_proxy
from losssearch.records import constants_of
from losssearch.search import Search
from losssearch.session import Progress
from losssearch.spaces import load_space
from losssearch.store.store import Store
from losssearch.tuning import AUDIT_SPLITS, BATCH, Tuned, confirm, contender, error_at, try_settings

RESULTS = Path(__file__).parent / "results"
SHORT = {"budget": 15.0, "own": 12.0, "checkpoints": [12.0], "seeds": [0], "settings": 2, "splits": 2}
ENOUGH_S = 600  # with a smaller budget nothing is shown


# The contenders.


def search_once(
    answer: Connection, controller: str, seconds: float, seed: int, workers: int, folder: str
) -> None:
    """One search of ours; sends plain data, None where no loss was trained."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's
    trainings = 0

    def watch(progress: Progress) -> None:
        nonlocal trainings
        trainings = progress.trainings

    own = Search(
        space="multiclass",
        proxy=PROXY,
        controller=controller,
        start=list(START),
        storage=f"sqlite:///{folder}/losses.db",
        seed=seed,
        workers=f"processes:{workers}",
    )
    result = own.run(time=seconds, watch=watch)
    if not result.leaderboard:
        answer.send(None)
        return
    best = result.best
    answer.send(
        {
            "formula": best.formula,
            "constants": constants_of(best.program),
            "score": best.score,
            "candidates": result.proposals,
            "trainings": trainings,
        }
    )


def run_ours(name: str, seed: int, checkpoints: Iterable[float], workers: int) -> Row:
    """A search for each budget, in a process and a database of its own; the start of the process counts.

    Raises:
        RuntimeError: A search failed; what it said stands on stderr.
    """
    row = Row(name, seed, 0.0, 0, 0, [], os.getloadavg()[0])
    context = get_context("spawn")
    for asked in checkpoints:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            receiver, sender = context.Pipe(duplex=False)
            arguments = (sender, OURS[name], asked, seed, workers, folder)
            process = context.Process(target=search_once, args=arguments, daemon=True)
            process.start()
            sender.close()
            try:
                found = receiver.recv()
                seconds = time.perf_counter() - began
            except EOFError:
                raise RuntimeError(f"{name}, seed {seed}: the search of {asked:g} s failed.") from None
            finally:
                process.terminate()
                process.join()
        row.budget_s = asked
        if found is None:
            say(f"{name}, seed {seed}: no loss after {seconds:.0f} s")
            continue
        row.candidates, row.trainings = found.pop("candidates"), found.pop("trainings")
        row.points.append(Point(asked, seconds, **found))
        say(
            f"{name}, seed {seed}: asked for {asked:g} s, took {seconds:.0f} s, {row.candidates} candidates, "
            f"{row.trainings} trainings, score {found['score']:.4f}"
        )
    return row


def run_peer(name: str, seed: int, budget_s: float, workers: int) -> Row:
    """One search of a peer, with every loss that was its best so far."""
    load, told = os.getloadavg()[0], 0.0

    def watch(seconds: float, trace: plain_peers.Trace) -> None:
        nonlocal told
        if seconds - told >= max(budget_s / 20, 5):
            told = seconds
            best = f"{trace.records[-1][2]:.4f}" if trace.records else "none"
            say(
                f"{name}, seed {seed}: {seconds:.0f} of {budget_s:g} s, {trace.candidates} candidates, "
                f"{trace.trainings} trainings, best score {best}"
            )

    trace = plain_peers.search(name, seed, budget_s, workers, watch)
    points = []
    for seconds, tree, score in trace.records:
        program = plain_losses.program(tree)
        points.append(Point(seconds, seconds, score, program.text, constants_of(program)))
    say(
        f"{name}, seed {seed}: {trace.candidates} candidates, {trace.judged} judged, {trace.trainings} "
        f"trainings, {trace.proposing_s:.0f} s for proposals"
    )
    return Row(name, seed, budget_s, trace.candidates, trace.trainings, points, load)


class SharedAudit:
    """The audit of `losssearch audit`, for any losses, from whomever.

    Args:
        stack: Closes its workers and its database.
        workers: As in a search.
        settings: Tried for every loss.
        splits: Fresh ones, on which it is tested.
        task: Name of a proxy.
    """

    def __init__(self, stack: ExitStack, workers: str, settings: int, splits: int, task: str = PROXY) -> None:
        self.settings, self.splits = settings, splits
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        store = stack.enter_context(Store.open(f"sqlite:///{folder}/audit.db"))
        pool = stack.enter_context(open_pool(workers))
        self.proxy = load_proxy(task)
        self.space = load_space(self.proxy.space)
        self.evaluator = Evaluator(store, pool, self.space, self.proxy, task)
        self.known: dict[str, float] = {}

    def errors(self, programs: Sequence[Program]) -> list[float]:
        """The mean error of each on the fresh splits, tuned; infinite where it could not be trained."""
        keys = [candidate_key(program) for program in programs]
        fresh = {k: p for k, p in zip(keys, programs, strict=True) if k not in self.known}
        losses = {key: Tuned.of(program, self.proxy) for key, program in fresh.items()}
        for tried in range(0, self.settings, BATCH):
            batch = min(BATCH, self.settings - tried)
            try_settings(list(losses.values()), batch, self.evaluator, AUDIT_SPLITS)
        confirm(list(losses.values()), self.evaluator)
        able = {key: loss.best for key, loss in losses.items() if loss.best is not None}
        tests = [contender(trial, range(self.splits), "audit", self.space) for _, trial, _ in able.values()]
        self.known |= dict.fromkeys(losses, math.inf)
        for (key, (_, _, epochs)), found in zip(able.items(), self.evaluator.evaluate(tests), strict=True):
            self.known[key] = statistics.fmean(error_at(result, epochs) for result in found)
        return [self.known[key] for key in keys]


# The command.


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def audit_again(path: Path, workers: int) -> None:
    """Audit all losses of a JSON file anew, and write it again."""
    settings = json.loads(path.read_text())["settings"]
    rows = read(path, settings)
    with ExitStack() as stack:
        audit = SharedAudit(stack, f"processes:{workers}", settings["settings"], settings["splits"])
        for row in rows:
            errors = audit.errors([point.program for point in row.points])
            for point, error in zip(row.points, errors, strict=True):
                point.error = error
            say(f"{path.name}: audited {row.contender}, seed {row.seed}")
    lines = conclusions(rows, list(PEERS), settings["target"])
    write(path, rows, settings, lines)
    print("\n".join([table(rows, settings["checkpoints"], settings["target"]), *lines]))


def main(arguments: Sequence[str] = ("--short",)) -> int:
    """Run the contenders, print the table, write it as JSON after each row."""
    options = _options(arguments)
    if options.audit_again:
        torch.set_num_threads(1)
        for path in options.audit_again:
            audit_again(path, options.workers)
        return 0
    settings = {
        name: getattr(options, name)
        for name in ("budget", "own", "checkpoints", "workers", "settings", "splits", "target")
    }
    rows = read(options.json, settings) if options.resume and options.json.exists() else []
    torch.set_num_threads(1)
    own = [t for t in options.checkpoints if t <= options.own]
    code = 0
    with ExitStack() as stack:
        if options.json is None:
            options.json = Path(stack.enter_context(tempfile.TemporaryDirectory()), "short.json")
        audit = SharedAudit(stack, f"processes:{options.workers}", options.settings, options.splits)
        try:
            start = audit.errors([plain_losses.program(tree) for tree in START.values()])
            say("audited: " + ", ".join(f"{name} {e:.4f}" for name, e in zip(START, start, strict=True)))
            if not all(map(math.isfinite, start)):
                raise RuntimeError("The audit could not train the start losses, so it can judge nothing.")
            for seed in options.seeds:
                for name in options.only:
                    if any(row.contender == name and row.seed == seed for row in rows):
                        say(f"{name}, seed {seed}: kept from {options.json}")
                        continue
                    if name in OURS:
                        row = run_ours(name, seed, own, options.workers)
                    else:
                        row = run_peer(name, seed, options.budget, options.workers)
                    errors = audit.errors([point.program for point in row.points])
                    for point, error in zip(row.points, errors, strict=True):
                        point.error = error
                    rows.append(row)
                    write(options.json, rows, settings, conclusions(rows, list(PEERS), options.target))
        except KeyboardInterrupt:
            say(f"Interrupted; {len(rows)} whole rows are kept in {options.json}. Go on with --resume.")
            code = 130
    print(table(rows, options.checkpoints, options.target))
    print("\n".join(conclusions(rows, list(PEERS), options.target)))
    if options.budget < ENOUGH_S:
        print(f"This was a try of the machinery: {options.budget:g} s show nothing about anyone.")
    return code


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--audit-again", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--short", action="store_true", help="try everything once; nothing is kept")
    parser.add_argument("--budget", type=float, default=1200, help="seconds for each peer")
    parser.add_argument("--own", type=float, default=180, help="the longest search of ours, in seconds")
    parser.add_argument(
        "--checkpoints", type=float, nargs="+", default=[15, 30, 60, 120, 180, 300, 600, 1200], metavar="S"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--workers", type=int, default=2, help="processes of every contender")
    parser.add_argument("--settings", type=int, default=32, help="of the audit, for every loss")
    parser.add_argument("--splits", type=int, default=30, help="of the audit")
    parser.add_argument("--target", type=float, default=0.05)
    parser.add_argument("--json", type=Path, default=RESULTS / "time_to_target.json")
    parser.add_argument("--resume", action="store_true", help="keep the rows that the JSON file has")
    options = parser.parse_args(arguments)
    if options.short:
        vars(options).update({**SHORT, "json": None, "resume": False})
    options.checkpoints = sorted(float(t) for t in options.checkpoints)
    return options


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
