"""Who proposes the next losses, and what does it learn?

A controller is asked for programs and told how they did, failures included. Proposal k depends on
the seed, on k and on what was told before, and on nothing else: its randomness is a stream of its
own, and all that a controller has learnt is in `state()`, plain data that a store keeps and
`restore` reads back, with every formula parsed again. The first proposals are the start losses. A
proposal that is canonically equal to one of the last few thousand is drawn again, a bounded
number of times.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from losssearch.errors import FormulaError, UsageError
from losssearch.language.canonical import candidate_key, canonical, key_of_canonical
from losssearch.language.draws import Draws
from losssearch.language.formula import format_program, parse
from losssearch.language.grammar import ORDINARY_WEIGHT, WEIGHTS, Grammar
from losssearch.language.program import Constant, Program
from losssearch.language.sampling import Sampler
from losssearch.language.signature import Signature
from losssearch.outcomes import Outcome
from losssearch.spaces import Space

RETRIES = 20
WINDOW = 4096  # keys of own proposals that are remembered

Start = Sequence[tuple[str, Program]]


@dataclass(frozen=True)
class Proposal:
    """A program that a controller wants judged.

    Args:
        number: Counts the proposals of a search, from 0.
        program: Well typed, and inside the space's limits unless it is a start loss.
        parents: Keys of the candidates that it was made from.
        origin: How it was made, such as "start: focal", "role" or "crossover".
    """

    number: int
    program: Program
    parents: tuple[str, ...]
    origin: str


@dataclass(frozen=True)
class Told:
    """What became of a proposal.

    Args:
        number: That of the proposal; a candidate that is scored again keeps its number.
        key: Key of the candidate.
        program: As it was judged.
        score: Lower is better; None where there is none. A search tells what it expects on its highest rung,
            less of the luck of few splits.
        outcome: Of its life so far.
        size: Nodes of the program.
        rung: How far it came, from 0.
        guard: The proxy's first guard metric, lower is better; None where it is unknown.
        measured: The score as it was measured on `rung`, where `score` is what is expected of it.
    """

    number: int
    key: str
    program: Program
    score: float | None
    outcome: Outcome
    size: int
    rung: int
    guard: float | None = None
    measured: float | None = None

    @property
    def mark(self) -> tuple[int, float]:
        """What the same loss in other words shares: its rung, and to nine digits what was measured there."""
        value = self.score if self.measured is None else self.measured
        return self.rung, math.nan if value is None else float(f"{value:.9g}") + 0.0

    @property
    def finite_score(self) -> float | None:
        """The score, if it is a number."""
        return self.score if self.score is not None and math.isfinite(self.score) else None


class Idea(NamedTuple):
    """A proposal without its number."""

    program: Program
    parents: tuple[str, ...]
    origin: str


class Controller(ABC):
    """Proposes programs of a space and learns from their scores.

    Args:
        space: What may be written.
        start: Named losses that are proposed first, as they are.
        seed: The same seed and the same answers give the same proposals.
    """

    objectives = 1  # more than the score: the finals see the whole front

    def __init__(self, space: Space, start: Start, seed: int = 0) -> None:
        if seed < 0:
            raise UsageError(f"`seed >= 0` must hold, but got {seed=}.")
        self.space, self.start, self.seed = space, tuple(start), seed
        self.sampler = sampler_of(space)
        self.number = 0
        self._recent: deque[str] = deque(maxlen=WINDOW)
        self._known: set[str] = set()

    def ask(self, count: int) -> list[Proposal]:
        """The next `count` proposals; start losses first."""
        return [self._next() for _ in range(count)]

    def skip(self, count: int) -> None:
        """The next numbers belong to candidates that somebody else made."""
        self.number += count

    def tell(self, results: Sequence[Told]) -> None:
        """What became of proposals, in any order and portions."""
        for told in results:
            self._learn(told)

    def state(self) -> dict[str, Any]:
        """All that decides the next proposals, as plain data."""
        return {"number": self.number, "recent": list(self._recent), **self._state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state()` of a controller with the same space, start and seed.

        Raises:
            UsageError: The state does not fit.
        """
        try:
            self.number = int(state["number"])
            self._recent = deque((str(k) for k in state["recent"]), maxlen=WINDOW)
            self._known = set(self._recent)
            self._restore(state)
        except (KeyError, TypeError, ValueError, FormulaError) as error:
            raise UsageError(
                f"The saved state of the {type(self).__name__} controller does not fit: {error!r}. "
                "Was it saved by another controller or space?"
            ) from error

    # What a controller provides.

    @abstractmethod
    def _propose(self, number: int, draws: Draws) -> Idea:
        """One program inside the limits, from this proposal's own draws."""

    @abstractmethod
    def _learn(self, told: Told) -> None:
        """Take in one result."""

    def _accept(self, number: int, idea: Idea) -> None:
        """An idea became proposal `number`; most controllers need not know."""
        return None

    def _state(self) -> dict[str, Any]:
        return {}

    def _restore(self, state: Mapping[str, Any]) -> None:
        return None

    # The rest.

    def _next(self) -> Proposal:
        number = self.number
        self.number += 1
        if number < len(self.start):
            name, program = self.start[number]
            idea = Idea(program, (), f"start: {name}")
            self._remember(_short(candidate_key(program)))
        else:
            idea = self._new_idea(number)
        self._accept(number, idea)
        return Proposal(number, *idea)

    def _new_idea(self, number: int) -> Idea:
        """An idea that is new if one turns up in time, else the last that is a loss at all."""
        draws = Draws.counted(self.seed, number)
        reference = self.space.losses[self.space.reference]
        best = Idea(reference.program, (), "fallback")
        for _ in range(RETRIES):
            idea = self._propose(number, draws)
            key = self._key(idea.program)
            if key is None:
                continue
            best = idea
            if key not in self._known:
                self._remember(key)
                break
        return best

    def _key(self, program: Program) -> str | None:
        """The key, or None for what simplifies to no loss, such as mean(x - x, 'n')."""
        try:
            plain = canonical(program)
        except FormulaError:
            return None
        if not self.sampler.speaks_of_all(plain):
            return None
        return _short(key_of_canonical(plain))

    def _remember(self, key: str) -> None:
        if key in self._known:
            return
        if len(self._recent) == WINDOW:
            self._known.discard(self._recent[0])
        self._recent.append(key)
        self._known.add(key)


