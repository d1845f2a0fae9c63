"""The tables: which facts are kept, and what makes each of them unique.

Losses and trainings are facts about the world and belong to no search; a search refers to them
through its proposals. Every table is called `ls_...`, so that other schemas (Optuna's) may live in
the same database. The tables are made by `migrations/`, never by `create_all`; HEAD names the
migration that matches this file.

Keys are hashes: an index that begins with one is written at random, one page a row, and its cost grows
with the table. `born`, the second in which a loss was first stored, goes with its key and comes first
in the large indices, so that what is new is written at their end. Only `ls_candidate` is at random.

A loss that a screen rejected is one row of `ls_proposal` and nothing else: two keys of 32 characters,
formula and constants (a program has at most 2,000 nodes; 24 as the spaces ship), 70 characters of
origin and parents, and numbers: 300 to 400 bytes in all, and no page written at random. One that was
trained has its row in `ls_candidate` besides (about 600 bytes) and one in `ls_evaluation` a run (about
400, curve included).

Values are text and numbers only, written the same way on SQLite and PostgreSQL: JSON is text
(PostgreSQL's own JSON knows no nan), times are ISO 8601 text in UTC, nan is NULL.
"""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from sqlalchemy import (
    BigInteger,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PREFIX = "ls_"
VERSION_TABLE = "ls_version"
REVISIONS = ("0001", "0002", "0003", "0004")
HEAD = REVISIONS[-1]


def clean(value: str) -> str:
    """Text that every database takes: no NUL and no half of a surrogate pair."""
    if value.isascii() and "\x00" not in value:
        return value
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


class Words(TypeDecorator[str]):
    """Text of any length, cleaned."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else clean(value)


class Json(TypeDecorator[Any]):
    """Plain data as JSON text; nan and infinities survive, mappings and tuples may be given."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str:
        return to_json(value)

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        return None if value is None else json.loads(value)


def _plain(value: Any) -> Any:
    if hasattr(value, "items"):
        return dict(value.items())
    if hasattr(value, "tolist"):  # a number or array of numpy
        return value.tolist()
    raise TypeError(f"Only plain data can be stored, but got {value!r}.")


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_plain)  # made once: it is asked for every column


def to_json(value: Any) -> str:
    """JSON text of plain data; raises TypeError for anything else."""
    return _ENCODER.encode(value)


class Real(TypeDecorator[float]):
    """A double; nan is stored as NULL on every database, as SQLite does anyway."""

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None or math.isnan(value) else float(value)


