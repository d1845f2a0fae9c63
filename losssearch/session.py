"""A search while it runs: its parts, and the steps that the loop in `search.py` is made of.

Everything that a search opens is opened here, what an earlier run left is taken up here, and every round
leaves from here in one transaction. The finals are in `finals.py`.
"""

from __future__ import annotations

import math
import time as clock
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from losssearch.controllers.base import Controller, Proposal, Told
from losssearch.controllers.registry import make_controller
from losssearch.errors import ProxyError, UsageError
from losssearch.evaluation import DEADLINE_S, Contender, Evaluator
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program
from losssearch.language.tidy import tidied
from losssearch.ledger import CREDITED, Entry, Ledger
from losssearch.outcomes import Outcome
from losssearch.pareto import FINAL_RUNG, front_of
from losssearch.pools.base import Pool
from losssearch.pools.open import open_pool
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy, place_of
from losssearch.records import candidate_row, read_program, space_id
from losssearch.result import Discovered, SearchResult
from losssearch.screening.fingerprint import VARIANT
from losssearch.screening.pipeline import Screens, Verdict
from losssearch.screening.scale import gradient_scale
from losssearch.selection import Climb, Score, score
from losssearch.spaces import ClassicalLoss, Space, load_space
from losssearch.store.mirror import Mirror
from losssearch.store.rows import (
    CHOSEN,
    CLIMBED,
    TRACE,
    TRAINED,
    CandidateRow,
    ProposalRow,
    ScoreUpdate,
    SearchRow,
)
from losssearch.store.store import Store
from losssearch.tuning import GRADIENT, TUNER, Tuned

ROUND = 96  # proposals a round
PAGE = 2000  # proposals that are read at once on resume
PROMOTED = 0.1  # share of the trained that climbs to the highest rung before the finals
FINALS_SHARE = 0.15  # of a time budget is kept for the finals
ROUND_SHARE = 0.75  # of the time left before them is the most that a round may take
JOB_S = 4.0  # of work in one job, where time is the budget
LEADERS = 24  # of a result


@dataclass(frozen=True)
class Progress:
    """Where a search stands, for whoever shows it."""

    phase: str
    seconds: float
    left: float | None
    seen: int
    rejected: Mapping[str, int]
    trained: int
    trainings: int
    best: float | None
    formula: str


Watch = Callable[[Progress], None]


@dataclass
class Spec:
    """What is searched, and with what; see `Search`."""

    space: str | Path
    proxy: str
    controller: str = "portfolio"
    start: Sequence[str] | None = None
    storage: str = "sqlite:///losses.db"
    name: str = "search"
    seed: int = 0
    workers: str = "processes"
    deadline_s: float = DEADLINE_S
    mirror: bool = True
    tuner: str = TUNER


