"""What does the page of a search say? Plain values for its template, from a handful of queries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dashboards import tally
from dashboards.charts import Chart, Line, chart
from losssearch.errors import LossSearchError
from losssearch.outcomes import Outcome
from losssearch.spaces import load_space
from losssearch.store.rows import CHOSEN, ProposalRow, Ranked, RoundRow, SearchRow
from losssearch.store.store import Store

ROWS = 25  # of a leaderboard on one page


@dataclass(frozen=True)
class Entry:
    """One row of a leaderboard."""

    rank: int
    key: str
    text: str
    constants: Mapping[str, Any]
    score: float | None
    rung: int
    is_chosen: bool
    size: int
    origin: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class Overview:
    """One search in the list of all."""

    search: SearchRow
    state: str
    trained: int
    best: Entry | None


@dataclass(frozen=True)
class Screen:
    """What one screen did, over all rounds."""

    name: str
    seen: int
    rejected: int
    seconds: float


def overviews(store: Store) -> list[Overview]:
    """Every search, the newest first."""
    found = []
    for search in reversed(store.searches()):
        board = entries(store.leaderboard(search.name, limit=1), search.space)
        trained = store.outcomes(search.name).get("SCORED", 0)
        found.append(Overview(search, store.status(search), trained, board[0] if board else None))
    return found


def search_page(store: Store, name: str, page: int) -> dict[str, Any]:
    """Everything on the page of one search; `page` of the leaderboard counts from 1.

    Raises:
        UsageError: There is no such search.
    """
    search = store.search(name)
    rounds = store.rounds(name)
    outcomes = store.outcomes(name)
    board = store.leaderboard(name, limit=ROWS + 1, offset=(page - 1) * ROWS)
    trainings, training_s = tally.trainings(store, search.id)
    points = tally.scored(store, search.id)
    return {
        "search": search,
        "state": store.status(search),
        "space": space_title(search.space),
        "seconds": sum(done.seconds for done in rounds),
        "screens": screens(rounds),
        "outcomes": [(sentence(o), n) for o, n in sorted(outcomes.items(), key=lambda i: -i[1])],
        "trained": outcomes.get("SCORED", 0),
        "trainings": trainings,
        "training_s": training_s,
        "best": next(iter(entries(store.leaderboard(name, limit=1), search.space)), None),
        "board": entries(board[:ROWS], search.space),
        "page": page,
        "more": len(board) > ROWS,
        "chart": progress_chart(points),
        "audit": audit(store, search),
    }


def space_title(space: str) -> str:
    """The title of a space; its name where the file is gone."""
    try:
        return load_space(space).title
    except LossSearchError:
        return space


def entries(board: Iterable[Ranked], space: str) -> list[Entry]:
    """Rows for a table. Stored text is shown as it is; nothing is parsed here."""
    try:
        known = {loss.candidate.text: loss.name for loss in load_space(space).losses.values()}
    except LossSearchError:
        known = {}
    found = []
    for ranked in board:
        candidate, proposal = ranked.candidate, ranked.proposal
        text = str(candidate.parts.get("loss", proposal.formula))
        found.append(
            Entry(
                ranked.rank, candidate.key, text, first_values(candidate.constants),
                proposal.score, proposal.rung, proposal.is_chosen, candidate.size, proposal.origin,
                tags(candidate.name or known.get(text), proposal),
            )
        )  # fmt: skip
    return found


def first_values(constants: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each constant, without its range."""
    return {n: v[0] if isinstance(v, list) and v else v for n, v in constants.items()}


def tags(name: str | None, proposal: ProposalRow) -> tuple[str, ...]:
    """As what a loss is known: a classical name, and what the screens noticed."""
    noticed = [part for part in proposal.detail.split("; ") if part]
    return tuple([name.replace("_", " ")] if name else []) + tuple(noticed)


def sentence(outcome: str) -> str:
    """The sentence of an outcome's member name."""
    return Outcome[outcome].value if outcome in Outcome.__members__ else outcome


def screens(rounds: Sequence[RoundRow]) -> list[Screen]:
    """The screens in the order in which they judge."""
    total: dict[str, list[float]] = {}
    for done in rounds:
        for name, counts in done.counts.items():
            row = total.setdefault(name, [0, 0, 0.0])
            for i, key in enumerate(("seen", "rejected", "seconds")):
                row[i] += counts.get(key, 0)
    return [Screen(n, int(seen), int(out), s) for n, (seen, out, s) in total.items()]


def progress_chart(points: Sequence[tuple[int, float, int]]) -> Chart | None:
    """Every score and the best so far, over the number of the candidate."""
    if len(points) < 2:
        return None
    best = math.inf
    steps: list[tuple[float, float]] = []
    for number, score, _ in points:
        if score < best:
            if steps:
                steps.append((float(number), best))
            best = score
            steps.append((float(number), best))
    steps.append((float(points[-1][0]), best))
    chosen = [(float(n), s) for n, s, rung in points if rung == CHOSEN]
    scores = sorted(s for _, s, _ in points)
    low = scores[0]
    high = max(scores[len(scores) * 3 // 4], low + 1e-6, *(s for _, s in chosen))
    gap = (high - low) * 0.15
    lines = [
        Line("one candidate", [(float(n), s) for n, s, _ in points], "dots"),
        Line("best so far", steps, "own"),
    ]
    if chosen:
        lines.append(Line("chosen on fresh splits", chosen, "dots chosen"))
    return chart(
        "Best score over candidates", lines, "candidate", "score (lower is better)",
        y_range=(low - gap, high + gap), height=360,
    )  # fmt: skip


def audit(store: Store, search: SearchRow) -> dict[str, Any] | None:
    """The newest audit: its rows, the span of all intervals, and the verdict in words."""
    row = tally.newest_audit(store, search.id)
    if row is None:
        return None
    rows = [r for r in row.rows if isinstance(r, Mapping)]
    ends = [
        float(r["versus"][end])
        for r in rows
        for end in ("low", "high")
        if isinstance(r.get("versus"), Mapping) and math.isfinite(r["versus"].get(end, math.nan))
    ]
    span = max(map(abs, ends), default=0.0) or 1.0
    return {
        "rows": rows, "span": span, "at": row.created_at,
        "summary": row.summary, "verdict": verdict(row.summary, rows),
    }  # fmt: skip


def verdict(summary: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What an audit found, as a person reads it."""
    found = next((r for r in rows if r.get("kind") == "found"), None)
    best = next((r for r in rows if r.get("kind") == "classical"), None)
    if found is None:
        return ""
    metric = summary.get("metric", "error")
    if best is None or not isinstance(gap := best.get("versus"), Mapping):
        return f"{found['label']} has {metric} {found['error']:.4f}; nothing to compare it with."
    better = "is better than" if summary.get("discovery") else "is not shown to be better than"
    return (
        f"{found['label']} ({metric} {found['error']:.4f}) {better} the best tuned classical "
        f"loss, {best['label']} ({best['error']:.4f}): difference {gap['difference']:+.4f}, "
        f"95 % interval [{gap['low']:+.4f}, {gap['high']:+.4f}], t = {gap['t']:.2f}, over "
        f"{summary.get('splits', '?')} splits of samples that no search saw."
    )
