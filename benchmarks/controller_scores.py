"""Is a controller better than random search, or were its seeds lucky?

    score       s = (q - q_start) / (q_known - q_start), at least -1; q = -error, or 1 / error where the
                error is a relative mean squared error (then 1 / error is an efficiency). 0 is the best loss
                that the search started from, 1 the best that people know, in the same audit. It may exceed 1.
    aggregate   the interquartile mean: the mean of the middle half of the runs of all tasks together
    interval    95 % percentile bootstrap, stratified: seeds are drawn again within each task, tasks stay
    against     the difference of two interquartile means over the same tasks and seeds, which are drawn
                together

Tasks are taken as they are: an interval says what other seeds would do on these tasks, nothing about others.

Source:
    Agarwal et al. 2021, arXiv:2108.13264, Sec. 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scores = Mapping[tuple[str, int], Sequence[float]]  # (task, seed) -> score at each checkpoint

FLOOR = -1.0  # one collapse counts, but does not count for all
SAMPLES = 5000
#: How often the interval of two that are equal lies above zero, measured: .05 with five seeds of one to five
#: tasks, normal or skewed, and .025 with ten. The bootstrap of five values is that much too narrow.
LUCK = 0.05
SEEDS = 5  # of each task; with fewer an interval is far too narrow to conclude from


def normalised(error: float, start: float, known: float, *, efficiency: bool) -> float:
    """The score of an audited error; infinite errors have the least.

    Raises:
        ValueError: The known loss is not better than the start loss, so that there is no scale.
    """
    own, zero, one = (1 / e if efficiency else -e for e in (error, start, known))
    if not one > zero:
        raise ValueError(f"`known < start` must hold, but got {known=}, {start=}. Audit more splits.")
    return max(FLOOR, (own - zero) / (one - zero))


@dataclass(frozen=True)
class Interval:
    """An interquartile mean, or a difference of two, with its 95 % interval."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class Line:
    """One controller in a table.

    Args:
        runs: Tasks x seeds behind it.
        seeds: Of the task with the fewest.
        curve: At each checkpoint.
        versus: Minus the control at the last checkpoint, over the runs that both have; None for the control
            itself, and where they share none.
    """

    controller: str
    runs: int
    seeds: int
    curve: tuple[Interval, ...]
    versus: Interval | None

    @property
    def verdict(self) -> str:
        """What a reader may take away."""
        if self.versus is None:
            return ""
        if self.seeds < SEEDS:
            return "too few seeds"
        if self.versus.low > 0:
            return "beats random"
        return "loses to random" if self.versus.high < 0 else "not shown"


def interquartile_mean(values: Floats) -> Floats:
    """The mean of what is left when a quarter is cut off below and above, along the second axis.

    Args:
        values: Shape (samples, runs, ...); of n runs int(n / 4) are cut off on each side.
    """
    cut = values.shape[1] // 4
    middle: Floats = np.sort(values, axis=1)[:, cut : values.shape[1] - cut].mean(1)
    return middle


def resampled(strata: Sequence[Floats], samples: int = SAMPLES) -> Floats:
    """Runs drawn again, (samples, runs, ...): with replacement within each stratum, (seeds, ...)."""
    rng = np.random.default_rng(0)
    drawn = [stratum[rng.integers(len(stratum), size=(samples, len(stratum)))] for stratum in strata]
    return np.concatenate(drawn, axis=1)


def compare(controller: str, own: Scores, control: Scores, *, is_control: bool = False) -> Line:
    """The line of one controller.

    Args:
        own: Its scores, at least one run.
        control: Those of random search.
    """
    mine = _strata(own)
    drawn = interquartile_mean(resampled(mine))
    middle = interquartile_mean(np.concatenate(mine)[None])[0]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    curve = tuple(Interval(*map(float, point)) for point in zip(middle, low, high, strict=True))
    shared = {run: (scores[-1], control[run][-1]) for run, scores in own.items() if run in control}
    versus, pairs = None, _strata(shared)
    if pairs and not is_control:
        versus = _difference(pairs)
    seeds = min(len(stratum) for stratum in (pairs or mine))
    return Line(controller, len(own), seeds, curve, versus)


def _difference(pairs: Sequence[Floats]) -> Interval:
    """Of the two columns' interquartile means, the first minus the second."""

    def gap(values: Floats) -> Floats:
        means = interquartile_mean(values)
        found: Floats = means[:, 0] - means[:, 1]
        return found

    low, high = np.quantile(gap(resampled(pairs)), (0.025, 0.975))
    return Interval(float(gap(np.concatenate(pairs)[None])[0]), float(low), float(high))


def _strata(scores: Scores) -> list[Floats]:
    """(seeds, checkpoints) of each task, in the order of tasks and seeds."""
    tasks = dict.fromkeys(task for task, _ in sorted(scores))
    return [np.array([scores[run] for run in sorted(scores) if run[0] == task]) for task in tasks]


def table(
    lines: Sequence[Line], checkpoints: Sequence[float], unit: str, audit: Mapping[str, float] | None = None
) -> str:
    """The best first, as Markdown whose source is a table as well.

    Args:
        checkpoints, unit: Of the budget.
        audit: What the audit says of each controller in its own unit, for a column of its own.
    """
    points = [f"{c:g}{unit}" for c in checkpoints]
    head = ["controller", "runs", *points, "at the end", "minus random", "verdict"]
    if audit is not None:
        head.insert(2, "audit")
    rows = [head, ["---"] * len(head)]
    for line in sorted(lines, key=lambda line: -line.curve[-1].middle):
        points = [f"{point.middle:+.2f}" for point in line.curve]
        end = f"[{line.curve[-1].low:+.2f}, {line.curve[-1].high:+.2f}]"
        gap = "" if line.versus is None else str(line.versus)
        cells = [line.controller, str(line.runs), *points, end, gap, line.verdict]
        if audit is not None:
            cells.insert(2, f"{audit[line.controller]:.4f}")
        rows.append(cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows
    )


def conclusion(lines: Sequence[Line]) -> str:
    """Who beats random search, in a sentence, and how many would by luck."""
    judged = [line for line in lines if line.verdict and line.verdict != "too few seeds"]
    if not judged:
        return f"Nothing is concluded: that takes {SEEDS} seeds of every task, and random search beside it."
    by_verdict: dict[str, list[str]] = {}
    for line in judged:
        by_verdict.setdefault(line.verdict, []).append(line.controller)
    said = "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in sorted(by_verdict.items()))
    return (
        f"{said}. Were none of these {len(judged)} better than random, about {LUCK * len(judged):.1f} "
        "would seem so by luck."
    )
