"""How is a loss trained that reads several predictions, or samples together?

A model maps a batch to named tensors. The slopes of the loss in all of them are another program, whose
values torch sends back through the model. The loss's own value is never read. One run after the other,
since the shapes are as many as the tasks: what a run gives does not hang on its neighbours.

The optimiser is Adam without a floor (Kingma & Ba 2014, arXiv:1412.6980, eps = 1e-15) and with decoupled
weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101), so that a positive factor of a loss changes
nothing, and nobody wins by its units. A step costs about a millisecond.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from losssearch.errors import ProxyError
from losssearch.execution.plan import Run, RunResult, Setting, Split
from losssearch.execution.reference import Compiled
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.program import Program
from losssearch.language.signature import Role
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space

if TYPE_CHECKING:
    from losssearch.proxies.base import Proxy

_EPS = 1e-15


class Task(ABC):
    """What a model is shown, what a loss is told, and how wrong a model is; the same for every loss.

    The model is `Setting.model`: called with what `batch` shows, it gives every prediction and parameter of
    the space by name, and perhaps provided inputs that only it knows.
    """

    @abstractmethod
    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Any, Mapping[str, Tensor]]:
        """What the model is shown of some samples, and what the loss is told beside its predictions.

        The first is whatever the model takes: features, or features and targets where it computes losses.

        Args:
            x, y: Features and targets of the batch, as `Split` holds them.
            draw: For augmentations and the like; the same for every loss.
        """

    @abstractmethod
    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        """The headline error and every guard of a trained model on some samples; lower is better."""


class Slopes:
    """The slopes of a loss in every differentiable input that it reads, as a function of the inputs.

    Args:
        program: The loss; its canonical form runs.
    """

    def __init__(self, program: Program) -> None:
        loss = canonical(program)
        self.names = tuple(n for n in loss.signature.differentiable if n in loss.inputs)
        self.program = gradient(loss, self.names)
        self._run = Compiled(self.program)

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By name, each of the shape of its input."""
        return {
            name: self._spread(k, value, inputs[name])
            for k, (name, value) in enumerate(zip(self.names, self._run(inputs), strict=True))
        }

    def _spread(self, k: int, value: Tensor, like: Tensor) -> Tensor:
        """A slope that lacks an axis of its input is the same along it."""
        if value.shape == like.shape or value.ndim == 0:
            return value.expand_as(like)
        signature = self.program.signature
        has = self.program.instructions[self.program.outputs[k]].axes
        axes = signature.inputs[self.names[k]].axes
        index = tuple(slice(None) if signature.bits[a] & has else None for a in axes)
        return value[index].expand_as(like)


def train_structured(proxy: Proxy, losses: Sequence[Slopes], runs: Sequence[Run]) -> list[RunResult]:
    """Trains every run and measures its errors.

    Args:
        proxy: One with a `task`.
        losses: `run.loss` indexes them.
        runs: What to train.

    Returns:
        One result a run, in order. A loss that raises or diverges is an outcome, not an exception.

    Raises:
        ProxyError: An unknown condition, or an optimiser that is not "adam".
    """
    return [_result(proxy, losses[run.loss], run) for run in runs]


def inputs_of(proxy: Proxy) -> frozenset[str]:
    """Inputs beside prediction and target that losses are told on a proxy with a task."""
    split, setting = proxy.split(0), proxy.setting()
    inputs = load_space(proxy.space).signature.inputs
    learner = _Learner(proxy, setting, split)
    told = {*learner.inputs(slice(0, setting.batch), 0.0)[1]}
    usual = (Role.PREDICTION, Role.TARGET)
    return frozenset(name for name in told if name in inputs and inputs[name].role not in usual)


def _result(proxy: Proxy, slopes: Slopes, run: Run) -> RunResult:
    started = time.perf_counter()
    setting = proxy.setting(run.condition)
    if setting.optimiser != "adam":
        raise ProxyError(
            f"proxy {proxy.name}: its task is trained by Adam, but the setting says "
            f"{setting.optimiser!r}. Write optimiser='adam'."
        )
    split = proxy.split(run.split, run.condition, run.stage)
    try:
        found = _train(proxy, setting, split, slopes, run)
    except Exception as error:  # whatever a loss does, the others go on
        found = RunResult(Outcome.FAILED, detail=f"{type(error).__name__}: {error}")
    return replace(found, seconds=time.perf_counter() - started)


