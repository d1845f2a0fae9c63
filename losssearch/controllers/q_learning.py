"""How far does a plain table get? Which word is worth most where, by Watkins's rule.

A state is what stands around the hole: the parent word and which of its arguments this is, the same of the
parent, the sibling to the left, and what must still occur. The only reward comes at the end, so that an
episode is learnt from its last word to its first. Unlike states share a place in the table, and a greatest
value over all their words is soon too good to be true everywhere; so most of the target is what the episode
earned, and the rest what the best next word is worth. Start losses are episodes like any other.

With chance epsilon, which falls with the number of the proposal, a word is drawn by the grammar's weights;
else the word of the highest value is taken, where a word never tried counts as nothing gained, nothing lost.
Learning from a round of 96 proposals takes a hundredth of a second.

Source:
    Watkins 1989, Learning from Delayed Rewards, PhD thesis, Cambridge; in the form of Watkins & Dayan 1992,
    Machine Learning 8, Eq. (1); the mixed target as in Peng & Williams 1996, Machine Learning 22, Q(lambda).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from losssearch.controllers.base import Idea, Start
from losssearch.controllers.derivation import Context, Derivation, rewritten
from losssearch.controllers.lessons import Apprentice, Lesson
from losssearch.errors import UsageError
from losssearch.language.draws import Draws
from losssearch.spaces import Space

STATES = 2500  # that are remembered; those not seen for longest are forgotten first
DIGITS = 5  # of a value: saved in short, and yet as it is
PUSH = 0.1  # added to epsilon with each attempt at the same number

State = tuple[int, int, int, int]


@dataclass(frozen=True)
class QSettings:
    """How the table learns.

    Args:
        rate: Least step towards what is new; the n-th lesson of a word in a state takes max(rate, 1/n).
        earned: Share lambda of the target that is what the episode earned; 0 is Watkins's rule alone.
        first, last: Epsilon at the beginning and in the end, in [0, 1].
        decay: Proposals after which the difference has fallen to 1/e.
    """

    rate: float = 0.1
    earned: float = 0.9
    first: float = 1.0
    last: float = 0.1
    decay: float = 200.0

    def __post_init__(self) -> None:
        shares = 0 < self.rate <= 1 and 0 <= self.earned <= 1 and 0 <= self.last <= self.first <= 1
        if not shares or self.decay <= 0:
            raise UsageError(
                "`0 < rate <= 1`, `0 <= earned <= 1`, `0 <= last <= first <= 1` and `decay > 0` must hold, "
                f"but got {self.rate}, {self.earned}, {self.last}, {self.first} and {self.decay}."
            )

    def epsilon(self, number: int) -> float:
        """The chance of a drawn word in proposal `number`."""
        return self.last + (self.first - self.last) * math.exp(-number / self.decay)


class QLearning(Apprentice):
    """Tabular Q-learning over the derivation."""

    enough = 1

    def __init__(self, space: Space, start: Start, seed: int = 0, settings: QSettings | None = None) -> None:
        super().__init__(space, start, seed)
        self.settings = settings or QSettings()
        self._table: dict[State, dict[int, tuple[float, int]]] = {}  # state -> word -> value, lessons

    def value(self, context: Context, word: int) -> float:
        """What a word is worth in a state, in [-1, 1]; 0 if it was never tried there."""
        return self._table.get(_state_of(context), {}).get(word, (0.0, 0))[0]

    def _propose(self, number: int, draws: Draws) -> Idea:
        epsilon = min(1.0, self.settings.epsilon(number) + PUSH * len(self._tries))
        derivation = Derivation(self.rules)
        while legal := derivation.legal():
            context = derivation.context()
            if not draws.chance(epsilon):
                values = [self.value(context, word) for word in legal]
                best = max(values)
                legal = tuple(word for word, value in zip(legal, values, strict=True) if value == best)
            weights = self.rules.alphabet.weights(context.place == 0, context.wish)
            totals = list(accumulate(math.exp(weights[word]) for word in legal))
            derivation.write(legal[draws.weighted(totals)], draws.uniform())
        return self._idea(derivation, "table")

    def _practise(self, lessons: Sequence[Lesson]) -> None:
        for lesson in lessons:
            self._learn_backwards(lesson)

    def _learn_backwards(self, lesson: Lesson) -> None:
        """From the last word to the first, s' being the state after a word a was written in s:

        Q(s, a) <- Q(s, a) + rate * (target(s) - Q(s, a))
        target(s) = R for the last word, else lambda * target(s') + (1 - lambda) * max_b Q(s', b)
        """
        target, share = lesson.reward, self.settings.earned
        steps = zip(rewritten(self.rules, lesson.words), lesson.words, strict=True)
        for (context, legal), word in reversed(list(steps)):
            state = _state_of(context)
            row = self._table[state] = self._table.pop(state, {})  # now the last to be forgotten
            value, lessons = row.get(word, (0.0, 0))
            rate = max(self.settings.rate, 1 / (lessons + 1))
            row[word] = round(value + rate * (target - value), DIGITS), lessons + 1
            best = max(row.get(other, (0.0, 0))[0] for other in legal)
            target = share * target + (1 - share) * best
        while len(self._table) > STATES:
            del self._table[next(iter(self._table))]

    def _state(self) -> dict[str, Any]:
        table = [
            [list(state), [[word, value, lessons] for word, (value, lessons) in row.items()]]
            for state, row in self._table.items()
        ]
        return {**super()._state(), "table": table}

    def _restore(self, state: Mapping[str, Any]) -> None:
        super()._restore(state)
        self._table = {}
        for numbers, row in state["table"]:
            place, above, sibling, need = (int(n) for n in numbers)
            self._table[place, above, sibling, need] = {
                int(word): (float(value), int(lessons)) for word, value, lessons in row
            }


def _state_of(context: Context) -> State:
    """What the table keeps of a context."""
    return context.place, context.above, context.sibling, context.need
