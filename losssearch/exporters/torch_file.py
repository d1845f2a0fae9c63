"""A loss as one Python file that needs torch and nothing of ours.

The class holds the formula as straight-line code, and the very methods by which `LossModule`
takes input and target, copied. The file tests itself when it is run, against numbers computed
here in fp64. No identifier in it is taken from a user, and text of users stands only in
docstrings and strings, escaped.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from losssearch.errors import ExportError, UsageError
from losssearch.execution import conventions
from losssearch.execution.conventions import Binary, Convention, Labelled, Multiclass, Regression
from losssearch.execution.module import LossModule, default_number, module_for
from losssearch.execution.parts import Parts, parts_of
from losssearch.exporters.printing import Printed, printed
from losssearch.exporters.sheet import Sheet, clean
from losssearch.language.formula import format_number
from losssearch.language.program import Constant

_KINDS: dict[str, type[Convention]] = {
    "multiclass": Multiclass,
    "binary": Binary,
    "regression": Regression,
}
_SHAPES = {
    "multiclass": (
        "input: Logits, shape (N, C), (N, C, d1, ...) or (C,); any finite number.",
        "target: Class indices of any integer dtype, (N,), (N, d1, ...) or (); or one-hot or soft "
        "labels in the shape of the input.",
    ),
    "binary": (
        "input: Logits of any shape; any finite number.",
        "target: The same shape; 0 or 1 of any dtype, or soft labels between.",
    ),
    "regression": (
        "input: Predictions of any shape.",
        "target: The same shape.",
    ),
}
_ARGUMENTS = {
    "reduction": '"mean", "sum" or "none".',
    "weight": "One number a class, (C,), or of no and of yes, (2,); the mean divides by the summed "
    "weights. A sample with soft labels weighs sum_c weight_c target_c.",
    "ignore_index": "Target that takes no part; None ignores nothing. Soft labels always count.",
    "label_smoothing": "s replaces the target by (1 - s) target + s / C (binary: s / 2).",
    "learnable": "Whether constants become parameters, `raw_...`, that stay within their range.",
}


def render(sheet: Sheet) -> str:
    """The text of the file.

    Raises:
        ExportError: The loss cannot be called as `loss(input, target)`.
    """
    try:
        module = module_for(sheet.program, sheet.task)
        parts = parts_of(sheet.program, sheet.task)
    except UsageError as error:
        raise ExportError(f"This loss cannot be a torch module. {error}") from error
    code = printed(parts, sheet.program.signature, sheet.task == "multiclass")
    writer = _Writer(sheet, parts, code)
    return "\n\n\n".join(
        [
            writer.head(),
            *(_function(f) for f in writer.functions()),
            writer.cls(),
            writer.main(module),
        ]
    )


class _Writer:
    def __init__(self, sheet: Sheet, parts: Parts, code: Printed) -> None:
        self.sheet, self.parts, self.code = sheet, parts, code
        self.kind = _KINDS[sheet.task]
        self.labelled = issubclass(self.kind, Labelled)
        self.constants = parts.program.constants
        self.learned = tuple(c for c in self.constants if c.learnable) or self.constants
        self.names = code.attributes

    # Functions beside the class.

    def functions(self) -> list[Callable[..., Any]]:
        found = list(self.code.helpers)
        if self.parts.provided:
            found.append(conventions.given)
        found.append(conventions.shown)
        if self.constants:
            found += [conventions.bounded, conventions.unbounded]
        return found

    # The head of the file.

    def head(self) -> str:
        sheet = self.sheet
        lines = [*_wrapped(f"{clean(sheet.name, 200) or 'A loss'}, as a torch module.", "", ""), ""]
        lines += ["    " + line for line in textwrap.wrap(_doc(sheet.program.text), 92)]
        lines += _definitions(sheet)
        if self.constants:
            lines += ["", "Constants:"]
            lines += [f"    {_described(c, self.names[c.name])}" for c in self.constants]
        if sheet.source:
            lines += ["", *_wrapped(f"Source: {clean(sheet.source)}")]
        for title, data in (("Evidence", sheet.evidence), ("Facts", sheet.facts)):
            if data:
                lines += ["", f"{title}:"]
                lines += [text for item in data.items() for text in _item(*item)]
        lines += ["", f"Written by losssearch, id {sheet.key}. Needs torch alone."]
        lines.append("Run this file to test it.")
        imports = "import torch\nfrom torch import Tensor, nn"
        if self.parts.provided or self.constants:
            imports = f"from typing import Any\n\n{imports}"
        text = "\n".join(line.rstrip() for line in lines)
        return f'"""{text}\n"""\n\nfrom __future__ import annotations\n\n{imports}'

    # The class.

    def cls(self) -> str:
        body = [
            self.class_docstring(),
            self.attributes(),
            self.constructor(),
            *self.methods(),
            self.terms(),
            self.extra_repr(),
        ]
        return f"class {self.sheet.class_name}(nn.Module):\n" + "\n\n".join(b for b in body if b)

    def class_docstring(self) -> str:
        sheet = self.sheet
        lines = [*textwrap.wrap(_doc(sheet.program.text), 88), "", "Args:"]
        lines[: len(lines) - 2] = ["    " + line for line in lines[:-2]]
        for c in self.constants:
            lines += _argument(self.names[c.name], f"Within [{c.low:g}, {c.high:g}].")
        for name in _argument_names(sheet.task):
            text = _ARGUMENTS[name]
            if name == "weight":
                each = "class, (C,)" if sheet.task == "multiclass" else "answer, (2,): no, yes"
                text = text.replace("class, (C,), or of no and of yes, (2,)", each)
            lines += _argument(name, text)
        for p in self.parts.provided:
            shape = f"({', '.join('C' for _ in p.axes)}{',' if len(p.axes) == 1 else ''})"
            lines += _argument(self.names[p.name], f"Shape {shape}; at first {p.default.value}.")
        if self.constants:
            lines += _argument("learnable", _ARGUMENTS["learnable"])
        lines += ["", "Shapes of a call:"]
        for text in _SHAPES[sheet.task]:
            lines += _argument(*text.split(": ", 1))
        lines += [
            "",
            "Half precision is computed and returned in float32. The mean of no samples is 0.",
            "Nothing is broadcast: other shapes raise ValueError.",
        ]
        first = "One loss, called as loss(input, target)."
        text = "\n".join(f"    {line}".rstrip() for line in lines)
        return f'    """{first}\n\n{text}\n    """'

    def attributes(self) -> str:
        sheet = self.sheet
        lines = [f"task = {_string(sheet.task)}", *_assigned("formula", sheet.program.text)]
        lines.append(f"key = {_string(sheet.key)}")
        if self.parts.coupled:
            lines += _assigned("coupled", self.parts.coupled)
        if excused := self.parts.not_applicable:
            lines.append("not_applicable = {  # noqa: RUF012")
            for name, why in excused.items():
                lines.append(f"    {_string(name)}: {_string(why)},")
            lines.append("}")
        if self.constants:
            lines.append("ranges = {  # noqa: RUF012")
            lines += [
                f"    {_string(self.names[c.name])}: ({_float(c.low)}, {_float(c.high)}),"
                for c in self.constants
            ]
            lines.append("}")
        lines += [f"{self.names[c.name]}: float" for c in self.constants]
        lines += [f"raw_{self.names[c.name]}: nn.Parameter" for c in self.learned]
        if self.labelled:
            lines.append("weight: Tensor | None")
        for p in self.parts.provided:
            lines.append(f"{self.names[p.name]}: Tensor{'' if p.is_progress else ' | None'}")
        return textwrap.indent("\n".join(lines), "    ")

    def constructor(self) -> str:
        arguments = [f"{self.names[c.name]}: float = {_float(c.value)}" for c in self.constants]
        arguments.append('reduction: str = "mean"')
        body = ["super().__init__()", "self._configure(reduction)"]
        if self.labelled:
            arguments += [
                "weight: Tensor | None = None",
                "ignore_index: int | None = None",
                "label_smoothing: float = 0.0",
            ]
            body.append("self._configure_labels(weight, ignore_index, label_smoothing)")
        for p in self.parts.provided:
            name = self.names[p.name]
            if p.is_progress:
                arguments.append(f"{name}: float = {_float(max(p.low, 0.0))}")
                body.append(f'self.register_buffer("{name}", torch.tensor(float({name})))')
            elif p.axes:
                arguments.append(f"{name}: Tensor | None = None")
                body.append(f'self.register_buffer("{name}", {name})')
            else:
                arguments.append(f"{name}: Tensor | float | None = None")
                body.append(f"{name} = None if {name} is None else torch.as_tensor({name}).float()")
                body.append(f'self.register_buffer("{name}", {name})')
        if self.constants:
            arguments.append("learnable: bool = False")
            body.append("self.learnable = learnable")
            values = ", ".join(f'"{n}": {n}' for n in (self.names[c.name] for c in self.constants))
            body += _fitted(f"values = {{{values}}}", values.split(", "))
            body += [
                "for name, value in values.items():",
                "    low, high = self.ranges[name]",
                "    if not low <= value <= high:",
                '        what = f"`{name}` must be within [{low}, {high}], but is {value}."',
                "        raise ValueError(what)",
                "    setattr(self, name, float(value))",
            ]
            if len(self.learned) == len(self.constants):
                body.append("    if learnable:")
            else:
                some = ", ".join(f'"{self.names[c.name]}"' for c in self.learned)
                body.append(f"    if learnable and name in ({some},):")
            body.append(
                '        self.register_parameter(f"raw_{name}", nn.Parameter(unbounded(value, low, high)))'
            )
        head = "".join(f"        {a},\n" for a in arguments)
        text = textwrap.indent("\n".join(body), "        ")
        return f"    def __init__(\n        self,\n        *,\n{head}    ) -> None:\n{text}"

    def methods(self) -> Iterable[str]:
        """Those of the convention, as they stand there."""
        names = ["forward", "sum_and_count", "_prepared", "_shaped", "_configure"]
        names += ["_configure_labels"] * self.labelled + ["_apply"] * bool(self.parts.provided)
        for name in names:
            text = _source(getattr(self.kind, name))
            if not self.parts.coupled:
                text = re.sub(r"\n( +)if self\.coupled.*:(\n\1 +.*)+", "", text)
            if not self.code.by_index:
                text = text.replace("            if self.dense or self.label_smoothing:\n    ", "")
            yield text.replace("self.dense or ", "")
        if any(p.is_progress for p in self.parts.provided):
            yield self.set_progress()
        if self.constants:
            yield self.constants_method()

    def set_progress(self) -> str:
        names = [self.names[p.name] for p in self.parts.provided if p.is_progress]
        fills = "\n".join(f"        self.{name}.fill_(progress)" for name in names)
        return (
            "    def set_progress(self, progress: float) -> None:\n"
            '        """Say how much of the training is done, in [0, 1]."""\n'
            "        if not 0 <= progress <= 1:\n"
            '            raise ValueError(f"`0 <= progress <= 1` must hold, but got {progress}.")\n'
            f"{fills}"
        )

    def constants_method(self) -> str:
        plain, learned = [], []
        for c in self.constants:
            name = self.names[c.name]
            plain.append(f"self.{name}")
            given = f'bounded(self.raw_{name}, *self.ranges["{name}"])'
            learned.append(given if c in self.learned else f"self.{name}")
        lines = ["def _constants(self) -> tuple[Any, ...]:"]
        lines += ["    if not self.learnable:"]
        lines += ["        " + line for line in _fitted(_returned(plain), plain, "return ")]
        lines += ["    " + line for line in _fitted(_returned(learned), learned, "return ")]
        return textwrap.indent("\n".join(lines), "    ")

    def terms(self) -> str:
        x, target = self.code.prediction, self.code.target
        given = f"self, {x}: Tensor, {target}: Tensor"
        what = "The batch's loss." if self.parts.coupled else "Value and weight of each sample."
        lines = [f"def _terms({given}) -> tuple[Tensor, Tensor | None]:", f'    """{what}"""']
        body: list[str] = []
        if self.constants:
            names = [self.names[c.name] for c in self.constants]
            left = ", ".join(names) if len(names) > 1 else f"({names[0]},)"
            whole = f"{left} = self._constants()"
            if len(whole) <= 102:
                body.append(whole)
            else:
                body += ["(", *(f"    {name}," for name in names), ") = self._constants()"]
        for p in self.parts.provided:
            name = self.names[p.name]
            sizes = ", ".join(f"{x}.shape[1]" for _ in p.axes)
            sizes += "," if len(p.axes) == 1 else ""
            number: Any = default_number(p, ())
            default = f"1 / {x}.shape[1]" if p.default.name == "UNIFORM" else repr(number)
            arguments = [f'"{name}"', f"self.{name}", x, f"({sizes})", default]
            body += _fitted(f"{name} = given({', '.join(arguments)})", arguments, f"{name} = given")
        lines += [f"    {line}" for line in body + self.paths()]
        return textwrap.indent("\n".join(lines), "    ")

    def paths(self) -> list[str]:
        """Statements for labels as rows and for class indices; one after the other from where they part."""
        rows = _statements(self.code.lines, self.code.outputs)
        if self.code.by_index is None:
            return rows
        indices = _statements(*self.code.by_index)
        if rows == indices:  # the loss does not read its target
            return rows
        same = next(k for k, pair in enumerate(zip(rows, indices, strict=False)) if pair[0] != pair[1])
        fork = [
            f"if {self.code.target}.is_floating_point():  # one-hot rows or soft labels, else class indices",
            *(f"    {line}" for line in rows[same:]),
        ]
        return [*rows[:same], *fork, *indices[same:]]

    def extra_repr(self) -> str:
        shown = [self.names[c.name] for c in self.constants]
        shown += [self.names[p.name] for p in self.parts.provided] + ["reduction"]
        if self.labelled:
            shown += ["weight", "ignore_index", "label_smoothing"]
        names = [_string(name) for name in shown]
        tuple_ = ", ".join(names) + ("," if len(names) == 1 else "")
        lines = [
            "def extra_repr(self) -> str:",
            *("    " + line for line in _fitted(f"names = ({tuple_})", names, "names = ")),
            '    settings = [f"{name}={shown(getattr(self, name))}" for name in names]',
            "    for name, raw in self.named_parameters(recurse=False):",
            '        settings.append(f"{name}={raw.item():.6g}")',
            "    return f\"{self.formula}\\n{', '.join(settings)}\\nid={self.key}\"",
        ]
        return textwrap.indent("\n".join(lines), "    ")

    # The self-test.

    def main(self, module: LossModule) -> str:
        x, target = _example(self.sheet.task)
        value, slope = _value_and_slope(module, x, target)
        if not bool(torch.isfinite(value)) or not bool(torch.isfinite(slope).all()):
            raise ExportError("The loss is not finite on the example of its self-test.")
        name = self.sheet.class_name
        indices = not target.is_floating_point()
        # Where rounding alone sets the two paths apart, as in cos(1e9 * x), only one can be held to numbers.
        both = indices and _are_close(_value_and_slope(module, x, torch.eye(3)[target]), (value, slope))
        lines = [
            "def main() -> None:",
            '    """Compare value and gradient with those when this file was written."""',
            f"    input = {_tensor(x, True)}",
            f"    target = {f'torch.tensor({target.tolist()})' if indices else _tensor(target)}",
            f"    wanted = torch.tensor({value.item()!r}, dtype=torch.float64)",
            f"    wanted_slope = {_tensor(slope)}",
            *textwrap.indent("\n".join(self.comparison(name, both)), "    ").split("\n"),
            f'    print("{name}: value and gradient are as when this file was written.")',
            "",
            "",
            'if __name__ == "__main__":',
            "    main()",
            "",
        ]
        return "\n".join(lines)

    def comparison(self, name: str, both: bool) -> list[str]:
        """Of the written value and gradient, for both paths where there are two."""
        lines = [
            f"value = {name}().double()(input, {'labels' if both else 'target'})",
            "(slope,) = torch.autograd.grad(value, input)",
            "torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)",
            "torch.testing.assert_close(slope, wanted_slope, rtol=1e-9, atol=1e-12)",
        ]
        if not both:
            return lines
        loop = "for labels in (target, torch.eye(3, dtype=torch.float64)[target]):  # indices, one-hot rows"
        return [loop, *(f"    {line}" for line in lines)]


def _value_and_slope(module: LossModule, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    value = module.double()(leaf, target)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


def _are_close(some: tuple[Tensor, Tensor], others: tuple[Tensor, Tensor]) -> bool:
    """Well within what the self-test of a file allows."""
    return all(torch.allclose(a, b, rtol=1e-10, atol=1e-13) for a, b in zip(some, others, strict=True))


# Text.


def _statements(lines: Sequence[str], outputs: Sequence[str]) -> list[str]:
    """The lines of a body, its return included."""
    values = [*(_tidy(o) for o in outputs), *["None"] * (len(outputs) == 1)]
    return [*(_tidy(line) for line in lines), *_fitted(f"return {', '.join(values)}", values, "return ")]


def _function(function: Callable[..., Any]) -> str:
    return textwrap.dedent(_source(function))


def _source(function: Callable[..., Any]) -> str:
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


def _doc(text: str) -> str:
    """Text that may stand in a docstring."""
    return clean(text, 20_000).replace("\\", "\\\\").replace('"""', "'''")


