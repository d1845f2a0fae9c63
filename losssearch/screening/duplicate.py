"""Was this canonical program seen before? Then its result is credited and no work is done."""

from __future__ import annotations

from collections.abc import Sequence

from losssearch.outcomes import Outcome
from losssearch.screening.judge import Case, Rejection, Screen


class Duplicate(Screen):
    """Remembers the keys of all candidates that it saw."""

    name = "duplicate"
    title = "the same canonical program was seen before"

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def prepare(self, cases: Sequence[Case]) -> list[Case]:
        fresh = {case.key: case for case in reversed(cases) if case.key not in self._seen}
        return list(reversed(fresh.values()))

    def judge(self, case: Case) -> Rejection | None:
        if case.key in self._seen:
            return Rejection(Outcome.DUPLICATE, same_as=case.key)
        self._seen.add(case.key)
        return None

    def remember(self, key: str) -> None:
        """A candidate was judged before this search was resumed."""
        self._seen.add(key)
