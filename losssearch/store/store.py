"""What is already known, and where did this search stop?

One SQL database (a SQLite file or PostgreSQL) is the truth. Only the driver writes it; pages and
reports open it read-only. Every write is one transaction and may be repeated: a killed driver
opens its search again and goes on after the last committed round, with nothing lost or doubled.
A round of 100 proposals costs some milliseconds, however long the search already is: see
`schema.py` for what is kept of a candidate, and `benchmarks/store.py` for the figures.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, and_, case, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from losssearch.errors import StoreError, UsageError
from losssearch.store.faults import as_store_error
from losssearch.store.lease import FileLease, Lease, ServerLease
from losssearch.store.reader import (
    AUDIT,
    CANDIDATE,
    EVALUATION,
    EVENT,
    PROPOSAL,
    ROUND,
    SEARCH,
    Reader,
    in_chunks,
    search_in,
)
from losssearch.store.rows import (
    TRAINED,
    AuditRow,
    CandidateRow,
    EvaluationRow,
    EventRow,
    Found,
    ProposalRow,
    Ranked,
    RoundRow,
    ScoreUpdate,
    SearchRow,
    run_text,
)
from losssearch.store.schema import to_json

__all__ = [
    "MAY_CHANGE",
    "AuditRow",
    "CandidateRow",
    "EvaluationRow",
    "EventRow",
    "Found",
    "ProposalRow",
    "Ranked",
    "RoundRow",
    "ScoreUpdate",
    "SearchRow",
    "Store",
    "run_text",
]

# Keys of a search's config that may differ on resume: they change what it costs, not what it finds.
MAY_CHANGE = frozenset(
    {"rounds", "budget", "seconds", "pool", "workers", "deadline_s", "mirror", "notes", "metric"}
)
T = TypeVar("T")
# Say something about the machine or the user's task, which may be mended, and not about the loss.
ACCIDENTS = ("TIMEOUT", "DIED", "FAILED", "INVALID")


class Store(Reader):
    """The database of losses, trainings and searches. Open it with `Store.open`.

    Every method raises StoreError, one line, when the database cannot do its part. Rows refer to
    losses by key: add the loss before its trainings and proposals, or get a UsageError.
    """

    def __init__(self, address_url: URL, engine: Engine, read_only: bool) -> None:
        super().__init__(address_url, engine, read_only)
        self._leases: dict[int, tuple[str, Lease]] = {}  # search id -> fencing token, lock

    def close(self) -> None:
        """Give back every connection and the lock of every search opened for writing."""
        for _, lease in self._leases.values():
            lease.release()
        self._leases.clear()
        super().close()

    # Losses and trainings.

    def add_candidates(self, candidates: Iterable[CandidateRow]) -> int:
        """Store losses; those already known stay as they are. Returns how many were new.

        A name, source, scale or fact that the stored row lacks is filled in.
        """
        rows = list(candidates)
        return self.write(lambda connection: _add(connection, rows))

    def record_evaluations(self, evaluations: Iterable[EvaluationRow]) -> int:
        """Store trainings as their answers arrive. Returns how many rows were written.

        A stored result is never overwritten, except an accident (see ACCIDENTS) by a later answer.
        """
        now = datetime.now(UTC)
        rows = [_values(row) | {"created_at": now} for row in evaluations]

        def work(connection: Connection) -> int:
            born = _births(connection, (row["candidate_key"] for row in rows))
            full = [row | {"born": born[row["candidate_key"]]} for row in rows]
            statement = _insert(connection, EVALUATION)
            fresh = ("outcome", "metric", "metrics", "curve", "seconds", "created_at")
            statement = statement.on_conflict_do_update(
                index_elements=["born", "candidate_key", "proxy", "protocol", "run"],
                set_={name: statement.excluded[name] for name in fresh},
                where=and_(
                    or_(*(EVALUATION.c.outcome == accident for accident in ACCIDENTS)),
                    *(statement.excluded.outcome != accident for accident in ACCIDENTS),
                ),
            )
            kept = connection.execution_options(preserve_rowcount=True)
            return kept.execute(statement, full).rowcount

        return self.write(work) if rows else 0

    # Searches.

    def open_search(
        self,
        name: str,
        space: str,
        proxy: str,
        controller: str,
        config: Mapping[str, Any],
        seed: int,
        *,
        may_change: Collection[str] = MAY_CHANGE,
    ) -> SearchRow:
        """Begin a search, or go on with the one of this name; takes its driver's lock.

        Args:
            name: Letters, digits, `.`, `_`, `-`; at most 100 characters.
            config: Plain data. On resume every key must be as stored, except `may_change`, whose
                new values are stored.

        Raises:
            UsageError: The search exists with another space, proxy, controller, seed or config;
                the message names the first difference.
            StoreError: Another process drives this search now.
        """
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise UsageError(
                f"A search cannot be called {name!r}: use at most 100 letters, digits and "
                "'.', '_', '-', the first a letter or digit."
            )
        wanted = {"space": space, "proxy": proxy, "controller": controller, "seed": seed}
        plain = json.loads(to_json(config))

        def begin(connection: Connection) -> SearchRow:
            now = datetime.now(UTC)
            fresh = {
                **wanted, "name": name, "config": plain, "rounds": 0, "proposals": 0,
                "status": "running", "state": None, "created_at": now, "updated_at": now,
            }  # fmt: skip
            if (found := search_in(connection, name)) is None:
                connection.execute(_insert(connection, SEARCH).on_conflict_do_nothing(), fresh)
                found = search_in(connection, name)
            if found is None:
                raise StoreError(f"{self.url}: the search {name!r} was removed while opened.")
            _compare(found, wanted, plain, may_change)
            return found

        found = self.write(begin)
        if found.id not in self._leases:
            with as_store_error(self._url):
                self._leases[found.id] = secrets.token_hex(8), self._lease(found)

        def enter(connection: Connection) -> SearchRow:
            values = {"driver": self._leases[found.id][0], "config": plain, "status": "running"}
            connection.execute(update(SEARCH).where(SEARCH.c.id == found.id).values(values))
            # Read again: what the last driver wrote before it let go counts.
            return search_in(connection, name) or found

        return self.write(enter)

    def commit_round(
        self,
        search: SearchRow,
        number: int,
        proposals: Sequence[ProposalRow],
        counts: Mapping[str, Any],
        controller_state: Any,
        seconds: float,
        events: Sequence[tuple[str, Mapping[str, Any]]] = (),
        updates: Sequence[ScoreUpdate] = (),
        candidates: Sequence[CandidateRow] = (),
    ) -> SearchRow:
        """Store all of one round, and the controller's state after it, in one transaction.

        Args:
            search: As `open_search` returned it; a stale copy will do.
            number: Rounds count from 0; it must be the number of stored rounds. A smaller one is
                already stored and is left alone.
            proposals: Their numbers go on from `search.proposals`, in order.
            updates: New scores of earlier proposals, or of these.
            candidates: Losses still to be added; those whose result counts for one of `proposals` must be
                in the store by then.

        Returns:
            The search as stored now.

        Raises:
            UsageError: `number` or the numbers of `proposals` leave a gap.
            StoreError: The search is not open for writing, or another driver has taken it over.
        """

        def work(connection: Connection) -> SearchRow:
            stored = self._enter_search(connection, search)
            if number < stored.rounds:
                return search_in(connection, search.name) or stored
            if number > stored.rounds:
                raise UsageError(
                    f"Round {number} of {search.name!r} cannot be stored: {stored.rounds} rounds "
                    f"are, so the next one is {stored.rounds}."
                )
            last = stored.proposals + len(proposals)
            if [row.number for row in proposals] != list(range(stored.proposals, last)):
                raise UsageError(
                    f"Round {number} of {search.name!r} must number its proposals from "
                    f"{stored.proposals} to {last - 1}."
                )
            now = datetime.now(UTC)
            _add(connection, candidates)
            _propose(connection, search.id, proposals)
            for change in updates:
                _rescore(connection, search, change)
            cost = {"counts": counts, "seconds": seconds, "created_at": now}
            connection.execute(insert(ROUND), {"search_id": search.id, "number": number, **cost})
            _log(connection, search.id, events, now)
            after = {
                "rounds": number + 1,
                "proposals": last,
                "state": controller_state,
                "updated_at": now,
            }
            connection.execute(update(SEARCH).where(SEARCH.c.id == search.id).values(after))
            return replace(stored, **after)

        return self._drive(search, work)

    def update_scores(self, search: SearchRow, updates: Sequence[ScoreUpdate]) -> None:
        """New scores at higher rungs, outside a round. Credited copies of the loss follow."""

        def work(connection: Connection) -> None:
            self._enter_search(connection, search)
            for change in updates:
                _rescore(connection, search, change)

        self._drive(search, work)

    def set_status(self, search: SearchRow, status: str) -> None:
        """Store what the search is doing: "running", "finished", "stopped", ..."""

        def work(connection: Connection) -> None:
            self._enter_search(connection, search)
            values = {"status": status, "updated_at": datetime.now(UTC)}
            connection.execute(update(SEARCH).where(SEARCH.c.id == search.id).values(values))

        self._drive(search, work)

    def add_event(self, search: SearchRow, kind: str, payload: Mapping[str, Any]) -> None:
        """Append one line to the log."""
        now = datetime.now(UTC)
        self.write(lambda connection: _log(connection, search.id, [(kind, payload)], now))

    def add_audit(
        self,
        search: SearchRow,
        protocol: str,
        rows: Sequence[Any],
        summary: Mapping[str, Any] | None = None,
    ) -> AuditRow:
        """Store the table of one audit. Needs no driver's lock: audits only ever add."""
        audit = AuditRow(datetime.now(UTC), protocol, list(rows), dict(summary or {}))
        values = _values(audit) | {"search_id": search.id}
        self.write(
            lambda connection: connection.execute(_insert(connection, AUDIT).on_conflict_do_nothing(), values)
        )
        return audit

    def close_search(self, search: SearchRow) -> None:
        """Give back the driver's lock; another process may then go on with the search."""
        if held := self._leases.pop(search.id, None):
            held[1].release()

    # The driver's lock.

    def _lease(self, search: SearchRow) -> Lease:
        if self._engine.dialect.name == "postgresql":
            return ServerLease(self._engine, search.id, search.name)
        return FileLease(self._file, search.id, search.name)

    def _drive(self, search: SearchRow, work: Callable[[Connection], T]) -> T:
        if search.id not in self._leases:
            raise StoreError(
                f"The search {search.name!r} is not open for writing here. Call open_search first."
            )
        with as_store_error(self._url):
            self._leases[search.id][1].keep()
        return self.write(work)

    def _enter_search(self, connection: Connection, search: SearchRow) -> SearchRow:
        """The search as stored, fenced: whoever opened it last is the only one who may write it."""
        token = self._leases[search.id][0]
        ours = and_(SEARCH.c.id == search.id, SEARCH.c.driver == token)
        touched = connection.execute(update(SEARCH).where(ours).values(driver=token)).rowcount
        stored = search_in(connection, search.name, state=False)
        if not touched or stored is None:
            raise StoreError(
                f"Another process has taken over the search {search.name!r}; nothing of this one "
                "was written. Let the other one finish."
            )
        return stored