def _string(text: str) -> str:
    """A Python string; JSON's escapes are Python's."""
    shown = clean(text, 20_000)
    if '"' in shown and "'" not in shown and "\\" not in shown:
        return f"'{shown}'"
    return json.dumps(shown, ensure_ascii=False)


def _assigned(name: str, text: str) -> list[str]:
    """A string, in pieces where it is too long for a line."""
    if len(_string(text)) + len(name) <= 100:
        return [f"{name} = {_string(text)}"]
    shown = clean(text, 20_000)
    if len(_string(text)) <= 102:
        return [f"{name} = (", f"    {_string(text)}", ")"]
    pieces = textwrap.wrap(shown, 84, drop_whitespace=False, break_on_hyphens=False)
    return [f"{name} = (", *(f"    {_string_raw(piece)}" for piece in pieces), ")"]


def _string_raw(piece: str) -> str:
    return json.dumps(piece, ensure_ascii=False)


def _wrapped(text: str, indent: str = "", later: str = "    ") -> list[str]:
    return textwrap.wrap(_doc(text), 96, initial_indent=indent, subsequent_indent=later)


def _item(name: object, value: object) -> list[str]:
    return _wrapped(f"{clean(name, 100)}: {clean(value, 500)}", "    ", "        ")


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
    lines = [line for text in texts for line in _wrapped(text, "    ", "        ")]
    return ["", "where", "", *lines] if lines else []


