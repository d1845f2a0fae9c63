"""Which proxy does a name mean?

A built-in by its name, or a user's own: "path/to/file.py:function" or "package.module:function".
The user's file is run: name only files that you trust. "@bf16" behind either is the same proxy, trained at
another precision.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from types import ModuleType

from losssearch.errors import ProxyError
from losssearch.execution.plan import PRECISIONS, Precision
from losssearch.proxies.base import Proxy
from losssearch.proxies.user import blackbox, is_train_function

#: Built-in proxies by the module of `shipped` that makes them; nothing is imported before it is asked for.
_BUILT_IN = {
    "digits": "digits",
    "digits-noisy": "digits",
    "digits-imbalanced": "digits",
    "breast-cancer": "tabular",
    "breast-cancer-noisy": "tabular",
    "diabetes": "tabular",
    "diabetes-outliers": "tabular",
    "known-noise-gaussian": "known_noise",
    "known-noise-laplace": "known_noise",
    "known-noise-student-t3": "known_noise",
    "known-noise-cauchy": "known_noise",
    "known-noise-logistic": "known_noise",
    "known-noise-gumbel": "known_noise",
    "known-noise-asymmetric-laplace": "known_noise",
    "known-noise-contaminated": "known_noise",
    "queries": "ranking",
    "shapes": "segmentation",
    "scenes": "boxes",
    "digits-unseen": "embedding",
    "answers": "preference",
    "digits-views": "contrastive",
    "digits-sharpened": "sharpening",
    "digits-tasks": "multitask",
    "digits-ranked": "ordinal",
    "ring": "ring",
    "digits-made": "made",
    "digits-coded": "coded",
}


def proxy_names() -> list[str]:
    """Names of the built-in proxies."""
    return list(_BUILT_IN)


def load_proxy(name: str) -> Proxy:
    """The proxy called `name`.

    Args:
        name: A built-in's name, "path/to/file.py:function" or "package.module:function", and "@tf32"
            or "@bf16" behind it where products may be rounded, see `execution.products`. The
            function takes no arguments and returns `losssearch.task(...)` or
            `losssearch.blackbox(...)(train)`; or it is itself a training function
            `train(loss, budget, seed, device) -> metric`.

    Raises:
        ProxyError: Nothing is called so, or the function does not give a proxy.
    """
    plain, precision = _parts(name)
    if precision is not None:
        return _at(load_proxy(plain), precision)
    if ":" in name:
        place, _, function = name.rpartition(":")
        path = Path(place).expanduser()
        stamp = path.stat().st_mtime_ns if place.endswith(".py") and path.is_file() else 0
        return _load_user(place, function, stamp)
    if name not in _BUILT_IN:
        near = difflib.get_close_matches(name, _BUILT_IN, 1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of {', '.join(_BUILT_IN)}."
        raise ProxyError(f"no proxy is called {name!r}. {hint} Or give path/to/file.py:function.")
    return _load_built_in(name)


def exact(name: str) -> str:
    """The name of the same proxy in single precision, for audits."""
    return f"{_parts(name)[0]}@fp32"


def _parts(name: str) -> tuple[str, Precision | None]:
    """A proxy's name and the precision behind it."""
    plain, _, word = name.rpartition("@")
    precision = next((p for p in PRECISIONS if p == word), None) if plain else None
    return (name, None) if precision is None else (plain, precision)


def _at(proxy: Proxy, precision: Precision) -> Proxy:
    """The same proxy, trained at a precision."""
    if proxy.default.precision == precision:
        return proxy
    if "@" in proxy.name:
        raise ProxyError(f"{proxy.name} says at which precision it is trained: @{precision} is one too many.")
    if not proxy.stacked:
        raise ProxyError(f"{proxy.name} is not trained as a population: it has no precision to choose.")
    return replace(
        proxy, name=f"{proxy.name}@{precision}", default=replace(proxy.default, precision=precision)
    )


@cache
def _load_built_in(name: str) -> Proxy:
    module = importlib.import_module(f"losssearch.proxies.shipped.{_BUILT_IN[name]}")
    proxy = module.PROXIES[name]()
    assert isinstance(proxy, Proxy)
    return proxy


@lru_cache(maxsize=64)
def _load_user(place: str, function: str, stamp: int) -> Proxy:
    name = f"{place}:{function}"
    found = getattr(_module(place), function, None)
    if found is None:
        raise ProxyError(f"{place} has no function {function!r}. Check the part after the colon.")
    if isinstance(found, Proxy):
        return found
    if not callable(found):
        raise ProxyError(f"{name} is a {type(found).__name__}, not a function.")
    if is_train_function(found):
        return blackbox(space="multiclass", name=name)(found)
    wanted = [
        p.name
        for p in inspect.signature(found).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if wanted:
        raise ProxyError(
            f"{name} needs the arguments {', '.join(wanted)}. Write a function without arguments "
            "that returns losssearch.task(...), or train(loss, budget, seed, device) that "
            "returns a number."
        )
    try:
        proxy = found()
    except ProxyError:
        raise
    except Exception as error:
        raise ProxyError(f"{name} raised {type(error).__name__}: {error}.") from error
    if not isinstance(proxy, Proxy):
        raise ProxyError(f"{name} returned a {type(proxy).__name__}. Return losssearch.task(...).")
    return proxy


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        try:
            return importlib.import_module(place)
        except ImportError as error:
            raise ProxyError(
                f"cannot import {place}: {error}. Name a module that Python finds, or path/to/file.py."
            ) from error
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise ProxyError(f"there is no file {path}. Give the path as seen from where you stand.")
    spec = importlib.util.spec_from_file_location(f"_losssearch_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ProxyError(f"{path} cannot be read as Python.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ProxyError(f"{path} raised {type(error).__name__} when run: {error}.") from error
    return module


def place_of(name: str) -> str:
    """The name as a worker in another folder finds it: a file's path made absolute."""
    place, colon, function = name.rpartition(":")
    if not colon or not place.endswith(".py"):
        return name
    return f"{Path(place).expanduser().resolve()}:{function}"
