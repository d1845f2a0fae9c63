"""One WSGI server for two kinds of pages: `/losses` is ours, the rest is optuna-dashboard.

waitress with a few threads. It listens within a second: torch is loaded meanwhile, Optuna and its
dashboard by the first page that needs them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Collection, Iterable
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import typer

from dashboards.door import Door
from dashboards.guard import LOCAL, guarded
from dashboards.pages import Pages
from losssearch.errors import UsageError
from losssearch.store.store import Store

THREADS = 8
WAIT_S = 3.0  # for a lock; a reader of SQLite's write-ahead log hardly ever meets one


def application(store: Store, hosts: Collection[str] = LOCAL, writable: bool = False) -> WSGIApplication:
    """All pages over one store, guarded.

    Args:
        store: Opened read-only.
        hosts: Host names under which the pages may be asked for.
        writable: Whether optuna-dashboard may change its studies.
    """
    pages = Pages(store)
    door = Door(store, writable, pages.message)

    def dispatch(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path in ("", "/"):
            start("302 Found", [("Location", "/losses"), ("Content-Length", "0")])
            return []
        inner = pages.app if path == "/losses" or path.startswith("/losses/") else door
        found: Iterable[bytes] = inner(environ, start)
        return found

    return guarded(dispatch, hosts, writable)


def serve(storage: str, host: str, port: int, allowed: Collection[str] = (), writable: bool = False) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        storage: Database URL; the store must exist.
        host, port: Where to listen; port 0 takes a free one.
        allowed: Further host names under which a browser may ask.
        writable: Whether optuna-dashboard may change its studies.

    Raises:
        StoreError: There is no such store.
        UsageError: The address cannot be listened on.
    """
    with Store.open(storage, read_only=True, timeout_s=WAIT_S) as store:
        listening = listen(host, port)
        bound = _url_host(host)
        hosts = {*LOCAL, bound.lower(), *(name.lower() for name in allowed)}
        server = make_server(application(store, hosts, writable), listening)
        url = f"http://{bound}:{listening.getsockname()[1]}/losses"
        typer.echo(f"Pages of {store.url} at {url} (Ctrl-C ends)")
        if bound.lower() not in LOCAL:
            warn = f"Warning: whoever reaches {host} can read this database; there is no password."
            if host in ("0.0.0.0", "::"):
                warn += " Name the hosts that browsers may ask for with --allow-host."
            typer.echo(warn, err=True)
        if writable:
            typer.echo("Warning: --writable lets these pages delete Optuna studies.", err=True)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _end)
        threading.Thread(target=_warm, daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            server.run()
        server.close()
        typer.echo("Stopped.")


def make_server(app: WSGIApplication, listening: socket.socket) -> Any:
    """waitress on a socket that listens already; `.run()` and `.close()` are its life."""
    import waitress

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    return waitress.create_server(app, sockets=[listening], threads=THREADS, ident="losssearch")


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; UsageError says why there is none."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        raise UsageError(
            f"Cannot listen on {host}, port {port}: {why}. Choose another with --port, "
            "or --port 0 for a free one."
        ) from None


def _warm() -> None:
    """Load torch while the first page is read, so that the first curves need not wait for it."""
    import dashboards.curves  # noqa: F401


def _url_host(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _end(signum: int, frame: object) -> None:
    raise KeyboardInterrupt
