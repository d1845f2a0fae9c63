"""What does a worker do with a training job? Text in, numbers out.

The job names proxy and space and carries formulas; nothing else crosses the process border. Formulas are
parsed again here, by the same parser that reads what users write.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from losssearch.execution.plan import GradientFn, Run
from losssearch.execution.reference import loss_gradient
from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.pools.worker import DEVICE
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy
from losssearch.proxies.structured import Slopes
from losssearch.spaces import load_space


def train(job: dict[str, Any]) -> dict[str, Any]:
    """Train all runs of a job.

    Args:
        job: `{"proxy", "space", "losses": [{"formula", "constants", "scale"}], "runs": [...]}`, see `Run`.

    Returns:
        `{"runs": [...]}` in the order asked, see `RunResult.to_dict`.
    """
    proxy = load_proxy(job["proxy"])
    runs = [Run.from_dict(run) for run in job["runs"]]
    losses = [_make(proxy, job["space"], *_plain(loss)) for loss in job["losses"]]
    found = proxy.train(losses, runs, os.environ.get(DEVICE, "cpu"))
    return {"runs": [result.to_dict() for result in found]}


Constants = tuple[tuple[str, float, float, float], ...]


def _plain(loss: Mapping[str, Any]) -> tuple[str, Constants, float]:
    constants = tuple((name, *map(float, value)) for name, value in loss["constants"].items())
    return loss["formula"], constants, float(loss["scale"])


def _program(space: str, formula: str, constants: Constants) -> Program:
    named = {name: Constant(name, value, low, high) for name, value, low, high in constants}
    return parse(formula, load_space(space).signature, named)


def _make(proxy: Proxy, space: str, formula: str, constants: Constants, scale: float) -> Any:
    """A loss as the proxy takes it."""
    if proxy.takes == "slopes":
        return _slopes(space, formula, constants)
    if proxy.takes == "module":
        return _module(space, formula, constants, scale)
    return _gradient(space, proxy.prediction, formula, constants, scale)


@lru_cache(maxsize=1024)
def _gradient(space: str, prediction: str, formula: str, constants: Constants, scale: float) -> GradientFn:
    return loss_gradient(_program(space, formula, constants), prediction, scale)


@lru_cache(maxsize=1024)
def _slopes(space: str, formula: str, constants: Constants) -> Slopes:
    # Unscaled: the structured trainer takes steps whose length does not hang on a loss's unit.
    return Slopes(_program(space, formula, constants))


def _module(space: str, formula: str, constants: Constants, scale: float) -> Any:
    from losssearch.execution.named import loss_module

    # A black box trains with whatever it likes, so its loss is a module; the scale evens out the units.
    return loss_module(_program(space, formula, constants), load_space(space).task, scale=scale)
