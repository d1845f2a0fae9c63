"""Which losses bring back the digits of blurred pictures?

scikit-learn's 1797 digits; a picture of 4 x 4 means of 2 x 2 pixels goes in, under noise, and a small network
gives 8 x 8. Losses see the pixels, and what two layers of a taught network see in them (`judges.py`). The
error is the share of the digits that *another* taught network misreads, so that nobody wins by the quirks of
the one that losses look through; PSNR and how much rougher or smoother the pictures came out are the guards.
As in `digits.py` a fixed third of the images is the audit pool, which no search sees; the judges are taught
on the development images alone. Once they are, one training takes about half a second of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from losssearch.execution.plan import Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of
from losssearch.proxies.shipped.digits import dealt, digit_pool
from losssearch.proxies.shipped.judges import judge, misread
from losssearch.proxies.structured import Task

SIZES = {"train": 600, "valid": 500, "test": 500}
NOISE = 0.05  # deviation of a pixel of the small picture; its range is 0 to 1
_SIDE, _SMALL = 8, 4
_SEEN_BY, _READ_BY = "features", "reader"  # names of judges: one that losses look through, one that marks


class Sharpener(nn.Module):
    """A picture of 8 x 8 from one of 4 x 4, and what the judge that losses look through sees in it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(_SMALL**2, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, _SIDE**2),
        )

    def sharpen(self, small: Tensor) -> Tensor:
        """Pixels (samples, 64) of small pictures (samples, 16), around 0 to 1."""
        coarse = small.unflatten(1, (_SMALL, _SMALL)).repeat_interleave(2, 1).repeat_interleave(2, 2)
        return cast(Tensor, coarse.flatten(1) + self.layers(small))

    def forward(self, small: Tensor) -> dict[str, Tensor]:
        image = self.sharpen(small)
        f, deep = seen(image)
        return {"pixels_x": image.unflatten(1, (_SIDE, _SIDE)), "f": f, "f_deep": deep}


class WideSharpener(Sharpener):
    def __init__(self) -> None:
        super().__init__(width=192)


def seen(image: Tensor) -> tuple[Tensor, Tensor]:
    """Features of images (samples, 64) from two layers: (samples, channels, positions) each."""
    near, deep = judge(_SEEN_BY).layers(image)
    return near.flatten(2), deep.flatten(2)


class Sharpening(Task):
    """Targets are (samples, 65): the pixels of the image, then its digit, which no loss is told."""

    def batch(self, x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        image = y[:, :-1]
        g, deep = seen(image)
        return x, {"pixels_y": image.unflatten(1, (_SIDE, _SIDE)), "g": g, "g_deep": deep}

    def errors(self, model: nn.Module, split: Split, x: Tensor, y: Tensor) -> Mapping[str, float]:
        image, truth, digit = cast(Sharpener, model).sharpen(x), y[:, :-1], y[:, -1].long()
        if not bool(torch.isfinite(image).all()):
            return dict.fromkeys(("misread", "minus_psnr", "roughness_error"), float("nan"))
        return {
            "misread": misread(judge(_READ_BY), image, digit),
            "minus_psnr": -psnr(image, truth),
            "roughness_error": abs(roughness(image) / roughness(truth) - 1),
        }


def psnr(found: Tensor, truth: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, of all pictures together, with a peak of 1.

        PSNR = -10 log10 mean((found - truth)^2)

    Args:
        found, truth: Pictures of one shape, pixels in [0, 1].

    Returns:
        At most 120, where pictures are equal but for rounding.
    """
    mse = float((found - truth).double().square().mean())
    return -10 * float(np.log10(max(mse, 1e-12)))


def roughness(image: Tensor) -> float:
    """Mean absolute difference of neighbours along rows, plus that along columns.

    Args:
        image: Pixels, shape (samples, 64).
    """
    pixels = image.double().unflatten(1, (_SIDE, _SIDE))
    return float(pixels.diff(dim=1).abs().mean() + pixels.diff(dim=2).abs().mean())


def _small(pixels: Floats, draw: np.random.Generator) -> Floats:
    """Means of 2 x 2 pixels, (samples, 16), with noise."""
    blocks = pixels.reshape(-1, _SMALL, 2, _SMALL, 2).mean((2, 4)).reshape(-1, _SMALL**2)
    noisy: Floats = (blocks + NOISE * draw.normal(size=blocks.shape)).astype(np.float32)
    return noisy


@lru_cache(maxsize=32)
def _split(seed: int, condition: str, stage: Stage) -> Split:
    pixels, labels, development, pool = digit_pool()
    draw = generator("digits-sharpened", stage, seed)
    rows = dealt(development, pool, SIZES, stage, draw)
    parts = [
        (_small(pixels[r], draw), np.concatenate([pixels[r], labels[r, None]], 1).astype(np.float32))
        for r in rows
    ]
    return Split(seed_of("digits-sharpened", stage, seed), *parts)


def digits_sharpened() -> Proxy:
    """Digits of 8 x 8 pixels from noisy ones of 4 x 4."""
    return Proxy(
        name="digits-sharpened",
        title="Handwritten digits from a quarter of their pixels; judged by who can read them",
        space="perceptual",
        metric="misread",
        guards=("minus_psnr", "roughness_error"),
        draw=_split,
        default=Setting(
            model=Sharpener,
            optimiser="adam",
            batch=50,
            epochs=24,
            evaluate_every=4,
            rates=(0.01, 0.003, 0.03),
        ),
        changes={"wide": {"model": WideSharpener}},
        second="wide",
        rungs=(
            Rung(tuple(range(2)), 1, epochs=8),
            Rung(tuple(range(2, 6)), 2),
            Rung(tuple(range(6, 14)), 2, ("default", "wide")),
        ),
        task=Sharpening(),
        sizes=(SIZES["train"], SIZES["test"]),
    )


PROXIES: Mapping[str, Callable[[], Proxy]] = {"digits-sharpened": digits_sharpened}
