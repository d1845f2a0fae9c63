"""How is Python written as a formatter would, and text of users so that it stays text?"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from losssearch.errors import ExportError
from losssearch.exporters.sheet import clean

WIDTH = 102  # of a statement, inside a method


def source_of(function: Callable[..., Any]) -> str:
    """What stands in our file for a function.

    Raises:
        ExportError: The file has changed since it was imported, or is not there.
    """
    try:
        text = inspect.getsource(function).rstrip()
    except OSError as error:
        raise ExportError(f"The source of {function.__name__} cannot be read: {error}.") from error
    if not text.lstrip().startswith(f"def {function.__name__}("):
        raise ExportError("losssearch has changed on disk while it runs; start it anew.")
    return text


def doc(text: str) -> str:
    """Text that may stand in a docstring."""
    return clean(text, 20_000).replace("\\", "\\\\").replace('"""', "'''")


def string(text: str) -> str:
    """A Python string; JSON's escapes are Python's."""
    shown = clean(text, 20_000)
    if '"' in shown and "'" not in shown and "\\" not in shown:
        return f"'{shown}'"
    return json.dumps(shown, ensure_ascii=False)


def assigned(name: str, text: str) -> list[str]:
    """A string, in pieces where it is too long for a line."""
    if len(string(text)) + len(name) <= 100:
        return [f"{name} = {string(text)}"]
    shown = clean(text, 20_000)
    if len(string(text)) <= WIDTH:
        return [f"{name} = (", f"    {string(text)}", ")"]
    pieces = textwrap.wrap(shown, 84, drop_whitespace=False, break_on_hyphens=False)
    return [f"{name} = (", *(f"    {_piece(piece)}" for piece in pieces), ")"]


def _piece(piece: str) -> str:
    return json.dumps(piece, ensure_ascii=False)


def wrapped(text: str, indent: str = "", later: str = "    ") -> list[str]:
    return textwrap.wrap(doc(text), 96, initial_indent=indent, subsequent_indent=later)


def item(name: object, value: object) -> list[str]:
    return wrapped(f"{clean(name, 100)}: {clean(value, 500)}", "    ", "        ")


def argument(name: str, text: str) -> list[str]:
    return textwrap.wrap(f"{name}: {text}", 92, initial_indent="    ", subsequent_indent="        ")


def float_text(value: float) -> str:
    return f'float("{value}")' if value in (float("inf"), -float("inf")) else repr(float(value))


def returned(values: list[str]) -> str:
    return "return " + (", ".join(values) if len(values) > 1 else f"({values[0]},)")


def fitted(whole: str, parts: list[str], head: str = "values = ") -> list[str]:
    """A statement, over several lines where it is too long for one, as a formatter would."""
    if len(whole) <= WIDTH:
        return [whole]
    left, right = ("{", "}") if whole.startswith("values = {") else ("(", ")")
    return [f"{head}{left}", *(f"    {p}," for p in parts), right]


def statements(lines: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The lines of a body, its return included."""
    values = [*(tidy(o) for o in outputs), *["None"] * (len(outputs) == 1)]
    return [*(tidy(line) for line in lines), *fitted(f"return {', '.join(values)}", values, "return ")]


def tidy(line: str) -> str:
    """Powers of simple operands stand close, as formatters write them."""
    simple = r"[A-Za-z_][\w.]*|\d+(?:\.\d+)?"
    return re.sub(rf"(?<![\w.)\]])({simple}) \*\* (-?(?:{simple}))(?![\w.(\[])", r"\1**\2", line)


def tensor_text(x: Tensor, *options: str, indent: int = 4) -> str:
    """A tensor in double precision, or of booleans, for a statement that stands `indent` deep."""
    if x.dtype != torch.bool:
        options = ("dtype=torch.float64", *options)
    whole = f"torch.tensor({', '.join([_inline(x), *options])})"
    if len(whole) <= 84 - indent:
        return whole
    pad = " " * indent
    lines = ["torch.tensor(", *_nested(x, pad + "    "), *(f"{pad}    {o}," for o in options), f"{pad})"]
    return "\n".join(lines)


def _inline(x: Tensor) -> str:
    if x.ndim:
        return f"[{', '.join(_inline(row) for row in x)}]"
    return repr(x.item()) if x.dtype == torch.bool else repr(float(f"{x.item():.15g}"))


def _nested(x: Tensor, pad: str) -> list[str]:
    if x.ndim < 2:
        return [f"{pad}{_inline(x)},"]
    return [f"{pad}[", *(line for row in x for line in _nested(row, pad + "    ")), f"{pad}],"]
