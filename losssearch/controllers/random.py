"""Proposals that learn nothing: the control that every other controller must beat.

The space's mix says how often a loss is drawn by role, made of a start loss by one to three
mutations, or grown freely.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from losssearch.controllers.base import Controller, Idea, Start, Told
from losssearch.controllers.variation import MUTATIONS, mutated
from losssearch.errors import FormulaError
from losssearch.language.canonical import candidate_key
from losssearch.language.draws import Draws
from losssearch.language.program import Program
from losssearch.language.sampling import Sampler
from losssearch.spaces import Space

TRIES = 50
_EVEN = list(accumulate(1.0 for _ in MUTATIONS))


class Fresh:
    """Draws programs by the space's mix; needs no history."""

    def __init__(self, space: Space, sampler: Sampler, start: Start) -> None:
        self.sampler = sampler
        self.seeds: Sequence[tuple[Program, str]] = [
            (program, candidate_key(program))
            for _, program in start
            if sampler.fits(program) and sampler.has_head(program)
        ]
        mix = dict(space.search.mix)
        if not self.seeds:
            mix["growth"], mix["mutation"] = mix["growth"] + mix["mutation"], 0.0
        self.ways = ("role", "mutation", "growth")
        self.totals = list(accumulate(mix[way] for way in self.ways))

    def draw(self, draws: Draws) -> Idea:
        """One program inside the limits."""
        for _ in range(TRIES):
            way = self.ways[draws.weighted(self.totals)]
            if way == "mutation":
                seed, key = draws.pick(self.seeds)
                found = mutated(self.sampler, seed, draws, _EVEN, 1 + draws.below(3))
                if found is not None:
                    return Idea(found[0], (key,), f"mutation: {found[1]}")
                continue
            try:
                make = self.sampler.by_role if way == "role" else self.sampler.free
                program = make(draws)
            except FormulaError:
                continue
            if self.sampler.fits(program):
                return Idea(program, (), way)
        return Idea(self.sampler.free(draws), (), "growth")


class RandomController(Controller):
    """Draws every proposal anew."""

    def __init__(self, space: Space, start: Start, seed: int = 0) -> None:
        super().__init__(space, start, seed)
        self.fresh = Fresh(space, self.sampler, start)

    def _propose(self, number: int, draws: Draws) -> Idea:
        return self.fresh.draw(draws)

    def _learn(self, told: Told) -> None:
        return None
