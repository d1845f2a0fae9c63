"""How are the pages put on a screen? `losssearch dashboard --storage URL` prints their address."""

from __future__ import annotations

from typing import Annotated

import typer


def dashboard(
    storage: Annotated[
        str, typer.Option("--storage", envvar="LOSSSEARCH_STORAGE", help="Database URL.")
    ] = "sqlite:///losses.db",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    host: Annotated[
        str, typer.Option(help="Address to listen on; another than 127.0.0.1 opens it to others.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further host name under which a browser may ask; may be repeated."),
    ] = None,
    writable: Annotated[
        bool, typer.Option("--writable", help="Let optuna-dashboard change its studies.")
    ] = False,
) -> None:
    """Pages about searches and losses, on this machine, read-only. Ctrl-C ends."""
    from dashboards.server import serve

    serve(storage, host, port, tuple(allow_host or ()), writable)
