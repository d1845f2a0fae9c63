"""Which controllers are there, by name? A controller's module is loaded when it is first wanted."""

from __future__ import annotations

import difflib
from importlib import import_module

from losssearch.controllers.base import Controller, Start
from losssearch.errors import UsageError
from losssearch.spaces import Space

#: Name -> module and class.
CONTROLLERS = {
    "random": ("losssearch.controllers.random", "RandomController"),
    "evolution": ("losssearch.controllers.evolution", "Evolution"),
    "optuna": ("losssearch.controllers.optuna", "OptunaController"),
    "pareto": ("losssearch.controllers.optuna", "Pareto"),
    "reinforce": ("losssearch.controllers.reinforce", "Reinforce"),
    "ppo": ("losssearch.controllers.ppo", "PPO"),
    "q_learning": ("losssearch.controllers.q_learning", "QLearning"),
    "islands": ("losssearch.controllers.islands", "Islands"),
    "map_elites": ("losssearch.controllers.map_elites", "MapElites"),
    "portfolio": ("losssearch.controllers.portfolio", "Portfolio"),
    "command": ("losssearch.controllers.outside.proposer", "FromCommand"),
    "openai": ("losssearch.controllers.outside.proposer", "FromServer"),
}
#: Controllers that take something after a colon, and their name for it: `optuna:nsgaii`.
ARGUMENTS = {
    "optuna": "sampler",
    "pareto": "sampler",
    "portfolio": "arms",
    "command": "command",
    "openai": "address",
}


def make_controller(name: str, space: Space, start: Start, seed: int = 0) -> Controller:
    """A controller by name: `evolution`, `optuna:tpe`, `command:./propose.py`, ...

    Raises:
        UsageError: No controller, or no sampler of Optuna, is called so.
    """
    kind, _, argument = name.partition(":")
    if kind not in CONTROLLERS or (argument and kind not in ARGUMENTS):
        close = difflib.get_close_matches(name, CONTROLLERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(CONTROLLERS)}."
        raise UsageError(f"No controller is called {name!r}; {hint}")
    module, cls = CONTROLLERS[kind]
    controller: type[Controller] = getattr(import_module(module), cls)
    if argument:
        return controller(space, start, seed, **{ARGUMENTS[kind]: argument})
    return controller(space, start, seed)