def _argument(name: str, text: str) -> list[str]:
    return textwrap.wrap(f"{name}: {text}", 92, initial_indent="    ", subsequent_indent="        ")


def _argument_names(task: str) -> list[str]:
    names = ["reduction", "weight", "ignore_index", "label_smoothing"]
    return names if task != "regression" else names[:1]


def _float(value: float) -> str:
    return f'float("{value}")' if value in (float("inf"), -float("inf")) else repr(float(value))


def _returned(values: list[str]) -> str:
    return "return " + (", ".join(values) if len(values) > 1 else f"({values[0]},)")


def _fitted(whole: str, parts: list[str], head: str = "values = ") -> list[str]:
    """A statement, over several lines where it is too long for one, as a formatter would."""
    if len(whole) <= 102:
        return [whole]
    left, right = ("{", "}") if whole.startswith("values = {") else ("(", ")")
    return [f"{head}{left}", *(f"    {p}," for p in parts), right]


def _tidy(line: str) -> str:
    """Powers of simple operands stand close, as formatters write them."""
    simple = r"[A-Za-z_][\w.]*|\d+(?:\.\d+)?"
    return re.sub(rf"(?<![\w.)\]])({simple}) \*\* (-?(?:{simple}))(?![\w.(\[])", r"\1**\2", line)


