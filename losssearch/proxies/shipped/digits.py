"""Which losses learn handwritten digits, clean, wrongly labelled or imbalanced?

scikit-learn's 1797 digits (8 x 8 pixels, no download), an MLP 64-64-10. A fixed third is the audit
pool: no search trains, validates or tests on it. Under label noise training *and* validation labels
are wrong, the audit's test labels are right. One training takes 15 to 20 ms of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from losssearch.execution.plan import MLP, Floats, Setting, Split, Stage
from losssearch.proxies.base import Proxy, Rung, generator, seed_of

RATES = (0.04, 0.08, 0.02, 0.16, 0.01)
DECAYS = (0.01, 0.0, 0.003, 0.03)
_SEARCH = (698, 500)
_AUDIT = (1078, 300, 300)
_CLASSES = 10

# Conditions: inputs as pixels / 16, other widths, initialisations, optimisers, budgets, and other
# noise.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "raw": {"rates": (0.16, 0.08, 0.04, 0.32)},
    "wide": {"hidden": (256,)},
    "he": {"init": "he"},
    "adam": {"optimiser": "adam", "rates": (0.003, 0.001, 0.01, 0.0003)},
    "long": {"epochs": 100},
}
# 20 epochs rank losses as 30 do (rank correlation .97 over 132 losses, 40 % wrong labels), and one rate tells
# as much of them on three splits as two rates do. A third of the last rung is on raw pixels.
RUNGS = (
    Rung(tuple(range(3)), rates=(0.08,), epochs=20),
    Rung(tuple(range(3, 10)), rates=(0.08,), epochs=20),
    Rung(tuple(range(10, 34)), rates=(0.08,), epochs=20),
    Rung(tuple(range(34, 70)), 2, ("default", "default", "raw")),
)
NOISES = {"noise20": 0.2, "noise60": 0.6, "asymmetric30": 0.3}


def digits() -> Proxy:
    """Digits as they are: nearly no headroom."""
    return _proxy("digits", "Handwritten digits", 0.0)


def digits_noisy() -> Proxy:
    """Digits with 40 % of the labels wrong."""
    return _proxy("digits-noisy", "Handwritten digits, 40 % of the labels wrong", 0.4)


def digits_imbalanced() -> Proxy:
    """Digits whose classes are up to 50 times as frequent as others, by balanced error."""
    return Proxy(
        name="digits-imbalanced",
        title="Handwritten digits, classes up to 50:1",
        space="multiclass",
        metric="balanced_error",
        guards=("error", "worst_class_error"),
        draw=_imbalanced_split,
        default=Setting(rates=(0.1, 0.04, 0.2, 0.02), batch=64),
        changes=CHANGES,
        second="raw",
        classes=_CLASSES,
        sizes=(sum(_long_tail()), 300),
    )


def _proxy(name: str, title: str, noise: float) -> Proxy:
    return Proxy(
        name=name,
        title=title,
        space="multiclass",
        metric="error",
        guards=("balanced_error", "worst_class_error"),
        draw=partial(_split, noise),
        default=Setting(model=MLP((64,)), rates=RATES, decays=DECAYS),
        changes={**CHANGES, **({key: {} for key in NOISES} if noise else {})},
        second="raw",
        rungs=RUNGS,
        classes=_CLASSES,
        sizes=(_AUDIT[0], _AUDIT[2]),
    )


@lru_cache(maxsize=1)
def digit_pool() -> tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Pixels / 16, labels, rows of development and rows of the audit pool (stratified, fixed)."""
    from sklearn.datasets import load_digits

    found = load_digits()
    labels = found.target.astype(np.int64)
    order = generator("digits", "pool").permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # within a class at random
    pool = np.zeros(len(labels), bool)
    pool[order[::3]] = True
    return (
        (found.data / 16).astype(np.float32),
        labels,
        np.flatnonzero(~pool),
        np.flatnonzero(pool),
    )


def _noisy(
    labels: NDArray[np.int64], share: float, asymmetric: bool, draw: np.random.Generator
) -> NDArray[np.int64]:
    """Each label is wrong with probability `share`: any other class, or (asymmetric) the next."""
    wrong = draw.random(len(labels)) < share
    by = np.ones(len(labels), np.int64) if asymmetric else draw.integers(1, _CLASSES, len(labels))
    return np.where(wrong, (labels + by) % _CLASSES, labels)


