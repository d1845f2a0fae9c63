"""Which losses teach an autoencoder the probability of handwritten digits?

scikit-learn's 1797 digits, a pixel being on where it is brighter than half; an encoder to eight components
and a decoder, with one hidden layer each. The error is the negative log-likelihood of unseen images in nats,
by its bound with fifty draws from the posterior: whatever a loss weighs or leaves out, all are asked for the
same number. Whether what is drawn from the prior looks like a digit, and whether pixels come back, the guards
say. As in `digits.py` a fixed third of the images is the audit pool, which no search sees. One training takes
about 0.6 seconds of one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.digits import dealt, digit_pool
from losssearch.proxies.shipped.judges import frechet, judge
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 400, "test": 400}
COMPONENTS = 8
DRAWS = 50  # from the posterior of each image
_PIXELS, _CLASSES = 64, 10
_MADE = 1000


class Autoencoder(nn.Module):
    """A Gaussian posterior with a diagonal covariance; pixels are independent, given the code."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(_PIXELS, width), nn.ReLU(), nn.Linear(width, 2 * COMPONENTS)
        )  # fmt: skip
        self.decoder = nn.Sequential(nn.Linear(COMPONENTS, width), nn.ReLU(), nn.Linear(width, _PIXELS))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the code of each image."""
        mu, log_var = self.encoder(x).chunk(2, dim=1)
        return mu, log_var

    def forward(self, shown: Tensor) -> dict[str, Tensor]:
        x, noise = shown.split([_PIXELS, COMPONENTS], dim=1)
        mu, log_var = self.posterior(x)
        return {
            "mu": mu,
            "log_var": log_var,
            "x_logits": self.decoder(mu + (log_var / 2).exp() * noise),
        }


class WideAutoencoder(Autoencoder):
    def __init__(self) -> None:
        super().__init__(width=192)


class Coding(Task):
    """Targets are one-hot labels (samples, 10); nobody reads them."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        return torch.cat([x, torch.randn(len(x), COMPONENTS, generator=draw)], dim=1), {"x": x}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        coder = cast(Autoencoder, model)
        draw = torch.Generator().manual_seed(split.seed + 2)
        mu, log_var = coder.posterior(x)
        noise = torch.randn(DRAWS, len(x), COMPONENTS, generator=draw)
        p = coder.decoder(torch.randn(_MADE, COMPONENTS, generator=draw)).sigmoid()
        made = (torch.rand(p.shape, generator=draw) < p).float()
        features = judge("coded digits").features
        return {
            "nll": negative_log_likelihood(x, mu, log_var, noise, coder.decoder),
            "frechet": frechet(features(made), features(x)),
            "pixel_error": float(((coder.decoder(mu) > 0) != (x > 0.5)).double().mean()),
        }


def negative_log_likelihood(
    x: Tensor, mu: Tensor, log_var: Tensor, noise: Tensor, decoder: Callable[[Tensor], Tensor]
) -> float:
    """An upper bound of the mean negative log-likelihood, by importance sampling.

        -mean_i log 1/k sum_j p(x_i | z_ij) p(z_ij) / q(z_ij | x_i),    z_ij = mu_i + s_i noise_ij

    with p(z) standard normal, q normal of mean mu and variance s^2 = exp(log_var), and Bernoulli pixels.

    Args:
        x: Images (samples, pixels), each pixel 0 or 1.
        mu, log_var: Of the posterior, (samples, components).
        noise: Standard normal, (k, samples, components).
        decoder: Maps codes (..., components) to logits (..., pixels).

    Returns:
        In nats a sample. The expectation over `noise` is never below the true value, falls with k, and tends
        to it.

    Source:
        Burda, Grosse & Salakhutdinov 2016, arXiv:1509.00519, Eq. (8).
    """
    z = mu + (log_var / 2).exp() * noise
    logits = decoder(z).double()
    likelihood = torch.where(x > 0.5, logsigmoid(logits), logsigmoid(-logits)).sum(-1)
    prior, posterior = z.double().square().sum(-1), (noise.double().square() + log_var).sum(-1)
    weight = likelihood + (posterior - prior) / 2  # both densities have the same factor of 2 pi
    return float(-(weight.logsumexp(0) - math.log(len(noise))).mean())


@lru_cache(maxsize=1)
def _images() -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """As `digit_pool`, in black and white; of images that have become the same, the first alone is kept."""
    pixels, labels, development, pool = digit_pool()
    images = (pixels > 0.5).astype(np.float32)
    ordered = np.concatenate([development, pool])
    first = np.sort(np.unique(images[ordered], axis=0, return_index=True)[1])
    cut = np.searchsorted(first, len(development))
    return images, labels, ordered[first[:cut]], ordered[first[cut:]]


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    images, labels, development, pool = _images()
    draw, tested = generator("digits-coded", stage, seed), generator("digits-coded", "test", seed)
    rows = dealt(development, pool, SIZES, stage, draw, tested)
    hot = np.eye(_CLASSES, dtype=np.float32)
    return Split(seed_of("digits-coded", stage, seed), *((images[r], hot[labels[r]]) for r in rows))


def digits_coded() -> Proxy:
    """Handwritten digits in black and white, through a narrow code."""
    return Proxy(
        name="digits-coded",
        title="Black and white handwritten digits, by a variational autoencoder",
        space="vae",
        metric="nll",
        guards=("frechet", "pixel_error"),
        draw=_split,
        default=Setting(
            model=Autoencoder,
            optimiser="adam",
            batch=50,
            epochs=40,
            evaluate_every=10,
            rates=(0.01, 0.003, 0.03),
        ),
        changes={"wide": {"model": WideAutoencoder}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=16),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Coding(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-coded": digits_coded}
