"""Which losses are best of their kind? An archive with one elite a cell, and children of them all.

A cell is a size, three nodes wide, and a family: what can be proved (bounded influence, convex) and which of
the names that tell how right a prediction is are read. A loss stands in its cell until a better one of
the same kind comes, however good other kinds are, so that small, bounded or unusual losses stay parents.
Every elite is as likely a parent as any other. The facts of a loss take one or two milliseconds and are
found when it is first told.

Source:
    Mouret & Clune 2015, arXiv:1504.04909, Fig. 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from losssearch.controllers.base import Controller, Idea, Start, Told, read_back, written
from losssearch.controllers.random import Fresh
from losssearch.controllers.variation import MUTATIONS, crossed, mutated
from losssearch.errors import UsageError
from losssearch.language.draws import Draws
from losssearch.language.facts import facts
from losssearch.language.program import Program
from losssearch.language.term import DEFINED, INPUT
from losssearch.outcomes import Outcome
from losssearch.spaces import Space

WIDTH = 3  # nodes of size that share a cell
TRIES = 10
_EVEN = list(accumulate(1.0 for _ in MUTATIONS))


class Cell(NamedTuple):
    """A kind of loss.

    Args:
        size: Nodes, in steps of WIDTH.
        bounded: Whether its influence is proved to be bounded.
        convex: Whether it is proved to be convex in the prediction.
        reads: Which names that tell of rightness it reads, in order.
    """

    size: int
    bounded: bool
    convex: bool
    reads: tuple[str, ...]


@lru_cache(maxsize=4096)
def cell_of(program: Program, names: frozenset[str]) -> Cell:
    """The cell of a loss.

    Args:
        program: As written: definitions count as read where they are named.
        names: Those of the space that tell of rightness.
    """
    found = facts(program)
    read = {str(step.data) for step in program.instructions if step.op in (DEFINED, INPUT)}
    return Cell(
        program.size // WIDTH, bool(found.bounded_influence), bool(found.convex), tuple(sorted(read & names))
    )


@dataclass(frozen=True)
class MapElitesSettings:
    """How children are made: shares of those drawn afresh, crossed and mutated, and a warm-up.

    Args:
        fresh, crossover, mutation: Shares, not all 0.
        warm_up: Elites below which proposals are mostly fresh.
    """

    fresh: float = 0.2
    crossover: float = 0.2
    mutation: float = 0.6
    warm_up: int = 20

    def __post_init__(self) -> None:
        shares = self.fresh, self.crossover, self.mutation
        if min(shares) < 0 or sum(shares) <= 0 or self.warm_up < 1:
            raise UsageError(
                "Shares must not be negative nor all 0, and `warm_up >= 1` must hold, but got "
                f"{shares} and {self.warm_up}."
            )


@dataclass(frozen=True)
class Elite:
    """The best loss of a cell."""

    key: str
    program: Program
    score: float
    size: int


class MapElites(Controller):
    """Quality and diversity: one elite a cell. It learns from results of others as from its own."""

    def __init__(
        self, space: Space, start: Start, seed: int = 0, settings: MapElitesSettings | None = None
    ) -> None:
        super().__init__(space, start, seed)
        self.settings = settings or MapElitesSettings()
        self.fresh = Fresh(space, self.sampler, start)
        self.archive: dict[Cell, Elite] = {}
        self._names = frozenset(self.sampler.grammar.rightness or ())
        s = self.settings
        self._shares = list(accumulate((s.fresh, s.crossover, s.mutation)))

    def _propose(self, number: int, draws: Draws) -> Idea:
        elites = list(self.archive.values())
        if not elites or draws.chance(1 - len(elites) / self.settings.warm_up):
            return self.fresh.draw(draws)
        way = ("fresh", "crossover", "mutation")[draws.weighted(self._shares)]
        for _ in range(TRIES if way != "fresh" else 0):
            mother, father = draws.pick(elites), draws.pick(elites)
            if way == "crossover":
                child = crossed(self.sampler, mother.program, father.program, draws)
                if child is not None:
                    return Idea(child, (mother.key, father.key), "crossover")
            else:
                steps = 1 + draws.below(3)
                found = mutated(self.sampler, mother.program, draws, _EVEN, steps)
                if found is not None:
                    return Idea(found[0], (mother.key,), f"mutation: {found[1]}")
        return self.fresh.draw(draws)

    def _learn(self, told: Told) -> None:
        score = told.finite_score
        home = next((cell for cell, one in self.archive.items() if one.key == told.key), None)
        if home is not None:
            credited = told.outcome in (Outcome.DUPLICATE, Outcome.EQUIVALENT)
            if credited and self.archive[home].size <= told.size:
                return  # the same loss in longer words
            del self.archive[home]
        if score is None:
            return
        new = Elite(told.key, told.program, score, told.size)
        cell = cell_of(told.program, self._names)
        old = self.archive.get(cell)
        if old is None or (new.score, new.size) < (old.score, old.size):
            self.archive[cell] = new

    def _state(self) -> dict[str, Any]:
        return {
            "archive": [
                {
                    **written(one.program),
                    "key": one.key,
                    "score": one.score,
                    "size": one.size,
                }
                for one in self.archive.values()
            ],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.archive = {}
        for data in state["archive"]:
            program = read_back(data, self.space.signature)
            elite = Elite(str(data["key"]), program, float(data["score"]), int(data["size"]))
            self.archive[cell_of(program, self._names)] = elite
