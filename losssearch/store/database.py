"""One open database: how it is entered, read, written and left."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from losssearch.errors import StoreError
from losssearch.store import address
from losssearch.store.faults import as_store_error
from losssearch.store.migrations import migrate
from losssearch.store.schema import HEAD

T = TypeVar("T")


class Database:
    """An engine, its address, and the two ways to use it: `reading` and `write`."""

    def __init__(self, address_url: URL, engine: Engine, read_only: bool) -> None:
        self._url, self._engine, self._read_only = address_url, engine, read_only
        self._file = address.file_of(address_url)

    @classmethod
    def open(cls, url: str, read_only: bool = False, create: bool = True, timeout_s: float = 30.0) -> Self:
        """Open a store; make it, or bring it up to date, where needed.

        Args:
            url: `sqlite:///demo.db`, `postgresql://user@host/name`, or the path of a file, with a slash
                or a suffix.
            read_only: Never write, migrate or lock. The store must exist.
            create: Make the store where there is none; False raises StoreError then.
            timeout_s: How long to wait for another program's lock, in seconds, `>= 0`.

        Raises:
            StoreError: wrong URL, missing driver, file or folder, no permission, not a database,
                a foreign or a newer store.
        """
        place = address.parse(url)
        if (path := address.file_of(place)) is not None:
            address.check_file(path, read_only, create)
        engine = address.open_engine(place, read_only, timeout_s)
        opened = cls(place, engine, read_only)
        try:
            opened._enter(create, timeout_s)
        except BaseException:
            engine.dispose()
            raise
        return opened

    def _enter(self, create: bool, timeout_s: float) -> None:
        """Look whether the tables are there and ours; make or mend them if we may."""
        shown = self.url
        revision = self._revision(timeout_s)
        if revision == HEAD:
            return
        if revision is None and (self._read_only or not create):
            raise StoreError(f"{shown} holds no losssearch tables. Check the address.")
        if self._read_only:
            raise StoreError(f"{shown} is of an older losssearch. Open it once for writing.")
        self.write(lambda connection: migrate.upgrade(connection, shown), new=True)

    def _revision(self, timeout_s: float) -> str | None:
        """What `migrate.state` says. A SQLite file is looked at without changing a byte of it: a
        connection for writing would turn somebody else's file into one with a write-ahead log.
        """
        look = self
        if self._file is not None and not self._read_only:
            if not self._file.exists() or not self._file.stat().st_size:
                return None
            engine = address.open_engine(self._url, True, timeout_s)
            look = type(self)(self._url, engine, True)
        try:
            with look.reading() as connection:
                return migrate.state(connection, self.url)
        finally:
            if look is not self:
                look.close()

    def close(self) -> None:
        """Give back every connection and the lock of every search opened for writing."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The address, with the password hidden; for people."""
        return address.shown(self._url)

    @property
    def read_only(self) -> bool:
        """Whether every write is refused."""
        return self._read_only

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for the other rooms of the store."""
        return self._engine

    def optuna_url(self, read_only: bool = False) -> str:
        """The address of the same database for `optuna.storages.RDBStorage`; holds the password.

        With `read_only`, a SQLite file is opened so that nothing can write it.
        """
        if self._url.get_backend_name() == "sqlite" and self._file is None:
            raise StoreError("A store in memory cannot be shared with Optuna. Give it a file.")
        return address.optuna_url(self._url, read_only)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one state of the database and never blocks the writer."""
        with as_store_error(self._url), self._engine.connect() as connection:
            connection = connection.execution_options(**address.READING)
            with connection.begin():
                yield connection

    def write(self, work: Callable[[Connection], T], new: bool = False) -> T:
        """Run `work` in one transaction. It must be repeatable: after a lost connection, where
        nobody knows whether the commit arrived, it runs once more on a new one. Only with `new`
        may the file be missing.
        """
        if self._read_only:
            raise StoreError(f"{self.url} was opened read-only; nothing can be written.")
        if self._file is not None and not new and not self._file.exists():
            raise StoreError(f"{self._file} was removed while it was in use. Restore it.")
        with as_store_error(self._url):
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except DBAPIError as error:
                if isinstance(error, OperationalError) and self._file is not None:
                    self._engine.dispose()
                if not error.connection_invalidated:
                    raise
            with self._engine.begin() as connection:
                return work(connection)
