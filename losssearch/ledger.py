"""What does a running search know of its candidates?

One entry a loss that passed the screens, with its best-informed score. The ledger is rebuilt from the store
when a search is resumed, and gives the rows that a round commits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from losssearch.controllers.base import Proposal, Told
from losssearch.language.canonical import structure_key
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.selection import Score
from losssearch.store.rows import ProposalRow, ScoreUpdate

OF_A_STRUCTURE = 2  # finalists
CREDITED = (Outcome.DUPLICATE, Outcome.EQUIVALENT)


@dataclass
class Entry:
    """One trained loss.

    Args:
        number: Of the proposal that brought it.
        key: Of its canonical program.
        program: As written (sign turned, if the probe turned it).
        scale: Factor for its gradient.
        variant: Whether it is a known loss with another step size; such a one is never chosen.
        score: At the highest rung so far; None while untrained.
        rung: That rung.
    """

    number: int
    key: str
    program: Program
    scale: float
    variant: bool = False
    score: Score | None = None
    rung: int = -1

    @property
    def value(self) -> float:
        """The score for sorting; infinite without one."""
        return math.inf if self.score is None or self.score.value is None else self.score.value

    @property
    def outcome(self) -> Outcome:
        return Outcome.SCORED if self.score is None else self.score.outcome

    def update(self) -> ScoreUpdate:
        value = None if math.isinf(self.value) else self.value
        metrics, detail = _notes(self)
        return ScoreUpdate(self.number, self.outcome.name, max(self.rung, 0), value, metrics, detail)


@dataclass
class Ledger:
    """All entries of one search, by key.

    Args:
        offsets: Rung -> what is added to its scores so that they compare with those of rung 0, which stand on
            other splits: the difference that one reference loss shows.
    """

    entries: dict[str, Entry] = field(default_factory=dict)
    offsets: dict[int, float] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    def add(self, entry: Entry) -> None:
        self.entries[entry.key] = entry

    def best(self, limit: int, rung: int = 0) -> list[Entry]:
        """The best entries that were scored at `rung` or above; higher rungs do not come first."""
        scored = [e for e in self if e.rung >= rung and math.isfinite(e.value)]
        return sorted(scored, key=lambda e: (e.value, e.program.size, e.number))[:limit]

    def diverse(self, limit: int, rung: int) -> list[Entry]:
        """The best, but of no structure more than a few: they differ in constants alone."""
        places: Counter[str] = Counter()
        found: list[Entry] = []
        for entry in self.best(len(self.entries), rung):
            structure = structure_key(entry.program)
            places[structure] += 1
            if places[structure] <= OF_A_STRUCTURE:
                found.append(entry)
            if len(found) == limit:
                break
        return found

    def leader(self) -> Entry | None:
        """The best entry of the highest rung that anyone reached."""
        top = max((e.rung for e in self if math.isfinite(e.value)), default=-1)
        return next(iter(self.best(1, top)), None)

    def to_promote(self, rung: int, share: float) -> list[Entry]:
        """The best of `rung` that are due above: until `share` of all that reached `rung` were promoted."""
        reached = [e for e in self if e.rung >= rung]
        due = math.ceil(share * len(reached)) - sum(e.rung > rung for e in reached)
        waiting = [e for e in reached if e.rung == rung and math.isfinite(e.value)]
        waiting.sort(key=lambda e: (e.value, e.program.size, e.number))
        return waiting[: max(due, 0)]

    def told(self, entry: Entry) -> Told:
        """What the controller hears of a trained loss."""
        value = entry.value + self.offsets.get(entry.rung, 0.0)
        heard = value if math.isfinite(value) else None
        return Told(
            entry.number, entry.key, entry.program, heard, entry.outcome, entry.program.size, entry.rung
        )

    def credited(self, proposal: Proposal, outcome: Outcome, same_as: str) -> Told:
        """What the controller is told of a candidate that is a known loss."""
        entry = self.entries.get(same_as)
        own = Told(proposal.number, same_as, proposal.program, None, outcome, proposal.program.size, 0)
        if entry is None:
            return own
        return replace(own, score=self.told(entry).score, rung=entry.rung)

    def row(
        self,
        proposal: Proposal,
        written: Program,
        key: str,
        outcome: Outcome,
        detail: str,
        same_as: str | None,
        tags: list[str],
    ) -> ProposalRow:
        """What is stored of one proposal."""
        entry = self.entries.get(same_as or key)
        trained = entry is not None and (outcome in CREDITED or not same_as)
        value = entry.value if entry is not None and trained else math.inf
        metrics, complaint = _notes(entry) if entry is not None and trained else ({}, "")
        return ProposalRow(
            number=proposal.number,
            candidate_key=key,
            formula=written.text,
            origin=proposal.origin,
            outcome=outcome.name,
            parents=tuple(proposal.parents),
            detail="; ".join([*filter(None, (detail, complaint)), *tags]),
            same_as=same_as if same_as != key else None,
            rung=max(entry.rung, 0) if entry is not None and trained else 0,
            score=value if math.isfinite(value) else None,
            metrics=metrics,
        )


def _notes(entry: Entry) -> tuple[dict[str, object], str]:
    score = entry.score
    if score is None:
        return {}, ""
    notes: dict[str, object] = dict(score.metrics or {})
    if score.per_split:
        notes |= {"worst_split": score.worst, "splits": len(score.per_split)}
    if score.rates:
        notes["rates"] = dict(score.rates)
    return notes, score.detail