def _short(key: str) -> str:
    """Enough of a key to tell thousands apart."""
    return key[:12]


@lru_cache(maxsize=16)
def sampler_of(space: Space) -> Sampler:
    """The sampler of a space's [search]; it is the same for all controllers, and holds no state."""
    from losssearch.controllers.roles import rightness  # loads torch

    search = space.search
    return Sampler(
        Grammar(
            signature=space.signature,
            primitives={n: WEIGHTS.get(n, ORDINARY_WEIGHT) for n in search.primitives},
            terminals=search.terminals,
            sets=search.sets,
            nodes=search.nodes,
            depth=search.depth,
            head=space.head,
            rightness=rightness(space.signature, search.terminals, space.losses[space.reference].program),
        )
    )


def written(program: Program) -> dict[str, Any]:
    """A program as plain data: its formula, and [value, low, high, learnable] of each constant."""
    return {
        "formula": format_program(program),
        "constants": {c.name: [c.value, c.low, c.high, c.learnable] for c in program.constants},
    }


def read_back(data: Mapping[str, Any], signature: Signature) -> Program:
    """The program that `written` wrote, checked again."""
    constants = {
        str(name): Constant(str(name), float(value), float(low), float(high), bool(learnable))
        for name, (value, low, high, learnable) in data["constants"].items()
    }
    return parse(str(data["formula"]), signature, constants)
