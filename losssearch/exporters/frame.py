"""What has every exported file: its docstring, the constants of its class, and the frame of both."""

from __future__ import annotations

import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from losssearch.execution import conventions
from losssearch.exporters.printing import Printed
from losssearch.exporters.sheet import Sheet, clean
from losssearch.exporters.text import (
    WIDTH,
    argument,
    assigned,
    doc,
    fitted,
    float_text,
    item,
    returned,
    source_of,
    string,
    wrapped,
)
from losssearch.language.formula import format_number
from losssearch.language.program import Constant, Program

LEARNABLE = "Whether constants become parameters, `raw_...`, that stay within their range."


class File(ABC):
    """A loss as the text of a Python file.

    Args:
        sheet: The loss and its papers.
        program: What the file computes, with the constants' given names.
        code: Its statements.
    """

    call: str  # how people call the loss

    def __init__(self, sheet: Sheet, program: Program, code: Printed) -> None:
        self.sheet, self.code = sheet, code
        self.constants = program.constants
        self.learned = tuple(c for c in self.constants if c.learnable) or self.constants
        self.names = code.names

    def text(self) -> str:
        """The whole file."""
        functions = [textwrap.dedent(source_of(f)) for f in self.functions()]
        return "\n\n\n".join([self.head(), *functions, self.cls(), self.main()])

    # What the two kinds of files do not share.

    @abstractmethod
    def arguments(self) -> Iterable[tuple[str, str]]:
        """Of the constructor, beside constants: name and sentence."""

    @abstractmethod
    def shapes(self) -> Iterable[tuple[str, str]]:
        """Of what a call takes: name and sentence."""

    @abstractmethod
    def remarks(self) -> Sequence[str]:
        """What else to know of a call."""

    @abstractmethod
    def fields(self) -> tuple[list[str], list[str]]:
        """Lines of the class's body: values, then annotations."""

    @abstractmethod
    def settings(self) -> tuple[list[str], list[str]]:
        """Parameters of the constructor, beside constants, and the lines that take them."""

    @abstractmethod
    def methods(self) -> Iterable[str]:
        """Between constructor and constants."""

    @abstractmethod
    def body(self) -> str:
        """The method with the formula."""

    @abstractmethod
    def shown(self) -> Sequence[str]:
        """What `repr` says, beside constants."""

    @abstractmethod
    def test(self) -> list[str]:
        """Statements of the self-test; raises ExportError if there is no finite example."""

    # The head of the file.

    def functions(self) -> list[Callable[..., Any]]:
        """Those that stand before the class."""
        found = list(self.code.helpers)
        if self.constants or self.shown():
            found.append(conventions.shown)
        return [*found, conventions.bounded, conventions.unbounded] if self.constants else found

    def needs_any(self) -> bool:
        """Whether the file speaks of `typing.Any`."""
        return bool(self.constants)

    def head(self) -> str:
        sheet = self.sheet
        lines = [*wrapped(f"{clean(sheet.name, 200) or 'A loss'}, as a torch module.", "", ""), ""]
        lines += ["    " + line for line in textwrap.wrap(doc(sheet.program.text), 92)]
        lines += _definitions(sheet)
        if self.constants:
            lines += ["", "Constants:"]
            lines += [f"    {_described(c, self.names[c.name])}" for c in self.constants]
        if sheet.source:
            lines += ["", *wrapped(f"Source: {clean(sheet.source)}")]
        for title, data in (("Evidence", sheet.evidence), ("Facts", sheet.facts)):
            if data:
                lines += ["", f"{title}:"]
                lines += [text for pair in data.items() for text in item(*pair)]
        lines += ["", f"Written by losssearch, id {sheet.key}. Needs torch alone."]
        lines.append("Run this file to test it.")
        imports = "import torch\nfrom torch import Tensor, nn"
        if self.needs_any():
            imports = f"from typing import Any\n\n{imports}"
        text = "\n".join(line.rstrip() for line in lines)
        return f'"""{text}\n"""\n\nfrom __future__ import annotations\n\n{imports}'

    # The class.

    def cls(self) -> str:
        """The class with all that is in it."""
        parts = [self.class_docstring(), self.attributes(), self.constructor(), *self.methods()]
        if self.constants:
            parts.append(self.constants_method())
        parts += [self.body(), self.extra_repr()]
        return f"class {self.sheet.class_name}(nn.Module):\n" + "\n\n".join(p for p in parts if p)

    def class_docstring(self) -> str:
        lines = ["    " + line for line in textwrap.wrap(doc(self.sheet.program.text), 88)]
        about = [(self.names[c.name], f"Within [{c.low:g}, {c.high:g}].") for c in self.constants]
        about += [*self.arguments(), *[("learnable", LEARNABLE)] * bool(self.constants)]
        for title, pairs in (("Args:", about), ("Shapes of a call:", list(self.shapes()))):
            if pairs:
                lines += ["", title, *(line for pair in pairs for line in argument(*pair))]
        lines += ["", *self.remarks()]
        text = "\n".join(f"    {line}".rstrip() for line in lines)
        return f'    """One loss, called as {self.call}.\n\n{text}\n    """'

    def attributes(self) -> str:
        sheet = self.sheet
        lines = [f"task = {string(sheet.task)}", *assigned("formula", sheet.program.text)]
        lines.append(f"key = {string(sheet.key)}")
        values, annotations = self.fields()
        lines += values
        if self.constants:
            lines.append("ranges = {  # noqa: RUF012")
            lines += [
                f"    {string(self.names[c.name])}: ({float_text(c.low)}, {float_text(c.high)}),"
                for c in self.constants
            ]
            lines.append("}")
        lines += [f"{self.names[c.name]}: float" for c in self.constants]
        lines += [f"raw_{self.names[c.name]}: nn.Parameter" for c in self.learned]
        lines += annotations
        return textwrap.indent("\n".join(lines), "    ")

    def constructor(self) -> str:
        more, taken = self.settings()
        takes = [f"{self.names[c.name]}: float = {float_text(c.value)}" for c in self.constants]
        takes += [*more, *["learnable: bool = False"] * bool(self.constants)]
        if not takes:
            return ""
        lines = ["super().__init__()", *taken, *(self.constants_taken() if self.constants else ())]
        head = "".join(f"        {a},\n" for a in takes)
        text = textwrap.indent("\n".join(lines), "        ")
        return f"    def __init__(\n        self,\n        *,\n{head}    ) -> None:\n{text}"

    def constants_taken(self) -> list[str]:
        pairs = [f'"{name}": {name}' for name in (self.names[c.name] for c in self.constants)]
        lines = [
            "self.learnable = learnable",
            *fitted(f"values = {{{', '.join(pairs)}}}", pairs),
            "for name, value in values.items():",
            "    low, high = self.ranges[name]",
            "    if not low <= value <= high:",
            '        what = f"`{name}` must be within [{low}, {high}], but is {value}."',
            "        raise ValueError(what)",
            "    setattr(self, name, float(value))",
        ]
        some = ", ".join(f'"{self.names[c.name]}"' for c in self.learned)
        all_of_them = len(self.learned) == len(self.constants)
        lines.append("    if learnable:" if all_of_them else f"    if learnable and name in ({some},):")
        parameter = "nn.Parameter(unbounded(value, low, high))"
        return [*lines, f'        self.register_parameter(f"raw_{{name}}", {parameter})']

    def constants_method(self) -> str:
        plain, learned = [], []
        for c in self.constants:
            name = self.names[c.name]
            plain.append(f"self.{name}")
            given = f'bounded(self.raw_{name}, *self.ranges["{name}"])'
            learned.append(given if c in self.learned else f"self.{name}")
        lines = ["def _constants(self) -> tuple[Any, ...]:"]
        lines += ["    if not self.learnable:"]
        lines += ["        " + line for line in fitted(returned(plain), plain, "return ")]
        lines += ["    " + line for line in fitted(returned(learned), learned, "return ")]
        return textwrap.indent("\n".join(lines), "    ")

    def constants_read(self) -> list[str]:
        """The statement that makes local names of the constants."""
        names = [self.names[c.name] for c in self.constants]
        return unpacked(names, "self._constants") if names else []

    def extra_repr(self) -> str:
        names = [string(name) for name in (*(self.names[c.name] for c in self.constants), *self.shown())]
        listed = ", ".join(names) + ("," if len(names) == 1 else "")
        if not names:
            text = 'def extra_repr(self) -> str:\n    return f"{self.formula}\\nid={self.key}"'
            return textwrap.indent(text, "    ")
        lines = [
            "def extra_repr(self) -> str:",
            *("    " + line for line in fitted(f"names = ({listed})", names, "names = ")),
            '    settings = [f"{name}={shown(getattr(self, name))}" for name in names]',
            "    for name, raw in self.named_parameters(recurse=False):",
            '        settings.append(f"{name}={raw.item():.6g}")',
            "    return f\"{self.formula}\\n{', '.join(settings)}\\nid={self.key}\"",
        ]
        return textwrap.indent("\n".join(lines), "    ")

    # The self-test.

    def main(self) -> str:
        name = self.sheet.class_name
        lines = [
            '"""Compare value and gradient with those when this file was written."""',
            *self.test(),
            f'print("{name}: value and gradient are as when this file was written.")',
        ]
        body = "\n".join(f"    {line}" for line in lines)
        return f'def main() -> None:\n{body}\n\n\nif __name__ == "__main__":\n    main()\n'