def _train(proxy: Proxy, setting: Setting, split: Split, slopes: Slopes, run: Run) -> RunResult:
    learner = _Learner(proxy, setting, split)
    optimiser = torch.optim.AdamW(
        learner.model.parameters(),
        lr=run.rate,
        betas=setting.betas,
        weight_decay=run.decay,
        eps=_EPS,
        foreach=True,
    )
    parts = {"valid": split.valid} | ({"test": split.test} if split.test is not None else {})
    headline = "test" if run.stage == "audit" else "valid"
    epochs = setting.epochs if run.epochs is None else run.epochs
    points: list[tuple[int, dict[str, Mapping[str, float]]]] = []
    for epoch in range(epochs):
        for step, rows in enumerate(learner.batches()):
            given, told = learner.inputs(rows, (epoch + step / learner.steps) / epochs)
            with torch.no_grad():
                found = slopes(told)
            learned = [name for name in found if given[name].requires_grad]
            optimiser.zero_grad()
            if learned:
                torch.autograd.backward([given[n] for n in learned], [found[n] for n in learned])
            optimiser.step()
        if epoch + 1 == epochs or (epoch + 1) % setting.evaluate_every == 0:
            if not learner.is_finite():
                return RunResult(Outcome.DIVERGED, detail="a parameter became nan or inf")
            points.append((epoch + 1, {name: learner.errors(*part) for name, part in parts.items()}))
    return _scored(proxy.metric, proxy.guards, headline, points)


def _scored(
    metric: str,
    guards: Sequence[str],
    headline: str,
    points: Sequence[tuple[int, Mapping[str, Mapping[str, float]]]],
) -> RunResult:
    """The answer, as the population trainer words it."""
    last = points[-1][1]
    value = last[headline][metric]
    if not math.isfinite(value):
        return RunResult(Outcome.INVALID, detail=f"the error is {value}")
    end = {name: last[headline][name] for name in guards}
    if headline == "test":
        best = min(points, key=lambda point: (point[1]["valid"][metric], point[0]))
        end |= {"valid": last["valid"][metric], "early_stopped": best[1]["test"][metric]}
    end[metric] = value
    curve = [(epoch, found[headline][metric]) for epoch, found in points]
    return RunResult(Outcome.SCORED, value, end, curve)


class _Learner:
    """One model, its data and their order; the same for every loss on a split."""

    def __init__(self, proxy: Proxy, setting: Setting, split: Split) -> None:
        if proxy.task is None or not callable(setting.model):
            raise ProxyError(f"proxy {proxy.name}: a task, and a function that makes the model, are needed.")
        self.task, self.split = proxy.task, split
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(split.seed)
            self.model: nn.Module = setting.model()
        self._x, self._y = (torch.as_tensor(part) for part in split.train)
        self._provided = {name: torch.as_tensor(value) for name, value in split.provided.items()}
        self._draw = torch.Generator().manual_seed(split.seed + 1)
        self._batch = min(setting.batch, len(self._x))
        self.steps = len(self._x) // self._batch

    def batches(self) -> list[Any]:
        """Rows of the batches of an epoch; the incomplete last one is left out."""
        order = torch.randperm(len(self._x), generator=self._draw)
        return list(order[: self.steps * self._batch].view(self.steps, self._batch))

    def inputs(self, rows: Any, progress: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the model gives for some rows, with its graph, and all that the loss is told, without."""
        shown, told = self.task.batch(self._x[rows], self._y[rows], self._draw)
        given: dict[str, Tensor] = self.model.train()(shown)
        plain = {name: value.detach() for name, value in given.items()}
        return given, {"progress": torch.tensor(progress), **self._provided, **told, **plain}

    def errors(self, x: Any, y: Any) -> Mapping[str, float]:
        with torch.no_grad():
            return self.task.errors(self.model.eval(), self.split, torch.as_tensor(x), torch.as_tensor(y))

    def is_finite(self) -> bool:
        return all(bool(torch.isfinite(p).all()) for p in self.model.parameters())
