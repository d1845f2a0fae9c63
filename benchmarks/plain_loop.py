"""How good is a loss, by a plain PyTorch loop, one model after the other?

What the peers of `time_to_target` run in their processes: the data, splits, rates, epochs and initial weights
of our own first rung, so that the same loss gets the same errors.
"""

from __future__ import annotations

import signal
from functools import lru_cache

import torch
from torch import Tensor, nn

from benchmarks import plain_losses as plain
from benchmarks.plain_losses import Tree
from losssearch.execution.plan import MLP
from losssearch.execution.stacked import initial_weights
from losssearch.proxies.registry import load_proxy

PROXY = "digits-noisy"
WORST = 1.0  # the score of what cannot be trained
HOPELESS = 0.8  # error after which a loss is given up; guessing has 0.9


def get_ready() -> None:
    """One thread a process; Ctrl-C is the driver's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


@lru_cache(maxsize=16)
def _data(split: int) -> tuple[int, Tensor, Tensor, Tensor, Tensor]:
    found = load_proxy(PROXY).split(split)
    x, y, valid, truth = (torch.as_tensor(part) for part in (*found.train, *found.valid))
    return found.seed, x, y, valid, truth.argmax(1)


def train(tree: Tree, split: int, rate: float, decay: float, epochs: int) -> list[float]:
    """Validation errors along one training, every few epochs; none if it became nan."""
    seed, x, y, valid, truth = _data(split)
    setting = load_proxy(PROXY).setting()
    model = _model(seed)
    optimiser = torch.optim.SGD(model.parameters(), rate, setting.momentum, weight_decay=decay)
    order = torch.Generator().manual_seed(seed + 1)
    steps, curve = len(x) // setting.batch, []
    for epoch in range(epochs):
        rows = torch.randperm(len(x), generator=order)[: steps * setting.batch]
        for step, batch in enumerate(rows.split(setting.batch)):
            optimiser.zero_grad()
            value = plain.loss(tree, model(x[batch]), y[batch], (epoch * steps + step) / (epochs * steps))
            if not value.isfinite():
                return []
            value.backward()
            optimiser.step()
        if (epoch + 1) % setting.evaluate_every == 0 or epoch + 1 == epochs:
            with torch.no_grad():
                logits = model(valid)
            if not logits.isfinite().all():
                return []
            curve.append(float((logits.argmax(1) != truth).double().mean()))
    return curve


def _model(seed: int) -> nn.Module:
    """Starts from the weights from which all losses start on a split."""
    first, second = nn.Linear(64, 64), nn.Linear(64, 10)
    layers = initial_weights(MLP((64,)), 64, 10, seed)
    with torch.no_grad():
        for layer, (weight, bias) in zip((first, second), layers, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    return nn.Sequential(first, nn.ReLU(), second)


def judge(tree: Tree) -> tuple[float, int]:
    """Mean error over the splits at the best rate and epoch, and the number of trainings."""
    proxy = load_proxy(PROXY)
    rung, setting = proxy.rungs[0], proxy.setting()
    rates = rung.rates or setting.rates[: rung.rate_count]
    curves: dict[float, list[list[float]]] = {rate: [] for rate in rates}
    done = 0
    for split in rung.splits:
        for rate in list(curves):
            curve = train(tree, split, rate, setting.decays[0], rung.epochs or setting.epochs)
            done += 1
            if curve:
                curves[rate].append(curve)
            else:
                del curves[rate]
        if min((min(found[0]) for found in curves.values()), default=WORST) > HOPELESS:
            return WORST, done
    means = [[sum(errors) / len(found) for errors in zip(*found, strict=True)] for found in curves.values()]
    return min((min(mean) for mean in means), default=WORST), done