@dataclass
class Session:
    """A search while it runs: its parts, and the steps of its loop."""

    spec: Spec
    space: Space
    proxy: Proxy
    store: Store
    row: SearchRow
    controller: Controller
    screens: Screens
    evaluator: Evaluator
    ledger: Ledger
    mirror: Mirror | None
    seconds: float | None
    candidates: int | None
    watch: Watch
    began: float
    spent: float = 0.0
    rejected: dict[str, int] = field(default_factory=dict)
    phase: str = "search"
    _round_began: float = 0.0
    _screened: int = 0

    @classmethod
    def enter(
        cls,
        spec: Spec,
        seconds: float | None,
        candidates: int | None,
        watch: Watch,
        stack: ExitStack,
    ) -> Session:
        """Load and open everything; go on where an earlier run stopped."""
        space, proxy = load_space(spec.space), load_proxy(spec.proxy)
        if proxy.space != space.task:
            raise UsageError(
                f"The proxy {spec.proxy!r} trains {proxy.space} losses, but the space {space.name!r} is for "
                f"{space.task}. Choose a proxy or a space that fits."
            )
        start = [space.loss(n) for n in spec.start] if spec.start else list(space.seeds)
        if not start:
            raise UsageError(
                f"The space {space.name!r} has no loss of one formula to start from, "
                "and a search proposes one."
            )
        began = clock.perf_counter()
        # Whatever can be wrong is asked before the database hears of the search.
        controller = make_controller(spec.controller, space, [(s.name, s.program) for s in start], spec.seed)
        screens = Screens.of(space)
        if spec.tuner != GRADIENT:
            Tuned.of(start[0].program, proxy, sampler=spec.tuner)
        pool: Pool = stack.enter_context(open_pool(spec.workers))
        store = stack.enter_context(Store.open(spec.storage))
        names = [s.name for s in start]
        config = {
            "start": names, "space_digest": space.digest, "round": ROUND, "metric": proxy.metric,
            "rungs": proxy.ladder,
        }  # fmt: skip
        row = store.open_search(
            spec.name, space_id(space), place_of(spec.proxy), spec.controller, config, spec.seed
        )
        stack.callback(store.close_search, row)
        evaluator = Evaluator(store, pool, space, proxy, place_of(spec.proxy), spec.deadline_s)
        evaluator.job_s = None if seconds is None else JOB_S
        mirror = Mirror(store, row) if spec.mirror else None
        state = cls(
            spec, space, proxy, store, row, controller, screens, evaluator,
            Ledger(lambda number: state.read(number)), mirror, seconds, candidates, watch, began,
        )  # fmt: skip
        evaluator.watch = lambda trained: state.show()
        state.seed_points()
        state.measure(start[0])
        state.resume()
        state._round_began = began  # getting ready counts
        return state

    def seed_points(self) -> None:
        """Classical losses are rows like any other."""
        self.store.add_candidates(
            candidate_row(
                loss.candidate,
                self.space,
                scale=gradient_scale(loss.program, self.space) if loss.candidate.is_one else None,
                name=loss.name,
                source=loss.source,
            )
            for loss in self.space.losses.values()
        )

    @property
    def final(self) -> int:
        """The rung of the finals, the last of the proxy's; losses climb to the one below it."""
        return len(self.proxy.rungs) - 1

    def measure(self, reference: ClassicalLoss) -> None:
        """Train the first start loss on every rung of the search: the first that climbs."""
        scale = gradient_scale(reference.program, self.space)
        key = candidate_key(reference.program)
        runs = [tuple(self.proxy.runs(rung, [0])) for rung in range(self.final)]
        results = self.evaluator.evaluate([Contender(key, reference.program, scale, own) for own in runs])
        values = [score(own, found).value for own, found in zip(runs, results, strict=True)]
        self.ledger.climbs = [Climb() for _ in range(self.final - 1)]
        for climb, below, above in zip(self.ledger.climbs, values, values[1:], strict=False):
            if below is not None and above is not None:
                climb.add(-1, below, above)

    def resume(self) -> None:
        """Take up what earlier rounds left."""
        if self.row.rounds == 0:
            return
        self.controller.restore(self.row.state)
        self.spent = sum(done.seconds for done in self.store.rounds(self.row.name))
        final = self.store.finals(self.row.name).get("rung", FINAL_RUNG)
        for start in range(0, self.row.proposals, PAGE):
            rows = self.store.proposals(self.row.name, start, limit=PAGE)
            known = self.store.candidates(r.candidate_key for r in rows if r.outcome in TRAINED)
            for row in rows:
                rung = final if row.rung == CHOSEN else row.rung
                self._take_up(row, rung, known.get(row.candidate_key) if row.outcome in TRAINED else None)

    def _take_up(self, row: ProposalRow, rung: int, candidate: CandidateRow | None) -> None:
        """Remember one proposal of an earlier run; `candidate` is given if it was trained."""
        if candidate is None or candidate.scale is None or row.same_as:
            self.screens.remember(row.candidate_key, None)
            return
        program = read_program(row.formula, row.constants, self.space)
        self.screens.remember(row.candidate_key, program)
        entry = Entry(row.number, row.candidate_key, program.size, candidate.scale, VARIANT in row.detail)
        self.ledger.add(entry, program)
        trace = str(row.metrics.get(TRACE, ""))
        for step, value in row.metrics.get(CLIMBED, ()):
            self.ledger.take(entry, Score(float(value), trace=trace), int(step))
        score = Score(row.score, outcome=Outcome[row.outcome], detail=row.detail, trace=trace)
        self.ledger.take(entry, score, rung)
        self.ledger.settle()

    def read(self, number: int) -> Program:
        """The program of a stored proposal, checked anew."""
        (row,) = self.store.proposals(self.row.name, number, limit=1)
        return read_program(row.formula, row.constants, self.space)

    # The steps of a round.

    def room(self) -> int:
        """How many proposals the budget still allows in the next round; of seconds, if all pass the screens.

        However little time there is, the start losses are trained.
        """
        if self.candidates is not None:
            return max(0, min(ROUND, self.candidates - self.row.proposals))
        due = sum(len(entries) * self.price(rung) for entries, rung in self.due())
        fit = (self.left(FINALS_SHARE) * ROUND_SHARE - due) / self.price(0)
        start = len(self.controller.start) if self.row.rounds == 0 else 0
        return int(min(ROUND, max(start, fit)))

    def due(self) -> list[tuple[list[Entry], int]]:
        """Who climbs to which rung in the next round, the highest first; half of what the round may cost.

        The same share climbs from every rung, so that PROMOTED of all reach the highest.
        """
        share, most = PROMOTED ** (1 / (self.final - 1)), self.left(FINALS_SHARE) * ROUND_SHARE / 2
        climbing = []
        for rung in range(self.final - 1, 0, -1):
            due = self.ledger.to_promote(rung - 1, share)
            due = due[: int(min(most / self.price(rung), len(due)))]
            most -= len(due) * self.price(rung)
            climbing.append((due, rung))
        return climbing

    def price(self, rung: int) -> float:
        """Seconds that one loss costs on a rung, as far as is known."""
        return self.evaluator.price(self.proxy.runs(rung, [0]))

    def left(self, kept: float = 0.0) -> float:
        """Seconds left, but for a share of the budget that is kept; endless where it is proposals."""
        return math.inf if self.seconds is None else max(0.0, self.seconds * (1 - kept) - self.used)

    @property
    def used(self) -> float:
        """Seconds, those of earlier runs too."""
        return self.spent + clock.perf_counter() - self.began

    def screen(self, proposals: Sequence[Proposal]) -> list[Verdict]:
        """Send a round through the screens; what was not written by a person is tidied first."""
        verdicts = self.screens.judge_all(
            [p.program if p.origin.startswith("start") else tidied(p.program) for p in proposals]
        )
        for verdict in verdicts:
            self._screened += 1
            if verdict.rejection is not None:
                name = verdict.rejection.outcome.name
                self.rejected[name] = self.rejected.get(name, 0) + 1
        self.show()
        return verdicts

    def admit(self, proposals: Sequence[Proposal], verdicts: Sequence[Verdict]) -> list[Entry]:
        """Entries for the candidates that passed every screen."""
        fresh = []
        for proposal, verdict in zip(proposals, verdicts, strict=True):
            if verdict.rejection is None:
                case = verdict.case
                scale = case.known_scale
                variant = any(tag.startswith(VARIANT) for tag in case.tags)
                row = candidate_row(case.written, self.space, ran=case.program, scale=scale)
                entry = Entry(proposal.number, case.key, row.size, scale, variant, row=row)
                self.ledger.add(entry, case.written)
                fresh.append(entry)
        return fresh

    def train(self, wanted: Sequence[tuple[Sequence[Entry], int]]) -> None:
        """Train entries at their rungs, all in one go; their scores are then those of that rung."""
        runs = {rung: tuple(self.proxy.runs(rung, [0])) for _, rung in wanted}
        entries = [(entry, rung) for some, rung in wanted for entry in some]
        contenders = [
            Contender(e.key, self.ledger.program(e), e.scale, runs[rung], e.row) for e, rung in entries
        ]
        results = self.evaluator.evaluate(contenders)
        for (entry, rung), found in zip(entries, results, strict=True):
            self.ledger.take(entry, score(runs[rung], found), rung)

    def close_round(
        self,
        proposals: Sequence[Proposal],
        verdicts: Sequence[Verdict],
        climbing: Sequence[tuple[Sequence[Entry], int]],
    ) -> None:
        """Tell the controller, then commit the round and the controller's state in one transaction.

        What passed the screens was stored before it was trained; of the rest only the proposal is kept.
        """
        rows, told = [], []
        for proposal, verdict in zip(proposals, verdicts, strict=True):
            case, rejection = verdict.case, verdict.rejection
            entry = self.ledger.entries.get(case.key) if rejection is None else None
            outcome = entry.outcome if entry else rejection.outcome if rejection else Outcome.SCORED
            same_as = rejection.same_as if rejection else None
            rows.append(
                self.ledger.row(
                    proposal, case.written, case.key, outcome,
                    rejection.detail if rejection else "", same_as, case.tags,
                )
            )  # fmt: skip
            if entry is not None and entry.twin:
                told.append(self.ledger.credited(proposal, Outcome.EQUIVALENT, entry.twin))
            elif entry is not None:
                told.append(self._told(entry))
            elif outcome in CREDITED and same_as:
                told.append(self.ledger.credited(proposal, outcome, same_as))
            else:
                size = case.written.size
                told.append(Told(proposal.number, case.key, case.written, None, outcome, size, 0))
        fresh = {p.number for p in proposals}
        older = [e for entries, _ in climbing for e in entries if e.number not in fresh]
        self.controller.tell([*told, *(self._told(e) for e in older)])
        if self.row.rounds == 0:
            self._insist_on_a_start(proposals)
        self.commit(rows, self.screens.take_counts(), updates=[e.update() for e in older])
        self._screened = 0
        if self.mirror is not None:
            self.mirror.update()
        self.show()

    def commit(
        self,
        rows: Sequence[ProposalRow],
        counts: Mapping[str, Mapping[str, float]],
        updates: Sequence[ScoreUpdate] = (),
        events: Sequence[tuple[str, Mapping[str, object]]] = (),
    ) -> None:
        """A round and the controller's state, in one transaction; the time since the last one is its own."""
        now = clock.perf_counter()
        seconds, self._round_began = now - self._round_began, now
        self.row = self.store.commit_round(
            self.row, self.row.rounds, rows, counts, self.controller.state(), seconds,
            updates=updates, events=events,
        )  # fmt: skip
        self.ledger.settle()

    def _told(self, entry: Entry) -> Told:
        """What the controller hears of a loss trained in this round; a twin has no score of its own."""
        metrics = (entry.score.metrics if entry.score else None) or {}
        told = replace(self.ledger.told(entry), guard=metrics.get(self.guard or ""))
        return replace(told, score=None) if entry.twin else told

    @property
    def guard(self) -> str | None:
        """The guard metric that counts beside the score: the proxy's first."""
        return self.proxy.guards[0] if self.proxy.guards else None

    def _insist_on_a_start(self, proposals: Sequence[Proposal]) -> None:
        """A task on which no known loss can be trained is broken: better said now than after an hour."""
        entries = list(self.ledger)
        broken = (Outcome.FAILED, Outcome.INVALID, Outcome.POISON)
        if entries and all(e.outcome in broken for e in entries):
            first = next((e for e in entries if e.score and e.score.detail), entries[0])
            raise ProxyError(
                f"The proxy {self.spec.proxy!r} could train none of the first {len(entries)} losses. Of "
                f"{self.ledger.program(first).text} it said: {first.score.detail if first.score else ''} "
                f"({first.outcome.value}) Mend the proxy and run again."
            )

    # Looking out.

    def status(self, status: str) -> None:
        self.store.set_status(self.row, status)

    def show(self) -> None:
        leader = self.ledger.leader()
        self.watch(
            Progress(
                self.phase,
                self.used,
                None if self.seconds is None else self.left(),
                self.row.proposals + self._screened,
                dict(self.rejected),
                self.ledger.trained,
                self.evaluator.trained,
                leader.value if leader else None,
                self.ledger.program(leader).text if leader else "",
            )
        )

    def result(self) -> SearchResult:
        found = [
            Discovered.of_row(ranked, self.space, self.row.name)
            for ranked in self.store.leaderboard(self.row.name, limit=LEADERS)
        ]
        front = tuple(front_of(self.store, self.row.name))
        return SearchResult(self.row.name, self.spec.storage, tuple(found), self.row.proposals, front)
