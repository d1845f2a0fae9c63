"""Which losses weigh several tasks well, when one network learns them at once?

scikit-learn's 1797 digits; one small network with three heads tells the class of an image, how slanted it is
and how wide its strokes are. The last two come from formulas on the image, standardised on the training part.
Labels are spoilt in training and validation, each task's differently: a tenth of the classes is drawn anew,
and noise lies on slants and, three times as much, on widths, whose squared errors are therefore the greatest
and teach the least. The audit's test labels are right. How much each task counts is drawn anew for each
split, told to losses as `weight`, and kept to by the error. As in `digits.py` a fixed third of the images is
the audit pool, which no search sees. One training takes about a quarter of a second of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.digits import dealt, digit_pool
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 500, "test": 500}
WRONG = 0.1  # share of the classes that are drawn anew; none under "clean"
NOISE = {"slant": 0.5, "width": 1.5}  # in deviations of the right labels; none under "clean"
WEIGHTS = (0.5, 1.0, 2.0)  # how much the tasks count, in an order of the split's own
_SIDE, _CLASSES = 8, 10


class Reader(nn.Module):
    """Class logits, slant and width of each image, from one shared layer."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Linear(_SIDE**2, width), nn.ReLU())
        self.heads = nn.Linear(width, _CLASSES + 2)
        self.log_var = nn.Parameter(torch.zeros(3))

    def read(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (samples, 10), slants and widths (samples,)."""
        found = self.heads(self.shared(x))
        return found[:, :_CLASSES], found[:, _CLASSES], found[:, _CLASSES + 1]

    def forward(self, shown: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The loss of each task, (3,), on images and their targets, and the learnt log variances."""
        x, y = shown
        logits, slant, width = self.read(x)
        right, real = y[:, :_CLASSES], y[:, _CLASSES:]
        losses = F.cross_entropy(logits, right), F.mse_loss(slant, real[:, 0]), F.mse_loss(width, real[:, 1])
        return {"losses": torch.stack(losses), "log_var": self.log_var}


class WideReader(Reader):
    def __init__(self) -> None:
        super().__init__(width=64)


class Reading(Task):
    """Targets are (samples, 12): a one-hot class, the slant and the width.

    The losses of the tasks are the network's to compute, so it is shown the targets too.
    """

    def batch(
        self, x: Tensor, y: Tensor, draw: torch.Generator
    ) -> tuple[tuple[Tensor, Tensor], Mapping[str, Tensor]]:
        return (x, y), {}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        logits, slant, width = cast(Reader, model).read(x)
        each = {
            "class_error": float((logits.argmax(1) != y[:, :_CLASSES].argmax(1)).double().mean()),
            "slant_error": unexplained(slant, y[:, _CLASSES]),
            "width_error": unexplained(width, y[:, _CLASSES + 1]),
        }
        if not bool(torch.isfinite(logits).all()):
            each["class_error"] = float("nan")
        return {"weighted_error": weighted(list(each.values()), split.provided["weight"].tolist()), **each}


def weighted(errors: Sequence[float], weight: Sequence[float]) -> float:
    """Mean of the errors of the tasks, each counted as it weighs."""
    return sum(w * e for w, e in zip(weight, errors, strict=True)) / sum(weight)


def unexplained(found: Tensor, truth: Tensor) -> float:
    """1 - R^2: squared error over that of the mean of the truth, at most 1.

    Args:
        found, truth: Shape (samples,).

    Returns:
        In [0, 1]; nan where a number is not finite.
    """
    if not bool(torch.isfinite(found).all()):
        return float("nan")
    x, y = found.double(), truth.double()
    return min(1.0, float((x - y).square().sum() / (y - y.mean()).square().sum().clamp_min(1e-12)))


def slant(pixels: Floats) -> NDArray[np.float64]:
    """By how many columns an image moves to the right from one row to the row above.

        -mu_11 / mu_02,    mu_ij the central moment of order i along columns and j along rows

    The shear that puts the image upright: 0 for an upright bar, positive for italics.

    Args:
        pixels: Ink, shape (samples, 64).

    Returns:
        Shape (samples,); 0 where all ink is in one row.

    Source:
        Teague 1980, J. Opt. Soc. Am. 70, for the moments.
    """
    ink = pixels.reshape(-1, _SIDE, _SIDE).astype(np.float64)
    y, x = (place - _middle(ink, place) for place in np.mgrid[:_SIDE, :_SIDE].astype(np.float64))
    along, down = (ink * x * y).sum((1, 2)), (ink * y * y).sum((1, 2))
    return np.where(down > 1e-9, -along / np.maximum(down, 1e-9), 0.0)


def stroke_width(pixels: Floats) -> NDArray[np.float64]:
    """The short side of the rectangle with the area and the perimeter of the ink, in pixels.

        w l = A,  2 (w + l) = P:    w = P/4 - sqrt(max((P/4)^2 - A, 0))

    A is the sum of the ink. P sums its steps along rows and columns, with blank paper around: the perimeter
    where edges run along rows and columns, up to sqrt(2) times it where they run aslant.

    Args:
        pixels: Ink, shape (samples, 64), in [0, 1].

    Returns:
        Shape (samples,); exact for upright bars, 0 for blank paper.
    """
    ink = np.pad(pixels.reshape(-1, _SIDE, _SIDE).astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    edge = sum(np.abs(np.diff(ink, axis=axis)).sum((1, 2)) for axis in (1, 2))
    half: NDArray[np.float64] = edge / 4
    width: NDArray[np.float64] = half - np.sqrt(np.maximum(half**2 - ink.sum((1, 2)), 0))
    return width


def _middle(ink: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean place of the ink of each image, (samples, 1, 1)."""
    moment, all_of_it = ((w * ink).sum((1, 2), keepdims=True) for w in (place, 1.0))
    middle: NDArray[np.float64] = moment / np.maximum(all_of_it, 1e-9)
    return middle


def _spoilt(y: Floats, draw: np.random.Generator) -> Floats:
    """Targets with some classes drawn anew, and noise on the numbers."""
    other = np.eye(_CLASSES)[draw.integers(0, _CLASSES, len(y))]
    wrong = draw.random((len(y), 1)) < WRONG
    real = y[:, _CLASSES:] + draw.normal(size=(len(y), 2)) * list(NOISE.values())
    return np.concatenate([np.where(wrong, other, y[:, :_CLASSES]), real], 1).astype(np.float32)


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw = generator("digits-tasks", stage, seed)
    rows = dealt(development, pool, SIZES, stage, draw)
    real = np.stack([slant(pixels), stroke_width(pixels)], 1)
    real = (real - real[rows[0]].mean(0)) / real[rows[0]].std(0)
    right = np.concatenate([np.eye(_CLASSES)[labels], real], 1).astype(np.float32)
    parts = [(pixels[r], right[r]) for r in rows]
    if "clean" not in condition.split("+"):
        parts[:2] = [(x, _spoilt(y, draw)) for x, y in parts[:2]]  # the test labels stay right
    weight = generator("digits-tasks", "weight", stage, seed).permutation(WEIGHTS).astype(np.float32)
    return Split(seed_of("digits-tasks", stage, seed), *parts, provided={"weight": weight})


def digits_tasks() -> Proxy:
    """Class, slant and stroke width of digits at once, each label spoilt in its own way."""
    return Proxy(
        name="digits-tasks",
        title="Class, slant and stroke width of handwritten digits at once, labels unequally noisy",
        space="multitask",
        metric="weighted_error",
        guards=("class_error", "slant_error", "width_error"),
        draw=_split,
        default=Setting(
            model=Reader,
            optimiser="adam",
            batch=40,
            epochs=20,
            evaluate_every=4,
            rates=(0.003, 0.01, 0.001),
        ),
        changes={"wide": {"model": WideReader}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=8),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Reading(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-tasks": digits_tasks}
