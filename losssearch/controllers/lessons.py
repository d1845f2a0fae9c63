"""What do all controllers share that learn to write losses word by word?

They remember how each open proposal was written, turn what is told into rewards, and learn from a handful
of lessons at a time. Start losses that the alphabet can write are remembered like proposals: nobody drew
them, but somebody thought of them. A proposal is learnt from once, when it is first told; a later, surer
score of it moves the scale that others are measured on.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from losssearch.controllers.base import Controller, Idea, Start, Told, sampler_of
from losssearch.controllers.derivation import Derivation, Rules, rewritten, written_as
from losssearch.controllers.rewards import Rewards
from losssearch.spaces import Space

OPEN = 1024  # proposals whose result is waited for


@lru_cache(maxsize=16)
def rules_of(space: Space) -> Rules:
    """The rules of a space; they are the same for all controllers, and hold no state but tables."""
    return Rules(sampler_of(space))


@dataclass(frozen=True)
class Lesson:
    """A loss word by word, and what it earned.

    Args:
        words: Their numbers in the alphabet.
        reward: In [-1, 1].
    """

    words: tuple[int, ...]
    reward: float


class Apprentice(Controller):
    """A controller that learns from lessons."""

    enough = 16  # lessons that are learnt from at a time, at least

    def __init__(self, space: Space, start: Start, seed: int = 0) -> None:
        super().__init__(space, start, seed)
        self.rules = rules_of(space)
        self.rewards = Rewards()
        self._open: dict[int, tuple[int, ...]] = {}
        self._lessons: list[Lesson] = []
        self._tries: list[tuple[Idea, tuple[int, ...]]] = []  # at the number that is being proposed

    # What an apprentice provides.

    @abstractmethod
    def _practise(self, lessons: Sequence[Lesson]) -> None:
        """Learn from some lessons, in this order."""

    # The rest.

    def tell(self, results: Sequence[Told]) -> None:
        self.rewards.add(results)
        super().tell(results)
        if len(self._lessons) >= self.enough:
            self._practise(self._lessons)
            self._lessons = []

    def _learn(self, told: Told) -> None:
        reward = self.rewards.earned(told)
        words = self._open.pop(told.number, None)
        if words is not None:
            self._lessons.append(Lesson(words, reward))

    def _idea(self, derivation: Derivation, origin: str) -> Idea:
        """The idea that a complete derivation is; call it for each attempt at a proposal."""
        idea = Idea(derivation.program(), (), origin)
        self._tries.append((idea, tuple(derivation.written)))
        return idea

    def _accept(self, number: int, idea: Idea) -> None:
        if number < len(self.start):
            words = written_as(self.rules, idea.program)
            if words is not None:
                self._open[number] = tuple(words)
        for tried, written in self._tries:
            if tried is idea:
                self._open[number] = written
        self._tries = []
        while len(self._open) > OPEN:
            del self._open[next(iter(self._open))]

    def _state(self) -> dict[str, Any]:
        return {
            "words": list(self.rules.alphabet.names),
            "rewards": self.rewards.state(),
            "open": [[number, list(words)] for number, words in self._open.items()],
            "lessons": [[list(one.words), one.reward] for one in self._lessons],
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        if list(state["words"]) != list(self.rules.alphabet.names):
            raise ValueError("its alphabet is another")
        self.rewards.restore(state["rewards"])
        self._open = {int(number): self._checked(words) for number, words in state["open"]}
        self._lessons = [Lesson(self._checked(words), float(reward)) for words, reward in state["lessons"]]

    def _checked(self, words: Sequence[int]) -> tuple[int, ...]:
        """A derivation that was read back."""
        numbers = tuple(int(n) for n in words)
        rewritten(self.rules, numbers)
        return numbers
