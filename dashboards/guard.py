"""Who may ask what? optuna-dashboard checks neither, so every request passes here first.

A page of a stranger, open in the same browser, can reach a server on localhost: by a host name of
its own that leads to 127.0.0.1, or by a form that posts. The first is stopped by a list of Host
names, the second by refusing every method that changes something, unless the server is writable;
then what is posted must come from our own pages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
READING = ("GET", "HEAD")
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def guarded(inner: WSGIApplication, hosts: Collection[str], writable: bool) -> WSGIApplication:
    """The same application behind the checks.

    Args:
        inner: What is guarded.
        hosts: Names, in small letters and without port, that a request may give as its Host.
        writable: Whether other methods than GET and HEAD pass.
    """

    def application(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").lower()
        if name_of(host) not in hosts:
            return _refuse(start, "403 Forbidden", "Host not allowed; see --allow-host.")
        if environ["REQUEST_METHOD"] not in READING:
            if not writable:
                return _refuse(start, "405 Method Not Allowed", "This server only reads.")
            if environ.get("HTTP_ORIGIN", f"http://{host}").partition("://")[2].lower() != host:
                return _refuse(start, "403 Forbidden", "Another site may not change anything here.")
        environ.setdefault("HTTP_ACCEPT_ENCODING", "")  # optuna-dashboard fails without it

        def start_guarded(status: str, headers: list[tuple[str, str]], *rest: object) -> object:
            given = {name.lower() for name, _ in headers}
            more = [(k, v) for k, v in HEADERS.items() if k.lower() not in given]
            return start(status, headers + more, *rest)  # type: ignore[arg-type]

        return inner(environ, start_guarded)  # type: ignore[arg-type]

    return application


def name_of(host: str) -> str:
    """A Host header without its port: `[::1]:80` gives `[::1]`."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def _refuse(start: StartResponse, status: str, why: str) -> Iterable[bytes]:
    body = f"{status}. {why}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    if status.startswith("405"):
        headers.append(("Allow", ", ".join(READING)))
    start(status, headers + list(HEADERS.items()))
    return [body]
