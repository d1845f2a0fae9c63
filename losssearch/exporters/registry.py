"""In which formats can a loss leave, and how is a file written?

An exporter turns a `Sheet` into text. The file appears whole or not at all: it is written beside
its place and renamed. An existing file is replaced only on demand.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from losssearch.errors import ExportError
from losssearch.exporters import as_json, as_latex, torch_file
from losssearch.exporters.sheet import Discovery, Sheet, sheet_of


@dataclass(frozen=True)
class Exporter:
    """A format.

    Args:
        name: As a user asks for it.
        title: One line for people.
        suffix: Of its files.
        render: The text of a loss; raises ExportError if the format cannot hold it.
    """

    name: str
    title: str
    suffix: str
    render: Callable[[Sheet], str]

    def __str__(self) -> str:
        return f"{self.title} ({self.suffix})"


EXPORTERS: dict[str, Exporter] = {
    e.name: e
    for e in (
        Exporter("torch", "A Python file that needs torch alone", ".py", torch_file.render),
        Exporter("json", "Formula, constants and evidence", ".json", as_json.render),
        Exporter("latex", "Formula and table of constants", ".tex", as_latex.render),
    )
}


def exporter(name: str) -> Exporter:
    """Raises: ExportError: There is no such format."""
    if name not in EXPORTERS:
        raise ExportError(f"No export format is called {name!r}. There are {', '.join(EXPORTERS)}.")
    return EXPORTERS[name]


def export(
    loss: Sheet | Discovery, path: str | Path, format: str | None = None, *, force: bool = False
) -> Path:
    """Write a loss to a file.

    Args:
        loss: The loss and its papers.
        path: The file; a folder gets a file named after the loss.
        format: A key of `EXPORTERS`; None goes by the file's suffix, and is "torch" without one.
        force: Replace an existing file.

    Returns:
        Where the file lies.

    Raises:
        ExportError: No such suffix, the format cannot hold the loss, or the file cannot be written there.
    """
    place = Path(path)
    by_suffix = {e.suffix: e.name for e in EXPORTERS.values()}
    if format is None and place.suffix and place.suffix not in by_suffix and not place.is_dir():
        raise ExportError(
            f"{place}: nothing is written as {place.suffix}. Choose {', '.join(by_suffix)}, or name a "
            f"format: {', '.join(EXPORTERS)}."
        )
    chosen = exporter(by_suffix.get(place.suffix, "torch") if format is None else format)
    sheet = sheet_of(loss)
    if place.is_dir():
        place = place / f"{snake_name(sheet.class_name)}{chosen.suffix}"
    if os.path.lexists(place) and not force:
        raise ExportError(
            f"{place}: the file exists. Choose another name, or replace it with --force (force=True)."
        )
    write(place, chosen.render(sheet))
    return place


def write(place: Path, text: str) -> None:
    """The whole file, or none.

    Raises:
        ExportError: The folder is missing or unwritable, or the disk is full.
    """
    handle, temporary = -1, ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=".", suffix=".part", dir=place.parent)
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, place)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        why = error.strerror or str(error)
        raise ExportError(f"{place}: cannot write the file: {why}.") from error


def snake_name(class_name: str) -> str:
    """FocalLoss -> focal_loss."""
    return re.sub(r"(?<=.)([A-Z])", r"_\1", class_name).lower()
