"""On which small tasks is a loss learned, and on which is it tried?

An episode is one task: a few support samples to adapt on, query samples to be judged by. `sine` draws
functions A sin(x - phase); `few-shot-digits` draws four digits, each turned by a multiple of 90
degrees. Loss and start are learned on stage "search"; stage "audit" holds other functions, other digits
and other images.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losssearch.errors import UsageError
from losssearch.execution.plan import Stage
from losssearch.proxies.base import seed_of
from losssearch.proxies.registry import load_proxy

WAYS, QUERY = 4, 10
DIGITS = {"search": range(6), "audit": range(6, 10)}
SUPPORT_POINTS, QUERY_POINTS = 10, 30


@dataclass(frozen=True)
class Episodes:
    """Tasks side by side.

    Args:
        support, query: Features (tasks, samples, features), and targets (tasks, samples) or one-hot
            (tasks, samples, classes).
    """

    support: tuple[Tensor, Tensor]
    query: tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FewShot:
    """A kind of small task.

    Args:
        name, title: For people.
        space: "regression" or "multiclass".
        draw: Draws a number of tasks; the same generator state gives the same tasks.
        model: Makes the model that adapts.
        rates: Inner learning rates worth trying for the classical loss.
        error: Prediction and target to one error a task, lower is better.
        metric: Its name.
    """

    name: str
    title: str
    space: str
    draw: Callable[[int, torch.Generator, Stage], Episodes]
    model: Callable[[], nn.Module]
    rates: tuple[float, ...]
    error: Callable[[Tensor, Tensor], Tensor]
    metric: str

    def generator(self, seed: int, stage: Stage) -> torch.Generator:
        """Random numbers of one stage; those of the other share nothing with them."""
        return torch.Generator().manual_seed(seed_of("few-shot", self.name, stage, seed))

    def classical(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Squared error or cross entropy of each sample; what the query is judged by."""
        if self.space == "regression":
            return (prediction - target).square()
        return -(target * F.log_softmax(prediction, -1)).sum(-1)


def few_shot(name: str) -> FewShot:
    """The kind of task called `name`.

    Raises:
        UsageError: None is called so.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(TASKS)}."
        raise UsageError(f"No few-shot task is called {name!r}. {hint}")
    return TASKS[name]


def _sines(count: int, generator: torch.Generator, stage: Stage) -> Episodes:
    """A in [0.1, 5], phase in [0, pi], x in [-5, 5] (Finn et al. 2017, arXiv:1703.03400, Sec. 5.1)."""
    amplitude = 0.1 + 4.9 * torch.rand(count, 1, generator=generator)
    phase = math.pi * torch.rand(count, 1, generator=generator)
    x = 10 * torch.rand(count, SUPPORT_POINTS + QUERY_POINTS, generator=generator) - 5
    y = amplitude * torch.sin(x - phase)
    cut = SUPPORT_POINTS
    return Episodes((x[:, :cut, None], y[:, :cut]), (x[:, cut:, None], y[:, cut:]))


@cache
def _images(stage: Stage) -> tuple[Tensor, ...]:
    """Images (count, 8, 8) of each digit of a stage; the audit's come from the audit's own pool."""
    split = load_proxy("digits").split(0, "raw", stage)
    parts = [split.test] if stage == "audit" and split.test else [split.train, split.valid]
    x = torch.cat([torch.as_tensor(x) for x, _ in parts]).reshape(-1, 8, 8)
    label = torch.cat([torch.as_tensor(y) for _, y in parts]).argmax(1)
    return tuple(x[label == digit] for digit in DIGITS[stage])


def _digits(shots: int, noise: float, count: int, generator: torch.Generator, stage: Stage) -> Episodes:
    images = _images(stage)
    support, query = [], []
    for _ in range(count):
        chosen = torch.randperm(len(images), generator=generator)[:WAYS].tolist()
        turns = torch.randint(0, 4, (WAYS,), generator=generator).tolist()
        for digit, turn in zip(chosen, turns, strict=True):
            rows = torch.randperm(len(images[digit]), generator=generator)[: shots + QUERY]
            turned = torch.rot90(images[digit][rows], turn, (1, 2)).flatten(1)
            support.append(turned[:shots])
            query.append(turned[shots:])
    label = torch.arange(WAYS).repeat_interleave(shots).repeat(count, 1)
    if noise:
        wrong = torch.rand(label.shape, generator=generator) < noise
        label = torch.where(wrong, label + torch.randint(1, WAYS, label.shape, generator=generator), label)
    truth = torch.arange(WAYS).repeat_interleave(QUERY).repeat(count, 1)
    one_hot = torch.eye(WAYS)
    return Episodes(
        (torch.cat(support).reshape(count, -1, 64), one_hot[label % WAYS]),
        (torch.cat(query).reshape(count, -1, 64), one_hot[truth]),
    )


def _squared(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean(-1)


def _missed(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction.argmax(-1) != target.argmax(-1)).to(prediction.dtype).mean(-1)


class _Scalar(nn.Sequential):
    """Gives one number a sample, without an axis for it."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x.squeeze(-1)


def _curve_model() -> nn.Module:
    return _Scalar(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def _image_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, WAYS))


def _few_shot_digits(name: str, title: str, shots: int, noise: float) -> FewShot:
    draw = partial(_digits, shots, noise)
    return FewShot(name, title, "multiclass", draw, _image_model, (0.1, 0.2, 0.4, 0.8), _missed, "error")


TASKS: dict[str, FewShot] = {
    task.name: task
    for task in (
        FewShot(
            "sine", "Sine curves from 10 points", "regression", _sines, _curve_model,
            (0.005, 0.01, 0.02), _squared, "squared error",
        ), _few_shot_digits("few-shot-digits", "4 digits, 5 images of each", 5, 0.0),
        _few_shot_digits("few-shot-digits-noisy", "4 digits, 10 images of each, 30 % wrong labels", 10,
        0.3),
    )
}  # fmt: skip
