"""What went wrong in the database, in one line that says what to do about it.

`StoreError` for what a person can mend; anything else (a wrong statement of ours) is passed on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from losssearch.errors import StoreError
from losssearch.store.address import shown

# Pattern in the driver's words -> ours. The first that matches speaks.
SENTENCES = (
    (r"database (table )?is locked", "is locked by another program. Close that program, or wait"),
    (r"disk is full|No space left|53100", "the disk is full. Free some space and run again"),
    (r"readonly database|read-only transaction", "is read-only. Make it writable, or copy it"),
    (r"not a database|file is encrypted", "is not a SQLite database. Give another file"),
    (r"malformed", "is damaged. Restore a copy, or begin with a new file"),
    (r"disk I/O error", "the disk reports an error. Check it, and that the file still exists"),
    (r"unable to open", "cannot be opened. Check that file and folder exist and are writable"),
    (r"no such table|UndefinedTable", "has lost its tables. Restore a copy, or use a new database"),
    (r"password|authentication", "the server refused user or password. Check both"),
    (r'database "[^"]*" does not exist', "there is no such database. Create it with createdb"),
    (r'role "[^"]*" does not exist', "the server knows no such user. Check the user name"),
    (r"permission denied", "this user may not do that. Grant it the right to create tables"),
    (r"lock timeout|LockNotAvailable", "is locked by another program. Close it, or wait"),
    (r"too many (clients|connections)", "the server has no free connection. Close some, or wait"),
    (
        r"refused|could not|No such file|resolve|not known|timeout|timed out|connection",
        "the server cannot be reached. Check host and port, and that it runs",
    ),
)


@contextmanager
def as_store_error(url: URL) -> Iterator[None]:
    """Raises StoreError instead of what the database layer raises inside the block."""
    try:
        yield
    except PoolTimeout:
        raise StoreError(f"{shown(url)}: every connection is in use. Close some readers.") from None
    except DBAPIError as error:
        raise translate(error, url) from error


def translate(error: DBAPIError, url: URL) -> Exception:
    """The StoreError that says what `error` means; `error` itself when it is a fault of ours."""
    said = f"{error.orig.__class__.__name__}: {error.orig}"
    for pattern, sentence in SENTENCES:
        if re.search(pattern, said, re.IGNORECASE):
            told = sentence if sentence.startswith(("is ", "has ", "cannot ")) else f": {sentence}"
            return StoreError(f"{shown(url)} {told}.".replace(" : ", ": "))
    if isinstance(error, (OperationalError, InterfaceError)):
        line = " ".join(str(error.orig).split())
        if url.password:
            line = line.replace(str(url.password), "***")
        return StoreError(f"{shown(url)}: the database says: {line}")
    return error
