"""Can the loss be learned while the model learns, in lock-step?

Each step of the model is preceded by one of the loss:

    look ahead   theta' = theta - rate * grad_theta  mean loss_phi(batch)
    loss         phi    <- Adam step down  mean CE(f(x'; theta'), y')         on held samples
    model        theta  <- SGD step with momentum on  mean loss_phi(batch)    with the new phi

No outer loop over tasks is needed: one training is enough. The price is a short horizon: phi sees one
step ahead. With a weight network as the loss and a clean held set this is Meta-Weight-Net (see
`weighting`). Models of many splits are trained side by side, each with a loss of its own; 30 splits of
digits take some seconds, about six times as long as without learning the loss.

Source: Raymond et al. 2023, arXiv:2301.13247 (loss networks); Shu et al. 2019, arXiv:1902.07379, Eq. (3)
to (5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from losssearch.errors import UsageError
from losssearch.execution.plan import MLP, Floats, Setting, Split, Stage
from losssearch.execution.stacked import initial_weights
from losssearch.learned.network import fresh_weighting, fresh_weights, multiclass_value, sample_weight
from losssearch.proxies.base import Proxy, generator

#: What is learned: nothing (cross entropy), a loss network, a weight network.
Kind = Literal["classical", "network", "weighting"]
Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class OnlineSettings:
    """How a loss is learned in lock-step.

    Args:
        rate: Adam's learning rate for the loss.
        hidden: Width of its network.
        by_class: Whether a weight network also reads how rare a class is in training.
        seed: Of the network's first weights.
    """

    rate: float = 0.01
    hidden: int = 20
    by_class: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rate <= 0 or self.hidden < 1:
            raise UsageError(
                f"`rate > 0` and `hidden >= 1` must hold, but got {self.rate} and {self.hidden}."
            )


@dataclass(frozen=True)
class Material:
    """The data of several splits, stacked.

    Args:
        seeds: Of initial weights and batch order, as everywhere in this project.
        train, held, valid: Features (splits, samples, features) and one-hot targets.
        test: None outside an audit.
    """

    seeds: tuple[int, ...]
    train: Pair
    held: Pair
    valid: Pair
    test: Pair | None = None

    def with_held_in_training(self) -> Material:
        """The held samples also serve as ordinary training samples."""
        joined = [torch.cat([a, b], 1) for a, b in zip(self.train, self.held, strict=True)]
        return Material(self.seeds, (joined[0], joined[1]), self.held, self.valid, self.test)


@dataclass(frozen=True)
class Trained:
    """What came out of one training of every split.

    Args:
        epochs: Where the curves stand, (points,).
        valid, test: Errors (points, splits); test is None outside an audit.
        weights: Of every split's loss, with a leading split axis; empty for a classical one.
    """

    epochs: tuple[int, ...]
    valid: Tensor
    test: Tensor | None
    weights: dict[str, Tensor]


def held_out(proxy: Proxy, splits: Sequence[int], stage: Stage, share: float = 0.1) -> Material:
    """Material whose held samples are a part of the training samples, as right or wrong as those are.

    Args:
        share: Of the training samples, in (0, 1); they do not take part in the training itself.
    """
    if not 0 < share < 1:
        raise UsageError(f"`0 < share < 1` must hold, but got {share}.")

    def cut(split: Split, number: int) -> tuple[Pair, Pair]:
        order = generator("held", number).permutation(len(split.train[0]))
        count = max(1, round(share * len(order)))
        return rows_of(split.train, np.sort(order[count:])), rows_of(split.train, order[:count])

    found = [(number, proxy.split(number, "default", stage)) for number in splits]
    cuts = [cut(split, number) for number, split in found]
    return Material(
        tuple(split.seed for _, split in found),
        stack([train for train, _ in cuts]),
        stack([held for _, held in cuts]),
        stack([pair(split.valid) for _, split in found]),
        stack([pair(split.test) for _, split in found if split.test]) if stage == "audit" else None,
    )


def train_online(
    proxy: Proxy,
    material: Material,
    rate: float,
    decay: float,
    kind: Kind,
    settings: OnlineSettings | None = None,
    watch: Callable[[int, int], bool] = lambda epoch, of: True,
) -> Trained:
    """Train every split of a multiclass proxy with its own setting.

    Args:
        rate, decay: Of the model's SGD.
        kind: "classical" learns no loss and is the plain training.
        watch: Called after every epoch; False ends the training.

    Raises:
        UsageError: The proxy is not multiclass, or its model is not an MLP trained by SGD.
    """
    setting, chosen = proxy.setting(), settings or OnlineSettings()
    if proxy.space != "multiclass" or not isinstance(setting.model, MLP) or setting.optimiser != "sgd":
        raise UsageError(f"{proxy.name}: losses are learned online only for multiclass MLPs with SGD.")
    return _Training(proxy, material, setting, rate, decay, kind, chosen).run(watch)


class _Training:
    """All splits side by side."""

    def __init__(
        self,
        proxy: Proxy,
        material: Material,
        setting: Setting,
        rate: float,
        decay: float,
        kind: Kind,
        chosen: OnlineSettings,
    ) -> None:
        self.proxy, self.material, self.setting, self.kind = proxy, material, setting, kind
        self.rate, self.decay, self.chosen = rate, decay, chosen
        x, y = material.train
        assert isinstance(setting.model, MLP)
        layers = [initial_weights(setting.model, x.shape[-1], y.shape[-1], s) for s in material.seeds]
        self.parameters: list[Tensor] = []
        for layer in zip(*layers, strict=True):
            self.parameters += [
                torch.stack([w.T for w, _ in layer]),
                torch.stack([b[None] for _, b in layer]),
            ]
        self.velocity = [torch.zeros_like(p) for p in self.parameters]
        self.weights = self._fresh()
        self.adam = torch.optim.Adam(self.weights.values(), chosen.rate) if self.weights else None
        count = y.sum(1)
        relative = (count.clamp_min(1) / count.clamp_min(1).mean(-1, keepdim=True)).log()
        self.rarity = relative if chosen.by_class else torch.zeros_like(relative)

    def _fresh(self) -> dict[str, Tensor]:
        """The loss of every split, all the same at first."""
        draw, splits = torch.Generator().manual_seed(self.chosen.seed), len(self.material.seeds)
        if self.kind == "classical":
            return {}
        one = (
            fresh_weighting(self.chosen.hidden, draw)
            if self.kind == "weighting"
            else fresh_weights("multiclass", self.chosen.hidden, draw)
        )
        return {n: w.expand(splits, *w.shape).clone().requires_grad_() for n, w in one.items()}

    def run(self, watch: Callable[[int, int], bool]) -> Trained:
        x, y = self.material.train
        orders = [torch.Generator().manual_seed(seed + 1) for seed in self.material.seeds]
        batch = min(self.setting.batch, x.shape[1])
        steps = x.shape[1] // batch
        epochs, points, valid, test = self.setting.epochs, [], [], []
        for epoch in range(epochs):
            rows = torch.stack([torch.randperm(x.shape[1], generator=o)[: steps * batch] for o in orders])
            for step in range(steps):
                now = rows[:, step * batch : (step + 1) * batch, None]
                progress = torch.tensor((epoch * steps + step) / (epochs * steps))
                self._step(_take(x, now), _take(y, now), progress)
            if (epoch + 1) % self.setting.evaluate_every == 0 or epoch + 1 == epochs:
                points.append(epoch + 1)
                valid.append(self._error(self.material.valid))
                if self.material.test is not None:
                    test.append(self._error(self.material.test))
            if not watch(epoch + 1, epochs) and points:
                break
        weights = {name: value.detach() for name, value in self.weights.items()}
        return Trained(tuple(points), torch.stack(valid), torch.stack(test) if test else None, weights)

    def _step(self, x: Tensor, y: Tensor, progress: Tensor) -> None:
        parameters = [p.requires_grad_() for p in self.parameters]
        logits = forward(parameters, x)
        if self.adam is not None:
            slopes = torch.autograd.grad(self._loss(logits, y, progress), parameters, create_graph=True)
            ahead = [p - self.rate * g for p, g in zip(parameters, slopes, strict=True)]
            held_x, held_y = self.material.held
            judged = _cross(forward(ahead, held_x), held_y).mean(-1).sum()
            found = torch.autograd.grad(judged, list(self.weights.values()), retain_graph=True)
            for weight, slope in zip(self.weights.values(), found, strict=True):
                weight.grad = slope
            self.adam.step()
        slopes = torch.autograd.grad(self._loss(logits, y, progress), parameters)
        with torch.no_grad():
            self.parameters = []
            for value, slope, speed in zip(parameters, slopes, self.velocity, strict=True):
                speed.mul_(self.setting.momentum).add_(slope + self.decay * value)
                self.parameters.append(value.detach() - self.rate * speed)

    def _loss(self, logits: Tensor, y: Tensor, progress: Tensor) -> Tensor:
        """Summed over splits: none reads another's parameters."""
        if self.kind == "classical":
            return _cross(logits, y).mean(-1).sum()
        if self.kind == "network":
            value = vmap(partial(multiclass_value, progress=progress))
            found: Tensor = value(self.weights, logits, y).mean(-1).sum()
            return found
        cross = _cross(logits, y)
        rarity = torch.einsum("snc,sc->sn", y, self.rarity)
        share = vmap(sample_weight)(self.weights, cross, rarity)
        return ((share * cross).sum(-1) / share.sum(-1)).sum()

    def _error(self, data: Pair) -> Tensor:
        with torch.no_grad():
            return self.proxy.metric_functions[self.proxy.metric](forward(self.parameters, data[0]), data[1])


