"""A loss as one Python file that needs torch and nothing of ours.

Where `loss(input, target)` gives all that the loss reads, the file is called so (`call_file`), else with
tensors by their names (`named_file`). It tests itself when it is run, against numbers computed here in
fp64. No identifier in it is taken from a user, and text of users stands only in docstrings and strings,
escaped.
"""

from __future__ import annotations

from losssearch.errors import ExportError, UsageError
from losssearch.execution.parts import is_called
from losssearch.exporters.call_file import CallFile
from losssearch.exporters.named_file import NamedFile
from losssearch.exporters.sheet import Sheet


def render(sheet: Sheet) -> str:
    """The text of the file.

    Raises:
        ExportError: The loss does not read what it is to be learned from, or has no finite example.
    """
    try:
        called = is_called(sheet.program, sheet.task)
        return (CallFile if called else NamedFile)(sheet).text()
    except UsageError as error:
        raise ExportError(f"This loss cannot be a torch module. {error}") from error
