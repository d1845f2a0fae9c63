"""Which losses find the outlines of small things?

Generated pictures of 16 x 16 pixels: a disc, a square and a thin cross, each a class of its own, on a
background that covers nine tenths. What a pixel is shows in the texture and shape around it, not in itself:
classes differ in the direction of their stripes, and noise lies over all. In training and validation a
twentieth of the pixels has no label, and outlines are shifted by a pixel in a quarter of the pictures; the
audit's test labels are right. Every split draws its own pictures. One training takes about 0.8 seconds of
one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.structured import Task

PICTURES = {"train": 96, "valid": 96, "test": 200}
SIDE = 16
CLASSES = 4  # background, disc, square, cross
UNLABELLED = 0.05
SHIFTED = 0.25  # share of the pictures whose labels are off by a pixel
_THERE = (0.9, 0.6, 0.5)  # how often each shape is in a picture
_STRIPES = ((0.0, 0.0), (1.3, 0.0), (0.0, 1.3), (0.9, 0.9))  # waves along y and x, a class


class Painter(nn.Module):
    """A class for each pixel from the 7 x 7 around it."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, CLASSES, 3, padding=1),
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layers(x).flatten(2)}


class WidePainter(Painter):
    def __init__(self) -> None:
        super().__init__(width=24)


