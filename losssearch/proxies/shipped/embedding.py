"""Which losses bring alike digits together, even digits that the model was never taught?

scikit-learn's 1797 digits under noise that is drawn anew whenever an image is shown, an MLP to 12 components.
Six classes, drawn anew for each split, are taught, with a tenth of the labels wrong; how badly the nearest
neighbour tells the other four apart, their noise fixed, is the error. An untaught network has about .41 and a
taught one .30; the 64 pixels as they are have .08, since nothing has been left out of them. As in `digits.py`
a fixed third of the images is the audit pool, which no search sees. One training takes about 0.3
seconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.digits import digit_pool
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 300, "test": 200}
TAUGHT = 6
WRONG = 0.1
NOISE = 0.25  # deviation of a pixel; its range is 0 to 1
_COMPONENTS = 12
_CLASSES = 10


class Embedder(nn.Module):
    """An embedding of each image, and one of each taught class for losses that ask for it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, _COMPONENTS))
        self.weights = nn.Parameter(torch.randn(_COMPONENTS, _CLASSES))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"e": self.layers(x), "weights": self.weights}


class WideEmbedder(Embedder):
    def __init__(self) -> None:
        super().__init__(width=256)


class Neighbours(Task):
    """Targets are one-hot labels (samples, 10)."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        same = y @ y.T > 0
        eye = torch.eye(len(y), dtype=torch.bool)
        pick = torch.rand(same.shape, generator=draw) < 0.3
        noisy = x + NOISE * torch.randn(x.shape, generator=draw)
        return noisy, {"same": same, "eye": eye, "pick": pick, "label": y}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        e, label = model(x)["e"].double(), y.argmax(1)
        return {"recall_error": recall_error(e, label), "map_r_error": map_r_error(e, label)}


def recall_error(e: Tensor, label: Tensor) -> float:
    """1 - recall@1: share of the samples whose nearest other sample is of another class.

    Args:
        e: Embeddings (samples, components); Euclidean distance after they are brought to length 1.
        label: Classes (samples,).

    Returns:
        In [0, 1]; nan where an embedding is not finite. Of equally near samples, in expectation over which is
        taken: embeddings that all coincide get no better than chance.

    Source:
        Jegou, Douze & Schmid 2011, IEEE TPAMI 33, Sec. 5.
    """
    if not bool(torch.isfinite(e).all()):
        return float("nan")
    near = _nearness(e)
    nearest = near >= near.amax(1, keepdim=True) - 1e-9
    same = label.unsqueeze(1) == label
    return float(1 - ((nearest & same).sum(1).double() / nearest.sum(1)).mean())


def map_r_error(e: Tensor, label: Tensor) -> float:
    """1 - MAP@R: mean average precision among the R nearest, R being how many others are of its class.

        AP@R = 1/R sum_{i <= R} [i-th nearest is alike] * (alike ones among the i nearest) / i

    Args and returns as in `recall_error`, but of equally near samples the earlier is the nearer; samples that
    are alone in their class take no part.

    Source:
        Musgrave, Belongie & Lim 2020, arXiv:2003.08505, Sec. 3.2.
    """
    if not bool(torch.isfinite(e).all()):
        return float("nan")
    order = _nearness(e).argsort(dim=1, descending=True, stable=True)[:, :-1]  # the last is the sample itself
    alike = (label[order] == label.unsqueeze(1)).double()
    count = alike.sum(1, keepdim=True)
    place = torch.arange(1, alike.shape[1] + 1, dtype=torch.float64)
    precision = alike * alike.cumsum(1) / place * (place <= count)
    asked = count.squeeze(1) > 0
    return float(1 - (precision.sum(1)[asked] / count.squeeze(1)[asked]).mean())


def _nearness(e: Tensor) -> Tensor:
    """Cosines of all pairs; of a sample with itself less than any."""
    unit = e / e.norm(dim=1, keepdim=True).clamp_min(1e-12)
    cosine: Tensor = unit @ unit.T
    return cosine.fill_diagonal_(-2)


def _noisy(pixels: Floats, draw: np.random.Generator) -> Floats:
    return (pixels + NOISE * draw.normal(size=pixels.shape)).astype(np.float32)


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw = generator("digits-unseen", stage, seed)
    taught = np.isin(labels, draw.permutation(_CLASSES)[:TAUGHT])
    searched = draw.permutation(development)
    rows = [searched[taught[searched]][: SIZES["train"]], searched[~taught[searched]][: SIZES["valid"]]]
    if stage == "audit":
        tested = draw.permutation(pool)
        rows.append(tested[~taught[tested]][: SIZES["test"]])
    x = [pixels[rows[0]], *(_noisy(pixels[r], draw) for r in rows[1:])]
    given = [labels[r] for r in rows]
    wrong = draw.random(len(given[0])) < WRONG
    given[0] = np.where(wrong, draw.choice(given[0], len(given[0])), given[0])
    y = [np.eye(_CLASSES, dtype=np.float32)[g] for g in given]
    return Split(seed_of("digits-unseen", stage, seed), *zip(x, y, strict=True))


def digits_unseen() -> Proxy:
    """Noisy digits of six classes, judged on the four others."""
    return Proxy(
        name="digits-unseen",
        title="Noisy handwritten digits: taught on six classes, judged on four others",
        space="embedding",
        metric="recall_error",
        guards=("map_r_error",),
        draw=_split,
        default=Setting(
            model=Embedder,
            optimiser="adam",
            batch=40,
            epochs=20,
            evaluate_every=4,
            rates=(0.001, 0.003, 0.0003),
        ),
        changes={"wide": {"model": WideEmbedder}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=8),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Neighbours(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-unseen": digits_unseen}