def _tensor(x: Tensor, leaf: bool = False) -> str:
    numbers = x.tolist()
    rows = numbers if x.ndim == 2 else [numbers]
    texts = ["[" + ", ".join(repr(float(f"{v:.15g}")) for v in row) + "]" for row in rows]
    inner = texts[0] if x.ndim == 1 else "[" + ", ".join(texts) + "]"
    options = "dtype=torch.float64" + (", requires_grad=True" if leaf else "")
    whole = f"torch.tensor({inner}, {options})"
    if len(whole) <= 80:
        return whole
    lines = ["torch.tensor("]
    if x.ndim == 1:
        lines += [f"        {inner},"]
    else:
        lines += ["        [", *(f"            {t}," for t in texts), "        ],"]
    lines += [f"        {o}," for o in options.split(", ")] + ["    )"]
    return "\n".join(lines)


def _example(task: str) -> tuple[Tensor, Tensor]:
    """Input and target of the self-test: no ties, no kinks, right and wrong."""
    double = torch.float64
    if task == "multiclass":
        x = [[1.37, -0.46, 0.21], [-2.13, 0.84, 1.59], [0.33, 2.71, -1.18], [-0.62, 0.17, 0.98]]
        return torch.tensor(x, dtype=double), torch.tensor([0, 1, 1, 2])
    x1 = torch.tensor([1.37, -0.46, 2.21, -2.13], dtype=double)
    if task == "binary":
        return x1, torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=double)
    return x1, torch.tensor([1.12, 0.35, 2.9, -4.7], dtype=double)
