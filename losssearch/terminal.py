"""How does a search look in a terminal? Tables, the live view, and JSON for machines.

Tables go to stdout, progress to stderr: what a command answers can be piped while it is watched.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from losssearch.duration import text_of

if TYPE_CHECKING:
    from losssearch.session import Progress, Watch

EVERY_S = 10.0  # between two lines of progress where no terminal is
FORMULA = 80  # letters of a formula in a line of progress

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def print_json(data: Any) -> None:
    """One JSON document on stdout; nan and inf become null, since JSON has none."""
    sys.stdout.write(json.dumps(_plain(data), indent=2, allow_nan=False) + "\n")


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(k): _plain(v) for k, v in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(v) for v in data]
    if isinstance(data, float) and (data != data or abs(data) == float("inf")):
        return None
    return data


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table whose last column may be long; it is never cut when stdout is no terminal."""
    if not out.is_terminal:
        widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns) - 1)]
        for row in [columns, *rows]:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
            sys.stdout.write("  ".join([*cells, row[-1]]).rstrip() + "\n")
        return
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=i < len(columns) - 1)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    out.print(table)


def number(value: float | None, digits: int = 4) -> str:
    """A score as a person reads it."""
    if value is None or value != value:
        return "-"
    return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.4g}"


@contextmanager
def watching(quiet: bool = False) -> Iterator[Watch]:
    """A live view of a search on stderr: one updated block, or a line now and then."""
    if quiet:
        yield lambda progress: None
        return
    if not err.is_terminal:
        yield _lines()
        return
    from rich.live import Live

    with Live(console=err, refresh_per_second=4, transient=True) as live:
        yield lambda progress: live.update(_block(progress))


def _lines() -> Watch:
    last = [0.0]

    def watch(progress: Progress) -> None:
        now = time.monotonic()
        if now - last[0] >= EVERY_S:
            last[0] = now
            err.print(_line(progress), soft_wrap=True, markup=False)

    return watch


def _line(progress: Progress) -> str:
    left = f", {text_of(progress.left)} left" if progress.left is not None else ""
    rejected = sum(progress.rejected.values())
    return (
        f"{progress.phase} {text_of(progress.seconds)}{left}: {progress.seen} seen, {rejected} rejected, "
        f"{progress.trained} trained ({progress.trainings} trainings), best {number(progress.best)} "
        f"{_cut(progress.formula)}"
    )


def _cut(formula: str) -> str:
    return formula if len(formula) <= FORMULA else f"{formula[: FORMULA - 1]}…"


def _block(progress: Progress) -> Table:
    table = Table.grid(padding=(0, 2))
    left = f"   {text_of(progress.left)} left" if progress.left is not None else ""
    rejected = ", ".join(
        f"{count} {name.lower().replace('_', ' ')}" for name, count in sorted(progress.rejected.items())
    )
    table.add_row(Text(progress.phase, style="bold"), Text(f"{text_of(progress.seconds)}{left}"))
    table.add_row("seen", Text(str(progress.seen)))
    table.add_row("rejected", Text(rejected or "none"))
    table.add_row("trained", Text(f"{progress.trained} losses, {progress.trainings} trainings"))
    table.add_row("best", Text(f"{number(progress.best)}   {_cut(progress.formula)}"))
    return table
