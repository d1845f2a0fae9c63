"""losssearch searches for loss functions: a loss is a small program, proposed, screened, trained, judged.

    import losssearch as ls
    ls.Search(space="multiclass", proxy="digits-noisy", name="demo").run(time="3m").best.module()
    ls.loss("focal", gamma=2.0)
    ls.explain("focal", against=["gce"]).plot("focal.svg")
    ls.parse("mean(-(1 - p_t)**g * log(p_t), 'n')", space="multiclass", constants={"g": 2.0})

Names are loaded when they are first used, so that importing losssearch loads no torch, Ray, Optuna or
database.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from losssearch.api import explain as explain
    from losssearch.api import loss as loss
    from losssearch.api import parse as parse
    from losssearch.api import suggest as suggest
    from losssearch.errors import LossSearchError as LossSearchError
    from losssearch.pareto import pareto_front as pareto_front
    from losssearch.proxies.images import image_folder as image_folder
    from losssearch.proxies.images import torchvision_data as torchvision_data
    from losssearch.proxies.user import blackbox as blackbox
    from losssearch.proxies.user import task as task
    from losssearch.result import SearchResult as SearchResult
    from losssearch.sampler import LossSearchSampler as LossSearchSampler
    from losssearch.search import Search as Search
    from losssearch.spaces import load_space as load_space
    from losssearch.testing import check_loss as check_loss

__version__ = "0.1.0"

_HOME = {
    "LossSearchError": "losssearch.errors",
    "LossSearchSampler": "losssearch.sampler",
    "Search": "losssearch.search",
    "SearchResult": "losssearch.result",
    "blackbox": "losssearch.proxies.user",
    "check_loss": "losssearch.testing",
    "explain": "losssearch.api",
    "image_folder": "losssearch.proxies.images",
    "load_space": "losssearch.spaces",
    "loss": "losssearch.api",
    "pareto_front": "losssearch.pareto",
    "parse": "losssearch.api",
    "suggest": "losssearch.api",
    "task": "losssearch.proxies.user",
    "torchvision_data": "losssearch.proxies.images",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'losssearch' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
