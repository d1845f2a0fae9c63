"""What had a controller in hand after so many trained losses, and after so many seconds?

A run is one controller on one task with one seed, in a database of its own: the rounds of `search.py` in this
process alone, without the finals, which are the same for every controller. A round asks for no more than may
still be trained before the next checkpoint, so that none is overshot: at a checkpoint every controller has
trained exactly as many losses. The run goes on until both budgets are spent, and notes each loss that led:
the best of the highest rung that any loss reached.

Finished runs are lines of a file; a line that was cut off by a crash is forgotten.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from losssearch.controllers.registry import CONTROLLERS
from losssearch.language.formula import parse
from losssearch.language.program import Program
from losssearch.proxies.registry import load_proxy
from losssearch.records import constants_of, read_program
from losssearch.session import ROUND, Session, Spec
from losssearch.spaces import load_space

CONTROL = "random"
SAMPLERS = ("tpe", "cmaes", "gp", "nsgaii")  # of Optuna; the others are variants of these or learn nothing
OUTSIDE = ("command", "openai")  # need somebody else's program or server
PROPOSALS_EACH = 100  # for each loss of the budget; who needs more proposes what cannot be trained


@dataclass(frozen=True)
class Task:
    """What is searched.

    Args:
        proxy, space: By their names.
        start: Losses that every controller starts from; the best of them has score 0.
        known: What people know; the best of them has score 1. Names of the space, or formulas.
        efficiency: Whether scores are compared as 1 / error.
    """

    proxy: str
    space: str
    start: tuple[str, ...]
    known: tuple[str, ...]
    efficiency: bool = False

    def program(self, loss: str) -> Program:
        """A loss by its name or formula."""
        space = load_space(self.space)
        return parse(loss, space.signature) if "(" in loss else space.loss(loss).program


_ROBUST = ("mae", "huber", "log_cosh", "cauchy", "student_t", "tukey", "welsch", "barron")
_NOISY = ("gce", "sce", "nce_mae", "mae", "label_smoothing", "focal", "poly1", "forward_corrected")
TASKS: Mapping[str, Task] = {
    task.proxy: task
    for task in (
        Task("digits-noisy", "multiclass", ("cross_entropy", "brier"), _NOISY),
        Task("diabetes-outliers", "regression", ("mse",), _ROBUST),
        # The negative log-likelihood of the noise.
        Task("known-noise-laplace", "regression", ("mse",), ("mean(abs(r), 'n')",), True),
        Task("known-noise-cauchy", "regression", ("mse",), ("mean(log(1 + square(r)), 'n')",), True),
        Task("known-noise-gumbel", "regression", ("mse",), ("mean(exp(r) - r, 'n')",), True),
    )
}


def contenders() -> tuple[str, ...]:
    """Every controller that needs nobody outside; "optuna" by its samplers."""
    own = [name for name in CONTROLLERS if name not in OUTSIDE]
    return tuple(v for n in own for v in ([f"optuna:{s}" for s in SAMPLERS] if n == "optuna" else [n]))


@dataclass(frozen=True)
class Budget:
    """Checkpoints, rising; the last of each is the budget.

    Args:
        trained: Numbers of losses that passed the screens and were trained.
        seconds: Processor time.
    """

    trained: tuple[int, ...]
    seconds: tuple[float, ...]

    def room(self, trained: int, seconds: float) -> int:
        """How many losses the next round may propose; 0 when both budgets are spent."""
        left = [checkpoint - trained for checkpoint in self.trained if checkpoint > trained]
        if left:
            return min(ROUND, left[0])
        return ROUND if seconds < self.seconds[-1] else 0

    def settings(self, task: Task) -> dict[str, Any]:
        """All that decides a run beside controller, task and seed."""
        proxy = load_proxy(task.proxy)
        known = {"protocol": proxy.protocol.hash, "rungs": proxy.ladder}
        return {"trained": list(self.trained), "seconds": list(self.seconds), **known}


@dataclass(frozen=True)
class Incumbent:
    """A loss that led from here on.

    Args:
        trained, seconds: What was spent when it was known to lead.
        score: By which it leads; those of different rungs stand on different splits.
    """

    trained: int
    seconds: float
    score: float
    formula: str
    constants: dict[str, list[float]]

    def program(self, task: Task) -> Program:
        return read_program(self.formula, self.constants, load_space(task.space))


@dataclass(frozen=True)
class Finished:
    """A run with both budgets spent.

    Args:
        settings: Of `Budget.settings`.
        trained, proposals, trainings, seconds: What it spent in all.
        load: Of the machine, at the start; above the number of own processes it was not quiet.
    """

    controller: str
    task: str
    seed: int
    settings: dict[str, Any]
    trained: int
    proposals: int
    trainings: int
    seconds: float
    load: float
    incumbents: tuple[Incumbent, ...]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Finished:
        return cls(**{**row, "incumbents": tuple(Incumbent(**i) for i in row["incumbents"])})

    def after_trained(self, trained: int) -> Incumbent | None:
        """What was in hand after so many trained losses."""
        return max((i for i in self.incumbents if i.trained <= trained), key=_when, default=None)

    def after_seconds(self, seconds: float) -> Incumbent | None:
        """What was in hand after so many seconds; None before the first round was over."""
        return max((i for i in self.incumbents if i.seconds <= seconds), key=_when, default=None)


def _when(incumbent: Incumbent) -> float:
    return incumbent.seconds


def run(controller: str, task: Task, seed: int, budget: Budget) -> Finished:
    """One run; what is loaded or compiled once a process does not count."""
    _warm(controller, task)
    return _run(controller, task, seed, budget)


@lru_cache
def _warm(controller: str, task: Task) -> None:
    _run(controller, task, 0, Budget((len(task.start) + 2,), (0.0,)))


def _run(controller: str, task: Task, seed: int, budget: Budget) -> Finished:
    load = os.getloadavg()[0]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        storage = f"sqlite:///{folder}/losses.db"
        spec = Spec(
            task.space, task.proxy, controller, task.start, storage, seed=seed, workers="inline", mirror=False
        )
        began = time.process_time()
        state = Session.enter(spec, None, None, lambda progress: None, stack)
        found: list[Incumbent] = []
        leading = ""
        while size := budget.room(state.ledger.trained, time.process_time() - began):
            proposals = state.controller.ask(size)
            if not proposals or state.row.proposals > PROPOSALS_EACH * budget.trained[-1]:
                break
            verdicts = state.screen(proposals)
            climbing = state.due()
            fresh = state.admit(proposals, verdicts)
            state.train([*climbing, (fresh, 0)])
            state.close_round(proposals, verdicts, climbing)
            leader = state.ledger.leader()
            if leader is not None and leader.key != leading:
                leading, program = leader.key, state.ledger.program(leader)
                now = time.process_time() - began
                found.append(
                    Incumbent(
                        state.ledger.trained, now, leader.value, program.text, constants_of(program)
                    )
                )  # fmt: skip
        seconds = time.process_time() - began
        return Finished(
            controller, task.proxy, seed, budget.settings(task), state.ledger.trained, state.row.proposals,
            state.evaluator.trained, seconds, load, tuple(found),
        )  # fmt: skip


class Journal:
    """Rows as lines of a file, each there whole or not at all.

    Args:
        path: A half line at its end, left by a crash, is cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        self.rows: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on the disk when this returns."""
        line = json.dumps(row, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(json.loads(line))

    def finished(self) -> list[Finished]:
        """Its rows as runs."""
        return [Finished.of(row) for row in self.rows]


def plain(finished: Finished) -> dict[str, Any]:
    """A run as a row."""
    return asdict(finished)