def _insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An insert that knows ON CONFLICT; both dialects spell it alike."""
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def _values(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__dataclass_fields__}


def _compare(stored: SearchRow, wanted: Mapping[str, Any], config: Any, may_change: Collection[str]) -> None:
    """Raises UsageError when a resumed search would not be the stored one."""
    for name, value in wanted.items():
        if getattr(stored, name) != value:
            raise _other(stored.name, name, getattr(stored, name), value)
    for name in sorted({*stored.config, *config} - set(may_change)):
        if stored.config.get(name) != config.get(name):
            raise _other(stored.name, name, stored.config.get(name), config.get(name))


def _other(search: str, name: str, stored: Any, value: Any) -> UsageError:
    return UsageError(
        f"The search {search!r} was begun with {name} = {stored!r}, not {value!r}. "
        "Go on with the same, or give the new search another name."
    )


def _add(connection: Connection, candidates: Sequence[CandidateRow]) -> int:
    rows = {row.key: row for row in candidates}
    if not rows:
        return 0
    now = datetime.now(UTC)
    statement = _insert(connection, CANDIDATE)
    filled = {
        name: func.coalesce(CANDIDATE.c[name], statement.excluded[name])
        for name in ("name", "source", "scale")
    }
    lacking = or_(
        *(and_(CANDIDATE.c[name].is_(None), statement.excluded[name].is_not(None)) for name in filled)
    )
    facts = and_(CANDIDATE.c.facts == {}, statement.excluded.facts != {})
    known: set[str] = set()
    for chunk in in_chunks(rows):
        query = select(CANDIDATE.c.key).where(CANDIDATE.c.key.in_(chunk))
        known.update(connection.execute(query).scalars())
    connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={
                **filled,
                "facts": case((facts, statement.excluded.facts), else_=CANDIDATE.c.facts),
            },
            where=or_(lacking, facts),
        ),
        [
            _values(row) | {"created_at": row.created_at or now, "born": int(now.timestamp())}
            for row in rows.values()
        ],
    )
    return len(rows) - len(known)


def _births(connection: Connection, keys: Iterable[str]) -> dict[str, int]:
    """Key -> `born` of losses; raises UsageError for one that is not in the store."""
    born: dict[str, int] = {}
    for chunk in in_chunks(keys):
        query = select(CANDIDATE.c.key, CANDIDATE.c.born).where(CANDIDATE.c.key.in_(chunk))
        found = {row[0]: row[1] for row in connection.execute(query)}
        if missing := set(chunk).difference(found):
            raise UsageError(
                f"The loss {min(missing)!r} is not in the store. Add it with add_candidates first."
            )
        born |= found
    return born


def _propose(connection: Connection, search_id: int, proposals: Sequence[ProposalRow]) -> None:
    """Insert proposals. The first scored one of each loss leads; what is credited to it has its metrics."""
    credits = [_credit(row) for row in proposals]
    born = _births(connection, filter(None, credits))
    led: dict[str, Any] = {}
    for chunk in in_chunks(born):
        query = select(PROPOSAL.c.credit, PROPOSAL.c.metrics).where(
            PROPOSAL.c.search_id == search_id,
            PROPOSAL.c.born.in_({born[key] for key in chunk}),
            PROPOSAL.c.credit.in_(chunk),
            PROPOSAL.c.leads == 1,
        )
        led.update((key, metrics) for key, metrics in connection.execute(query))
    rows = []
    for row, credit in zip(proposals, credits, strict=True):
        values = _values(row)
        values |= {"search_id": search_id, "credit": credit, "leads": 0, "minus_rung": -row.rung}
        values["born"] = born[credit] if credit is not None else 0
        if credit in led:
            values["metrics"] = led[credit]
        elif credit == row.candidate_key and _is_number(row.score):
            values["leads"] = 1
            led[credit] = row.metrics
        rows.append(values)
    if rows:
        connection.execute(insert(PROPOSAL), rows)


def _credit(row: ProposalRow) -> str | None:
    """The key of the loss whose result counts for a proposal; None where there is no result."""
    if row.outcome in TRAINED or _is_number(row.score):
        return row.same_as or row.candidate_key
    return None


def _rescore(connection: Connection, search: SearchRow, change: ScoreUpdate) -> None:
    """Give a proposal and every copy credited to the same loss a new score."""
    of_search = PROPOSAL.c.search_id == search.id
    this = and_(of_search, PROPOSAL.c.number == change.number)
    query = select(PROPOSAL.c.candidate_key, PROPOSAL.c.credit).where(this)
    found = connection.execute(query).one_or_none()
    if found is None:
        raise UsageError(f"{search.name!r} has no proposal {change.number} to give a score.")
    credit = found[1] or found[0]
    born = _births(connection, [credit])[credit]
    own = {"outcome": change.outcome, "detail": change.detail, "credit": credit, "born": born}
    connection.execute(update(PROPOSAL).where(this).values(own))
    copies = and_(of_search, PROPOSAL.c.born == born, PROPOSAL.c.credit == credit)
    values = {
        "rung": change.rung,
        "minus_rung": -change.rung,
        "score": change.score,
        "metrics": change.metrics,
    }
    connection.execute(update(PROPOSAL).where(copies).values(values))
    leader = select(PROPOSAL.c.number).where(copies, PROPOSAL.c.leads == 1).limit(1)
    if not _is_number(change.score):
        connection.execute(update(PROPOSAL).where(copies, PROPOSAL.c.leads == 1).values(leads=0))
    elif connection.execute(leader).scalar() is None:
        itself = and_(copies, PROPOSAL.c.candidate_key == credit)
        first = connection.execute(select(func.min(PROPOSAL.c.number)).where(itself)).scalar()
        chosen = and_(of_search, PROPOSAL.c.number == first)
        connection.execute(update(PROPOSAL).where(chosen).values(leads=1))


def _log(
    connection: Connection,
    search_id: int,
    events: Sequence[tuple[str, Mapping[str, Any]]],
    now: datetime,
) -> None:
    rows = [{"search_id": search_id, "at": now, "kind": kind, "payload": payload} for kind, payload in events]
    if rows:
        connection.execute(insert(EVENT), rows)


def _is_number(score: float | None) -> bool:
    return score is not None and not math.isnan(score)
