"""Which losses put boxes around objects, and name them?

Generated scenes of 16 x 16 pixels with one to three objects (a full rectangle, a frame, a cross) in noise.
The picture is cut into 4 x 4 cells; the cell in which an object has its centre is its anchor, and the model
gives every cell a box, as distances from the cell's middle in pixels, and a logit for each class. Corners are
sloppy in training and validation, one box in seven grossly so; the audit's test boxes are right. Every split
draws its own scenes. The error asks for places only: whether a loss names objects too, the guards say. One
training takes about 0.9 seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.structured import Task

SCENES = {"train": 480, "valid": 128, "test": 300}
SIDE, CELLS = 16, 4
CLASSES = 3  # rectangle, frame, cross
SLOPPY, GROSS = 0.4, 0.15  # deviation of a corner in pixels; share of the boxes that are off by far
_FAR = 3.0  # deviation of a corner of those
_CELL = SIDE // CELLS
_CORNERS = ("x1", "y1", "x2", "y2")
_POS = 4 + CLASSES  # row of a target that says which anchors have an object


class Detector(nn.Module):
    """A box and class logits for each cell, from the 14 x 14 pixels around its middle."""

    x: Tensor
    y: Tensor

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 + CLASSES, 3, padding=1),
        )
        middle = torch.arange(CELLS) * _CELL + _CELL / 2
        self.register_buffer("x", middle.repeat(CELLS))
        self.register_buffer("y", middle.repeat_interleave(CELLS))

    def forward(self, shown: Tensor) -> dict[str, Tensor]:
        found = self.layers(shown).flatten(2)
        reach = 3 * softplus(found[:, :4])  # about 2 pixels each way before anything is learnt
        return {
            "px1": self.x - reach[:, 0],
            "py1": self.y - reach[:, 1],
            "px2": self.x + reach[:, 2],
            "py2": self.y + reach[:, 3],
            "logits": found[:, 4:],
        }


class WideDetector(Detector):
    def __init__(self) -> None:
        super().__init__(width=32)


class Detection(Task):
    """Targets are (scenes, 8, anchors): corners x1, y1, x2, y2 in pixels, one-hot class, 1 if assigned."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        told = {f"t{name}": y[:, i] for i, name in enumerate(_CORNERS)}
        return x, {**told, "label": y[:, 4:_POS], "pos": y[:, _POS] > 0}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        found = model(x)
        boxes = torch.stack([found[f"p{name}"] for name in _CORNERS], -1).double()
        logits = found["logits"].transpose(1, 2).double()
        if not bool(torch.isfinite(boxes).all() and torch.isfinite(logits).all()):
            return dict.fromkeys(("iou_error", "class_error", "ap_error"), float("nan"))
        truth, pos = y[:, :4].transpose(1, 2).double(), y[:, _POS] > 0
        label = y[:, 4:_POS].argmax(1)
        return {
            "iou_error": float(1 - iou(boxes, truth)[pos].mean()),
            "class_error": float((logits.argmax(-1) != label)[pos].double().mean()),
            "ap_error": ap_error(boxes, logits, truth, label, pos),
        }


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes.

    Args:
        a, b: Shape (..., 4): x1, y1, x2, y2; one whose corners stand the wrong way round is empty.

    Returns:
        Shape (...), in [0, 1]; 0 for two empty boxes.
    """
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    inter = (high - low).clamp_min(0).prod(-1)
    sizes = [(box[..., 2:] - box[..., :2]).clamp_min(0).prod(-1) for box in (a, b)]
    return inter / (sizes[0] + sizes[1] - inter).clamp_min(1e-12)


def ap_error(boxes: Tensor, logits: Tensor, truth: Tensor, label: Tensor, pos: Tensor) -> float:
    """1 - average precision at IoU 0.5, all classes together.

    Every anchor is one detection: its box, the class of its greatest logit, and that logit as confidence.
    From the most confident on, one is right if an object of its class in its scene, not found before,
    overlaps it by half; it takes the one that it overlaps most. Precision is averaged over the objects found,
    an object never found counts 0.

    Args:
        boxes, truth: Shape (scenes, anchors, 4).
        logits: Shape (scenes, anchors, classes).
        label, pos: Shape (scenes, anchors): class of an anchor's object, and whether it has one.

    Returns:
        In [0, 1].

    Source:
        Everingham et al. 2010, IJCV 88, Sec. 4.2, with precision at each object found in place of eleven
        levels of recall.
    """
    confidence, kind = logits.max(-1)
    overlap = iou(boxes.unsqueeze(2), truth.unsqueeze(1))
    fits = (overlap >= 0.5) & (kind.unsqueeze(2) == label.unsqueeze(1)) & pos.unsqueeze(1)
    table = torch.where(fits, overlap, -1.0).numpy()
    anchors = pos.shape[1]
    right = np.zeros(pos.numel())
    for rank, place in enumerate(confidence.flatten().argsort(descending=True, stable=True).tolist()):
        scene, anchor = divmod(place, anchors)
        best = int(table[scene, anchor].argmax())
        if table[scene, anchor, best] >= 0:
            table[scene, :, best] = -1  # found: it counts once
            right[rank] = 1
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    return float(1 - (precision * right).sum() / max(int(pos.sum()), 1))


def _scenes(draw: np.random.Generator, count: int, clean: bool) -> tuple[Floats, Floats]:
    """Pictures (count, 1, side, side) and targets (count, 8, anchors)."""
    pictures = 0.3 * draw.normal(size=(count, SIDE, SIDE))
    targets = np.zeros((count, _POS + 1, CELLS * CELLS))
    for picture, target in zip(pictures, targets, strict=True):
        target[2:4] = 1.0  # nobody's box, but a box
        cells = draw.permutation(CELLS * CELLS)[: draw.integers(1, 4)]
        for cell in cells:
            middle = (np.array([cell % CELLS, cell // CELLS]) + draw.uniform(0.1, 0.9, 2)) * _CELL
            half = draw.uniform(1.2, 4.0, 2)
            low, high = np.maximum(middle - half, 0), np.minimum(middle + half, SIDE)
            kind = int(draw.integers(CLASSES))
            _paint(picture, low, high, kind, float(draw.uniform(0.8, 1.6)))
            corners = np.concatenate([low, high])
            off = (_FAR if draw.random() < GROSS else SLOPPY) * draw.normal(size=4)
            if not clean:
                corners = corners + off
                corners[2:] = np.maximum(corners[2:], corners[:2] + 0.5)
            target[:4, cell] = corners
            target[4:_POS, cell] = np.eye(CLASSES)[kind]
            target[_POS, cell] = 1
    return pictures[:, None].astype(np.float32), targets.astype(np.float32)


def _paint(picture: Floats, low: Floats, high: Floats, kind: int, bright: float) -> None:
    """An object between two corners (x, y), in place."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    inside = (x > low[0]) & (x < high[0]) & (y > low[1]) & (y < high[1])
    middle = (low + high) / 2
    if kind == 1:
        inside &= (x < low[0] + 1) | (x > high[0] - 1) | (y < low[1] + 1) | (y > high[1] - 1)
    elif kind == 2:
        inside &= (np.abs(x - middle[0]) <= 0.6) | (np.abs(y - middle[1]) <= 0.6)
    picture[inside] += bright


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    clean = "clean" in condition.split("+")
    parts = [
        _scenes(generator("scenes", stage, seed, part), count, clean or part == "test")
        for part, count in SCENES.items()
        if part != "test" or stage == "audit"
    ]
    return Split(seed_of("scenes", stage, seed), *parts)


def scenes() -> Proxy:
    """Small scenes whose boxes are drawn sloppily."""
    return Proxy(
        name="scenes",
        title="Objects in noise, boxes drawn sloppily",
        space="boxes",
        metric="iou_error",
        guards=("class_error", "ap_error"),
        draw=_split,
        default=Setting(
            model=Detector,
            optimiser="adam",
            batch=16,
            epochs=12,
            evaluate_every=2,
            rates=(0.003, 0.01, 0.001),
        ),
        changes={"wide": {"model": WideDetector}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=6),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Detection(),
        sizes=(SCENES["train"], 0),  # every split draws its own scenes, so that they are independent
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"scenes": scenes}
