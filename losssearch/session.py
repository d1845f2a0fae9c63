"""A search while it runs: its parts, and the steps that the loop in `search.py` is made of.

Everything that a search opens is opened here, what an earlier run left is taken up here, and every round
and the finals leave from here in one transaction each.
"""

from __future__ import annotations

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
from losssearch.language.tidy import tidied
from losssearch.ledger import CREDITED, Entry, Ledger
from losssearch.outcomes import Outcome
from losssearch.pools.base import Pool
from losssearch.pools.open import open_pool
from losssearch.proxies.base import Proxy
from losssearch.proxies.registry import load_proxy, place_of
from losssearch.records import candidate_row, read_program, space_id
from losssearch.result import Discovered, SearchResult
from losssearch.screening.fingerprint import VARIANT
from losssearch.screening.pipeline import Screens, Verdict
from losssearch.screening.scale import gradient_scale
from losssearch.selection import Score, choose, score
from losssearch.spaces import ClassicalLoss, Space, load_space
from losssearch.store.mirror import Mirror
from losssearch.store.rows import CandidateRow, ScoreUpdate, SearchRow
from losssearch.store.store import Store
from losssearch.tuning import BATCH, SEARCH_SPLITS, Tuned, try_settings

ROUND = 96  # proposals a round
PROMOTED = 0.1  # share of the trained that is trained again on more splits
FINALISTS = 24
FINALISTS_SHARE = 0.6  # of the finals' time is for the finalists, the rest for tuning
FINALS_SHARE = 0.25  # of a time budget is kept for the finals
TUNED = 4  # finalists whose constants are tuned
SETTINGS = 24  # tried for each
CHOSEN = 3  # the rung of the loss that stands for the search


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
    controller: str = "evolution"
    start: Sequence[str] | None = None
    storage: str = "sqlite:///losses.db"
    name: str = "search"
    seed: int = 0
    workers: str = "processes"
    deadline_s: float = DEADLINE_S
    mirror: bool = True


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
        began = clock.perf_counter()
        # Whatever can be wrong is asked before the database hears of the search.
        controller = make_controller(spec.controller, space, [(s.name, s.program) for s in start], spec.seed)
        pool: Pool = stack.enter_context(open_pool(spec.workers))
        store = stack.enter_context(Store.open(spec.storage))
        config = {"start": [s.name for s in start], "space_digest": space.digest, "round": ROUND}
        row = store.open_search(
            spec.name, space_id(space), place_of(spec.proxy), spec.controller, config, spec.seed
        )
        stack.callback(store.close_search, row)
        evaluator = Evaluator(store, pool, space, proxy, place_of(spec.proxy), spec.deadline_s)
        mirror = Mirror(store, row) if spec.mirror else None
        state = cls(
            spec, space, proxy, store, row, controller, Screens.of(space), evaluator, Ledger(),
            mirror, seconds, candidates, watch, began,
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
                loss.program,
                self.space,
                scale=gradient_scale(loss.program, self.space),
                name=loss.name,
                source=loss.source,
            )
            for loss in self.space.losses.values()
        )

    def measure(self, reference: ClassicalLoss) -> None:
        """Train the first start loss at both rungs: scores of different splits are compared through it."""
        scale = gradient_scale(reference.program, self.space)
        key = candidate_key(reference.program)
        runs = [tuple(self.proxy.runs(rung, [0])) for rung in (0, 1)]
        results = self.evaluator.evaluate([Contender(key, reference.program, scale, own) for own in runs])
        values = [score(own, found).value for own, found in zip(runs, results, strict=True)]
        if values[0] is not None and values[1] is not None:
            self.ledger.offsets = {1: values[0] - values[1], 2: values[0] - values[1]}

    def resume(self) -> None:
        """Take up what earlier rounds left."""
        if self.row.rounds == 0:
            return
        self.controller.restore(self.row.state)
        self.spent = sum(done.seconds for done in self.store.rounds(self.row.name))
        rows = self.store.proposals(self.row.name)
        known = self.store.candidates({r.candidate_key for r in rows})
        for row in rows:
            candidate, outcome = known[row.candidate_key], Outcome[row.outcome]
            if row.same_as or outcome is Outcome.DUPLICATE or candidate.scale is None:
                self.screens.remember(candidate.key, None)
                continue
            program = read_program(row.formula, candidate.constants, self.space)
            self.screens.remember(candidate.key, program)
            variant = VARIANT in row.detail
            entry = Entry(row.number, candidate.key, program, candidate.scale, variant)
            entry.score = Score(row.score, outcome=outcome, detail=row.detail)
            entry.rung = min(row.rung, CHOSEN - 1)
            self.ledger.add(entry)

    # The steps of a round.

    def room(self) -> int:
        """How many proposals the budget still allows in the next round."""
        if self.candidates is not None:
            return max(0, min(ROUND, self.candidates - self.row.proposals))
        used = self.spent + clock.perf_counter() - self.began
        return ROUND if used < (self.seconds or 0) * (1 - FINALS_SHARE) else 0

    def screen(self, proposal: Proposal) -> Verdict:
        started = proposal.origin.startswith("start")
        verdict = self.screens.judge(proposal.program if started else tidied(proposal.program))
        self._screened += 1
        if verdict.rejection is not None:
            name = verdict.rejection.outcome.name
            self.rejected[name] = self.rejected.get(name, 0) + 1
        self.show()
        return verdict

    def admit(self, proposals: Sequence[Proposal], verdicts: Sequence[Verdict]) -> list[Entry]:
        """Entries for the candidates that passed every screen."""
        fresh = []
        for proposal, verdict in zip(proposals, verdicts, strict=True):
            if verdict.rejection is None:
                case = verdict.case
                scale = gradient_scale(case.program, self.space)
                variant = any(tag.startswith(VARIANT) for tag in case.tags)
                fresh.append(Entry(proposal.number, case.key, case.written, scale, variant))
                self.ledger.add(fresh[-1])
        return fresh

    def train(self, wanted: Sequence[tuple[Sequence[Entry], int]]) -> None:
        """Train entries at their rungs, all in one go; their scores are then those of that rung."""
        runs = {rung: tuple(self.proxy.runs(rung, [0])) for _, rung in wanted}
        entries = [(entry, rung) for some, rung in wanted for entry in some]
        contenders = [Contender(e.key, e.program, e.scale, runs[rung]) for e, rung in entries]
        results = self.evaluator.evaluate(contenders)
        for (entry, rung), found in zip(entries, results, strict=True):
            entry.score, entry.rung = score(runs[rung], found), rung

    def close_round(
        self, proposals: Sequence[Proposal], verdicts: Sequence[Verdict], promoted: Sequence[Entry]
    ) -> None:
        """Tell the controller, then commit the round and the controller's state in one transaction."""
        number = self.row.rounds
        rows, candidates, told = [], [], []
        for proposal, verdict in zip(proposals, verdicts, strict=True):
            case, rejection = verdict.case, verdict.rejection
            entry = self.ledger.entries.get(case.key) if rejection is None else None
            outcome = entry.outcome if entry else rejection.outcome if rejection else Outcome.SCORED
            same_as = rejection.same_as if rejection else None
            candidates.append(self._candidate(verdict, entry))
            rows.append(
                self.ledger.row(
                    proposal, case.written, case.key, outcome,
                    rejection.detail if rejection else "", same_as, case.tags,
                )
            )  # fmt: skip
            if entry is not None:
                told.append(self.ledger.told(entry))
            elif outcome in CREDITED and same_as:
                told.append(self.ledger.credited(proposal, outcome, same_as))
            else:
                size = case.written.size
                told.append(Told(proposal.number, case.key, case.written, None, outcome, size, 0))
        fresh = {p.number for p in proposals}
        older = [e for e in promoted if e.number not in fresh]
        self.controller.tell([*told, *(self.ledger.told(e) for e in older)])
        if number == 0:
            self._insist_on_a_start(proposals)
        now = clock.perf_counter()
        seconds, self._round_began = now - self._round_began, now
        self.row = self.store.commit_round(
            self.row, number, rows, self.screens.take_counts(), self.controller.state(), seconds,
            updates=[e.update() for e in older], candidates=candidates,
        )  # fmt: skip
        self._screened = 0
        if self.mirror is not None:
            self.mirror.update()
        self.show()

    def _candidate(self, verdict: Verdict, entry: Entry | None) -> CandidateRow:
        case = verdict.case
        return candidate_row(case.written, self.space, ran=case.program, scale=entry.scale if entry else None)

    def _insist_on_a_start(self, proposals: Sequence[Proposal]) -> None:
        """A task on which no known loss can be trained is broken: better said now than after an hour."""
        entries = list(self.ledger)
        broken = (Outcome.FAILED, Outcome.INVALID, Outcome.POISON)
        if entries and all(e.outcome in broken for e in entries):
            first = next((e for e in entries if e.score and e.score.detail), entries[0])
            raise ProxyError(
                f"The proxy {self.spec.proxy!r} could train none of the first {len(entries)} losses. Of "
                f"{first.program.text} it said: {first.score.detail if first.score else ''} "
                f"({first.outcome.value}) Mend the proxy and run again."
            )

    def finals(self) -> None:
        """The best on fresh splits and a second condition, and again with tuned constants; one is chosen.

        All of it is one transaction; finals that were held since the last round are not held again.
        """
        held = [event.payload for event in self.store.events(self.row.name) if event.kind == "finals"]
        if held and held[-1]["proposals"] == self.row.proposals:
            return
        self.phase = "finals"
        finalists = self.ledger.diverse(self._finalists(), rung=1) or self.ledger.best(1)
        self.train([(finalists, 2)])
        self.phase = "tuning"
        tuned = self.tune(sorted(finalists, key=lambda e: (e.value, e.program.size))[:TUNED])
        self.train([([entry for _, entry in tuned], 2)])
        everyone = [*finalists, *(entry for _, entry in tuned)]
        chosen = choose(
            {e.key: e.score for e in everyone if e.score is not None and not e.variant},
            {e.key: e.program.size for e in everyone},
        )
        updates = [replace(e.update(), rung=CHOSEN if e.key == chosen else 2) for e in everyone]
        kept = {e.number for e in everyone}
        before = [
            ranked.proposal.number
            for ranked in self.store.leaderboard(self.row.name, limit=5)
            if ranked.proposal.rung == CHOSEN and ranked.proposal.number not in kept
        ]
        updates += [replace(e.update(), rung=2) for e in self.ledger if e.number in before]
        self.close_finals(tuned, updates, {"finalists": len(everyone), "chosen": chosen})
        if self.mirror is not None:
            self.mirror.rebuild()

    def tune(self, entries: Sequence[Entry]) -> list[tuple[Proposal, Entry]]:
        """The entries again, as new candidates with tuned constants; what tuning left alone is left out."""
        losses = [Tuned.of(e.program, self.proxy) for e in entries if e.program.constants]
        for _ in range(SETTINGS // BATCH):
            try_settings(losses, BATCH, self.evaluator, SEARCH_SPLITS)
        parents = [e for e in entries if e.program.constants]
        found: list[tuple[Proposal, Entry]] = []
        for parent, loss in zip(parents, losses, strict=True):
            program = loss.best[1].program if loss.best else loss.program
            key = candidate_key(program)
            if key in self.ledger.entries:
                continue
            number = self.row.proposals + len(found)
            proposal = Proposal(number, program, (parent.key,), "tuned")
            scale = gradient_scale(program, self.space)
            entry = Entry(number, key, program, scale, parent.variant)
            self.ledger.add(entry)
            found.append((proposal, entry))
        return found

    def close_finals(
        self,
        tuned: Sequence[tuple[Proposal, Entry]],
        updates: Sequence[ScoreUpdate],
        notes: Mapping[str, object],
    ) -> None:
        """A round of its own, with the tuned candidates, whose numbers the controller will not use."""
        self.controller.skip(len(tuned))
        rows = [
            self.ledger.row(proposal, entry.program, entry.key, entry.outcome, "", None, [])
            for proposal, entry in tuned
        ]
        candidates = [candidate_row(e.program, self.space, scale=e.scale) for _, e in tuned]
        now = clock.perf_counter()
        seconds, self._round_began = now - self._round_began, now
        self.row = self.store.commit_round(
            self.row, self.row.rounds, rows, {}, self.controller.state(), seconds,
            updates=updates, candidates=candidates,
            events=[("finals", {**notes, "proposals": self.row.proposals + len(rows)})],
        )  # fmt: skip

    def _finalists(self) -> int:
        """As many as the time left can train; all of them when the budget is a number of candidates."""
        trained, took = self.evaluator.trained, self.evaluator.seconds
        if self.seconds is None or trained < 100:
            return FINALISTS
        left = self.seconds - self.spent - (clock.perf_counter() - self.began)
        left *= FINALISTS_SHARE
        cost = len(self.proxy.runs(2, [0])) * took / trained
        return max(5, min(FINALISTS, int(left / cost)))

    # Looking out.

    def status(self, status: str) -> None:
        self.store.set_status(self.row, status)

    def show(self) -> None:
        leader = self.ledger.leader()
        used = self.spent + clock.perf_counter() - self.began
        self.watch(
            Progress(
                self.phase,
                used,
                None if self.seconds is None else max(0.0, self.seconds - used),
                self.row.proposals + self._screened,
                dict(self.rejected),
                sum(e.rung >= 0 for e in self.ledger),
                self.evaluator.trained,
                leader.value if leader else None,
                leader.program.text if leader else "",
            )
        )

    def result(self) -> SearchResult:
        found = [
            Discovered.of_row(ranked, self.space, self.row.name)
            for ranked in self.store.leaderboard(self.row.name, limit=FINALISTS)
        ]
        return SearchResult(self.row.name, self.spec.storage, tuple(found), self.row.proposals)
