"""A loss as JSON: formula, constants with ranges, papers. Reads back through the parser alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from losssearch.errors import ExportError, FormulaError
from losssearch.exporters.sheet import Sheet
from losssearch.language.formula import parse
from losssearch.language.program import Constant, Program
from losssearch.language.signature import Signature

FORMAT = "losssearch-loss"
VERSION = 1


def render(sheet: Sheet) -> str:
    """The text of the file."""
    constants = {
        c.name: {
            "value": c.value,
            "low": _plain(c.low),
            "high": _plain(c.high),
            "learnable": c.learnable,
        }
        for c in sheet.program.constants
    }
    data = {
        "format": FORMAT,
        "version": VERSION,
        "name": sheet.name,
        "space": sheet.space,
        "task": sheet.task,
        "key": sheet.key,
        "formula": sheet.program.text,
        "constants": constants,
        "source": sheet.source,
        "facts": _plain(dict(sheet.facts)),
        "evidence": _plain(dict(sheet.evidence)),
    }
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def read(text: str, signature: Signature) -> Program:
    """The program of an exported file, checked anew.

    Args:
        text: Content of the file.
        signature: Of the space that it names.

    Raises:
        ExportError: It is no such file.
        FormulaError: Its formula or constants do not fit the signature.
    """
    try:
        data = json.loads(text)
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ExportError(f"The file is no {FORMAT} of version {VERSION}.")
        rows = data["constants"].items()
        constants = {str(name): _constant(str(name), row) for name, row in rows}
        formula = data["formula"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise ExportError(f"The file is no exported loss: {what}.") from None
    return parse(formula, signature, constants)


def read_file(path: str | Path, signature: Signature) -> Program:
    """As `read`, from a file."""
    try:
        return read(Path(path).read_text(encoding="utf-8"), signature)
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{path}: cannot read the file: {error}.") from None


def _constant(name: str, row: Mapping[str, Any]) -> Constant:
    if not (name.isascii() and name.isidentifier()):
        raise FormulaError(f"a constant's name must be an identifier, but is {name[:40]!r}")
    value, low, high = (float(row[k]) for k in ("value", "low", "high"))
    return Constant(name, value, low, high, bool(row.get("learnable", False)))


def _plain(value: Any) -> Any:
    """Data that JSON can hold; what it cannot hold becomes its text."""
    if isinstance(value, bool | str | int) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    return str(value)
