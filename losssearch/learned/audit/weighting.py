"""Do learned sample weights beat plain cross entropy, and what else would the clean set have bought?

Meta-Weight-Net, cross entropy, and both with the clean set among their training samples: the same splits, the
same rates and decays to try, the corrected t test. Digits take some minutes of one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.audit.statistics import corrected_t_test
from losssearch.errors import UsageError
from losssearch.execution.plan import Stage
from losssearch.learned.audit.report import LearnedReport, Line, best_first, grid_of
from losssearch.learned.online import Kind, Material, OnlineSettings, Trained, held_out, train_online
from losssearch.learned.weighting import with_clean_set
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import exact, load_proxy

TUNING_SPLITS = tuple(range(2000, 2030))
Say = Callable[[str], None]


def _quiet(line: str) -> None:
    return None


@dataclass(frozen=True)
class _Contender:
    label: str
    kind: Kind
    material: str
    by_class: bool = False

    @property
    def settings(self) -> OnlineSettings:
        """Of what is learned in lock-step."""
        return OnlineSettings(by_class=self.by_class)


def audit_weighting(
    proxy: str | Proxy,
    *,
    splits: int = 30,
    tuning: Sequence[int] = TUNING_SPLITS,
    grid: Sequence[tuple[float, float]] | None = None,
    online: bool = False,
    say: Say = _quiet,
) -> LearnedReport:
    """Meta-Weight-Net against cross entropy on a proxy's audit splits.

    The first line's weighting reads the class too where the metric is balanced over classes. Everyone is
    tuned over the proxy's rates and decays; the number of epochs is read off the curve. The networks' own
    learning rate stands fixed: it was chosen on search splits.

    Args:
        splits: Fresh splits, >= 2.
        tuning: Search splits on which settings are chosen.
        grid: Pairs of rate and decay that everyone tries; None takes all of the proxy's.
        online: Also audit a loss network learned online, on the clean set and on a held part of the
            training data, wrong labels and all.

    Raises:
        UsageError: `splits >= 2` does not hold, or the proxy does not fit.
    """
    if splits < 2:
        raise UsageError(f"`splits >= 2` must hold, but got {splits}.")
    task = load_proxy(exact(proxy)) if isinstance(proxy, str) else proxy
    aware = "balanced" in task.metric
    contenders = [
        _Contender("meta-weight-net", "weighting", "clean", aware),
        _Contender("cross entropy", "classical", "clean"),
        _Contender("cross entropy, clean set added", "classical", "added"),
        _Contender("meta-weight-net, clean set added", "weighting", "added", aware),
    ]
    if aware:
        contenders.append(_Contender("meta-weight-net, loss alone", "weighting", "clean"))
    if online:
        contenders.append(_Contender("loss network online, clean set", "network", "clean"))
        contenders.append(_Contender("loss network online, held training data", "network", "held"))
    tried = list(grid or grid_of(task))
    tuned: dict[str, dict[str, float]] = {}
    for who in contenders:
        say(f"Tuning {who.label}: {len(tried)} settings.")
        tuned[who.label] = _tune(task, who, _material(task, who, tuning, "search"), tried)
    errors: dict[str, Tensor] = {}
    for who in contenders:
        say(f"Testing {who.label} on {splits} fresh splits.")
        setting = tuned[who.label]
        trained = _train(task, who, _material(task, who, range(splits), "audit"), setting)
        if trained.test is None:
            raise UsageError(f"{task.name} has no audit splits.")
        errors[who.label] = trained.test[trained.epochs.index(int(setting["epochs"]))]
    mine, plain = errors["meta-weight-net"], errors["cross entropy"]
    lines = []
    for who in contenders:
        own = errors[who.label]
        versus = None if own is mine else corrected_t_test((mine - own).tolist(), *task.sizes)
        classical = None if own is plain else corrected_t_test((own - plain).tolist(), *task.sizes)
        lines.append(Line(who.label, float(own.mean()), (), tuned[who.label], versus, classical))
    return LearnedReport(task.name, task.metric, splits, best_first(lines))


def _material(task: Proxy, who: _Contender, splits: Sequence[int], stage: Stage) -> Material:
    if who.material == "held":
        return held_out(task, splits, stage)
    material = with_clean_set(task, splits, stage)
    return material.with_held_in_training() if who.material == "added" else material


def _tune(
    task: Proxy, who: _Contender, material: Material, grid: Sequence[tuple[float, float]]
) -> dict[str, float]:
    """The setting with the least mean validation error, and its best number of epochs."""
    best: tuple[float, dict[str, float]] = math.inf, {}
    for rate, decay in grid:
        setting = {"rate": rate, "decay": decay}
        trained = _train(task, who, material, setting)
        means = torch.nan_to_num(trained.valid.mean(1), nan=torch.inf)
        point = int(means.argmin())
        if float(means[point]) < best[0]:
            best = float(means[point]), setting | {"epochs": trained.epochs[point]}
    if not best[1]:
        raise UsageError(f"{who.label}: no setting could be trained on {task.name}.")
    return best[1]


def _train(task: Proxy, who: _Contender, material: Material, setting: dict[str, float]) -> Trained:
    return train_online(task, material, setting["rate"], setting["decay"], who.kind, who.settings)
