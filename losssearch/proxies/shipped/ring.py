"""Which pairs of losses teach a generator the whole of a ring, and not one piece of it?

Eight round clouds on a circle in the plane; generator and discriminator have two hidden layers each. The
energy distance of a thousand made points to as many fresh real ones is the error: it is 0 only where both are
spread alike, so that a generator that makes one cloud perfectly pays, and so does one that blurs all eight.
Two sets of real points are .001 to .004 apart, points in a single cloud about 1 from the ring. Every split
draws its own points. One training takes about 0.75 seconds of one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.adversarial import BETAS, NOISE, Play, Players, samples

POINTS = {"train": 1024, "valid": 1000, "test": 1000}
MODES = 8
DEVIATION = 0.1  # of a cloud, in each direction; the circle's radius is 1
_NEAR = 3 * DEVIATION
_MADE = 1000


class Ring(Players):
    def __init__(self, width: int = 48) -> None:
        generator = nn.Sequential(
            nn.Linear(NOISE, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )
        super().__init__(generator, 2, width)


class WideRing(Ring):
    def __init__(self) -> None:
        super().__init__(width=128)


class RingTask(Play):
    """Targets are the number of each point's cloud, one-hot; nobody reads them."""

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        made = samples(model, _MADE, split.seed + 2)
        if not bool(torch.isfinite(made).all()):
            return dict.fromkeys(("energy", "modes_missed", "stray"), float("nan"))
        return {
            "energy": energy(made, x),
            "modes_missed": modes_missed(made),
            "stray": stray(made),
        }


def energy(a: Tensor, b: Tensor) -> float:
    """Energy distance of two clouds of points.

        d = 2 mean |a_i - b_j| - mean |a_i - a_j| - mean |b_i - b_j|

    Args:
        a, b: Points (samples, components).

    Returns:
        Not negative; 0 for the same points. Of large samples 0 only if both are spread alike.

    Source:
        Szekely & Rizzo 2013, J. Stat. Plan. Inference 143, 1249-1272.
    """
    one, two = a.double(), b.double()
    between, first, second = (torch.cdist(*p).mean() for p in ((one, two), (one, one), (two, two)))
    return float(2 * between - first - second)


def modes_missed(points: Tensor) -> float:
    """Share of the modes that have less than a tenth of their due of the points (samples, 2) near them.

    A point is near a mode within three deviations; their due is an eighth.
    """
    apart, mode = torch.cdist(points.double(), _centres()).min(1)
    found = torch.bincount(mode[apart < _NEAR], minlength=MODES)
    return float((found < 0.1 * len(points) / MODES).double().mean())


def stray(points: Tensor) -> float:
    """Share of the points (samples, 2) that are near no mode; of real ones 1.1 %."""
    return float((torch.cdist(points.double(), _centres()).amin(1) >= _NEAR).double().mean())


def _centres() -> Tensor:
    angle = torch.arange(MODES, dtype=torch.float64) * 2 * math.pi / MODES
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def _points(draw: np.random.Generator, count: int) -> tuple[Floats, Floats]:
    mode = draw.integers(MODES, size=count)
    points = _centres().numpy()[mode] + DEVIATION * draw.normal(size=(count, 2))
    return points.astype(np.float32), np.eye(MODES, dtype=np.float32)[mode]


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    parts = [
        _points(generator("ring", stage, seed, part), count)
        for part, count in POINTS.items()
        if part != "test" or stage == "audit"
    ]
    return Split(seed_of("ring", stage, seed), *parts)


def ring() -> Proxy:
    """Eight clouds on a circle, to be made from noise."""
    return Proxy(
        name="ring",
        title="Eight clouds of points on a circle, made from noise",
        space="gan",
        metric="energy",
        guards=("modes_missed", "stray"),
        draw=_split,
        default=Setting(
            model=Ring,
            optimiser="adam",
            betas=BETAS,
            batch=64,
            epochs=32,
            evaluate_every=8,
            rates=(0.003, 0.001, 0.01),
        ),
        changes={"wide": {"model": WideRing}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=16),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=RingTask(),
        sizes=(POINTS["train"], 0),  # every split draws its own points, so that they are independent
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"ring": ring}
