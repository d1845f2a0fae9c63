"""Which pool does a word on the command line mean?

`inline`, `processes`, `processes:4`, `gpu`, `gpu:2`, `ray`, `ray:4`, `ray:ADDRESS`. Those of one machine are
ours; the others are found as entry points of the group `losssearch.pools`, so that Ray is loaded by nobody
who does not ask for it. The object behind an entry point is called with `address=` or `size=`,
whichever follows the colon, and `tasks=`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from losssearch.errors import PoolError, UsageError
from losssearch.pools.base import Pool
from losssearch.pools.gpus import GpuPool
from losssearch.pools.inline import InlinePool
from losssearch.pools.processes import ProcessPool

GROUP = "losssearch.pools"


def open_pool(spec: str, *, tasks: Mapping[str, str] | None = None) -> Pool:
    """The pool that `spec` names, as `name`, `name:size` or `name:address`.

    Args:
        spec: For example `processes:4`.
        tasks: See `losssearch.pools.worker.Worker`.

    Raises:
        UsageError: No pool has that name, or what follows the colon does not fit.
        PoolError: The pool cannot be loaded or started.
    """
    name, _, argument = spec.partition(":")
    size = int(argument) if argument.isascii() and argument.isdigit() else None
    if name == "inline" and not argument:
        return InlinePool(tasks=tasks)
    if name == "processes" and (size is not None or not argument):
        return ProcessPool(size, tasks=tasks)
    if name == "gpu" and (size is not None or not argument):
        return GpuPool(size, tasks=tasks)
    if name in ("inline", "processes", "gpu"):
        raise UsageError(
            f"Write 'inline', 'processes', 'processes:4', 'gpu' or 'gpu:2' for the pool, not {spec!r}."
        )
    others = {point.name: point for point in entry_points(group=GROUP)}
    if name not in others:
        names = ", ".join(["inline", "processes", "processes:4", "gpu", *sorted(others)])
        raise UsageError(f"No pool is called {spec!r}. There are: {names}.")
    options: dict[str, Any] = {"tasks": tasks}
    if argument:
        options["address" if size is None else "size"] = argument if size is None else size
    pool = load(others[name])(**options)
    if not isinstance(pool, Pool):
        raise PoolError(f"{others[name].value} must give a Pool, but gave {type(pool).__name__}.")
    return pool


def load(point: EntryPoint) -> Any:
    """What an entry point names. A package of the user's that hides ours is named, and not run.

    Raises:
        PoolError: The module cannot be imported.
    """
    package, *inner = point.module.split(".")
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or []) if spec else []
    origin = spec.origin if spec else None
    if spec and inner and not any(_holds(Path(place, *inner)) for place in places):
        hiding = places[0] if places else origin
        raise PoolError(
            f"{point.group}: '{point.name}' belongs to our '{package}', which {hiding} hides. "
            f"Rename that one, or start from another folder."
        )
    try:
        return point.load()
    except ImportError as error:
        raise PoolError(f"{point.group}: '{point.name}' cannot be loaded: {error}.") from error


def _holds(module: Path) -> bool:
    return module.is_dir() or module.with_suffix(".py").is_file()
