"""What does a row of `time_to_target` hold, and what follows from all of them?"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from losssearch.language.program import Program
from losssearch.records import read_program
from losssearch.spaces import load_space

OURS = {"ours": "portfolio", "ours-random": "random"}  # row of the table -> controller


@dataclass
class Point:
    """A loss that was in hand at a time.

    Args:
        asked_s: Budget that it belongs to; the same as `seconds` for a peer, which needs none.
        seconds: Wall time at which it was there.
        score: By which the search chose it.
        error: By the audit; infinite if it could not be trained there.
    """

    asked_s: float
    seconds: float
    score: float | None
    formula: str
    constants: dict[str, list[float]]
    error: float = math.inf

    @property
    def program(self) -> Program:
        return read_program(self.formula, self.constants, load_space("multiclass"))


@dataclass
class Row:
    """One contender with one seed; candidates and trainings are those of its longest search."""

    contender: str
    seed: int
    budget_s: float
    candidates: int
    trainings: int
    points: list[Point]
    load: float  # of the machine, at the start: above 0 it was not quiet

    def reached(self, target: float) -> float:
        """Seconds until the first loss with an audited error of at most `target`; infinite without one."""
        return next((p.seconds for p in self.points if p.error <= target), math.inf)

    def stays(self, target: float) -> float:
        """Seconds until the first loss of those with which the row ends and that all reach the target."""
        found = math.inf
        for point in reversed(self.points):
            if point.error > target:
                break
            found = point.seconds
        return found

    def error_after(self, seconds: float) -> float | None:
        """Audited error of what is in hand after so many seconds, or of what that budget gives."""
        standing = [p.error for p in self.points if p.asked_s <= seconds <= self.budget_s]
        return standing[-1] if standing else None


def table(rows: Sequence[Row], checkpoints: Sequence[float], target: float) -> str:
    """Audited error in hand after so many seconds, and when the target was reached."""
    lines = [
        f"{'':12}{'seed':>5}{'candidates':>12}{'trainings':>11}  error after"
        + "".join(f"{f'{t:g} s':>8}" for t in checkpoints)
        + f"{'reached':>11}{'stays':>9}"
    ]
    for row in rows:
        errors = [row.error_after(t) for t in checkpoints]
        times = [f"{t:.0f} s" if t < math.inf else "no" for t in (row.reached(target), row.stays(target))]
        lines.append(
            f"{row.contender:12}{row.seed:>5}{row.candidates:>12}{row.trainings:>11}{'':13}"
            + "".join(f"{'' if e is None else f'{e:.4f}':>8}" for e in errors)
            + f"{times[0]:>11}{times[1]:>9}"
        )
    return "\n".join(lines)


def arrival(rows: Sequence[Row], contender: str, target: float) -> tuple[float, bool] | None:
    """Median over seeds of the seconds to the target, and whether it is only a lower bound.

    Of an even number of seeds the middle one that favours the peers.
    """
    own = [row for row in rows if row.contender == contender]
    if not own:
        return None
    median = statistics.median_high if contender in OURS else statistics.median_low
    middle = median([row.reached(target) for row in own])
    bound = min(row.budget_s for row in own)
    return (middle, False) if middle < math.inf else (bound, True)


def conclusions(rows: Sequence[Row], peers: Sequence[str], target: float) -> list[str]:
    """What follows from the rows, a sentence each."""
    found = {name: a for name in (*OURS, *peers) if (a := arrival(rows, name, target)) is not None}
    lines = []
    for name, (seconds, is_bound) in found.items():
        seeds = sum(row.contender == name for row in rows)
        what = "not within" if is_bound else f"an error of {target:g} after"
        lines.append(f"{name}: {what} {seconds:.0f} s (median of {seeds}).")
    naive = [name for name in peers if name in found]
    best = min(naive, key=lambda name: (found[name][1], found[name][0]), default="")
    for name, other in (("ours", best), ("ours-random", best), ("ours", "ours-random")):
        if name in found and other in found:
            lines.append(_ratio(name, found[name], other, found[other]))
    return lines


def _ratio(name: str, own: tuple[float, bool], against: str, other: tuple[float, bool]) -> str:
    if own[1]:
        return f"{name} against {against}: no ratio, since {name} did not arrive."
    ratio = f"{other[0] / own[0]:.1f}x sooner"
    if other[1]:
        return f"{name} against {against}: at least {ratio}; a lower bound, since {against} did not arrive."
    return f"{name} against {against}: {ratio}."


def write(path: Path, rows: Sequence[Row], settings: dict[str, Any], lines: Sequence[str]) -> None:
    """All rows so far, whole or not at all. An infinite error is null."""
    plain = [asdict(row) for row in rows]
    for point in (point for row in plain for point in row["points"]):
        point["error"] = point["error"] if math.isfinite(point["error"]) else None
    machine = {"cores": os.cpu_count(), "torch": torch.__version__}
    content = {"settings": settings, "machine": machine, "conclusions": list(lines), "rows": plain}
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    beside.replace(path)


def read(path: Path, settings: dict[str, Any]) -> list[Row]:
    """The rows of an interrupted run with the same settings."""
    content = json.loads(path.read_text())
    if content["settings"] != settings:
        raise SystemExit(f"{path} was made with other settings: {content['settings']}. Leave out --resume.")
    rows = []
    for row in content["rows"]:
        points = [
            Point(**{**p, "error": math.inf if p["error"] is None else p["error"]}) for p in row["points"]
        ]
        rows.append(Row(**{**row, "points": points}))
    return rows
