"""What does a space file look like? Its tables and keys, and words for what is wrong with them.

The shape is checked here with pydantic, strictly; whether names, axes and formulas fit each other
is for `spaces` to say. Every fault becomes one line: `path: [section] key: what. Did you mean
...?`
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from losssearch.errors import SpaceError

MAX_BYTES = 128 * 1024
MAX_AXES = 12
MAX_DOTS = 200  # in a line; the time that tomllib takes for a dotted key grows with its square
Weight = Annotated[float, Field(gt=0, le=1000)]
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


class Row(BaseModel):
    """A table of the file; an unknown key is an error, and 1 is no text."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class AxisRow(Row):
    copy_of: str | None = None
    about: str = Field(default="", max_length=200)


class InputRow(Row):
    axes: str
    role: str
    range: list[float] = Field(default=[-math.inf, math.inf], min_length=2, max_length=2)
    properties: list[str] = Field(default=[], max_length=8)
    player: str = Field(default="", max_length=64)
    there: str = Field(default="", max_length=64)
    about: str = Field(default="", max_length=200)


class MixRow(Row):
    role: float = Field(ge=0)
    mutation: float = Field(ge=0)
    growth: float = Field(ge=0)


class SearchRow(Row):
    primitives: dict[str, Weight] = Field(min_length=1)
    terminals: list[str] = Field(min_length=1)
    rightness: dict[str, Literal[-1, 1, 2]] = Field(default={}, max_length=50)
    sets: list[str] = Field(min_length=1)
    nodes: int = Field(ge=1, le=200)
    depth: int = Field(ge=1, le=50)
    mix: MixRow = MixRow(role=0.5, mutation=0.3, growth=0.2)

    @field_validator("primitives", mode="before")
    @classmethod
    def _weighted(cls, primitives: object) -> object:
        """A list of names says the same as a table of weights 1."""
        return _table(primitives, 1.0, "a primitive is named twice")


class ConstantRow(Row):
    value: float
    low: float
    high: float
    learnable: bool = False


class LossRow(Row):
    title: str = Field(min_length=1, max_length=200)
    formula: str | None = None
    parts: dict[str, str] = Field(default={}, max_length=20)
    constants: dict[str, ConstantRow] = Field(default={}, max_length=50)
    source: str = Field(min_length=1, max_length=500)
    seed: bool = True


class LineRow(Row):
    title: str = Field(min_length=1, max_length=200)
    x: str = Field(min_length=1, max_length=200)
    range: list[float] = Field(min_length=2, max_length=2)
    inputs: dict[str, Any] = Field(min_length=1, max_length=100)


class SpaceFile(Row):
    title: str = Field(min_length=1, max_length=200)
    task: str
    axes: dict[str, AxisRow] = Field(min_length=1, max_length=MAX_AXES)
    sets: list[str] = Field(min_length=1, max_length=1 << MAX_AXES)
    head: str
    better: str = Field(min_length=1, max_length=200)
    reference: str
    screens: list[str]
    inputs: dict[str, InputRow] = Field(min_length=1, max_length=100)
    define: dict[str, str] = Field(default={}, max_length=200)
    search: SearchRow
    losses: dict[str, LossRow] = Field(min_length=1, max_length=500)
    lines: dict[str, LineRow] = Field(default={}, max_length=6)

    @field_validator("axes", mode="before")
    @classmethod
    def _named(cls, axes: object) -> object:
        """A list of names says the same as a table without copies."""
        return _table(axes, {}, "an axis is named twice")


def _table(given: object, value: object, twice: str) -> object:
    if isinstance(given, list) and all(isinstance(name, str) for name in given):
        if len(set(given)) < len(given):
            raise ValueError(twice)
        return dict.fromkeys(given, value)
    return given


_ROWS: dict[tuple[str, ...], type[Row]] = {
    (): SpaceFile,
    ("axes", "*"): AxisRow,
    ("inputs", "*"): InputRow,
    ("search",): SearchRow,
    ("search", "mix"): MixRow,
    ("losses", "*"): LossRow,
    ("losses", "*", "constants", "*"): ConstantRow,
    ("lines", "*"): LineRow,
}


