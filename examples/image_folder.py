"""Images of your own: a folder a class, a small convolutional network, a search.

    python examples/image_folder.py

writes scikit-learn's digits as PNG files, digits-png/0/17.png and so on, and searches on them. For images of
yours, leave `write` out and change `FOLDER`, `SIZE` and the network. A third of the labels is drawn anew, so
that there is something to find.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import losssearch as ls

FOLDER, SIZE = Path("digits-png"), 8


def write(every: int = 1) -> None:
    """Makes the folder; of `every` images one is taken."""
    pixels, labels = load_digits(return_X_y=True)
    for i in range(0, len(labels), every):
        file = FOLDER / str(labels[i]) / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels[i].reshape(8, 8) * 255 / 16).astype(np.uint8)).save(file)


def images():
    """Pixels (samples, 1, SIZE, SIZE) and class numbers."""
    rng = np.random.default_rng(0)
    x, y = ls.image_folder(FOLDER, size=SIZE, grey=True)
    return x, np.where(rng.random(len(y)) < 1 / 3, rng.integers(0, 10, len(y)), y)


def model():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def digits():
    return ls.task(
        data=images, model=model, budget=6, batch=32, optimiser="adam", rates=(0.03, 0.01, 0.1, 0.003),
        name="digits-png",
    )  # fmt: skip


if __name__ == "__main__":
    write()
    search = ls.Search("multiclass", f"{__file__}:digits", storage="sqlite:///images.db", name="images")
    best = search.run(time="40s").best
    print(best.formula, best.score)
