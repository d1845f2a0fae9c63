"""What does a loss network compute?

A classical loss times a positive factor that a small network reads off prediction, target and the
progress of the training:

    regression   v = r^2 * softplus(net(x, y, r, progress)),  r = x - y
    multiclass   v = CE  * softplus(net(sum_c (p_c + t_c) / 2 * embed(log p_c, p_c, t_c, CE, progress)))
    weighting    v = CE  * V,  V = sigmoid(net(CE, log count of the class)), no gradient through V

At first the factor is 1, so that learning starts from the classical loss; it never gets negative, and a
perfect prediction costs nothing. The classes are pooled: any number of them, in any order. Needs
torch alone: an exported file carries this code as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]

ONE = math.log(math.e - 1)  # softplus(ONE) = 1
UNIT = 3.0  # features are divided by it: then those of a fresh network are of size one


def dense(weights: Weights, name: str, x: Tensor) -> Tensor:
    """x W^T + b in the dtype of x, (..., inputs) to (..., outputs)."""
    return F.linear(x, weights[f"{name}.weight"].to(x.dtype), weights[f"{name}.bias"].to(x.dtype))


def regression_value(weights: Weights, x: Tensor, target: Tensor, progress: Tensor) -> Tensor:
    """v = r^2 * softplus(net(x, y, r, progress)), r = x - y; never negative.

    Args:
        weights: "first", "second" and "last", each a weight and a bias.
        x: Predictions, any shape, in the unit that the network was trained in.
        target: The same shape.
        progress: Shape (), in [0, 1].

    Returns:
        Shape of `x`.

    Source:
        After Bechtle et al. 2019, arXiv:1906.05374, whose network gives the loss itself; the square in
        front is this project's choice.
    """
    residual = x - target
    stage = progress.to(x.dtype).expand_as(x)
    hidden = torch.stack([x / UNIT, target / UNIT, residual / UNIT, stage], -1)
    for name in ("first", "second"):
        hidden = torch.tanh(dense(weights, name, hidden))
    return residual.square() * F.softplus(dense(weights, "last", hidden)).squeeze(-1)


def multiclass_value(weights: Weights, x: Tensor, target: Tensor, progress: Tensor) -> Tensor:
    """v = CE * softplus(net(pooled classes)); never negative, blind to the order of classes.

    Args:
        weights: "first" embeds a class, "second" reads the pool, "last" gives the factor.
        x: Logits, shape (..., C).
        target: One-hot or soft labels, the same shape.
        progress: Shape (), in [0, 1].

    Returns:
        Shape (...), in nats times the factor.

    Source:
        As `regression_value`; the pooling is that of Zaheer et al. 2017, arXiv:1703.06114, Theorem 2.
    """
    log_p = F.log_softmax(x, -1)
    p = log_p.exp()
    cross = -(target * log_p).sum(-1, keepdim=True)
    stage = progress.to(x.dtype).expand_as(p)
    features = [log_p / UNIT, p, target.to(x.dtype), (cross / UNIT).expand_as(p), stage]
    embedded = torch.tanh(dense(weights, "first", torch.stack(features, -1)))
    pooled = (embedded * ((p + target) / 2).unsqueeze(-1)).sum(-2)
    hidden = torch.tanh(dense(weights, "second", pooled))
    return cross.squeeze(-1) * F.softplus(dense(weights, "last", hidden)).squeeze(-1)


def sample_weight(weights: Weights, cross: Tensor, rarity: Tensor) -> Tensor:
    """V = sigmoid(net(CE, log count)), in (0, 1).

    Args:
        weights: "first" and "last".
        cross: Cross entropy of each sample, any shape, in nats; taken as a number, without gradient.
        rarity: log(training samples of its class / mean over classes), the same shape; 0 everywhere
            where the loss alone shall count.

    Returns:
        Shape of `cross`.

    Source:
        Shu et al. 2019, arXiv:1902.07379, Sec. 2.2 (loss alone); reading the class too follows Shu et al.
        2022, arXiv:2202.05613.
    """
    hidden = torch.tanh(dense(weights, "first", torch.stack([cross.detach(), rarity], -1)))
    return torch.sigmoid(dense(weights, "last", hidden)).squeeze(-1)


def fresh_weights(space: str, hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a loss network whose factor is 1 everywhere.

    Args:
        space: "regression" or "multiclass".
        hidden: Width of both hidden layers, >= 1.
    """
    inputs = {"regression": 4, "multiclass": 5}[space]
    return {
        **_layer("first", inputs, hidden, generator),
        **_layer("second", hidden, hidden, generator),
        "last.weight": torch.zeros(1, hidden),
        "last.bias": torch.full((1,), ONE),
    }


def fresh_weighting(hidden: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of a weight network that gives every sample one half.

    Args:
        hidden: Width of the hidden layer, >= 1.
    """
    return {
        **_layer("first", 2, hidden, generator),
        "last.weight": torch.zeros(1, hidden),
        "last.bias": torch.zeros(1),
    }


def _layer(name: str, inputs: int, outputs: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Normal weights of variance 1 / inputs and normal biases of deviation 1/2."""
    return {
        f"{name}.weight": torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs),
        f"{name}.bias": torch.randn(outputs, generator=generator) / 2,
    }
