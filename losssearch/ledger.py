"""What does a running search know of its candidates?

One entry a loss that passed the screens: numbers and a key, some 500 bytes however long the loss is. The
programs of the HELD entries used last are at hand; an older one is read from the store again on the day it is
promoted. A loss that trains exactly like an earlier one is its twin, the same in other words: it is neither
promoted nor chosen, and counts as known. Who leads and who is due to be promoted is kept in one heap a rung,
so that a round costs the same with a hundred entries as with a million. What a score of one rung is worth on
the next is learnt from all that climbed. The ledger is rebuilt from the store when a search is resumed, and
gives the rows that a round commits.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean

from losssearch.controllers.base import Proposal, Told
from losssearch.language.canonical import structure_key
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.records import constants_of
from losssearch.selection import Climb, Score
from losssearch.store.rows import CLIMBED, TRACE, CandidateRow, ProposalRow, ScoreUpdate

HELD = 2048  # programs that are kept in memory; more than the entries of a round
OF_A_STRUCTURE = 2  # finalists
CREDITED = (Outcome.DUPLICATE, Outcome.EQUIVALENT)


@dataclass(slots=True)
class Entry:
    """One trained loss.

    Args:
        number: Of the proposal that brought it.
        key: Of its canonical program.
        size: Nodes of the program.
        scale: Factor for its gradient.
        variant: Whether it is a known loss with another step size; such a one is never chosen.
        rung: The highest at which it was scored so far; -1 while untrained.
        value: Its score there, for sorting; infinite without one.
        outcome: Of its training there.
        score: The same in full, until the round is committed.
        row: For the store, until the round is committed.
        trace: Of its first trainings, see `Score`.
        twin: Key of the earlier entry with that trace, if there is one.
        climbed: The rungs that it stood on before, and its scores there.
    """

    number: int
    key: str
    size: int
    scale: float
    variant: bool = False
    rung: int = -1
    value: float = math.inf
    outcome: Outcome = Outcome.SCORED
    score: Score | None = None
    row: CandidateRow | None = None
    trace: str = ""
    twin: str = ""
    climbed: tuple[tuple[int, float], ...] = ()

    @property
    def order(self) -> tuple[float, int, int]:
        """By what entries are ranked: score, then size, then age."""
        return self.value, self.size, self.number

    def update(self) -> ScoreUpdate:
        value = None if math.isinf(self.value) else self.value
        metrics, detail = self.notes()
        return ScoreUpdate(self.number, self.outcome.name, max(self.rung, 0), value, metrics, detail)

    def notes(self) -> tuple[dict[str, object], str]:
        """What the store keeps of its score beside the number, and the first complaint."""
        if self.score is None:
            return {}, ""
        own = self.score
        found: dict[str, object] = dict(own.metrics or {})
        if own.per_split:
            found |= {"worst_split": own.worst, "splits": len(own.per_split)}
        if own.rates:
            found["rates"] = dict(own.rates)
        found |= {f"error_{name}": fmean(errors) for name, errors in own.others.items()}
        if self.trace:
            found[TRACE] = self.trace
        if self.climbed:
            found[CLIMBED] = [list(step) for step in self.climbed]
        return found, own.detail


_Place = tuple[float, int, int, str]  # an entry's order and its key


@dataclass
class Ledger:
    """All entries of one search, by key.

    Args:
        read: Gives the program of a stored proposal by its number.
        climbs: What a score is worth on the next rung, for each rung of the search but the highest.
    """

    read: Callable[[int], Program]
    entries: dict[str, Entry] = field(default_factory=dict)
    climbs: list[Climb] = field(default_factory=lambda: [Climb()])
    _held: dict[str, Program] = field(default_factory=dict, repr=False)  # the one used last comes last
    _heaps: dict[int, list[_Place]] = field(default_factory=dict, repr=False)
    _reached: Counter[int] = field(default_factory=Counter, repr=False)  # rung -> entries there now
    _unsettled: list[Entry] = field(default_factory=list, repr=False)
    _traces: dict[str, str] = field(default_factory=dict, repr=False)  # -> key of the first

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())

    @property
    def trained(self) -> int:
        """How many entries have been trained."""
        return sum(self._reached.values())

    def add(self, entry: Entry, program: Program) -> None:
        """A new entry, not yet trained; `program` as written (sign turned, if the probe turned it)."""
        self.entries[entry.key] = entry
        self._held[entry.key] = program

    def program(self, entry: Entry) -> Program:
        """As written; from the store when it was not used for long."""
        program = self._held.pop(entry.key, None) or self.read(entry.number)
        self._held[entry.key] = program
        return program

    def take(self, entry: Entry, score: Score, rung: int) -> None:
        """The entry was trained at `rung`, which is never below the one it stood on."""
        if entry.rung >= 0:
            self._reached[entry.rung] -= 1
        self._reached[rung] += 1
        self._unsettled.append(entry)
        value = math.inf if score.value is None else score.value
        if 0 <= entry.rung < rung:
            entry.climbed += ((entry.rung, entry.value),)
        if 0 <= entry.rung == rung - 1 < len(self.climbs):
            self.climbs[entry.rung].add(entry.number, entry.value, value)
        entry.score, entry.rung, entry.outcome, entry.value = score, rung, score.outcome, value
        if score.trace and not entry.trace:
            entry.trace = score.trace
            first = self._traces.setdefault(score.trace, entry.key)
            entry.twin = first if first != entry.key else ""
        if math.isfinite(entry.value) and not entry.twin:
            heapq.heappush(self._heaps.setdefault(rung, []), (*entry.order, entry.key))

    def settle(self) -> None:
        """All that was taken is in the store now: keep the numbers, let go of the rest."""
        for entry in self._unsettled:
            entry.score = entry.row = None
        self._unsettled.clear()
        while len(self._held) > HELD:
            del self._held[next(iter(self._held))]

    def best(self, limit: int, rung: int) -> list[Entry]:
        """The best entries whose last score is of `rung`, no twins."""
        scored = (e for e in self if e.rung == rung and math.isfinite(e.value) and not e.twin)
        return heapq.nsmallest(limit, scored, key=lambda e: e.order)

    def diverse(self, limit: int, rung: int) -> list[Entry]:
        """The same, but of no structure more than a few: they differ in constants alone."""
        places: Counter[str] = Counter()
        found: list[Entry] = []
        for entry in self.best(len(self.entries), rung):
            if len(found) == limit:
                break
            structure = structure_key(self.program(entry))
            places[structure] += 1
            if places[structure] <= OF_A_STRUCTURE:
                found.append(entry)
        return found

    def leader(self) -> Entry | None:
        """The best entry of the highest rung that anyone reached."""
        for rung in sorted(self._heaps, reverse=True):
            if standing := self._standing(rung, 1):
                return standing[0]
        return None

    def to_promote(self, rung: int, share: float) -> list[Entry]:
        """The best of `rung` that are due above: until `share` of all that reached `rung` were promoted."""
        above = sum(count for level, count in self._reached.items() if level > rung)
        reached = above + self._reached[rung]
        return self._standing(rung, max(0, math.ceil(share * reached) - above))

    def _standing(self, rung: int, limit: int) -> list[Entry]:
        """The best entries whose last score is of `rung`; places of those that moved on are dropped."""
        heap = self._heaps.get(rung, [])
        places: list[_Place] = []
        while heap and len(places) < limit:
            place = heapq.heappop(heap)
            entry = self.entries[place[3]]
            if entry.rung == rung and entry.value == place[0] and place not in places[-1:]:
                places.append(place)
        for place in places:
            heapq.heappush(heap, place)
        return [self.entries[place[3]] for place in places]

    def expected(self, entry: Entry) -> float | None:
        """Its score as far as it can be foreseen on the highest rung before the finals; None without one."""
        rung, value = entry.rung, entry.value
        if rung > len(self.climbs) and entry.climbed:  # it stands in the finals
            rung, value = entry.climbed[-1]
        for climb in self.climbs[max(rung, 0) :]:
            value = climb.expected(value)
        return value if math.isfinite(value) else None

    def told(self, entry: Entry) -> Told:
        """What the controller hears of a trained loss that is no twin."""
        program, heard = self.program(entry), self.expected(entry)
        return Told(
            entry.number, entry.key, program, heard, entry.outcome, entry.size, entry.rung,
            measured=entry.value,
        )  # fmt: skip

    def credited(self, proposal: Proposal, outcome: Outcome, same_as: str) -> Told:
        """What the controller is told of a candidate that is a known loss."""
        entry = self.entries.get(same_as)
        own = Told(proposal.number, same_as, proposal.program, None, outcome, proposal.program.size, 0)
        if entry is None:
            return own
        return replace(own, score=self.expected(entry), rung=entry.rung, measured=entry.value)

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
        """What is stored of one proposal. The store gives a credited one the metrics of its loss."""
        entry = self.entries.get(same_as or key)
        trained = entry if outcome in CREDITED or not same_as else None
        metrics, complaint = trained.notes() if trained is not None and not same_as else ({}, "")
        twin = f"trains exactly like #{self.entries[trained.twin].number}" if trained and trained.twin else ""
        return ProposalRow(
            number=proposal.number,
            candidate_key=key,
            formula=written.text,
            constants=constants_of(written),
            size=written.size,
            origin=proposal.origin,
            outcome=outcome.name,
            parents=tuple(proposal.parents),
            detail="; ".join([*filter(None, (detail, complaint, twin)), *tags]),
            same_as=same_as if same_as != key else None,
            rung=max(trained.rung, 0) if trained is not None else 0,
            score=trained.value if trained is not None and math.isfinite(trained.value) else None,
            metrics=metrics,
        )
