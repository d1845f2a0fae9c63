"""How does one get to optuna-dashboard? Everything outside `/losses` falls through to it.

It is given a storage that cannot write. It is loaded at the first question (about a second), and
only once the mirror has put a study into the database; before that, a page of ours says so.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from sqlalchemy import inspect, text
from sqlalchemy.exc import SQLAlchemyError

from losssearch.errors import StoreError
from losssearch.store.store import Store

if TYPE_CHECKING:
    from optuna.storages import RDBStorage

EMPTY = (
    "This database holds no Optuna study. A search writes one as it goes, unless it was run "
    "without its mirror; come back after its first round."
)
Message = Callable[[str, str, str], bytes]  # status, title, sentence -> a page


class Door:
    """A WSGI application that is optuna-dashboard where it can be.

    Args:
        store: The database, as our own pages read it.
        writable: Whether optuna-dashboard may change (and make) its tables.
        message: Writes the page for when it cannot be shown.
    """

    def __init__(self, store: Store, writable: bool, message: Message) -> None:
        self._store, self._writable, self._message = store, writable, message
        self._lock = threading.Lock()
        self._inner: WSGIApplication | None = None

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith("/static"):
            return self._open()(environ, start)
        try:
            if not self._writable and not self._has_study():
                return self._say(start, "404 Not Found", "No Optuna study yet", EMPTY)
            return self._open()(environ, start)
        except (StoreError, SQLAlchemyError) as error:
            why = str(error) if isinstance(error, StoreError) else "The database cannot be read."
            return self._say(start, "503 Service Unavailable", "The database does not answer", why)

    def _has_study(self) -> bool:
        with self._store.reading() as connection:
            if not inspect(connection).has_table("studies"):
                return False
            return connection.execute(text("SELECT 1 FROM studies LIMIT 1")).first() is not None

    def _open(self) -> WSGIApplication:
        with self._lock:
            if self._inner is None:
                from optuna_dashboard import wsgi

                inner: WSGIApplication = wsgi(self._storage())
                self._inner = inner
            return self._inner

    def _storage(self) -> RDBStorage:
        from optuna.storages import RDBStorage

        url = self._store.optuna_url(read_only=not self._writable)
        if self._writable:
            return RDBStorage(url)
        options = {} if url.startswith("sqlite") else {"postgresql_readonly": True}
        return RDBStorage(url, engine_kwargs={"execution_options": options}, skip_table_creation=True)

    def _say(self, start: StartResponse, status: str, title: str, why: str) -> Iterable[bytes]:
        body = self._message(status, title, why)
        start(status, [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")])
        return [body]
