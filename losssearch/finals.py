"""Which of the best is to be believed?

The best are trained on fresh splits, some of them under a second condition, and again with tuned constants
and without parts that do not matter; of those tied with the best the simplest stands for the search. All of
it is one transaction.

Where time is the budget, a share of it is kept for this, and all is cut to what it pays. Where it cannot pay
even a few finalists, those are judged that stand on the highest rung, by what is known of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from losssearch.ablation import slimmed
from losssearch.controllers.base import Proposal
from losssearch.execution.plan import Run
from losssearch.language.canonical import candidate_key, structure_key
from losssearch.ledger import Entry
from losssearch.pareto import FINAL_RUNG, POOL, point, undominated
from losssearch.screening.fingerprint import VARIANT
from losssearch.screening.pipeline import Verdict
from losssearch.screening.scale import gradient_scale
from losssearch.selection import choose
from losssearch.session import Session
from losssearch.store.rows import CHOSEN, ScoreUpdate
from losssearch.tuning import BATCH, SEARCH_SPLITS, Tuned, try_settings

FINALISTS = 24
LEAST = 3  # finalists that make finals worth their cost; they may take all of the time
FINALISTS_SHARE = 0.45  # of the finals' time is for the finalists, the rest for tuning and ablation
TUNED = 4  # finalists whose constants are tuned
SETTINGS = 24  # tried for each
SLIMMED = 2  # structures that are tried with parts dropped


def hold_finals(state: Session) -> None:
    """The best on fresh splits and a second condition, and again tuned and slimmed; one is chosen.

    All of it is one transaction; finals that were held since the last round are not held again.
    """
    before = state.store.finals(state.row.name)
    if before.get("proposals") == state.row.proposals:
        return
    state.phase = "finals"
    finalists, rung = _finalists(state)
    state.train([(finalists, rung)])
    state.phase = "tuning"
    tuned = _tune(state, sorted(finalists, key=lambda e: e.order), rung)
    state.train([([entry for _, entry in tuned], rung)])
    everyone = [*finalists, *(entry for _, entry in tuned)]
    state.phase = "ablation"
    slim, known = _slim(state, everyone, len(tuned), rung)
    shed = [*(entry for _, entry in slim), *known]
    state.train([(shed, rung)])
    everyone += shed
    chosen = choose(
        {e.key: e.score for e in everyone if e.score is not None and not e.variant},
        {e.key: e.size for e in everyone},
    )
    updates = [replace(e.update(), rung=CHOSEN if e.key == chosen else rung) for e in everyone]
    kept = {e.number for e in everyone}
    updates += [
        ScoreUpdate(p.number, p.outcome, before.get("rung", FINAL_RUNG), p.score, p.metrics, p.detail)
        for p in (ranked.proposal for ranked in state.store.leaderboard(state.row.name, limit=5))
        if p.rung == CHOSEN and p.number not in kept
    ]
    notes = {"finalists": len(everyone), "chosen": chosen, "guard": state.guard, "rung": rung}
    _close(state, [*tuned, *slim], updates, notes)
    if state.mirror is not None:
        state.mirror.rebuild()


def _finalists(state: Session) -> tuple[list[Entry], int]:
    """Who is judged, and on which rung. Finalists of earlier finals cost nothing, and take nobody's place."""
    final, best = state.final, list[Entry]()
    for rung in range(final - 1, 0, -1):
        best += state.ledger.diverse(FINALISTS - len(best), rung)
    best = best or state.ledger.best(1, 0)
    if state.controller.objectives > 1:
        best += _front(state, {e.key for e in best})
    most = state.left() / state.price(final)
    if most >= min(LEAST, len(best)):
        paid = max(LEAST, min(most * FINALISTS_SHARE, len(best)))
        return [*best[: int(paid)], *state.ledger.diverse(FINALISTS, final)], final
    rung = max(e.rung for e in state.ledger if math.isfinite(e.value))
    return state.ledger.diverse(FINALISTS, rung), rung


