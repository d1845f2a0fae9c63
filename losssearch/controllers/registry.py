"""Which controllers are there, by name? A controller's module is loaded when it is first wanted."""

from __future__ import annotations

import difflib
from importlib import import_module

from losssearch.controllers.base import Controller, Start
from losssearch.errors import UsageError
from losssearch.spaces import Space

#: Name -> module and class. `optuna` takes the name of a sampler after a colon: `optuna:nsgaii`.
CONTROLLERS = {
    "random": ("losssearch.controllers.random", "RandomController"),
    "evolution": ("losssearch.controllers.evolution", "Evolution"),
    "optuna": ("losssearch.controllers.optuna", "OptunaController"),
}


def make_controller(name: str, space: Space, start: Start, seed: int = 0) -> Controller:
    """A controller by name: `random`, `evolution`, `optuna`, `optuna:tpe`, `optuna:cmaes`, ...

    Raises:
        UsageError: No controller, or no sampler of Optuna, is called so.
    """
    kind, _, sampler = name.partition(":")
    if kind not in CONTROLLERS or (sampler and kind != "optuna"):
        close = difflib.get_close_matches(name, CONTROLLERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(CONTROLLERS)}."
        raise UsageError(f"No controller is called {name!r}; {hint}")
    module, cls = CONTROLLERS[kind]
    controller: type[Controller] = getattr(import_module(module), cls)
    if sampler:
        return controller(space, start, seed, sampler=sampler)  # type: ignore[call-arg]
    return controller(space, start, seed)