def _scaled(condition: str, *parts: Floats) -> list[Floats]:
    """Standardised by the first part's mean and deviation, or pixels / 16 under "raw"."""
    if "raw" in condition.split("+"):
        return list(parts)
    mean, deviation = parts[0].mean(0), parts[0].std(0)
    deviation[deviation == 0] = 1
    return [((part - mean) / deviation).astype(np.float32) for part in parts]


def _one_hot(labels: NDArray[np.int64]) -> Floats:
    return np.eye(_CLASSES, dtype=np.float32)[labels]


def _make(seed: int, condition: str, rows: list[NDArray[np.int64]], labels: list[NDArray[np.int64]]) -> Split:
    x, _, _, _ = digit_pool()
    parts = [
        (inputs, _one_hot(target))
        for inputs, target in zip(_scaled(condition, *(x[r] for r in rows)), labels, strict=True)
    ]
    count = parts[0][1].sum(0)
    prior = np.maximum(count, 1e-3) / count.sum()
    provided = {"prior": prior.astype(np.float32), "count": np.maximum(count, 1)}
    return Split(seed, *parts, provided=provided)


def dealt(
    development: NDArray[np.int64],
    pool: NDArray[np.int64],
    sizes: Mapping[str, int],
    stage: Stage,
    draw: np.random.Generator,
    tested: np.random.Generator | None = None,
) -> list[NDArray[np.int64]]:
    """Rows to train and to validate on, and in an audit those of the pool to test on.

    `tested` draws the last, if it is not `draw`.
    """
    order = draw.permutation(development)
    rows = [order[: sizes["train"]], order[sizes["train"] :][: sizes["valid"]]]
    if stage == "audit":
        rows.append((tested or draw).permutation(pool)[: sizes["test"]])
    return rows


def _rows(seed: int, stage: Stage, draw: np.random.Generator) -> list[NDArray[np.int64]]:
    _, labels, development, pool = digit_pool()
    if stage == "search":
        order = draw.permutation(development)
        return [order[: _SEARCH[0]], order[_SEARCH[0] : sum(_SEARCH)]]
    test = draw.permutation(pool)[: _AUDIT[2]]
    rest = draw.permutation(np.setdiff1d(np.arange(len(labels)), test))
    return [rest[: _AUDIT[0]], rest[_AUDIT[0] : _AUDIT[0] + _AUDIT[1]], test]


@lru_cache(maxsize=96)
def _split(noise: float, seed: int, condition: str, stage: Stage) -> Split:
    draw = generator("digits", stage, seed)
    rows = _rows(seed, stage, draw)
    parts = condition.split("+")
    share = next((NOISES[part] for part in parts if part in NOISES), noise)
    _, labels, _, _ = digit_pool()
    given = [labels[r] for r in rows]
    for i in range(2):  # the test labels stay right
        given[i] = _noisy(given[i], share, "asymmetric30" in parts, draw)
    return _make(seed_of("digits", stage, seed), condition, rows, given)


def _long_tail(largest: int = 100) -> list[int]:
    """Samples of each rank of class, geometric from `largest` down to a fiftieth of it."""
    return [round(largest * 50 ** (-rank / (_CLASSES - 1))) for rank in range(_CLASSES)]


@lru_cache(maxsize=96)
def _imbalanced_split(seed: int, condition: str, stage: Stage) -> Split:
    """A long tail of training classes, ranked at random; 16 samples a class for validation."""
    draw = generator("digits-imbalanced", stage, seed)
    _, labels, development, pool = digit_pool()
    test = draw.permutation(pool)[: _AUDIT[2]]
    usable = development if stage == "search" else np.setdiff1d(np.arange(len(labels)), test)
    usable = draw.permutation(usable)
    train, valid = [], []
    for label, size in zip(draw.permutation(_CLASSES), _long_tail(), strict=True):
        mine = usable[labels[usable] == label]
        valid.append(mine[:16])
        train.append(mine[16 : 16 + size])
    rows = [np.concatenate(train), np.concatenate(valid)]
    rows += [test] if stage == "audit" else []
    seed = seed_of("digits-imbalanced", stage, seed)
    return _make(seed, condition, rows, [labels[r] for r in rows])


PROXIES: Mapping[str, Callable[[], Proxy]] = {
    "digits": digits,
    "digits-noisy": digits_noisy,
    "digits-imbalanced": digits_imbalanced,
}
