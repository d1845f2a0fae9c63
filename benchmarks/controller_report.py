"""What do the runs say? Scores of what was in hand, a table a task and one of all, JSON and pictures."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.controller_picture import draw
from benchmarks.controller_runs import CONTROL, Budget, Finished, Incumbent, Task
from benchmarks.controller_scores import LUCK, Line, Scores, compare, conclusion, normalised, table
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program

BUDGETS = {"trained": ("losses trained", ""), "seconds": ("seconds of processor time, one worker", " s")}


def in_hand(finished: Finished, budget: Budget) -> dict[str, list[Incumbent | None]]:
    """The loss at each checkpoint of either budget; None before the first round was over."""
    return {
        "trained": [finished.after_trained(k) for k in budget.trained],
        "seconds": [finished.after_seconds(s) for s in budget.seconds],
    }


class Judge:
    """Scores of one task's losses.

    Args:
        task: Sets 0 and 1 of the scale.
        errors: Audited error by key, the start losses and the known ones among them.
    """

    def __init__(self, task: Task, errors: dict[str, float]) -> None:
        self.task, self.errors = task, errors
        self.start = min(self._error(task.program(name)) for name in task.start)
        self.known = min(self._error(task.program(name)) for name in task.known)

    def _error(self, program: Program) -> float:
        return self.errors[candidate_key(program)]

    def error(self, incumbent: Incumbent | None) -> float:
        """Its audited error; before any loss is in hand, the start loss is."""
        return self.start if incumbent is None else self._error(incumbent.program(self.task))

    def score(self, incumbent: Incumbent | None) -> float:
        """Where its error stands on the scale."""
        error = self.error(incumbent)
        return normalised(error, self.start, self.known, efficiency=self.task.efficiency)

    def shown(self, incumbent: Incumbent | None) -> float:
        """What a person reads: its audited error, or its efficiency relative to the best known loss."""
        error = self.error(incumbent)
        return self.known / error if self.task.efficiency else error

    @property
    def heading(self) -> str:
        """The name of the task, and its scale."""
        if self.task.efficiency:
            least = self.known / self.start
            return f"{self.task.proxy}; audit: efficiency relative to the likelihood, start loss {least:.3f}"
        return f"{self.task.proxy}; audit: error, start loss {self.start:.4f}, best known {self.known:.4f}"


def lines(runs: Sequence[Finished], judges: Mapping[str, Judge], budget: Budget, by: str) -> list[Line]:
    """A line for each controller, by one of `BUDGETS`."""
    scores: dict[str, dict[tuple[str, int], list[float]]] = {}
    for own in runs:
        points = [judges[own.task].score(i) for i in in_hand(own, budget)[by]]
        scores.setdefault(own.controller, {})[own.task, own.seed] = points
    control: Scores = scores.get(CONTROL, {})
    return [compare(name, own, control, is_control=name == CONTROL) for name, own in scores.items()]


def report(
    runs: Sequence[Finished], judges: Mapping[str, Judge], budget: Budget, out: Path, audit: Mapping[str, int]
) -> str:
    """The tables as text.

    Args:
        audit: Its settings, for the record.
        out: Folder of `table.md`, `summary.json` and the pictures `trained` and `seconds`.
    """
    load = statistics.median(own.load for own in runs)
    text = [
        "Scores: 0 is the start loss, 1 the best that people know, in the same audit. Interquartile means,",
        f"95 % bootstrap intervals. With five seeds about {LUCK:.0%} of rows that are no better than random",
        f"seem so by luck. Load of the machine, median at the start of runs: {load:.1f}.",
    ]
    content: dict[str, Any] = {
        "audit": dict(audit),
        "budget": asdict(budget),
        "machine": {"cores": os.cpu_count(), "load": load, "torch": torch.__version__},
        "scale": {name: {"start": judge.start, "known": judge.known} for name, judge in judges.items()},
    }
    for by, (what, unit) in BUDGETS.items():
        checkpoints: Sequence[float] = budget.trained if by == "trained" else budget.seconds
        everything = lines(runs, judges, budget, by)
        seeds = len({own.seed for own in runs})
        title = f"Score of the loss in hand: {len(judges)} tasks, {seeds} seeds"
        draw(everything, CONTROL, checkpoints, title, what, out / by)
        text += [f"\n## By {what}\n", table(everything, checkpoints, unit), "", conclusion(everything)]
        content[by] = {"all": [_plain(line) for line in everything]}
        for task, judge in judges.items():
            own = [r for r in runs if r.task == task]
            found = lines(own, judges, budget, by)
            shown = {
                name: statistics.median(
                    judge.shown(in_hand(r, budget)[by][-1]) for r in own if r.controller == name
                )
                for name in dict.fromkeys(r.controller for r in own)
            }
            text += [f"\n{judge.heading}:\n", table(found, checkpoints, unit, shown)]
            content[by][task] = [_plain(line) for line in found]
    written = "\n".join(text)
    (out / "table.md").write_text(f"# Controllers compared\n\n{written}\n")
    (out / "summary.json").write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    return written


def _plain(line: Line) -> dict[str, Any]:
    return {**asdict(line), "verdict": line.verdict}
