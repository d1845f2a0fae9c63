"""Which losses does no other beat in score, guard metric and size at once?

The scores of finalists stand on the same splits, so the front is drawn among them; before there are any,
among the losses of the highest rung. Read from the store alone; costs nothing to speak of.
"""

from __future__ import annotations

from collections.abc import Sequence

from losssearch.result import Discovered
from losssearch.spaces import load_space
from losssearch.store.reader import Reader
from losssearch.store.rows import Ranked
from losssearch.store.store import Store

FINAL_RUNG = 2
POOL = 2000  # losses that are looked at


def undominated(points: Sequence[Sequence[float]]) -> list[int]:
    """Places of the points that no other equals or beats in all coordinates, lower being better, in order.

    Of equal points the first is kept.
    """
    kept: list[int] = []
    for place in sorted(range(len(points)), key=lambda i: (tuple(points[i]), i)):
        # Whoever beats a point comes before it in lexical order.
        if not any(all(a <= b for a, b in zip(points[k], points[place], strict=True)) for k in kept):
            kept.append(place)
    return sorted(kept)


def point(row: Ranked, guard: str | None) -> tuple[float, float, float]:
    """Score, guard metric (infinite where it is unknown, 0 where there is none) and size; lower is better."""
    proposal = row.proposal
    score = float("inf") if proposal.score is None else proposal.score
    safety = float(proposal.metrics.get(guard, "inf")) if guard else 0.0
    return score, safety, float(row.candidate.size)


def front_of(store: Reader, name: str) -> list[Discovered]:
    """The front of a search, best score first.

    Raises:
        StoreError: There is no such search.
    """
    rows = store.leaderboard(name, limit=POOL)
    if not rows:
        return []
    held = store.finals(name)
    guard = held.get("guard")
    rung = held.get("rung", FINAL_RUNG) if rows[0].proposal.is_chosen else rows[0].proposal.rung
    peers = [row for row in rows if row.proposal.rung >= rung]
    chosen = [peers[i] for i in undominated([point(row, guard) for row in peers])]
    space = load_space(store.search(name).space)
    found = [Discovered.of_row(row, space, name) for row in chosen]
    return sorted(found, key=lambda d: (d.score or 0.0, d.program.size))


def pareto_front(name: str, storage: str = "sqlite:///losses.db") -> list[Discovered]:
    """The losses of a search that no other beats in score, guard metric and size at once, best score first.

    Args:
        name: Of the search.
        storage: Database URL.

    Raises:
        StoreError: There is no such search.
    """
    with Store.open(storage, read_only=True) as store:
        return front_of(store, name)
