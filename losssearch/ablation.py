"""Does each term of a loss matter?

Every loss that is this one without one part is trained on the same splits. A part whose loss is not worse off
without it is a passenger. For the winner of a search parts are dropped one after the other as long as what
is left is not worse than the whole; the survivors are then judged on fresh splits, since the luckiest of
many drops is flattered by the splits that it was picked on. As many trainings as the loss has
parts, times the runs of a rung: a minute or so for a loss of twenty nodes on digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from losssearch.audit.statistics import PairedComparison, corrected_t_test
from losssearch.errors import UsageError
from losssearch.evaluation import Contender, Evaluator
from losssearch.insight.lookup import find_loss
from losssearch.language.canonical import candidate_key
from losssearch.language.drops import Drop, drops
from losssearch.language.formula import ConstantLike
from losssearch.language.program import Program
from losssearch.pools.open import open_pool
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy, place_of
from losssearch.result import Discovered
from losssearch.screening.scale import gradient_scale
from losssearch.selection import TIE, Score, score
from losssearch.store.store import Store

STEPS = 4  # parts that are dropped one after the other
# Of the proxy's rungs: whose splits choose what is dropped, and tell what matters.
PICKED_ON, TOLD_FROM = -2, -1


@dataclass(frozen=True)
class Row:
    """A loss without one part, against the whole.

    Args:
        drop: What was dropped, and what is left.
        error: Of what is left; None where it could not be trained.
        versus: What is left minus the whole, paired by splits; positive where the part helps.
        passenger: Whether it is not worse off without the part, by the rule of `not_worse`.
    """

    drop: Drop
    error: float | None
    versus: PairedComparison | None
    passenger: bool

    @property
    def matters(self) -> str:
        """`yes` where the whole interval lies above 0, `no` for a passenger, else `unclear`."""
        if self.error is None or (self.versus is not None and self.versus.low > 0):
            return "yes"
        return "no" if self.passenger else "unclear"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: a line of the table."""
        versus = self.versus
        return {
            "without": self.drop.what,
            "matters": self.matters,
            "error": self.error,
            "difference": None if versus is None else versus.difference,
            "low": None if versus is None else versus.low,
            "high": None if versus is None else versus.high,
            "left": self.drop.program.text,
        }


@dataclass(frozen=True)
class Ablation:
    """Which parts of a loss matter; rows come in order of what dropping them costs, dearest first."""

    program: Program
    error: float
    metric: str
    splits: int
    rows: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        head = {
            "formula": self.program.text,
            "metric": self.metric,
            "error": self.error,
            "splits": self.splits,
        }
        return {**head, "rows": [row.to_dict() for row in self.rows]}


def ablate(
    loss: str,
    proxy: str | None = None,
    *,
    space: str | None = None,
    constants: Mapping[str, ConstantLike] | None = None,
    storage: str = "sqlite:///losses.db",
    workers: str = "processes",
) -> Ablation:
    """The table of what each part of a loss brings.

    Args:
        loss: A found loss such as "demo/1", a classical one, or a formula.
        proxy: The task; None takes that of the search that found it.
        space: Whose words a formula uses, and where a name is looked up; None takes that of the task.
        constants: Values of constants, by name.
        storage: Database URL, for the loss, and where trainings are kept.
        workers: As in a search.

    Raises:
        UsageError: No task is named or known, the loss does not fit it, or cannot be trained on it.
        LossSearchError: There is no such loss or task.
    """
    task = None if proxy is None else load_proxy(proxy)
    found = find_loss(loss, storage, space or (task.space if task else None), constants)
    with ExitStack() as stack:
        store = stack.enter_context(Store.open(storage))
        if task is None or proxy is None:
            proxy = _proxy_of(loss, found, store)
            task = load_proxy(proxy)
        if task.space != found.space.task:
            raise UsageError(
                f"The task {proxy!r} trains {task.space} losses, but {loss!r} is one for {found.space.task}."
            )
        pool = stack.enter_context(open_pool(workers))
        evaluator = Evaluator(store, pool, found.space, task, place_of(proxy))
        return table_of(found.program, evaluator)


def _proxy_of(reference: str, found: Discovered, store: Store) -> str:
    """The task of the search that found a loss."""
    search = re.fullmatch(r"(.+)[/@]\d+", reference)
    if search is None or found.proposal is None:
        raise UsageError(f"{reference!r} belongs to no search: name the task that it is to be judged on.")
    return store.search(search[1]).proxy


def table_of(program: Program, evaluator: Evaluator, rung: int = TOLD_FROM) -> Ablation:
    """Train a loss and all its drops on the splits of a rung, and compare.

    Raises:
        UsageError: The loss itself cannot be trained there.
    """
    found = drops(program)
    own, *others = scores_of([program, *(drop.program for drop in found)], evaluator, rung)
    if own.value is None:
        raise UsageError(f"{program.text} could not be trained: {own.outcome.value} {own.detail}")
    rows = [_row(drop, other, own, evaluator.proxy) for drop, other in zip(found, others, strict=True)]
    rows.sort(key=lambda row: (row.error is not None, -(row.error or 0.0), row.drop.program.text))
    return Ablation(program, own.value, evaluator.proxy.metric, len(own.per_split), tuple(rows))


def slimmed(program: Program, evaluator: Evaluator, most: float = math.inf) -> list[Program]:
    """Smaller and smaller losses, each one part less, none worse than the whole on the splits of one rung.

    Of the drops that are not worse the smallest is taken, then the best. They were picked on these
    splits: judge them on others.

    Args:
        program: The whole.
        evaluator: Trains.
        most: Trainings that may be spent.
    """
    runs = len(evaluator.proxy.runs(PICKED_ON, [0]))
    [whole] = scores_of([program], evaluator, PICKED_ON)
    path: list[Program] = []
    for _ in range(STEPS):
        left = [drop.program for drop in drops(path[-1] if path else program)]
        most -= len(left) * runs
        if most < 0:
            break
        judged = zip(scores_of(left, evaluator, PICKED_ON), left, strict=True)
        fine = [(one.size, own.value, one.text, one) for own, one in judged if not_worse(own, whole)]
        if not fine:
            break
        path.append(min(fine, key=lambda each: each[:3])[-1])
    return path


def scores_of(programs: Sequence[Program], evaluator: Evaluator, rung: int) -> list[Score]:
    """The scores of losses on a rung, under its first condition."""
    runs = tuple(evaluator.proxy.runs(rung, [0]))
    runs = tuple(run for run in runs if run.condition == runs[0].condition)
    contenders = [Contender(candidate_key(p), p, gradient_scale(p, evaluator.space), runs) for p in programs]
    return [score(runs, results) for results in evaluator.evaluate(contenders)]


def not_worse(one: Score, whole: Score) -> bool:
    """Whether the mean paired difference to the whole is within TIE standard errors of that difference."""
    if one.value is None or whole.value is None:
        return False
    gap = np.array(one.per_split) - np.array(whole.per_split)
    error = gap.std(ddof=1) / math.sqrt(len(gap)) if len(gap) > 1 else 0.0
    return bool(gap.mean() <= TIE * error)


def _row(drop: Drop, left: Score, whole: Score, proxy: Proxy) -> Row:
    versus = None
    if left.value is not None and len(whole.per_split) > 1:
        gaps = [a - b for a, b in zip(left.per_split, whole.per_split, strict=True)]
        versus = corrected_t_test(gaps, *proxy.sizes)
    return Row(drop, left.value, versus, not_worse(left, whole))
