"""Which losses learn something of digits without a single label?

scikit-learn's 1797 digits; two views of each image, shifted by up to a pixel each way, paler or stronger,
under noise; an MLP to 16 components. How badly a linear model tells the ten digits apart from these
components is the error: ridge regression on the training images with their labels, which no loss is told. As
in `digits.py` a fixed third of the images is the audit pool, which no search sees. One training takes about
0.4 seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.execution.plan import Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.digits import dealt, digit_pool
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 500, "test": 500}
NOISE = 0.15  # deviation of a pixel of a view; its range is 0 to 1
_SIDE, _COMPONENTS, _CLASSES = 8, 16, 10
_RIDGE = 1e-2  # of the probe, a share of the features' mean square


class Encoder(nn.Module):
    """An embedding of each image."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_SIDE * _SIDE, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, _COMPONENTS),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"z": self.layers(x)}


class WideEncoder(Encoder):
    def __init__(self) -> None:
        super().__init__(width=192)


class Views(Task):
    """Targets are one-hot labels (samples, 10); only the probe reads them."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        shown = torch.cat([view(x, draw), view(x, draw)])
        eye = torch.eye(len(shown), dtype=torch.bool)
        return shown, {"positive": eye.roll(len(x), dims=0), "eye": eye}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        taught, labels = (torch.as_tensor(part) for part in split.train)
        draw = torch.Generator().manual_seed(split.seed + 2)
        one, two = (_unit(model(view(x, draw))["z"]) for _ in range(2))
        return {
            "probe_error": probe_error(_unit(model(taught)["z"]), labels, _unit(model(x)["z"]), y),
            "alignment": alignment(one, two),
            "uniformity": uniformity(one),
        }


def view(x: Tensor, draw: torch.Generator) -> Tensor:
    """Images (samples, 64), each shifted by up to a pixel each way (0 moves in), rescaled, with noise."""
    wide = nn.functional.pad(x.unflatten(1, (_SIDE, _SIDE)), (1, 1, 1, 1))
    place = torch.arange(_SIDE)
    down, along = torch.randint(0, 3, (2, len(x), 1), generator=draw)
    rows, columns = (down + place).unsqueeze(2), (along + place).unsqueeze(1)
    moved = wide[torch.arange(len(x)).view(-1, 1, 1), rows, columns].flatten(1)
    strength = 0.7 + 0.6 * torch.rand(len(x), 1, generator=draw)
    return moved * strength + NOISE * torch.randn(x.shape, generator=draw)


def probe_error(features: Tensor, labels: Tensor, tested: Tensor, truth: Tensor) -> float:
    """Share of the tested samples that a ridge regression on one-hot labels puts into a wrong class.

        min_W mean_i |W f_i - y_i|^2 + r |W|^2,    f centred and with a 1,    r a hundredth of f's mean square

    Args:
        features, labels: What the regression learns from: (samples, components), one-hot (samples, classes).
        tested, truth: What it is tested on.

    Returns:
        In [0, 1]; nan where a feature is not finite.
    """
    if not bool(torch.isfinite(features).all() and torch.isfinite(tested).all()):
        return float("nan")
    middle = features.double().mean(0)
    x, z = features.double() - middle, tested.double() - middle
    goal = labels.double()
    ridge = _RIDGE * float(x.square().mean()) + 1e-12
    normal = x.T @ x / len(x) + ridge * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(normal, x.T @ (goal - goal.mean(0)) / len(x))
    wrong = (z @ weight + goal.mean(0)).argmax(1) != truth.argmax(1)
    return float(wrong.double().mean())


def alignment(one: Tensor, two: Tensor) -> float:
    """Mean squared distance of two views of one sample; embeddings (samples, components) of length 1.

    Source:
        Wang & Isola 2020, arXiv:2005.10242, Sec. 4.1 with alpha = 2.
    """
    return float((one - two).double().square().sum(1).mean())


def uniformity(e: Tensor) -> float:
    """Logarithm of the mean over pairs of different samples of exp(-2 * squared distance).

    Args:
        e: Embeddings (samples, components) of length 1.

    Returns:
        0 where all coincide, the lower the more evenly they lie on the sphere.

    Source:
        Wang & Isola 2020, arXiv:2005.10242, Sec. 4.1 with t = 2.
    """
    return float(torch.pdist(e.double()).square().mul(-2).exp().mean().log())


def _unit(e: Tensor) -> Tensor:
    unit: Tensor = e / e.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return unit


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw = generator("digits-views", stage, seed)
    rows = dealt(development, pool, SIZES, stage, draw)
    hot = np.eye(_CLASSES, dtype=np.float32)
    parts = [(pixels[r], hot[labels[r]]) for r in rows]
    return Split(seed_of("digits-views", stage, seed), *parts)


def digits_views() -> Proxy:
    """Digits in two views each, without labels."""
    return Proxy(
        name="digits-views",
        title="Two views of handwritten digits, no labels; judged by a linear probe",
        space="contrastive",
        metric="probe_error",
        guards=("alignment", "uniformity"),
        draw=_split,
        default=Setting(
            model=Encoder,
            optimiser="adam",
            batch=50,
            epochs=20,
            evaluate_every=4,
            rates=(0.003, 0.001, 0.01),
        ),
        changes={"wide": {"model": WideEncoder}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=8),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Views(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-views": digits_views}
