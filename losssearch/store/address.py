"""Where is the database, and how does it want to be spoken to?

An address is a URL object from the first moment: nothing interpolates it, so braces, percent signs
and spaces survive. SQLite connections begin their own transactions (IMMEDIATE to write, so that a
read never turns into a write and fails), wait for locks, and flush to disk at each commit.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.pool import NullPool, StaticPool

from losssearch.errors import StoreError

FORMS = "Write sqlite:///FILE, postgresql://USER@HOST/DATABASE, or the path of a file"
READING = {"ls_reading": True}
SQLITE_MAGIC = b"SQLite format 3\x00"
# Keys are hashes, so that each new loss changes a page anywhere in a large file. The log is emptied into the
# file every LOG_PAGES pages (32 MB) and not every 1,000: fewer and longer writes in order, each page once.
LOG_PAGES = 8000
CACHE_KB = 32_000


def parse(text: str) -> URL:
    """The URL that a person meant; a text without `://` is the path of a SQLite file: `x.db`, `./x`.

    Raises:
        StoreError: Not a URL, or neither SQLite nor PostgreSQL.
    """
    if not text.strip():
        raise StoreError(f"The address of the store is empty. {FORMS}.")
    if any(not " " <= c <= "\ud7ff" and c < "\ue000" for c in text) or "\x7f" in text:
        raise StoreError(f"The address of the store holds a control character. {FORMS}.")
    if "://" not in text:
        if text.startswith(("sqlite:", "postgres")):
            raise StoreError(f"{text!r} is not a database URL. {FORMS}.")
        if "/" not in text and not Path(text).suffix:  # more likely a slip than a file without a suffix
            raise StoreError(f"{text!r} is no database URL. Write sqlite:///{text}.db for a file.")
        return URL.create("sqlite", database=text)
    if text.startswith("sqlite:///"):  # a path may hold any character, also ? and %
        if text.startswith("sqlite:///file:"):
            raise StoreError(f"{text}: SQLite's file: addresses are not read. {FORMS}.")
        return URL.create("sqlite", database=text.removeprefix("sqlite:///") or None)
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        scheme = text.partition("://")[0]
        raise StoreError(f"'{scheme}://...' is not a database URL. {FORMS}.") from None
    if url.get_backend_name() in ("postgresql", "postgres"):
        if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
            raise StoreError(
                f"{shown(url)}: the driver {url.drivername!r} is not supported. "
                "Write postgresql://..., which uses psycopg."
            )
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        if url.drivername == "sqlite" and not url.host and url.database in (None, "", ":memory:"):
            return URL.create("sqlite")
        raise StoreError(
            f"{shown(url)}: not a SQLite URL. Write sqlite:///FILE with three slashes, "
            "four for an absolute path."
        )
    raise StoreError(f"{shown(url)}: {url.get_backend_name()!r} databases are not supported. {FORMS}.")


def shown(url: URL) -> str:
    """The address for people: no password."""
    if url.get_backend_name() == "sqlite":
        return f"sqlite:///{url.database}" if url.database else "sqlite:// (in memory)"
    secret = {"password", "passfile", "sslpassword", "options"}
    safe = {key: "***" if key in secret else value for key, value in url.query.items()}
    return url.set(query=safe).render_as_string(hide_password=True)


def file_of(url: URL) -> Path | None:
    """The file of a SQLite address; None for memory and for PostgreSQL."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(str(url.database)).expanduser()


def check_file(path: Path, read_only: bool, create: bool) -> None:
    """Say clearly what SQLite would call "unable to open database file".

    Raises:
        StoreError: No such folder or file, no permission, or not a database.
    """
    if path.is_dir():
        raise StoreError(f"{path} is a folder. Give the path of a file in it.")
    if not path.parent.is_dir():
        raise StoreError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    if not path.exists():
        if read_only or not create:
            raise StoreError(f"{path} does not exist. Check the path, or start a search there.")
        if not os.access(path.parent, os.W_OK):
            raise StoreError(f"{path}: the folder {path.parent} is not writable. Choose another.")
        return
    try:
        with path.open("rb") as file:
            head = file.read(len(SQLITE_MAGIC))
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}. Check permissions.") from None
    if head and head != SQLITE_MAGIC:
        raise StoreError(f"{path} is not a SQLite database. Give the path of another file.")
    if not read_only and not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
        raise StoreError(f"{path} is read-only (the file or its folder). Make both writable, or copy it.")


def open_engine(url: URL, read_only: bool, timeout_s: float) -> Engine:
    """An engine whose transactions are safe with one writer and many readers.

    Raises:
        StoreError: The driver is not installed.
    """
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, read_only, timeout_s)
    wait_ms = max(1, round(timeout_s * 1000))
    try:
        engine = create_engine(
            url,
            pool_pre_ping=True,
            hide_parameters=True,
            pool_size=2,
            connect_args={
                "connect_timeout": max(2, round(timeout_s)),
                "application_name": "losssearch",
                "options": f"{url.query.get('options', '')} -c lock_timeout={wait_ms}".strip(),
            },
        )
    except (ImportError, NoSuchModuleError):
        raise StoreError(
            f"{shown(url)}: the driver 'psycopg' is not installed. Run: pip install \"psycopg[binary]\"."
        ) from None
    if read_only:
        engine = engine.execution_options(postgresql_readonly=True)
    return engine


def _sqlite_engine(url: URL, read_only: bool, timeout_s: float) -> Engine:
    path = file_of(url)
    engine = create_engine(
        "sqlite://",
        hide_parameters=True,
        creator=_sqlite_connector(path, read_only, timeout_s),
        poolclass=StaticPool if path is None else NullPool if read_only else None,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA foreign_keys = ON")
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            connection.execute(f"PRAGMA cache_size = -{CACHE_KB}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        reading = read_only or "ls_reading" in connection.get_execution_options()
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")

    return engine


def _sqlite_connector(
    path: Path | None, read_only: bool, timeout_s: float
) -> Callable[[], sqlite3.Connection]:
    where: dict[str, Any] = {"database": ":memory:"}
    if path is not None:
        place = "file:" + quote(str(path.absolute()))
        if not read_only:
            where = {"database": f"{place}?mode=rwc", "uri": True}
        elif os.access(path.parent, os.W_OK) or Path(f"{path}-wal").exists():
            where = {"database": f"{place}?mode=ro", "uri": True}
        else:  # nobody can be writing, and SQLite could not make its index of the log
            where = {"database": f"{place}?immutable=1", "uri": True}

    def connect() -> sqlite3.Connection:
        # isolation_level None: Python begins no transaction of its own.
        connection: sqlite3.Connection = sqlite3.connect(
            **where, timeout=timeout_s, isolation_level=None, check_same_thread=False
        )
        return connection

    return connect


def optuna_url(url: URL, read_only: bool) -> str:
    """The address as Optuna wants it: text, with braces doubled, since Optuna formats it."""
    path = file_of(url)
    if path is None:
        text = url.render_as_string(hide_password=False)
    else:
        query = "?mode=ro&uri=true" if read_only else "?uri=true"
        # Quoted twice: SQLAlchemy takes off one layer, SQLite the other.
        text = f"sqlite:///file:{quote(quote(str(path.absolute())))}{query}"
    return text.replace("{", "{{").replace("}", "}}")
