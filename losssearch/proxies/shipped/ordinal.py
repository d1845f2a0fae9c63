"""Which losses put images in order, from grades that are partly wrong?

scikit-learn's 1797 digits; a query is a list of 10 to 20 images, the greatest digits to stand first: 9 has
grade 4, 8 has 3, 7 has 2, 6 has 1, the others 0. An MLP scores each image by its pixels. Lists are dealt
anew from the images of every batch. In training and validation a quarter of the grades is drawn anew at
random, an image's for good; the audit's test grades are right. As in `digits.py` a fixed third of the images
is the audit pool, which no search sees. One training takes about 0.3 seconds of one core.
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
from losssearch.proxies.shipped.ranking import Order
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 500, "test": 500}
NOISE = 0.25  # share of the grades that are drawn anew; none under "clean"
SHORTEST, LONGEST = 10, 20  # images of a list
LISTS = 200  # that an error is measured on
_PIXELS, _GRADES = 64, 5
_BEST = 9


class Scorer(nn.Module):
    """A score for each image."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(_PIXELS, width), nn.ReLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"score": self.layers(x).squeeze(-1)}


class WideScorer(Scorer):
    def __init__(self) -> None:
        super().__init__(width=256)


class Dealt(Task):
    """Targets are the grades (samples,); the lists of them are judged as those of `ranking.py`."""

    def __init__(self) -> None:
        self._order = Order()

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        rows, there = deal(len(x) * 2 // (SHORTEST + LONGEST), len(x), draw)
        return self._order.batch(x[rows], torch.stack([y[rows], there], -1), draw)

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        rows, there = deal(LISTS, len(x), torch.Generator().manual_seed(split.seed + 2))
        return self._order.errors(model, split, x[rows], torch.stack([y[rows], there], -1))


def deal(lists: int, samples: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Lists of different samples, and where a list has one: both (lists, 20), the second 0 or 1.

    Lengths are even between 10 and 20; two lists may share a sample.
    """
    rows = torch.rand(lists, samples, generator=draw).argsort(1)[:, :LONGEST]
    length = torch.randint(SHORTEST, LONGEST + 1, (lists, 1), generator=draw)
    return rows, (torch.arange(LONGEST) < length).float()


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw = generator("digits-ranked", stage, seed)
    rows = dealt(development, pool, SIZES, stage, draw)
    grades = [np.maximum(labels[r] - (_BEST - _GRADES + 1), 0) for r in rows]
    if "clean" not in condition.split("+"):
        for i in range(2):  # the test grades stay right
            wrong = draw.random(len(grades[i])) < NOISE
            grades[i] = np.where(wrong, draw.integers(0, _GRADES, len(grades[i])), grades[i])
    parts = [(pixels[r], g.astype(np.float32)) for r, g in zip(rows, grades, strict=True)]
    return Split(seed_of("digits-ranked", stage, seed), *parts)


def digits_ranked() -> Proxy:
    """Lists of digits, the greatest first, a quarter of whose grades is noise."""
    return Proxy(
        name="digits-ranked",
        title="Lists of handwritten digits, the greatest first, a quarter of the grades wrong",
        space="ranking",
        metric="ndcg_error",
        guards=("reciprocal_error", "swapped"),
        draw=_split,
        default=Setting(
            model=Scorer,
            optimiser="adam",
            batch=150,
            epochs=60,
            evaluate_every=10,
            rates=(0.003, 0.01, 0.03),
        ),
        changes={"wide": {"model": WideScorer}, "clean": {}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=20),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 3, ("default", "wide")),
        ),
        task=Dealt(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-ranked": digits_ranked}
