"""Which samples should count? Meta-Weight-Net: a small network weighs each sample by its loss.

    L = sum_i V_i CE_i / sum_i V_i,    V_i = sigmoid(net(CE_i, log count of its class))

The network is trained in lock-step with the model (see `online`) so that one step of the model lowers the
cross entropy on a small *clean* set. Under label noise it learns to leave out large losses; for rare
classes it must see the class as well (`by_class`): the loss alone cannot tell a rare sample from a wrong
one.

Source: Shu et al. 2019, arXiv:1902.07379; with the class, Shu et al. 2022, arXiv:2202.05613.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from losssearch.errors import UsageError
from losssearch.execution.plan import Stage
from losssearch.learned.loss import NETWORK, LearnedLoss
from losssearch.learned.online import (
    Kind,
    Material,
    OnlineSettings,
    pair,
    rows_of,
    stack,
    train_online,
)
from losssearch.learned.watch import Progress, Watch, no_watch
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import exact, load_proxy

#: Proxies with wrong labels, and the one that cuts the same samples with the right ones.
CLEAN = {"digits-noisy": "digits"}
CLEAN_A_CLASS = 8


def with_clean_set(
    proxy: Proxy, splits: Sequence[int], stage: Stage, a_class: int = CLEAN_A_CLASS
) -> Material:
    """Material whose held samples are few, clean and equally many of each class.

    They are the first validation samples of each class, with right labels; the rest of the validation part,
    labelled as the proxy labels it, is left to choose settings by. No test sample is touched.

    Args:
        a_class: Clean samples of each class; as many as there are where a class has fewer.

    Raises:
        UsageError: `a_class >= 1` does not hold, or too little is left to choose settings by.
    """
    if a_class < 1:
        raise UsageError(f"`a_class >= 1` must hold, but got {a_class}.")
    right = load_proxy(CLEAN[proxy.name]) if proxy.name in CLEAN else proxy
    found = [(proxy.split(n, "default", stage), right.split(n, "default", stage)) for n in splits]
    held, rest = [], []
    for given, truth in found:
        if not np.array_equal(given.valid[0], truth.valid[0]):
            raise UsageError(f"{proxy.name} and {right.name} do not cut the same samples.")
        label = truth.valid[1].argmax(1)
        clean = np.concatenate([np.flatnonzero(label == c)[:a_class] for c in range(truth.valid[1].shape[1])])
        left = np.setdiff1d(np.arange(len(label)), clean)
        if not len(left):
            raise UsageError(f"{a_class} clean samples a class leave none to choose settings by.")
        held.append(rows_of(truth.valid, clean))
        rest.append(rows_of(given.valid, left))
    tests = [pair(given.test) for given, _ in found if given.test is not None]
    return Material(
        tuple(given.seed for given, _ in found),
        stack([pair(given.train) for given, _ in found]),
        stack(held),
        stack(rest),
        stack(tests) if stage == "audit" else None,
    )


def learn(
    proxy: str | Proxy,
    *,
    seed: int = 0,
    rate: float | None = None,
    decay: float = 0.0,
    settings: OnlineSettings | None = None,
    kind: Kind = "weighting",
    name: str | None = None,
    watch: Watch = no_watch,
) -> LearnedLoss:
    """Learn a weighting, or with `kind="network"` a loss network, in one training on a proxy.

    What is kept is the network at the end of the training; used as a loss of its own it is frozen.

    Args:
        proxy: Multiclass, such as "digits-noisy".
        seed: Number of the search split that is trained on.
        rate, decay: Of the model's SGD; None takes the first rate of the proxy's grid.
        settings: Of the network; None reads the class too where the proxy's classes are of unequal size.
        name: As people will call it; None is made from the proxy's name.

    Raises:
        UsageError: The proxy does not fit.
    """
    chosen_proxy = load_proxy(exact(proxy)) if isinstance(proxy, str) else proxy
    aware = "balanced" in chosen_proxy.metric
    chosen = settings or OnlineSettings(by_class=aware)
    material = with_clean_set(chosen_proxy, [seed], "search")
    step = chosen_proxy.setting().rates[0] if rate is None else rate

    def tell(epoch: int, of: int) -> bool:
        return watch(Progress(f"{kind} on {chosen_proxy.name}, epochs", epoch, of, float("nan")))

    trained = train_online(chosen_proxy, material, step, decay, kind, chosen, tell)
    error = float(trained.valid[-1].mean())
    return LearnedLoss(
        name or f"{kind}-{chosen_proxy.name}",
        kind,
        chosen_proxy.space,
        {"by_class": chosen.by_class} if kind == "weighting" else {},
        {NETWORK + n: value[0].numpy().astype("float32") for n, value in trained.weights.items()},
        {
            "learned": {
                **asdict(chosen),
                "proxy": chosen_proxy.name,
                "split": seed,
                "rate": step,
                "decay": decay,
            },
            "validation": {"metric": chosen_proxy.metric, "error": error, "epochs": trained.epochs[-1]},
        },
    )
