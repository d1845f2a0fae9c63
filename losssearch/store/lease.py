"""Is another process driving this search?

One search has one driver. SQLite: a locked file beside the database, `demo.db-search-3`; the kernel
frees it however its process ends, so that a killed driver never blocks the resume. PostgreSQL: an
advisory lock on a connection of its own, with the same property. Neither needs a clock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from losssearch.errors import StoreError

SPACE = 0x6C73  # "ls": first half of the advisory lock's key, the search is the second
LOOK_S = 0.05  # far longer than `file_is_held` holds a lock

_HOLDER = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted "
    "AND classid = :space AND objid = :id "
    "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


class Lease(Protocol):
    """The right to write one search."""

    def keep(self) -> None:
        """Make sure, before a write, that it is still held; StoreError when another has it."""

    def release(self) -> None:
        """Give it back; doing so twice is fine."""


def file_is_held(database: Path, search_id: int) -> bool:
    """Whether a process drives this search of a SQLite database; a file that cannot be read may be held."""
    import fcntl

    try:
        file = os.open(_lock_file(database, search_id), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def server_holder(connection: Connection, search_id: int) -> int | None:
    """The server process whose client drives this search of a PostgreSQL database."""
    pid: int | None = connection.execute(_HOLDER, {"space": SPACE, "id": search_id}).scalar()
    return pid


def _lock_file(database: Path, search_id: int) -> Path:
    return Path(f"{database}-search-{search_id}")


def _taken(name: str, by: str) -> StoreError:
    return StoreError(
        f"The search {name!r} is being run by another process{by}. Wait for it, stop it, "
        "or give this search another name."
    )


class FileLease:
    """A lock on the file beside a SQLite database; holds pid and host of the driver, for people."""

    def __init__(self, database: Path | None, search_id: int, name: str) -> None:
        self._path = None if database is None else _lock_file(database, search_id)
        self._file: int | None = None
        if self._path is not None:
            self._file = self._take(self._path, name)

    @staticmethod
    def _take(path: Path, name: str) -> int:
        import fcntl  # POSIX only, like the rest of the store's locking

        looks = 1
        while True:
            try:
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                raise StoreError(
                    f"{path} cannot be opened: {error.strerror}. Remove it, or check permissions."
                ) from None
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                by = os.read(file, 200).decode(errors="replace").strip()
                os.close(file)
                if looks:  # somebody may only be looking whether it is held
                    looks -= 1
                    time.sleep(LOOK_S)
                    continue
                raise _taken(name, f" ({by})" if by else "") from None
            try:  # its last holder may have removed the file that we opened
                same = os.fstat(file).st_ino == path.stat().st_ino
            except FileNotFoundError:
                same = False
            if same:
                with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                    os.ftruncate(file, 0)
                    os.write(file, f"pid {os.getpid()} on {socket.gethostname()}\n".encode())
                return file
            os.close(file)

    def keep(self) -> None:
        return

    def release(self) -> None:
        if self._path is not None and self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None


class ServerLease:
    """An advisory lock of PostgreSQL; it dies with its connection and is then taken again."""

    def __init__(self, engine: Engine, search_id: int, name: str) -> None:
        self._engine, self._id, self._name = engine, search_id, name
        self._connection: Connection | None = None
        self._take()

    def _take(self) -> None:
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        try:
            key = {"space": SPACE, "id": self._id}
            lock = text("SELECT pg_try_advisory_lock(CAST(:space AS int), CAST(:id AS int))")
            if connection.execute(lock, key).scalar():
                connection.detach()  # never goes back to the pool, and is really closed
                self._connection = connection
                return
            pid = server_holder(connection, self._id)
        except BaseException:
            connection.close()
            raise
        connection.close()
        raise _taken(self._name, f" (server process {pid})" if pid else "")

    def keep(self) -> None:
        try:
            if self._connection is not None:
                self._connection.execute(text("SELECT 1"))
                return
        except DBAPIError:
            self.release()
        self._take()

    def release(self) -> None:
        if self._connection is not None:
            connection, self._connection = self._connection, None
            try:  # a server notices a closed connection when it comes to it, and holds the lock until then
                if not connection.invalidated:
                    unlock = text("SELECT pg_advisory_unlock(CAST(:space AS int), CAST(:id AS int))")
                    connection.execute(unlock, {"space": SPACE, "id": self._id})
                connection.close()
            except DBAPIError:
                connection.invalidate()
