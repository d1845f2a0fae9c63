"""Which losses survive wrong labels and wild targets in a small table?

scikit-learn's breast cancer (569 samples, 30 features; binary) and diabetes (442 samples, 10
features; regression). The clean breast cancer task is the null control: a search that finds
something there has fooled itself. A third of the rows is the audit pool. One training takes a few
milliseconds of one core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from losssearch.execution.plan import MLP, Floats, MetricFn, Setting, Split, Stage
from losssearch.proxies.base import Proxy, generator, seed_of
from losssearch.proxies.user import cut_split

#: Diabetes targets are trained as (y - 152) / 77, their rounded mean and deviation; errors are in
#: y's own unit.
_MIDDLE, _UNIT = 152.0, 77.0
_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "wide": {"hidden": (128,)},
    "he": {"init": "he"},
    "adam": {"optimiser": "adam", "rates": (0.003, 0.001, 0.01, 0.0003)},
    "long": {"epochs": 100},
}


def _breast_cancer(noise: float, name: str, title: str) -> Proxy:
    return Proxy(
        name=name,
        title=title,
        space="binary",
        metric="error",
        guards=("balanced_error", "worst_class_error"),
        draw=lru_cache(maxsize=256)(partial(_split, "breast-cancer", noise)),
        default=Setting(model=MLP((32,)), batch=32, rates=(0.01, 0.003, 0.03, 0.1)),
        changes=_CHANGES,
        second="wide",
        headroom="some" if noise else "none",
        sizes=_sizes("breast-cancer"),
    )


def _diabetes(share: float, name: str, title: str) -> Proxy:
    return Proxy(
        name=name,
        title=title,
        space="regression",
        metric="rmse",
        guards=("mae", "median_error"),
        metric_maker=_in_own_unit,
        draw=lru_cache(maxsize=256)(partial(_split, "diabetes", share)),
        default=Setting(model=MLP((32,)), batch=32, rates=(0.003, 0.01, 0.001, 0.03)),
        changes=_CHANGES,
        second="wide",
        sizes=_sizes("diabetes"),
    )


def _in_own_unit() -> Mapping[str, MetricFn]:
    from losssearch.proxies.metrics import pick

    def scaled(function: MetricFn) -> MetricFn:
        return lambda prediction, target: function(prediction, target) * _UNIT

    return {name: scaled(f) for name, f in pick("rmse", "mae", "median_error").items()}


@lru_cache(maxsize=2)
def _data(
    which: Literal["breast-cancer", "diabetes"],
) -> tuple[Floats, NDArray[Any], NDArray[np.int64], NDArray[np.int64]]:
    """Features, targets, and the rows of development and of the audit pool."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    if which == "diabetes":
        found = load_diabetes()
        targets = ((found.target - _MIDDLE) / _UNIT).astype(np.float32)
    else:
        found = load_breast_cancer()
        targets = found.target.astype(np.int64)
    order = generator(which, "pool").permutation(len(targets))
    third = len(order) // 3
    return found.data.astype(np.float32), targets, np.sort(order[third:]), np.sort(order[:third])


def _sizes(which: Literal["breast-cancer", "diabetes"]) -> tuple[int, int]:
    """Training and test samples of an audit split; 569 or 442 rows."""
    rows = {"breast-cancer": 569, "diabetes": 442}[which]
    development = rows - rows // 3
    return development - development // 4, rows // 6


def _split(
    which: Literal["breast-cancer", "diabetes"],
    share: float,
    seed: int,
    condition: str,
    stage: Stage,
) -> Split:
    """Label noise spoils training and validation; outliers training only.

    In validation the outliers' own errors would drown all others.
    """
    x, y, development, pool = _data(which)
    draw = generator(which, stage, seed)
    rows = [draw.permutation(development)]
    if stage == "audit":
        test = draw.permutation(pool)[: len(y) // 6]
        rest = draw.permutation(np.setdiff1d(np.arange(len(y)), test))
        rows = [rest[: len(development)], test]
    cut = len(development) - len(development) // 4
    parts = [rows[0][:cut], rows[0][cut:], *rows[1:]]
    targets = [y[part] for part in parts]
    if which == "breast-cancer":
        for i in range(2):
            targets[i] = np.where(draw.random(len(targets[i])) < share, 1 - targets[i], targets[i])
        space = "binary"
    else:
        wild = draw.random(cut) < share
        jump = draw.uniform(5, 15, cut) * draw.choice([-1.0, 1.0], cut)
        targets[0] = targets[0] + np.where(wild, jump, 0).astype(np.float32)
        space = "regression"
    return cut_split(seed_of(which, stage, seed), [x[part] for part in parts], targets, space, None)


PROXIES: Mapping[str, Callable[[], Proxy]] = {
    "breast-cancer": partial(_breast_cancer, 0.0, "breast-cancer", "Breast cancer, clean: a null control"),
    "breast-cancer-noisy": partial(
        _breast_cancer, 0.3, "breast-cancer-noisy", "Breast cancer, 30 % of the labels wrong"
    ),
    "diabetes": partial(_diabetes, 0.0, "diabetes", "Progress of diabetes"),
    "diabetes-outliers": partial(
        _diabetes, 0.1, "diabetes-outliers", "Progress of diabetes, 10 % of training targets wild"
    ),
}
