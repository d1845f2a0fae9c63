"""What is a finished learned loss worth where a formula would stand?

It trains a proxy through the population trainer, as formulas do, against classical losses on the same splits
with the same settings, by the corrected t test. Digits take about half a minute of one core.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from losssearch.audit.statistics import corrected_t_test
from losssearch.errors import UsageError
from losssearch.execution.plan import GradientFn, Run
from losssearch.execution.reference import loss_gradient
from losssearch.learned.audit.report import LearnedReport, Line, best_first, grid_of
from losssearch.learned.loss import LearnedLoss
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import exact, load_proxy
from losssearch.screening.scale import gradient_scale
from losssearch.spaces import load_space
from losssearch.tuning import AUDIT_SPLITS, best_epoch, error_at


def audit_loss(
    loss: LearnedLoss,
    proxy: str | Proxy,
    *,
    peers: Sequence[str] = ("cross_entropy", "gce"),
    splits: int = 30,
    tuning: Sequence[int] = AUDIT_SPLITS,
    grid: Sequence[tuple[float, float]] | None = None,
) -> LearnedReport:
    """A learned loss in the place of a formula: frozen, trained with by the population trainer.

    Args:
        proxy: Of the loss's space.
        peers: Classical losses, with their usual constants.
        splits: Fresh splits, >= 2.
        tuning: Search splits on which rate, decay and number of epochs are chosen, for everyone alike.
        grid: Pairs of rate and decay; None takes all of the proxy's.

    Raises:
        UsageError: The loss is of another space, a peer is unknown, or a loss could not be trained.
    """
    task = load_proxy(exact(proxy)) if isinstance(proxy, str) else proxy
    space = load_space(task.space)
    if loss.space != task.space:
        raise UsageError(f"{loss.name} is a loss for {loss.space}, but {task.name} is {task.space}.")
    if unknown := [name for name in peers if name not in space.losses]:
        raise UsageError(f"The space {space.name} has no loss {unknown[0]!r}.")
    programs = [space.losses[name].program for name in peers]
    gradients: list[GradientFn] = [loss.gradient()]
    gradients += [loss_gradient(p, task.prediction, gradient_scale(p, space)) for p in programs]
    labels = ["learned loss", *peers]
    tried, chosen = list(grid or grid_of(task)), []
    for k, label in enumerate(labels):
        scores = []
        for rate, decay in tried:
            found = task.train(gradients, [Run(k, split, rate, decay) for split in tuning])
            scores.append((*best_epoch(found), rate, decay))
        best = min(scores)
        if not math.isfinite(best[0]):
            raise UsageError(f"{label} could not be trained on {task.name}.")
        chosen.append({"rate": best[2], "decay": best[3], "epochs": best[1]})
    errors = []
    for k, setting in enumerate(chosen):
        runs = [Run(k, s, setting["rate"], setting["decay"], stage="audit") for s in range(splits)]
        errors.append([error_at(r, int(setting["epochs"])) for r in task.train(gradients, runs)])
    lines = []
    for label, setting, own in zip(labels, chosen, errors, strict=True):
        gaps = [a - b for a, b in zip(errors[0], own, strict=True)]
        versus = None if own is errors[0] else corrected_t_test(gaps, *task.sizes)
        lines.append(Line(label, sum(own) / splits, (), setting, versus))
    return LearnedReport(task.name, task.metric, splits, best_first(lines))
