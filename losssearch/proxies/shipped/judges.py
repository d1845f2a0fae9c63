"""How good are made or mended digits? A small network that was taught the real ones tells.

Two convolutions and a hidden layer, taught once a process on the development images of `digits.py`, so that
no image of the audit pool has taught it. Networks of different names are different judges: a loss that reads
the features of one is judged by another. Teaching takes about two seconds of one core.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from losssearch.proxies.base import seed_of
from losssearch.proxies.shipped.digits import digit_pool

EPOCHS, BATCH, RATE = 30, 64, 0.003
FEATURES = 32  # of the hidden layer
_SIDE, _CLASSES = 8, 10


class Judge(nn.Module):
    """Logits of images (samples, 64) with pixels in [0, 1], and what is seen on the way there."""

    def __init__(self) -> None:
        super().__init__()
        self.near = nn.Conv2d(1, 8, 3, padding=1)
        self.far = nn.Conv2d(8, 16, 3, padding=1, stride=2)
        self.hidden = nn.Linear(16 * (_SIDE // 2) ** 2, FEATURES)
        self.out = nn.Linear(FEATURES, _CLASSES)

    def layers(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """After the first and the second convolution: (samples, 8, 8, 8) and (samples, 16, 4, 4)."""
        near = self.near(x.unflatten(1, (1, _SIDE, _SIDE))).relu()
        return near, self.far(near).relu()

    def features(self, x: Tensor) -> Tensor:
        """The hidden layer: (samples, 32)."""
        return cast(Tensor, self.hidden(self.layers(x)[1].flatten(1)).relu())

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.features(x)))


@lru_cache(maxsize=4)
def judge(name: str) -> Judge:
    """A taught network, whose weights no longer move; the same for the same name."""
    pixels, labels, development, _ = digit_pool()
    x, y = torch.as_tensor(pixels[development]), torch.as_tensor(labels[development])
    draw = torch.Generator().manual_seed(seed_of("judge", name))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of("judge", name, "weights"))
        network = Judge()
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    with torch.enable_grad():
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(x), generator=draw).split(BATCH):
                optimiser.zero_grad()
                F.cross_entropy(network(x[rows]), y[rows]).backward()
                optimiser.step()
    return network.eval().requires_grad_(False)


def misread(network: Judge, x: Tensor, labels: Tensor) -> float:
    """Share of the images (samples, 64) whose digit is read as another than its label (samples,)."""
    return float((network(x).argmax(1) != labels).double().mean())


def frechet(made: Tensor, real: Tensor) -> float:
    """Squared Frechet distance of two clouds of features, as if both were normal.

        d = |mu_1 - mu_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2))

    Args:
        made, real: Features (samples, components), at least two samples each.

    Returns:
        Not negative; 0 for the same means and covariances; nan where a feature is not finite.

    Source:
        Heusel et al. 2017, arXiv:1706.08500, Eq. (6).
    """
    if not bool(torch.isfinite(made).all() and torch.isfinite(real).all()):
        return float("nan")
    one, two = (f.detach().double().numpy() for f in (made, real))
    gap = one.mean(0) - two.mean(0)
    first, second = np.cov(one, rowvar=False), np.cov(two, rowvar=False)
    # tr (S_1 S_2)^(1/2) = tr (R S_2 R)^(1/2) with R = S_1^(1/2), which is symmetric.
    root = _root(first)
    cross = _root(root @ second @ root)
    return max(0.0, float(gap @ gap + np.trace(first) + np.trace(second) - 2 * np.trace(cross)))


def _root(s: NDArray[np.float64]) -> NDArray[np.float64]:
    """The square root of a symmetric matrix without negative eigenvalues, those of rounding cut off."""
    values, vectors = np.linalg.eigh(s)
    found: NDArray[np.float64] = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return found
