"""Which controller is best for this task? Nobody knows beforehand: try several, give more to who earns more.

Proposals are dealt in hands of eight, and a bandit says whose each hand is. A loss is a success if it is
among the best tenth of the last few hundred when it is trained again on more splits, for the best of first
scores are mostly lucky; and if no success had its structure, for it takes little to vary what is known. Every
arm is a full controller and hears of every result: evolution, islands and map_elites
take the elites of others for parents, samplers and policies learn from their own proposals alone and
know them by number. Importing this room loads no arm; making a portfolio loads those it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from losssearch.controllers.bandit import Bandit
from losssearch.controllers.base import Idea, Start, Told
from losssearch.controllers.registry import make_controller
from losssearch.controllers.rewards import Rewards
from losssearch.controllers.team import Team
from losssearch.errors import UsageError
from losssearch.language.canonical import structure_key
from losssearch.language.draws import Draws
from losssearch.outcomes import Outcome
from losssearch.spaces import Space

#: Names as in the registry, `optuna:gp` included. The order decides who goes first.
ARMS = ("evolution", "map_elites", "islands", "random", "optuna", "reinforce", "ppo", "q_learning")
HAND = 8
SUCCESS = 0.9  # share of the last results that are worse
OPEN = 4096  # proposals that may yet succeed, and structures that did
_TURNS = 1_000_000  # keeps the bandit's random streams apart from those of proposals


class Portfolio(Team):
    """Spreads the budget over controllers by what they earn.

    Args:
        arms: Names of controllers, two or more, in a sequence or between commas; one from outside is an
            arm like any other.
    """

    def __init__(self, space: Space, start: Start, seed: int = 0, arms: str | Sequence[str] = ARMS) -> None:
        if isinstance(arms, str):
            arms = [name.strip() for name in arms.split(",") if name.strip()]
        if len(set(arms)) < 2 or "portfolio" in arms:
            raise UsageError(
                f"A portfolio needs two other controllers or more, but got {', '.join(arms) or 'none'}."
            )
        members = {name: make_controller(name, space, start, seed) for name in arms}
        super().__init__(space, start, seed, members)
        self.bandit = Bandit(list(self.members))
        self.rewards = Rewards()
        self._open: dict[int, str] = {}  # whose proposal it was
        self._won: dict[str, None] = {}  # structures that succeeded, the latest last
        self._hand: tuple[int, str] | None = None  # the one that is being played

    def _member(self, number: int) -> str:
        turn = (number - len(self.start)) // HAND
        if self._hand is None or self._hand[0] != turn:
            self._hand = turn, self.bandit.choose(turn, Draws.counted(self.seed, turn, _TURNS))
        return self._hand[1]

    def _concerns(self, name: str, told: Told) -> bool:
        return True

    def _accept(self, number: int, idea: Idea) -> None:
        super()._accept(number, idea)
        if number >= len(self.start):
            self._open[number] = self._member(number)
        _forget(self._open)

    def tell(self, results: Sequence[Told]) -> None:
        self.rewards.add(results)
        for told in results:
            if told.number in self._open:
                self._judge(told, self._open[told.number])
        super().tell(results)

    def _judge(self, told: Told, arm: str) -> None:
        """The first result is a failure, until a surer one proves it a success."""
        credited = told.outcome in (Outcome.DUPLICATE, Outcome.EQUIVALENT)
        if told.rung == 0 or credited:
            self.bandit.reward(arm, False)
        if told.finite_score is None or credited:
            del self._open[told.number]
        elif told.rung > 0 and self.rewards.rank(told.finite_score) >= SUCCESS:
            del self._open[told.number]
            structure = structure_key(told.program)[:12]
            if structure not in self._won:
                self.bandit.succeed(arm)
                self._won[structure] = None
                _forget(self._won)

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "bandit": self.bandit.state(),
            "rewards": self.rewards.state(),
            "open": [[number, arm] for number, arm in self._open.items()],
            "won": list(self._won),
            "hand": self._hand,
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.bandit.restore(state["bandit"])
        self.rewards.restore(state["rewards"])
        self._open = {int(number): str(arm) for number, arm in state["open"]}
        self._won = dict.fromkeys(str(structure) for structure in state["won"])
        if not set(self._open.values()) <= set(self.members):
            raise ValueError("an open proposal belongs to nobody")
        self._hand = None if state["hand"] is None else (int(state["hand"][0]), str(state["hand"][1]))


def _forget(known: dict[Any, Any]) -> None:
    """Keep the latest."""
    while len(known) > OPEN:
        del known[next(iter(known))]
