"""How does a user judge losses on a task of their own?

`task` describes data, model, metric and budget, and losssearch trains it, many losses at once.
`blackbox` wraps a training loop of the user's: it gets a loss module and answers one number, and
costs whatever it costs.
"""

from __future__ import annotations

import hashlib
import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from losssearch.errors import ProxyError
from losssearch.execution.plan import (
    MLP,
    Floats,
    MetricFn,
    Run,
    RunResult,
    Setting,
    Split,
    Stage,
)
from losssearch.outcomes import Outcome
from losssearch.proxies.base import Proxy, generator, seed_of
from losssearch.spaces import space_names

if TYPE_CHECKING:
    from torch import Tensor, nn

_METRICS = {
    "multiclass": ("error", "balanced_error", "worst_class_error"),
    "binary": ("error", "balanced_error", "worst_class_error"),
    "regression": ("rmse", "mae", "median_error"),
}
_SAME = {"accuracy": "error", "balanced_accuracy": "balanced_error"}
HELD, HELD_BYTES = 64, 2**28  # splits that a worker keeps for later trainings, and what they may take
_TRAIN = ("loss", "budget", "seed", "device")


def task(
    *,
    data: tuple[Any, Any] | Callable[[], tuple[Any, Any]],
    space: str = "multiclass",
    model: MLP | Callable[[], nn.Module] | None = None,
    metric: str | Callable[[Any, Any], float] | None = None,
    better: str = "lower",
    budget: int = 30,
    name: str = "task",
    title: str = "",
    rates: Sequence[float] = (0.1, 0.03, 0.3, 0.01),
    optimiser: str = "sgd",
    batch: int = 128,
) -> Proxy:
    """A proxy of the user's own data and model, trained by losssearch.

    A third of the data is kept for audits; the rest is cut into training (75 %) and validation (25
    %) anew for each split. Features of two dimensions are standardised by the training part.

    Args:
        data: Features X (samples, ...) and targets y (samples,): class numbers 0.. (multiclass),
            0/1 (binary) or reals; or a function that gives them.
        space: "multiclass", "binary" or "regression".
        model: A function without arguments that makes a `torch.nn.Module` (giving logits (n,
            classes), or (n,) or (n, 1)), or an `MLP`; None is `MLP((64,))`.
        metric: "accuracy", "error", "balanced_error", "rmse", "mae", ..., or a function of one
            model's predictions (m, c) or (m,) and targets (m,), both numpy, to a number; None is
            "error" or "rmse".
        better: For a metric function: "lower", or "higher" (stored as 1 - metric).
        budget: Epochs.
        name: Stored beside every evaluation; change it when the model changes.
        title: One line for a person.
        rates: Learning rates worth trying, best first; gradients are scaled to the reference
            loss's.
        optimiser: "sgd" (momentum 0.9) or "adam".
        batch: Samples a step.

    Raises:
        ProxyError: The description does not fit; says what, where, and what to do.
    """
    where = f"task {name!r}"
    if space not in _METRICS:
        raise ProxyError(f"{where}: space={space!r} is unknown. Choose one of {', '.join(_METRICS)}.")
    if optimiser not in ("sgd", "adam"):
        raise ProxyError(f"{where}: optimiser={optimiser!r} is unknown. Choose 'sgd' or 'adam'.")
    if better not in ("lower", "higher"):
        raise ProxyError(f"{where}: better={better!r} is unknown. Choose 'lower' or 'higher'.")
    if not isinstance(budget, int) or budget < 1:
        raise ProxyError(f"{where}: `budget >= 1` epochs must hold, but got {budget!r}.")
    if not rates or any(not (rate > 0 and math.isfinite(rate)) for rate in rates):
        raise ProxyError(f"{where}: rates={rates!r} must be positive numbers. Leave them out?")
    if model is not None and not isinstance(model, MLP) and not callable(model):
        raise ProxyError(
            f"{where}: model is a {type(model).__name__}. Give a function that makes a torch.nn.Module."
        )
    if not callable(data) and not (isinstance(data, tuple) and len(data) == 2):
        raise ProxyError(f"{where}: data must be (X, y) or a function that returns (X, y).")
    usual = _METRICS[space]
    maker: Callable[[], Mapping[str, MetricFn]] | None = None
    if callable(metric):
        headline = getattr(metric, "__name__", "metric")
        maker = _metric_maker(headline, metric, better == "higher")
    else:
        headline = _SAME.get(metric, metric) if metric is not None else usual[0]
        if headline not in usual:
            raise ProxyError(
                f"{where}: no metric is called {metric!r} in the space {space}. Choose one of "
                f"{', '.join(usual)}, or give a function of predictions and targets."
            )
    table = _Table(where, data, space)
    held = max(1, min(HELD, HELD_BYTES // max(1, table.features.nbytes)))
    samples = len(table.targets)
    development = samples - samples // 3
    return Proxy(
        name=name,
        title=title or name,
        space=space,
        metric=headline,
        guards=tuple(n for n in usual if n != headline) if maker is None else (),
        metric_maker=maker,
        draw=lru_cache(maxsize=held)(table.split),
        default=Setting(
            model=MLP() if model is None else model,
            optimiser="adam" if optimiser == "adam" else "sgd",
            batch=batch,
            epochs=budget,
            evaluate_every=max(1, budget // 6),
            rates=tuple(rates),
        ),
        classes=table.classes,
        data_version=table.digest,
        sizes=(development - development // 4, samples // 3 // 2),
    )


class _Table:
    """Features and targets, cut into splits."""

    def __init__(self, where: str, data: Any, space: str) -> None:
        self._where, self._data, self._space = where, data, space
        self.classes: int | None = None
        self.load()

    def load(self) -> int:
        """Reads and checks the data; gives the number of samples."""
        x, y = self._data() if callable(self._data) else self._data
        try:
            self.features, targets = np.asarray(x, np.float32), np.asarray(y)
            targets.astype(float)
        except (TypeError, ValueError) as error:
            raise ProxyError(
                f"{self._where}: the data are not numbers ({error}). Encode texts first."
            ) from error
        if targets.ndim != 1 or len(self.features) != len(targets):
            raise ProxyError(
                f"{self._where}: X of shape {self.features.shape} and y of shape {targets.shape} "
                "do not fit. y must hold one number a sample."
            )
        if len(targets) < 12:
            raise ProxyError(f"{self._where}: {len(targets)} samples are too few. Give 12 or more.")
        if not np.isfinite(self.features).all() or not np.isfinite(targets.astype(float)).all():
            raise ProxyError(f"{self._where}: the data hold nan or inf. Clean them first.")
        if self._space != "regression":
            whole = targets.astype(np.int64)
            classes = int(whole.max()) + 1
            if (whole != targets).any() or whole.min() < 0:
                raise ProxyError(f"{self._where}: y must hold class numbers 0, 1, 2, ...")
            if self._space == "binary" and classes > 2:
                raise ProxyError(f"{self._where}: y must hold 0 and 1 in the space binary.")
            self.classes = max(classes, 2) if self._space == "multiclass" else None
            targets = whole
        self.targets = targets
        content = self.features.tobytes() + np.ascontiguousarray(targets).tobytes()
        self.digest = hashlib.sha256(content).hexdigest()[:16]
        return len(targets)

    def split(self, seed: int, condition: str, stage: Stage) -> Split:
        order = generator("task", "pool").permutation(len(self.targets))
        third = len(order) // 3
        pool, development = order[:third], order[third:]
        draw = generator("task", stage, seed)
        if stage == "search":
            rows = draw.permutation(development)
            test = None
        else:  # as large as in the search, from everything that is not tested
            test = draw.permutation(pool)[: third // 2]
            rows = draw.permutation(np.setdiff1d(order, test))[: len(development)]
        cut = len(development) - len(development) // 4
        chosen = [rows[:cut], rows[cut:], *([] if test is None else [test])]
        return cut_split(
            seed_of("task", stage, seed),
            [self.features[r] for r in chosen],
            [self.targets[r] for r in chosen],
            self._space,
            self.classes,
        )


def cut_split(
    seed: int, features: list[Floats], targets: list[Any], space: str, classes: int | None
) -> Split:
    """A split of training, validation and perhaps test parts, and what its space provides."""
    if features[0].ndim == 2:
        mean, deviation = features[0].mean(0), features[0].std(0)
        deviation[deviation == 0] = 1
        features = [((x - mean) / deviation).astype(np.float32) for x in features]
    provided: dict[str, Floats] = {}
    if classes is not None:
        targets = [np.eye(classes, dtype=np.float32)[y] for y in targets]
        count = np.maximum(targets[0].sum(0), 1)
        provided = {"prior": count / count.sum(), "count": count}
    else:
        targets = [y.astype(np.float32) for y in targets]
        if space == "binary":
            positive = float(np.clip(targets[0].sum(), 1, len(targets[0]) - 1))
            provided = {
                "prior": np.array(positive / len(targets[0]), np.float32),
                "count_pos": np.array(positive, np.float32),
                "count_neg": np.array(len(targets[0]) - positive, np.float32),
            }
    parts = list(zip(features, targets, strict=True))
    return Split(seed, *parts, provided=provided)


def _metric_maker(
    name: str, metric: Callable[[Any, Any], float], higher: bool
) -> Callable[[], Mapping[str, MetricFn]]:
    """The user's metric of one model, for many models: one call a model."""

    def many(prediction: Tensor, target: Tensor) -> Tensor:
        import torch

        goal = target.argmax(-1) if target.dim() == 3 else target
        found = [
            float(metric(p, y)) for p, y in zip(prediction.cpu().numpy(), goal.cpu().numpy(), strict=True)
        ]
        values = torch.tensor(found, dtype=torch.float64)
        return 1 - values if higher else values

    return lambda: {name: many}


def is_train_function(function: Callable[..., Any]) -> bool:
    """Whether a function is `train(loss, budget, seed, device)`."""
    try:
        return tuple(inspect.signature(function).parameters) == _TRAIN
    except (TypeError, ValueError):
        return False


def blackbox(
    *,
    space: str,
    name: str = "",
    better: str = "lower",
    budget: int = 1,
    rates: Sequence[float] = (1.0,),
    device: str = "cpu",
) -> Callable[[Callable[..., float]], Proxy]:
    """Makes a proxy of a training loop of the user's own: `@blackbox(space="multiclass")`.

    The decorated `train(loss, budget, seed, device) -> float` gets a loss module, the budget
    (epochs, or whatever it makes of the number), a seed and a device. Audit seeds start at
    1,000,000: the loop should keep data for them.

    Args:
        space: The space that the losses come from.
        name: Stored beside every evaluation; "" is the function's own.
        better: "lower", or "higher" (stored as 1 - metric).
        budget: Handed on.
        rates: Tried learning rates; with more than one, `loss.rate` would be needed, so the usual
            is one.
        device: Handed on.

    Raises:
        ProxyError: The function does not take (loss, budget, seed, device).
    """
    if space not in (known := space_names()):
        raise ProxyError(f"blackbox: space={space!r} is unknown. Choose one of {', '.join(known)}.")
    if better not in ("lower", "higher"):
        raise ProxyError(f"blackbox: better={better!r} is unknown. Choose 'lower' or 'higher'.")

    def wrap(train: Callable[..., float]) -> Proxy:
        title = name or getattr(train, "__name__", "blackbox")
        if not is_train_function(train):
            raise ProxyError(
                f"blackbox {title!r}: the function must take exactly (loss, budget, seed, device)."
            )

        def custom(losses: Sequence[Any], runs: Sequence[Run]) -> list[RunResult]:
            return [_call(train, losses[run.loss], run, budget, device, better == "higher") for run in runs]

        return Proxy(
            name=title,
            title=title,
            space=space,
            metric="metric",
            draw=_no_split,
            default=Setting(epochs=budget, rates=tuple(rates)),
            custom=custom,
            takes="module",
        )

    return wrap


def _no_split(seed: int, condition: str, stage: Stage) -> Split:
    raise ProxyError("a black box cuts its own data: it has no splits to show.")


def _call(
    train: Callable[..., float], loss: Any, run: Run, budget: int, device: str, higher: bool
) -> RunResult:
    started = time.perf_counter()
    seed = run.split + (1_000_000 if run.stage == "audit" else 0)
    try:
        metric = float(train(loss, run.epochs or budget, seed, device))
    except Exception as error:  # a crash is an outcome
        seconds = time.perf_counter() - started
        return RunResult(Outcome.FAILED, seconds=seconds, detail=f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - started
    if not math.isfinite(metric):
        return RunResult(Outcome.INVALID, seconds=seconds, detail=f"the metric is {metric}")
    metric = 1 - metric if higher else metric
    return RunResult(Outcome.SCORED, metric, {"metric": metric}, [], seconds)