def forward(parameters: Sequence[Tensor], x: Tensor) -> Tensor:
    """Stacked perceptrons with ReLU: weights (splits, in, out), biases (splits, 1, out) in turn."""
    layers = list(zip(parameters[::2], parameters[1::2], strict=True))
    for weight, bias in layers[:-1]:
        x = torch.relu(torch.baddbmm(bias, x, weight))
    return torch.baddbmm(layers[-1][1], x, layers[-1][0])


def _cross(logits: Tensor, target: Tensor) -> Tensor:
    return -(target * F.log_softmax(logits, -1)).sum(-1)


def _take(data: Tensor, rows: Tensor) -> Tensor:
    return torch.gather(data, 1, rows.expand(-1, -1, data.shape[2]))


def pair(part: tuple[Floats, Floats]) -> Pair:
    """Features and targets as tensors."""
    return torch.as_tensor(part[0]), torch.as_tensor(part[1])


def rows_of(part: tuple[Floats, Floats], rows: NDArray[np.int64]) -> Pair:
    """Some samples as tensors."""
    return torch.as_tensor(part[0][rows]), torch.as_tensor(part[1][rows])


def stack(pairs: Sequence[Pair]) -> Pair:
    """One tensor of all splits, as long as the shortest of them."""
    shortest = min(len(x) for x, _ in pairs)
    return torch.stack([x[:shortest] for x, _ in pairs]), torch.stack([y[:shortest] for _, y in pairs])
