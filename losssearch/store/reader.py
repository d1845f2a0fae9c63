"""What do we know? Every question to the store, for the driver, the pages and the reports alike."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row, Table, func, select
from sqlalchemy.orm import DeclarativeBase

from losssearch.errors import UsageError
from losssearch.store.database import Database
from losssearch.store.lease import file_is_held, server_holder
from losssearch.store.rows import (
    AuditRow,
    CandidateRow,
    EvaluationRow,
    EventRow,
    Found,
    ProposalRow,
    Ranked,
    RoundRow,
    SearchRow,
)
from losssearch.store.schema import (
    Audit,
    Candidate,
    Evaluation,
    Event,
    Proposal,
    Round,
    Search,
)

KEYS_AT_ONCE = 500  # SQLite takes no more than 32,766 values in one statement


def table_of(model: type[DeclarativeBase]) -> Table:
    """The Core table of a declared one."""
    table = model.__table__
    if not isinstance(table, Table):
        raise TypeError(f"{model.__name__} is not a table.")
    return table


def in_chunks(keys: Iterable[str]) -> Iterator[list[str]]:
    """The keys, each once, in lists short enough for one statement."""
    rest = iter(dict.fromkeys(keys))
    while chunk := list(islice(rest, KEYS_AT_ONCE)):
        yield chunk


CANDIDATE = table_of(Candidate)
PROPOSAL = table_of(Proposal)
EVALUATION = table_of(Evaluation)
SEARCH = table_of(Search)
AUDIT = table_of(Audit)
EVENT = table_of(Event)
ROUND = table_of(Round)
# How a training is found: through its loss, in an index that begins with `born`.
TRAINED_LOSS = (EVALUATION.c.born == CANDIDATE.c.born) & (EVALUATION.c.candidate_key == CANDIDATE.c.key)
_PROPOSAL_COLUMNS = [PROPOSAL.c[name] for name in ProposalRow.__dataclass_fields__]
_CANDIDATE_COLUMNS = [CANDIDATE.c[name] for name in CandidateRow.__dataclass_fields__]
_EVALUATION_COLUMNS = [EVALUATION.c[name] for name in EvaluationRow.__dataclass_fields__]
_SEARCH_COLUMNS = [SEARCH.c[name] for name in SearchRow.__dataclass_fields__]
_AUDIT_COLUMNS = [AUDIT.c[name] for name in AuditRow.__dataclass_fields__]
_EVENT_COLUMNS = [EVENT.c[name] for name in EventRow.__dataclass_fields__]
_ROUND_COLUMNS = [ROUND.c[name] for name in RoundRow.__dataclass_fields__]


def _proposal(values: Iterable[Any]) -> ProposalRow:
    fields = dict(zip(ProposalRow.__dataclass_fields__, values, strict=True))
    return ProposalRow(**fields | {"parents": tuple(fields["parents"])})


def candidates_in(connection: Connection, keys: Iterable[str]) -> dict[str, CandidateRow]:
    """The losses of these keys; unknown keys are left out."""
    found = {}
    for chunk in in_chunks(keys):
        query = select(*_CANDIDATE_COLUMNS).where(CANDIDATE.c.key.in_(chunk))
        found.update({row[0]: CandidateRow(*row) for row in connection.execute(query)})
    return found


def search_in(connection: Connection, name: str, *, state: bool = True) -> SearchRow | None:
    """One search; None when there is none of this name. Its state may be left unread, since it is long."""
    columns = [column for column in _SEARCH_COLUMNS if state or column.name != "state"]
    row = connection.execute(select(*columns).where(SEARCH.c.name == name)).one_or_none()
    return None if row is None else SearchRow(**{"state": None, **row._mapping})


class Reader(Database):
    """The reading half of `Store`. An unknown search raises UsageError."""

    # Losses and trainings.

    def candidates(self, keys: Iterable[str]) -> dict[str, CandidateRow]:
        """The losses of these keys; unknown keys are left out."""
        with self.reading() as connection:
            return candidates_in(connection, keys)

    def evaluations(
        self, keys: Iterable[str], proxy: str, protocol: str | None = None
    ) -> dict[str, dict[str, EvaluationRow]]:
        """Stored trainings of these losses, by key and then by run text, from every search.

        Without `protocol`, those of every protocol; of equal runs the last one stored counts.
        """
        found: dict[str, dict[str, EvaluationRow]] = {}
        columns = EVALUATION.c
        with self.reading() as connection:
            for chunk in in_chunks(keys):
                query = (
                    select(*_EVALUATION_COLUMNS)
                    .join(CANDIDATE, TRAINED_LOSS)
                    .where(CANDIDATE.c.key.in_(chunk), columns.proxy == proxy)
                    .order_by(columns.id)
                )
                if protocol is not None:
                    query = query.where(columns.protocol == protocol)
                for row in connection.execute(query):
                    evaluation = EvaluationRow(*row)
                    found.setdefault(evaluation.candidate_key, {})[evaluation.run] = evaluation
        return found

    def known(self, keys: Iterable[str], proxy: str, protocol: str) -> set[str]:
        """Those of these keys that have any training on this proxy and protocol."""
        found: set[str] = set()
        columns = EVALUATION.c
        with self.reading() as connection:
            for chunk in in_chunks(keys):
                query = (
                    select(CANDIDATE.c.key)
                    .distinct()
                    .join(EVALUATION, TRAINED_LOSS)
                    .where(
                        CANDIDATE.c.key.in_(chunk),
                        columns.proxy == proxy,
                        columns.protocol == protocol,
                    )
                )
                found.update(connection.execute(query).scalars())
        return found

    # Searches.

    def searches(self) -> list[SearchRow]:
        """Every search, in the order they were begun; without their (long) controller state."""
        columns = [column for column in _SEARCH_COLUMNS if column.name != "state"]
        with self.reading() as connection:
            rows = connection.execute(select(*columns).order_by(SEARCH.c.id)).all()
        return [SearchRow(**row._mapping, state=None) for row in rows]

    def search(self, name: str, *, state: bool = True) -> SearchRow:
        """One search by name, with its controller state unless that (it is long) is not asked for."""
        with self.reading() as connection:
            if (found := search_in(connection, name, state=state)) is not None:
                return found
            raise self._unknown(connection, name)

    def status(self, search: SearchRow) -> str:
        """As stored; but "stopped" for a search that calls itself running while no process drives it."""
        if search.status != "running":
            return search.status
        if self._engine.dialect.name == "postgresql":
            with self.reading() as connection:
                held = server_holder(connection, search.id) is not None
        else:  # a store in memory is seen by its driver alone
            held = self._file is None or file_is_held(self._file, search.id)
        return search.status if held else "stopped"

    def leaderboard(self, name: str, limit: int = 20, offset: int = 0) -> list[Ranked]:
        """Scored losses of a search, best first, each loss once.

        Order: higher rung, then lower score, then smaller size, then lower number.
        """
        query = (
            select(*_PROPOSAL_COLUMNS, *_CANDIDATE_COLUMNS)
            .join(CANDIDATE, CANDIDATE.c.key == PROPOSAL.c.candidate_key)
            .where(PROPOSAL.c.leads == 1)
            .order_by(PROPOSAL.c.minus_rung, PROPOSAL.c.score, CANDIDATE.c.size, PROPOSAL.c.number)
            .limit(limit)
            .offset(offset)
        )
        width = len(_PROPOSAL_COLUMNS)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(PROPOSAL.c.search_id == search_id)).all()
        return [
            Ranked(rank, _proposal(row[:width]), CandidateRow(*row[width:]))
            for rank, row in enumerate(rows, start=offset + 1)
        ]

    def proposals(
        self, name: str, start: int = 0, limit: int | None = None, outcome: str | None = None
    ) -> list[ProposalRow]:
        """Proposals with number >= start, in order; of one outcome, if given."""
        query = select(*_PROPOSAL_COLUMNS).where(PROPOSAL.c.number >= start)
        if outcome is not None:
            query = query.where(PROPOSAL.c.outcome == outcome)
        query = query.order_by(PROPOSAL.c.number).limit(limit)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(PROPOSAL.c.search_id == search_id)).all()
        return [_proposal(row) for row in rows]

    def outcomes(self, name: str) -> dict[str, int]:
        """How many proposals ended in each outcome."""
        query = select(PROPOSAL.c.outcome, func.count()).group_by(PROPOSAL.c.outcome)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(PROPOSAL.c.search_id == search_id)).all()
        return dict(sorted((row[0], row[1]) for row in rows))

    def rounds(self, name: str, start: int = 0) -> list[RoundRow]:
        """Rounds with number >= start, in order."""
        query = select(*_ROUND_COLUMNS).where(ROUND.c.number >= start).order_by(ROUND.c.number)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(ROUND.c.search_id == search_id)).all()
        return [RoundRow(*row) for row in rows]

    def events(self, name: str, after: int = 0, limit: int | None = None) -> list[EventRow]:
        """Lines of the log with id > after, in order."""
        query = select(*_EVENT_COLUMNS).where(EVENT.c.id > after).order_by(EVENT.c.id).limit(limit)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(EVENT.c.search_id == search_id)).all()
        return [EventRow(*row) for row in rows]

    def finals(self, name: str) -> Mapping[str, Any]:
        """What the last finals of a search noted, such as the `rung` that judged them; empty before any."""
        held = [event.payload for event in self.events(name) if event.kind == "finals"]
        return held[-1] if held else {}

    def audits(self, name: str) -> list[AuditRow]:
        """Audits, oldest first."""
        query = select(*_AUDIT_COLUMNS).order_by(AUDIT.c.created_at)
        with self.reading() as connection:
            search_id = self._id(connection, name)
            rows = connection.execute(query.where(AUDIT.c.search_id == search_id)).all()
        return [AuditRow(*row) for row in rows]

    # References.

    def find(self, reference: str, also: Iterable[str] = ()) -> Found:
        """The loss that a reference names.

        `demo/1` is the first of the leaderboard, `demo@17` proposal 17, `focal` or
        `multiclass/focal` a classical loss, `3fa9c2` (6 characters or more) the start of a key. `also` are
        further names that may have been meant.

        Raises:
            UsageError: It names nothing, or more than one loss; the message says which.
        """
        if match := re.fullmatch(r"(.+)/(\d{1,9})", reference):
            name, rank = match[1], int(match[2])
            board = self.leaderboard(name, limit=1, offset=rank - 1) if rank else []
            if not board:
                raise UsageError(
                    f"{reference!r}: the leaderboard of {name!r} has no rank {rank}. Ranks count from 1."
                )
            return Found(board[0].candidate, name, board[0].proposal)
        if match := re.fullmatch(r"(.+)@(\d{1,9})", reference):
            name, number = match[1], int(match[2])
            proposals = self.proposals(name, start=number, limit=1)
            if not proposals or proposals[0].number != number:
                raise UsageError(
                    f"{reference!r}: {name!r} has {self.search(name).proposals} proposals, counted from 0."
                )
            key = proposals[0].candidate_key
            found = self.candidates([key]).get(key) or self._rejected(name, proposals[0])
            return Found(found, name, proposals[0])
        with self.reading() as connection:
            rows = self._classical(connection, reference) or self._by_key(connection, reference)
            if not rows:
                raise self._nothing(connection, reference, also)
        if len(rows) > 1:
            shown = ", ".join(f"{r.space}/{r.name}" if r.name else r.key for r in rows[:4])
            more = "" if len(rows) <= 4 else f" and {len(rows) - 4} more"
            raise UsageError(f"{reference!r} may mean {shown}{more}. Write one of these in full.")
        return Found(CandidateRow(**rows[0]._mapping))

    def _rejected(self, name: str, row: ProposalRow) -> CandidateRow:
        """The loss of a proposal that a screen rejected: the proposal holds all that is kept of it."""
        return CandidateRow(
            key=row.candidate_key,
            space=self.search(name, state=False).space,
            parts={"loss": row.formula},
            canonical=row.formula,
            structure_key="",
            size=row.size,
            constants=row.constants,
        )

    def _classical(self, connection: Connection, reference: str) -> list[Row[Any]]:
        """Classical losses of this name, one a space: the last one written there."""
        space, _, name = reference.rpartition("/")
        query = select(*_CANDIDATE_COLUMNS).where(CANDIDATE.c.name == name)
        if space:
            query = query.where(CANDIDATE.c.space == space)
        rows = connection.execute(query.order_by(CANDIDATE.c.created_at)).all()
        return list({row.space: row for row in rows}.values())

    def _by_key(self, connection: Connection, reference: str) -> list[Row[Any]]:
        start = reference.lower()
        if not re.fullmatch(r"[0-9a-f]{6,64}", start):
            return []
        between = CANDIDATE.c.key.between(start, start + "g")  # g follows the last digit, f
        return list(connection.execute(select(*_CANDIDATE_COLUMNS).where(between).limit(20)).all())

    def _nothing(self, connection: Connection, reference: str, also: Iterable[str]) -> UsageError:
        if search_in(connection, reference) is not None:
            return UsageError(f"{reference!r} is a search. Write {reference}/1 for its best loss.")
        names = connection.execute(select(CANDIDATE.c.name).distinct().limit(1000)).scalars()
        close = difflib.get_close_matches(reference, [*also, *(name for name in names if name)], n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        return UsageError(
            f"{self.url} holds no loss {reference!r}.{hint} Write SEARCH/RANK, SEARCH@NUMBER, "
            "the name of a classical loss, or at least 6 characters of a key."
        )

    def _id(self, connection: Connection, name: str) -> int:
        found = connection.execute(select(SEARCH.c.id).where(SEARCH.c.name == name)).scalar()
        if found is None:
            raise self._unknown(connection, name)
        return int(found)

    def _unknown(self, connection: Connection, name: str) -> UsageError:
        names = list(connection.execute(select(SEARCH.c.name).order_by(SEARCH.c.id)).scalars())
        close = difflib.get_close_matches(name, names, n=1)
        if close:
            hint = f"Did you mean {close[0]!r}?"
        elif names:
            hint = "There are: " + ", ".join(map(repr, names[-5:])) + "."
        else:
            hint = "It holds no search yet."
        return UsageError(f"{self.url} holds no search {name!r}. {hint}")
