"""What has a search cost, and where else does a loss stand? Sums that no other reader needs.

Counted inside the database: a few milliseconds for 2,000 candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from losssearch.store.reader import AUDIT, CANDIDATE, EVALUATION, PROPOSAL, SEARCH, TRAINED_LOSS
from losssearch.store.rows import AuditRow, EvaluationRow
from losssearch.store.store import Store

_COLUMNS = [EVALUATION.c[name] for name in EvaluationRow.__dataclass_fields__]
_AUDIT_COLUMNS = [AUDIT.c[name] for name in AuditRow.__dataclass_fields__]


@dataclass(frozen=True)
class Sighting:
    """One search that proposed a loss."""

    search: str
    number: int


def trainings(store: Store, search_id: int) -> tuple[int, float]:
    """How many trainings the losses of a search have had, and their seconds; reused
    ones count, those of audits do not."""
    keys = select(PROPOSAL.c.candidate_key).where(PROPOSAL.c.search_id == search_id)
    query = select(func.count(), func.coalesce(func.sum(EVALUATION.c.seconds), 0.0)).where(
        EVALUATION.c.candidate_key.in_(keys), EVALUATION.c.run.not_like('%"stage":"audit"%')
    )
    with store.reading() as connection:
        count, seconds = connection.execute(query).one()
    return int(count), float(seconds)


def scored(store: Store, search_id: int) -> list[tuple[int, float, int]]:
    """(number, score, rung) of every scored proposal, in order."""
    columns = PROPOSAL.c
    query = (
        select(columns.number, columns.score, columns.rung)
        .where(columns.search_id == search_id, columns.score.is_not(None))
        .order_by(columns.number)
    )
    with store.reading() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def runs_of(store: Store, key: str, limit: int = 2000) -> list[EvaluationRow]:
    """Trainings of one loss, on every proxy."""
    query = select(*_COLUMNS).join(CANDIDATE, TRAINED_LOSS).where(CANDIDATE.c.key == key)
    with store.reading() as connection:
        rows = connection.execute(query.order_by(EVALUATION.c.id).limit(limit)).all()
    return [EvaluationRow(*row) for row in rows]


def sightings(store: Store, key: str, limit: int = 20) -> list[Sighting]:
    """The searches that proposed and trained a loss, each once, with its first number there."""
    query = (
        select(SEARCH.c.name, func.min(PROPOSAL.c.number))
        .join(PROPOSAL, PROPOSAL.c.search_id == SEARCH.c.id)
        .join(CANDIDATE, (PROPOSAL.c.born == CANDIDATE.c.born) & (PROPOSAL.c.credit == CANDIDATE.c.key))
        .where(CANDIDATE.c.key == key, PROPOSAL.c.candidate_key == key)
        .group_by(SEARCH.c.id, SEARCH.c.name)
        .order_by(SEARCH.c.id)
        .limit(limit)
    )
    with store.reading() as connection:
        return [Sighting(row[0], row[1]) for row in connection.execute(query)]


def newest_audit(store: Store, search_id: int) -> AuditRow | None:
    """The last audit of a search."""
    query = (
        select(*_AUDIT_COLUMNS)
        .where(AUDIT.c.search_id == search_id)
        .order_by(AUDIT.c.created_at.desc())
        .limit(1)
    )
    with store.reading() as connection:
        row = connection.execute(query).first()
    return None if row is None else AuditRow(*row)
