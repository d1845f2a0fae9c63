"""Better losses from good ones: typed evolution with ageing, niches and two aims, score and size.

Parents win tournaments, or stand on the front of what is best at its size; children are parents
changed, crossed or added together, and some are drawn afresh. Who survives is the front, then
the young and good; each structure and each score keep few places, so that variants of one loss do
not crowd out the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from losssearch.controllers.base import Controller, Idea, Start, Told, read_back, written
from losssearch.controllers.random import Fresh
from losssearch.controllers.variation import MUTATIONS, blended, crossed, mutated, nudged
from losssearch.errors import UsageError
from losssearch.language.canonical import structure_key
from losssearch.language.draws import Draws
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.spaces import Space

TRIES = 10
_FRESH, _CROSSOVER, _BLEND, _CONSTANTS, _MUTATION = range(5)


@dataclass(frozen=True)
class EvolutionSettings:
    """How evolution works; parts are shares and counts.

    Args:
        population: How many losses live.
        warm_up: Scored losses below which proposals are mostly fresh.
        tournament: How many draw for a parent's place.
        front: Share of parents taken from the front of score and size.
        lifetime: Proposals after which a loss off the front counts as old.
        niche: Most losses of one structure, and most of one score.
        fresh, crossover, blend, constants, mutation: Shares of the ways to make a child.
    """

    population: int = 120
    warm_up: int = 60
    tournament: int = 4
    front: float = 0.25
    lifetime: int = 2000
    niche: int = 3
    fresh: float = 0.25
    crossover: float = 0.15
    blend: float = 0.1
    constants: float = 0.15
    mutation: float = 0.35

    def __post_init__(self) -> None:
        if self.population < 2 or self.tournament < 1 or self.niche < 1:
            raise UsageError(
                "`population >= 2`, `tournament >= 1` and `niche >= 1` must hold, but got "
                f"{self.population}, {self.tournament} and {self.niche}."
            )


# How often each mutation is tried.
_WEIGHTS = {
    "subtree": 2.0, "point": 1.5, "hoist": 1.0, "shrink": 0.7, "wrap": 1.5, "add": 2.0, "drop": 1.0,
    "weigh": 1.2, "constants": 0.5, "literal": 0.6,
}  # fmt: skip


@dataclass(frozen=True)
class Individual:
    """A loss that lives in the population."""

    key: str
    program: Program
    score: float
    size: int
    rung: int
    born: int
    structure: str
    mark: tuple[int, float]


class Evolution(Controller):
    """Typed evolution of programs."""

    def __init__(
        self,
        space: Space,
        start: Start,
        seed: int = 0,
        settings: EvolutionSettings | None = None,
    ) -> None:
        super().__init__(space, start, seed)
        self.settings = settings or EvolutionSettings()
        self.fresh = Fresh(space, self.sampler, start)
        self.population: list[Individual] = []
        self._totals = list(accumulate(_WEIGHTS[name] for name in MUTATIONS))
        s = self.settings
        self._shares = list(accumulate((s.fresh, s.crossover, s.blend, s.constants, s.mutation)))
        self._front: list[Individual] = []

    # Children.

    def _propose(self, number: int, draws: Draws) -> Idea:
        missing = 1 - len(self.population) / self.settings.warm_up
        if draws.chance(missing) or not self.population:
            return self.fresh.draw(draws)
        way = draws.weighted(self._shares)
        for attempt in range(TRIES):
            idea = self._child(way if attempt < TRIES // 2 else _MUTATION, draws)
            if idea is not None:
                return idea
        return self.fresh.draw(draws)

    def _child(self, way: int, draws: Draws) -> Idea | None:
        if way == _FRESH:
            return self.fresh.draw(draws)
        mother = self._parent(draws)
        if way in (_CROSSOVER, _BLEND):
            father = self._parent(draws)
            mate = crossed if way == _CROSSOVER else blended
            child = mate(self.sampler, mother.program, father.program, draws)
            origin = "crossover" if way == _CROSSOVER else "blend"
            return None if child is None else Idea(child, (mother.key, father.key), origin)
        if way == _CONSTANTS:
            stepped = nudged(self.sampler, mother.program, draws)
            return None if stepped is None else Idea(stepped, (mother.key,), "constants")
        steps = 1 + draws.chance(0.4) + draws.chance(0.15)
        found = mutated(self.sampler, mother.program, draws, self._totals, steps)
        return None if found is None else Idea(found[0], (mother.key,), f"mutation: {found[1]}")

    def _parent(self, draws: Draws) -> Individual:
        if self._front and draws.chance(self.settings.front):
            return draws.pick(self._front)
        rivals = [draws.pick(self.population) for _ in range(self.settings.tournament)]
        return min(rivals, key=lambda one: (one.score, one.size))

    # Survivors.

    def tell(self, results: Sequence[Told]) -> None:
        super().tell(results)
        self._select()

    def _learn(self, told: Told) -> None:
        score = told.finite_score
        kept = [one for one in self.population if one.key != told.key]
        if score is None:  # it may have failed at a higher rung than it is known from
            self.population = kept
            return
        if told.outcome in (Outcome.EQUIVALENT, Outcome.DUPLICATE):
            # The same loss in other words, with the other's score: the shorter stays.
            same = [one for one in kept if one.mark == told.mark]
            if any(one.size <= told.size for one in same):
                return
            kept = [one for one in kept if one not in same[:1]]
        structure = structure_key(told.program)
        one = Individual(
            told.key, told.program, score, told.size, told.rung, told.number, structure, told.mark
        )
        self.population = [*kept, one]

    def _select(self) -> None:
        """Find the front, and drop whom there is no room for."""
        places: Counter[object] = Counter()
        ranked: list[Individual] = []
        for one in sorted(self.population, key=lambda one: (one.score, one.size)):
            same = one.structure, one.mark
            places.update(same)
            if all(places[niche] <= self.settings.niche for niche in same):
                ranked.append(one)
        self._front = _front(ranked)
        if len(ranked) > self.settings.population:
            on_front = {one.key for one in self._front}
            now = max(one.born for one in ranked)
            ranked.sort(
                key=lambda one: (
                    one.key not in on_front,
                    now - one.born > self.settings.lifetime,
                    one.score,
                    one.size,
                )
            )
            del ranked[self.settings.population :]
        self.population = ranked

    # State.

    def _state(self) -> dict[str, Any]:
        return {
            "population": [
                {
                    **written(one.program),
                    "key": one.key,
                    "score": one.score,
                    "size": one.size,
                    "rung": one.rung,
                    "born": one.born,
                    "mark": one.mark,
                }
                for one in self.population
            ],
            "front": [one.key for one in self._front],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.population = []
        for data in state["population"]:
            program = read_back(data, self.space.signature)
            self.population.append(
                Individual(
                    key=str(data["key"]),
                    program=program,
                    score=float(data["score"]),
                    size=int(data["size"]),
                    rung=int(data["rung"]),
                    born=int(data["born"]),
                    structure=structure_key(program),
                    mark=(int(data["mark"][0]), float(data["mark"][1])),
                )
            )
        living = {one.key: one for one in self.population}
        self._front = [living[key] for key in state["front"]]


def _front(ranked: list[Individual]) -> list[Individual]:
    """Of losses sorted by score, those smaller than all better ones, and not hopeless."""
    if not ranked:
        return []
    hopeless = ranked[len(ranked) // 2].score
    front: list[Individual] = []
    for one in ranked:
        if (not front or one.size < front[-1].size) and one.score <= hopeless:
            front.append(one)
    return front
