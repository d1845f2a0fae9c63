"""Does evolution find more when its population lives apart?

Some islands, each with a small evolution of its own, take turns; now and then the best of every island
visit the next one in a ring. What one island settles on stays its own affair for a while, so that
several ideas ripen at a time. Who migrates when depends on numbers of proposals alone.

Source:
    Cantu-Paz 1998, A survey of parallel genetic algorithms, Calculateurs Paralleles 10, for coarse-grained
    algorithms on a ring; Cranmer 2023, arXiv:2305.01582, Sec. 3, for islands in the search of formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from losssearch.controllers.base import Start, Told
from losssearch.controllers.evolution import Evolution, EvolutionSettings, Individual
from losssearch.controllers.team import Team
from losssearch.errors import UsageError
from losssearch.outcomes import Outcome
from losssearch.spaces import Space


@dataclass(frozen=True)
class IslandsSettings:
    """How islands work.

    Args:
        islands: How many, at least 2.
        interval: Proposals between two migrations, at least 1.
        emigrants: Losses of each island that visit the next, at least 1.
        each: How evolution works on an island.
    """

    islands: int = 4
    interval: int = 400
    emigrants: int = 3
    each: EvolutionSettings = field(default_factory=lambda: EvolutionSettings(population=40, warm_up=20))

    def __post_init__(self) -> None:
        if self.islands < 2 or self.interval < 1 or self.emigrants < 1:
            raise UsageError(
                "`islands >= 2`, `interval >= 1` and `emigrants >= 1` must hold, but got "
                f"{self.islands}, {self.interval} and {self.emigrants}."
            )


class Islands(Team):
    """Several evolutions with migration. Results of others are dealt to the islands by their number."""

    def __init__(
        self, space: Space, start: Start, seed: int = 0, settings: IslandsSettings | None = None
    ) -> None:
        self.settings = settings or IslandsSettings()
        count, each = self.settings.islands, self.settings.each
        islands = {f"island {i}": Evolution(space, start, seed, each) for i in range(count)}
        super().__init__(space, start, seed, islands)
        self.islands = islands
        self.migrations = 0

    def _member(self, number: int) -> str:
        return f"island {number % len(self.islands)}"

    def _concerns(self, name: str, told: Told) -> bool:
        """The start losses concern everyone, others those at home and wherever they have settled."""
        if told.number < len(self.start) or name == self._member(told.number):
            return True
        return any(one.key == told.key for one in self.islands[name].population)

    def tell(self, results: Sequence[Told]) -> None:
        super().tell(results)
        due = max((told.number for told in results), default=0) // self.settings.interval
        if due > self.migrations:
            self.migrations = due
            self._migrate()

    def _migrate(self) -> None:
        """All set out before the first arrives."""
        emigrants = {
            name: [_arriving(one) for one in island.population[: self.settings.emigrants]]
            for name, island in self.islands.items()
        }
        names = list(self.islands)
        for home, abroad in zip(names, [*names[1:], names[0]], strict=True):
            self.islands[abroad].tell(emigrants[home])

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "migrations": self.migrations}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self.migrations = int(state["migrations"])


def _arriving(one: Individual) -> Told:
    """What an island hears of a visitor."""
    return Told(
        one.born, one.key, one.program, one.score, Outcome.SCORED, one.size, one.rung, measured=one.mark[1]
    )