def _front(state: Session, known: Collection[str]) -> list[Entry]:
    """The promoted that no other beats in score, guard and size, without the `known`; some at most."""
    board = state.store.leaderboard(state.row.name, limit=POOL)
    rows = [r for r in board if r.proposal.rung == state.final - 1]
    keys = [rows[i].candidate.key for i in undominated([point(r, state.guard) for r in rows])]
    fresh = [state.ledger.entries[k] for k in keys if k in state.ledger.entries and k not in known]
    return fresh[: FINALISTS // 2]


def _tune(state: Session, entries: Sequence[Entry], rung: int) -> list[tuple[Proposal, Entry]]:
    """The entries again, as new candidates with tuned constants; what tuning left alone is left out.

    Where time is short, fewer losses are tuned, and a single one by fewer settings.
    """
    judged, left, batches = state.price(rung), state.left(), SETTINGS // BATCH
    tried = BATCH * state.evaluator.price([Run(0, split, 1.0) for split in SEARCH_SPLITS])
    entries = entries[: int(max(1, min(TUNED, left / (batches * tried + judged))))]
    batches = int(min(batches, (left / max(1, len(entries)) - judged) / tried))
    if batches < 1:
        return []
    tunable = [(e, p) for e in entries if (p := state.ledger.program(e)).constants]
    programs = [program for _, program in tunable]
    losses = Tuned.all_of(programs, state.proxy, state.space, state.spec.tuner)
    for _ in range(batches):
        try_settings(losses, BATCH, state.evaluator, SEARCH_SPLITS)
    found: list[tuple[Proposal, Entry]] = []
    for (parent, _), loss in zip(tunable, losses, strict=True):
        program = loss.best[1].program if loss.best else loss.program
        key = candidate_key(program)
        if key in state.ledger.entries:
            continue
        number = state.row.proposals + len(found)
        proposal = Proposal(number, program, (parent.key,), "tuned")
        scale = gradient_scale(program, state.space)
        entry = Entry(number, key, program.size, scale, parent.variant)
        state.ledger.add(entry, program)
        found.append((proposal, entry))
    return found


def _slim(
    state: Session, entries: Sequence[Entry], taken: int, rung: int
) -> tuple[list[tuple[Proposal, Entry]], list[Entry]]:
    """The best again without parts that do not matter, on splits that they were not picked on.

    It may cost as much as all finalists did.

    Args:
        entries: Who stands in the finals.
        taken: New proposals of these finals so far.
        rung: On which they are judged; half of the time left is kept for it.

    Returns:
        New candidates, and entries outside the finals that the best boil down to.
    """
    best: dict[str, Entry] = {}
    for entry in sorted(entries, key=lambda e: e.order):
        if not entry.variant and math.isfinite(entry.value):
            best.setdefault(structure_key(state.ledger.program(entry)), entry)
    half, whole = state.left() / 2, len(state.proxy.runs(state.final - 1, [0]))
    judged = half / state.price(rung)
    parents = list(best.values())[:SLIMMED]
    # They may have to be trained there first.
    most = (half / state.price(state.final - 1) - len(parents)) * whole
    if judged < 1 or most < 0:
        return [], []
    most = min(most, FINALISTS * len(state.proxy.runs(state.final, [0])))
    made = [
        (program, parent.key)
        for parent in parents
        for program in slimmed(state.ledger.program(parent), state.evaluator, most / len(parents))
    ]
    made = made[: int(min(judged, len(made)))]
    proposals: list[Proposal] = []
    verdicts: list[Verdict] = []
    known: dict[str, Entry] = {}
    for verdict, (_, parent) in zip(state.screens.judge_all([p for p, _ in made]), made, strict=True):
        case, rejection = verdict.case, verdict.rejection
        if rejection is None and not any(tag.startswith(VARIANT) for tag in case.tags):
            number = state.row.proposals + taken + len(proposals)
            proposals.append(Proposal(number, case.written, (parent,), "slimmed"))
            verdicts.append(verdict)
        elif rejection is not None and rejection.same_as in state.ledger.entries:
            known[rejection.same_as] = state.ledger.entries[rejection.same_as]
    there = {entry.key for entry in entries}
    fresh = state.admit(proposals, verdicts)
    return list(zip(proposals, fresh, strict=True)), [e for k, e in known.items() if k not in there]


def _close(
    state: Session,
    tuned: Sequence[tuple[Proposal, Entry]],
    updates: Sequence[ScoreUpdate],
    notes: Mapping[str, object],
) -> None:
    """A round of its own, with the new candidates, whose numbers the controller will not use."""
    state.controller.skip(len(tuned))
    rows = [
        state.ledger.row(proposal, proposal.program, entry.key, entry.outcome, "", None, [])
        for proposal, entry in tuned
    ]
    state.commit(rows, {}, updates, [("finals", {**notes, "proposals": state.row.proposals + len(rows)})])