class Moment(TypeDecorator[datetime]):
    """An aware time as ISO 8601 text in UTC; sorts as text."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.astimezone(UTC).isoformat(timespec="microseconds")

    def process_result_value(self, value: str | None, dialect: Dialect) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


Plain = Annotated[Any, mapped_column(Json, nullable=False)]
Key = Annotated[str, mapped_column(String(64))]
Name = Annotated[str, mapped_column(String(200))]


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {str: Words, float: Real, datetime: Moment}


class Candidate(Base):
    """A loss. `key` is made from its canonical program, so equal losses are one row."""

    __tablename__ = "ls_candidate"

    key: Mapped[Key] = mapped_column(primary_key=True)
    space: Mapped[str]
    parts: Mapped[Plain]
    canonical: Mapped[str]
    constants: Mapped[Plain]
    structure_key: Mapped[Key]
    name: Mapped[Name | None] = mapped_column(index=True)
    source: Mapped[str | None]
    size: Mapped[int]
    scale: Mapped[float | None]
    facts: Mapped[Plain]
    created_at: Mapped[datetime]
    born: Mapped[int] = mapped_column(BigInteger)


class Search(Base):
    """One search. `driver` is the token of whoever may write it: a stale driver is fenced off."""

    __tablename__ = "ls_search"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(unique=True)
    space: Mapped[str]
    proxy: Mapped[str]
    controller: Mapped[str]
    config: Mapped[Plain]
    seed: Mapped[int] = mapped_column(BigInteger)
    rounds: Mapped[int]
    proposals: Mapped[int]
    status: Mapped[Name]
    state: Mapped[Plain]
    driver: Mapped[Name | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Proposal(Base):
    """A loss as one search proposed it. It holds all that is kept of a loss that a screen rejected.

    `credit` is whose result counts: `same_as`, else the candidate itself; NULL for what has no
    result. `leads` marks the first scored proposal of each loss, and so the rows of the leaderboard;
    its index holds only those, and `minus_rung` lets it be read from the top rung down.
    """

    __tablename__ = "ls_proposal"
    __table_args__ = (
        Index(
            "ix_ls_proposal_credit",
            "search_id",
            "born",
            "credit",
            "leads",
            sqlite_where=text("credit IS NOT NULL"),
            postgresql_where=text("credit IS NOT NULL"),
        ),
        Index("ix_ls_proposal_outcome", "search_id", "outcome", "number"),
        Index(
            "ix_ls_proposal_board",
            "search_id",
            "minus_rung",
            "score",
            sqlite_where=text("leads = 1"),
            postgresql_where=text("leads = 1"),
        ),
    )

    search_id: Mapped[int] = mapped_column(ForeignKey("ls_search.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    candidate_key: Mapped[Key]
    formula: Mapped[str]
    constants: Mapped[Plain]
    size: Mapped[int]
    origin: Mapped[Name]
    parents: Mapped[Plain]
    outcome: Mapped[Name]
    detail: Mapped[str]
    same_as: Mapped[Key | None]
    credit: Mapped[Key | None]
    born: Mapped[int] = mapped_column(BigInteger)
    leads: Mapped[int]
    rung: Mapped[int]
    minus_rung: Mapped[int]
    score: Mapped[float | None]
    metrics: Mapped[Plain]


class Evaluation(Base):
    """One training of a loss; every search reuses it. Look it up with the loss's `born` and key."""

    __tablename__ = "ls_evaluation"
    __table_args__ = (UniqueConstraint("born", "candidate_key", "proxy", "protocol", "run"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    born: Mapped[int] = mapped_column(BigInteger)
    candidate_key: Mapped[Key] = mapped_column(ForeignKey("ls_candidate.key"))
    proxy: Mapped[str]
    protocol: Mapped[str]
    run: Mapped[str]
    outcome: Mapped[Name]
    metric: Mapped[float | None]
    metrics: Mapped[Plain]
    curve: Mapped[Plain]
    seconds: Mapped[float]
    created_at: Mapped[datetime]


class Round(Base):
    """One committed round and what each judge of it saw, rejected and cost."""

    __tablename__ = "ls_round"

    search_id: Mapped[int] = mapped_column(ForeignKey("ls_search.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    counts: Mapped[Plain]
    seconds: Mapped[float]
    created_at: Mapped[datetime]


class Audit(Base):
    """The table of one audit."""

    __tablename__ = "ls_audit"

    search_id: Mapped[int] = mapped_column(ForeignKey("ls_search.id"), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(primary_key=True)
    protocol: Mapped[str]
    rows: Mapped[Plain]
    summary: Mapped[Plain]


class Learned(Base):
    """A loss that is a network. `key` is made from its settings and numbers, so equal ones are one row."""

    __tablename__ = "ls_learned"

    key: Mapped[Key] = mapped_column(primary_key=True)
    name: Mapped[Name] = mapped_column(index=True)
    kind: Mapped[Name]
    space: Mapped[str]
    settings: Mapped[Plain]
    arrays: Mapped[Plain]
    evidence: Mapped[Plain]
    created_at: Mapped[datetime]


class Event(Base):
    """One line of the append-only log of a search."""

    __tablename__ = "ls_event"
    __table_args__ = (Index("ix_ls_event_search", "search_id", "id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("ls_search.id"))
    at: Mapped[datetime]
    kind: Mapped[Name]
    payload: Mapped[Plain]
