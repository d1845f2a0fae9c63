"""Which pairs of losses teach a generator to make handwritten digits, all ten of them?

scikit-learn's 1797 digits; generator and discriminator have two hidden layers each. The error is the Frechet
distance of a thousand made images to real ones, over what a small network that was taught to read sees in
them (`judges.py`): two sets of real ones are 4 or 5 apart, one digit over and over is more than 1000 away.
Another such network says which digits are never made, and how many images it cannot read. As in `digits.py` a
fixed third of the images is the audit pool, which no search sees. One training takes about a second of one
core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.execution.plan import Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.adversarial import BETAS, NOISE, Play, Players, samples
from losssearch.proxies.shipped.digits import dealt, digit_pool
from losssearch.proxies.shipped.judges import frechet, judge

SIZES = {"train": 600, "valid": 500, "test": 500}
SURE = 0.9  # the least probability with which an image counts as read
_PIXELS, _CLASSES = 64, 10
_MADE = 1000


class Maker(Players):
    """Layers of the generator are normalised over the batch: else hardly a loss makes more than one digit.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167; here after Radford et al. 2016, arXiv:1511.06434.
    """

    def __init__(self, width: int = 96) -> None:
        generator = nn.Sequential(
            nn.Linear(NOISE, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(),
            nn.Linear(width, _PIXELS), nn.Sigmoid(),
        )  # fmt: skip
        super().__init__(generator, _PIXELS, width)


class WideMaker(Maker):
    def __init__(self) -> None:
        super().__init__(width=192)


class MadeTask(Play):
    """Targets are one-hot labels (samples, 10); nobody reads them."""

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        made = samples(model, _MADE, split.seed + 2)
        if not bool(torch.isfinite(made).all()):
            return dict.fromkeys(("frechet", "classes_missed", "unread"), float("nan"))
        critic, reader = judge("made digits"), judge("made digits, guard")
        p = reader(made).softmax(1)
        return {
            "frechet": frechet(critic.features(made), critic.features(x)),
            "classes_missed": classes_missed(p),
            "unread": float((p.amax(1) < SURE).double().mean()),
        }


def classes_missed(p: Tensor) -> float:
    """Share of the classes that have less than a tenth of their due.

    Args:
        p: Class probabilities (samples, classes). A sample is of the class of the greatest, if that is at
            least `SURE`; what is due to a class is one sample in as many as there are classes.
    """
    sure, kind = p.max(1)
    found = torch.bincount(kind[sure >= SURE], minlength=p.shape[1])
    return float((found < 0.1 * len(p) / p.shape[1]).double().mean())


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw, tested = generator("digits-made", stage, seed), generator("digits-made", "test", seed)
    rows = dealt(development, pool, SIZES, stage, draw, tested)
    hot = np.eye(_CLASSES, dtype=np.float32)
    return Split(seed_of("digits-made", stage, seed), *((pixels[r], hot[labels[r]]) for r in rows))


def digits_made() -> Proxy:
    """Handwritten digits, to be made from noise."""
    return Proxy(
        name="digits-made",
        title="Handwritten digits, made from noise",
        space="gan",
        metric="frechet",
        guards=("classes_missed", "unread"),
        draw=_split,
        default=Setting(
            model=Maker,
            optimiser="adam",
            betas=BETAS,
            batch=50,
            epochs=40,
            evaluate_every=10,
            rates=(0.003, 0.001, 0.01),
        ),
        changes={"wide": {"model": WideMaker}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=20),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=MadeTask(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-made": digits_made}