class Outline(Task):
    """Targets are (pictures, classes, pixels), one-hot; all 0 where a pixel has no label."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        return x, {"target": y, "valid": y.sum(1) > 0}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        logits = model(x)["logits"]
        if not bool(torch.isfinite(logits).all()):
            return dict.fromkeys(("miou_error", "boundary_error"), float("nan"))
        found, truth, valid = logits.argmax(1), y.argmax(1), y.sum(1) > 0
        return {
            "miou_error": miou_error(found, truth, valid),
            "boundary_error": boundary_error(_maps(found, valid), _maps(truth, valid)),
        }


def miou_error(found: Tensor, truth: Tensor, valid: Tensor) -> float:
    """1 - mean over classes of intersection over union, counted over all pictures together.

    Args:
        found, truth: Classes, of shape (pictures, pixels).
        valid: Pixels that count.

    Returns:
        In [0, 1]; a class that is neither found nor there takes no part.

    Source:
        Everingham et al. 2010, IJCV 88, Sec. 4.4.
    """
    shares = []
    for label in range(CLASSES):
        a, b = (found == label) & valid, (truth == label) & valid
        union = int((a | b).sum())
        if union:
            shares.append(int((a & b).sum()) / union)
    return 1 - sum(shares) / len(shares)


def boundary_error(found: Tensor, truth: Tensor) -> float:
    """1 - mean over the shapes' classes of the F1 of their outlines, with a tolerance of one pixel.

    An outline is what of a class has a neighbour (of four) outside it. A found outline pixel is right if a
    true one is among it and its eight neighbours, and the other way round; counts are over all pictures.

    Args:
        found, truth: Masks of shape (pictures, classes, side, side); class 0, the background, does not count.

    Returns:
        In [0, 1]; a class without an outline on either side takes no part.

    Source:
        Csurka et al. 2013, BMVC, Sec. 3.1, with counts in place of a mean over pictures.
    """
    a, b = _edges(found[:, 1:]), _edges(truth[:, 1:])
    near_a, near_b = (max_pool2d(mask.float(), 3, 1, 1) > 0 for mask in (a, b))
    right, recalled = ((one & two).sum((0, 2, 3)).double() for one, two in ((a, near_b), (b, near_a)))
    precision, recall = right / a.sum((0, 2, 3)).clamp_min(1), recalled / b.sum((0, 2, 3)).clamp_min(1)
    score = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
    counts = (a | b).any(0).flatten(1).any(1)
    return float(1 - score[counts].mean()) if bool(counts.any()) else 0.0


def _edges(mask: Tensor) -> Tensor:
    """What of a mask has one of its four neighbours outside; beyond the picture nothing is outside."""
    out = nn.functional.pad((~mask).float(), (1, 1, 1, 1))
    beside = out[..., :-2, 1:-1] + out[..., 2:, 1:-1] + out[..., 1:-1, :-2] + out[..., 1:-1, 2:]
    edges: Tensor = mask & (beside > 0)
    return edges


def _maps(label: Tensor, valid: Tensor) -> Tensor:
    """Masks (pictures, classes, side, side) of labels (pictures, pixels)."""
    hot = nn.functional.one_hot(label, CLASSES).bool() & valid.unsqueeze(-1)
    return hot.transpose(1, 2).reshape(-1, CLASSES, SIDE, SIDE)


def _pictures(draw: np.random.Generator, count: int, clean: bool) -> tuple[Floats, Floats]:
    """Pictures (count, 1, side, side) and targets (count, classes, pixels)."""
    label = np.stack([_scene(draw) for _ in range(count)])
    y, x = np.mgrid[:SIDE, :SIDE]
    texture = np.zeros((count, SIDE, SIDE))
    for k, (down, along) in enumerate(_STRIPES):
        phase = draw.uniform(0, 2 * np.pi, (count, 1, 1))
        texture += np.where(label == k, np.sin(down * y + along * x + phase) * (k > 0), 0.0)
    picture = texture + 1.0 * (label > 0) + 0.4 * draw.normal(size=texture.shape)
    if not clean:
        for i in np.flatnonzero(draw.random(count) < SHIFTED):
            label[i] = np.roll(label[i], draw.choice((-1, 1)), draw.integers(0, 2))
    hot = np.eye(CLASSES, dtype=np.float32)[label.reshape(count, -1)]
    if not clean:
        hot *= draw.random((*hot.shape[:2], 1)) >= UNLABELLED
    return picture[:, None].astype(np.float32), np.ascontiguousarray(hot.transpose(0, 2, 1))


def _scene(draw: np.random.Generator) -> NDArray[np.int64]:
    """Labels of one picture, (side, side); later shapes lie over earlier ones."""
    label = np.zeros((SIDE, SIDE), np.int64)
    y, x = np.mgrid[:SIDE, :SIDE]
    for k, often in enumerate(_THERE, 1):
        size = draw.uniform(1.5, 3.0)
        a, b = np.abs(y - draw.uniform(3, SIDE - 4)), np.abs(x - draw.uniform(3, SIDE - 4))
        shape = (
            a**2 + b**2 <= size**2,
            np.maximum(a, b) <= size,
            (np.minimum(a, b) <= 0.7) & (np.maximum(a, b) <= size + 1),
        )[k - 1]
        if draw.random() < often:
            label[shape] = k
    return label


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    clean = "clean" in condition.split("+")
    parts = [
        _pictures(generator("shapes", stage, seed, part), count, clean or part == "test")
        for part, count in PICTURES.items()
        if part != "test" or stage == "audit"
    ]
    count = np.maximum(parts[0][1].sum((0, 2)), 1)
    prior = (count / count.sum()).astype(np.float32)
    return Split(seed_of("shapes", stage, seed), *parts, provided={"prior": prior})


def shapes() -> Proxy:
    """Small striped shapes on a large background, some of whose labels are missing or off by a pixel."""
    return Proxy(
        name="shapes",
        title="Striped shapes on a background that covers nine tenths",
        space="segmentation",
        metric="miou_error",
        guards=("boundary_error",),
        draw=_split,
        default=Setting(
            model=Painter,
            optimiser="adam",
            batch=8,
            epochs=30,
            evaluate_every=5,
            rates=(0.01, 0.02, 0.005),
        ),
        changes={"wide": {"model": WidePainter}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=15),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Outline(),
        sizes=(PICTURES["train"], 0),  # every split draws its own pictures, so that they are independent
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"shapes": shapes}