def unpacked(names: Sequence[str], function: str, arguments: Sequence[str] = ()) -> list[str]:
    """Names out of what a function gives, over several lines where they are too long for one."""
    left = [", ".join(names) if len(names) > 1 else f"({names[0]},)"]
    if len(left[0]) + len(function) + 5 > WIDTH:
        left = ["(", *(f"    {name}," for name in names), ")"]
    call = f"{left.pop()} = {function}("
    whole = f"{call}{', '.join(arguments)})"
    return [*left, *([whole] if len(whole) <= WIDTH else [call, *(f"    {a}," for a in arguments), ")"])]


def _described(c: Constant, name: str) -> str:
    learnable = ", learnable" if c.learnable else ""
    return f"{name} = {format_number(c.value)}, within [{c.low:g}, {c.high:g}]{learnable}"


def _definitions(sheet: Sheet) -> list[str]:
    """The space's names that the formula uses, those behind them too."""
    signature, text = sheet.program.signature, sheet.program.text
    used: list[str] = []
    stack = [text]
    while stack:
        for name in re.findall(r"[A-Za-z_]\w*", stack.pop()):
            if name in signature.definitions and name not in used:
                used.append(name)
                stack.append(signature.definitions[name].text)
    order = [name for name in signature.definitions if name in used]
    texts = [f"{name} = {signature.definitions[name].text}" for name in order]
    lines = [line for text in texts for line in wrapped(text, "    ", "        ")]
    return ["", "where", "", *lines] if lines else []


def set_progress(names: Sequence[str]) -> str:
    """The method that moves these buffers."""
    fills = "\n".join(f"        self.{name}.fill_(progress)" for name in names)
    return (
        "    def set_progress(self, progress: float) -> None:\n"
        '        """Say how much of the training is done, in [0, 1]."""\n'
        "        if not 0 <= progress <= 1:\n"
        '            raise ValueError(f"`0 <= progress <= 1` must hold, but got {progress}.")\n'
        f"{fills}"
    )