def read(path: Path) -> bytes:
    """The content of a file of bearable size.

    Raises:
        SpaceError: It does not exist, is no ordinary file, cannot be read or is too large.
    """
    try:
        if not path.is_file():
            raise SpaceError(f"{one_line(path)}: There is no such file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise SpaceError(f"{one_line(path)}: It cannot be read: {reason}.") from None
    if len(content) > MAX_BYTES:
        raise SpaceError(f"{one_line(path)}: It is larger than {MAX_BYTES // 1024} KiB.")
    return content


def checked(path: Path, content: bytes) -> tuple[SpaceFile, str]:
    """The file's tables, and a hash of what they say; comments and layout do not count in it.

    Raises:
        SpaceError: It is no TOML, or a key is unknown, missing or of the wrong type.
    """
    shown = one_line(path)
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.count(b".") > MAX_DOTS:
            raise SpaceError(f"{shown}: Line {number} has more than {MAX_DOTS} dots.")
    try:
        data = tomllib.loads(content.decode("utf-8"))
        file = SpaceFile.model_validate(data)
    except ValidationError as error:
        raise SpaceError(f"{shown}: {_told(error)}") from None
    except UnicodeDecodeError:
        raise SpaceError(f"{shown}: It is not UTF-8 text.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of too many digits
        raise SpaceError(f"{shown}: {one_line(error).rstrip('.')}.") from None
    except RecursionError:
        raise SpaceError(f"{shown}: It is nested too deeply.") from None
    return file, _digest(data)


def _digest(data: dict[str, Any]) -> str:
    """Order counts within a table, since axes and definitions have one; what is only for people does not."""
    said = {key: data[key] for key in SpaceFile.model_fields if key in data and key != "lines"}
    for key in ("axes", "inputs"):
        rows = said[key] if isinstance(said[key], dict) else {name: {} for name in said[key]}
        said[key] = {
            name: {k: v for k, v in row.items() if k not in ("about", "there")} for name, row in rows.items()
        }
    return hashlib.sha256(json.dumps(said, separators=(",", ":")).encode()).hexdigest()


def _told(error: ValidationError) -> str:
    """One fault that pydantic found, in our words; a misspelt key before a missing one."""
    faults = error.errors(include_url=False)
    fault = next((f for f in faults if f["type"] == "extra_forbidden"), faults[0])
    place = tuple(str(part) for part in fault["loc"])
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        known = list(_row_at(place[:-1]).model_fields)
        hint = did_you_mean(place[-1], known) or f" The keys here are {', '.join(known)}."
        return f"{where(place[:-1])}There is no key {shortened(place[-1])}.{hint}"
    if kind == "missing":
        return f"{where(place[:-1])}The key {place[-1]!r} is missing."
    what = str(fault["msg"]).removeprefix("Value error, ")
    got = f", but got {shortened(given)}" if isinstance(given, (str, int, float)) else ""
    return f"{where(place)}{what[:1].upper()}{what[1:]}{got}."


def _row_at(place: tuple[str, ...]) -> type[Row]:
    for pattern, row in _ROWS.items():
        if len(pattern) == len(place) and all(map(_fits, pattern, place)):
            return row
    return Row


def _fits(pattern: str, part: str) -> bool:
    return pattern in ("*", part)


def where(place: tuple[str, ...]) -> str:
    """('losses', 'focal', 'formula') -> '[losses.focal] formula: ', as the file writes it."""
    parts = [p if NAME.fullmatch(p) or p.isdecimal() else shortened(p) for p in place]
    if not parts:
        return ""
    if parts[0] not in ("axes", "inputs", "define", "search", "losses", "lines"):
        return f"{'.'.join(parts)}: "
    head = 2 if parts[0] in ("losses", "lines") else 1
    section, key = ".".join(parts[:head]), ".".join(parts[head:])
    return f"[{section}] {key}: " if key else f"[{section}]: "


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name[:64], list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def one_line(text: object) -> str:
    return "".join(c if c.isprintable() else " " for c in str(text))[:300]
