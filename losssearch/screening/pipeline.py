"""Which proposals are worth a training? All screens, cheapest first, each with its counts and its cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from losssearch.errors import SpaceError
from losssearch.language.program import Program
from losssearch.screening.descent import Descent
from losssearch.screening.duplicate import Duplicate
from losssearch.screening.facts import Facts
from losssearch.screening.fingerprint import Fingerprint
from losssearch.screening.judge import Case, Rejection, Screen
from losssearch.screening.probe import Probe
from losssearch.spaces import Space

SCREENS: dict[str, type[Screen]] = {
    screen.name: screen for screen in (Duplicate, Facts, Probe, Fingerprint, Descent)
}


@dataclass
class Count:
    """What one screen did."""

    seen: int = 0
    rejected: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, float]:
        return {"seen": self.seen, "rejected": self.rejected, "seconds": round(self.seconds, 6)}


@dataclass(frozen=True)
class Verdict:
    """What the screens say of one candidate; `rejection` is None for one that passed."""

    case: Case
    rejection: Rejection | None


@dataclass
class Screens:
    """The screens of one search; they remember what they saw."""

    space: Space
    duplicates: Duplicate
    others: Sequence[Screen]
    counts: dict[str, Count] = field(default_factory=dict)

    @classmethod
    def of(cls, space: Space) -> Screens:
        """The screens that the space lists; the one for duplicates always comes first."""
        for name in space.screens:
            if name not in SCREENS or name == Duplicate.name:
                raise SpaceError(
                    f"{space.path}: screens: no screen is called {name!r}; "
                    f"known are {', '.join(n for n in SCREENS if n != Duplicate.name)}."
                )
        return cls(space, Duplicate(), [SCREENS[n]() for n in SCREENS if n in space.screens])

    @property
    def screens(self) -> list[Screen]:
        return [self.duplicates, *self.others]

    def judge_all(self, programs: Sequence[Program]) -> list[Verdict]:
        """The verdicts on many candidates, the same as one after the other, but prepared all at once."""
        cases = [Case(self.space, program) for program in programs]
        self._prepare(cases)
        return [self._judge(case) for case in cases]

    def judge(self, program: Program) -> Verdict:
        """Send one candidate through the screens until one rejects it."""
        [verdict] = self.judge_all([program])
        return verdict

    def _prepare(self, cases: Sequence[Case]) -> None:
        """Each screen looks at those that the ones before it will let pass, each program once."""
        fresh: Sequence[Case] = cases
        for screen in self.screens:
            began = time.perf_counter()
            fresh = screen.prepare(fresh)
            self._count(screen).seconds += time.perf_counter() - began

    def _count(self, screen: Screen) -> Count:
        return self.counts.setdefault(screen.name, Count())

    def _judge(self, case: Case) -> Verdict:
        for screen in self.screens:
            count = self._count(screen)
            began = time.perf_counter()
            flipped = case.flipped
            rejection = screen.judge(case)
            if rejection is None and case.flipped != flipped:
                # Turned over, it may be an old acquaintance.
                rejection = self.duplicates.judge(case)
            count.seen += 1
            count.rejected += rejection is not None
            count.seconds += time.perf_counter() - began
            if rejection is not None:
                return Verdict(case, rejection)
        for screen in self.screens:
            screen.admit(case)
        return Verdict(case, None)

    def remember(self, key: str, passed: Program | None) -> None:
        """Take in a candidate that was judged before this search was resumed."""
        self.duplicates.remember(key)
        if passed is not None:
            case = Case(self.space, passed)
            for screen in self.screens:
                screen.admit(case)

    def take_counts(self) -> dict[str, dict[str, float]]:
        """The counts since the last call."""
        taken = {name: count.to_dict() for name, count in self.counts.items()}
        self.counts = {}
        return taken
