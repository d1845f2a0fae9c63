"""Which losses are networks, and what are their weights?

Learned losses live beside programs in the same database. A row holds plain data: settings as JSON,
each array as its shape and base64 of little-endian float32. What is read back is checked again:
shapes and lengths must agree, and the key must be that of the content.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, func, insert, select, update

from losssearch.errors import StoreError, UsageError
from losssearch.store.database import Database
from losssearch.store.reader import table_of
from losssearch.store.schema import Learned, to_json

LEARNED = table_of(Learned)
LARGEST = 10_000_000  # numbers in one learned loss
SHORTEST = 4  # hex digits by which a key may be named

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class LearnedRow:
    """One learned loss as the store keeps it.

    Args:
        name: As people call it; the newest of a name is meant by it.
        kind: What its arrays are: "network", "weighting" or "controller".
        space: Name of the space whose prediction and target it takes.
        settings: What besides the arrays decides its values, plain data.
        arrays: Its numbers by name, float32.
        evidence: How it was learned and what was measured, plain data; no part of the key.
        created_at: When it was stored first; None before that.
    """

    name: str
    kind: str
    space: str
    settings: Mapping[str, Any]
    arrays: Arrays
    evidence: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime | None = None

    @property
    def key(self) -> str:
        """32 hex digits of SHA-256 over kind, space, settings and arrays."""
        content = json.dumps([self.kind, self.space, self.settings, written(self.arrays)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:32]


def written(arrays: Arrays) -> dict[str, Any]:
    """Arrays as plain data."""
    return {
        name: {
            "shape": list(array.shape),
            "float32": base64.b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode("ascii"),
        }
        for name, array in arrays.items()
    }


def read_back(data: Mapping[str, Any]) -> dict[str, NDArray[np.float32]]:
    """The arrays that `written` wrote.

    Raises:
        StoreError: A shape and its numbers do not agree, or there are too many.
    """
    found = {}
    for name, one in data.items():
        try:
            shape = tuple(int(size) for size in one["shape"])
            raw = base64.b64decode(one["float32"], validate=True)
        except (KeyError, TypeError, ValueError, binascii.Error) as error:
            raise StoreError(f"The array {name!r} of a learned loss cannot be read: {error!r}.") from error
        count = int(np.prod(shape, dtype=object)) if shape else 1
        if min(shape, default=0) < 0 or count > LARGEST or len(raw) != 4 * count:
            raise StoreError(
                f"The array {name!r} of a learned loss has the shape {shape} but {len(raw)} bytes."
            )
        found[str(name)] = np.frombuffer(raw, "<f4").reshape(shape).astype(np.float32)
    return found


def add_learned(database: Database, row: LearnedRow) -> str:
    """Store a learned loss and give its key. One that is known gets the new name and evidence."""
    content: dict[str, Any] = {
        "name": row.name, "kind": row.kind, "space": row.space, "settings": dict(row.settings),
        "arrays": written(row.arrays), "evidence": dict(row.evidence),
    }  # fmt: skip
    to_json(content)  # raises for what is not plain data before anything is written
    key = row.key

    def work(connection: Connection) -> str:
        known = select(LEARNED.c.key).where(LEARNED.c.key == key)
        if connection.execute(known).first() is not None:
            fresh = {"name": row.name, "evidence": content["evidence"]}
            connection.execute(update(LEARNED).where(LEARNED.c.key == key).values(fresh))
        else:
            connection.execute(insert(LEARNED), content | {"key": key, "created_at": datetime.now(UTC)})
        return key

    return database.write(work)


def all_learned(database: Database) -> list[LearnedRow]:
    """Every learned loss, the newest first."""
    with database.reading() as connection:
        found = connection.execute(select(LEARNED).order_by(LEARNED.c.created_at.desc(), LEARNED.c.key))
        return [_row(row) for row in found]


def find_learned(database: Database, reference: str) -> LearnedRow:
    """The learned loss of a name, a key, or the beginning of a key.

    Raises:
        UsageError: None is called so, or several keys begin so.
    """
    with database.reading() as connection:
        newest = select(LEARNED).order_by(LEARNED.c.created_at.desc(), LEARNED.c.key)
        rows = connection.execute(newest.where(LEARNED.c.name == reference).limit(1)).all()
        if not rows and len(reference) >= SHORTEST:
            begins = func.substr(LEARNED.c.key, 1, len(reference)) == reference
            rows = connection.execute(newest.where(begins).limit(2)).all()
        names = connection.execute(select(LEARNED.c.name).distinct().limit(20)).scalars().all()
    if len(rows) == 1:
        return _row(rows[0])
    if rows:
        raise UsageError(
            f"Several learned losses have a key that begins with {reference!r}. Give more of it."
        )
    known = f"There are {', '.join(sorted(names))}." if names else "The store holds none."
    raise UsageError(f"No learned loss is called {reference!r}. {known}")


def _row(row: Row[Any]) -> LearnedRow:
    found = LearnedRow(
        row.name, row.kind, row.space, row.settings, read_back(row.arrays), row.evidence, row.created_at
    )
    if found.key != row.key:
        raise StoreError(f"The learned loss {row.name!r} was changed: its key is not that of its content.")
    return found
