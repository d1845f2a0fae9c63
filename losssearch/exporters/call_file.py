"""A loss called as `loss(input, target)`, as one Python file.

The class holds the formula as straight-line code, and the very methods by which `LossModule` takes input
and target, copied.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from losssearch.errors import ExportError
from losssearch.execution import conventions
from losssearch.execution.conventions import Binary, Convention, Labelled, Multiclass, Regression
from losssearch.execution.module import LossModule, default_number, module_for
from losssearch.execution.parts import parts_of
from losssearch.exporters.frame import File, set_progress
from losssearch.exporters.printing import printed
from losssearch.exporters.sheet import Sheet
from losssearch.exporters.text import (
    assigned,
    fitted,
    float_text,
    source_of,
    statements,
    string,
    tensor_text,
)

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
}


class CallFile(File):
    """The file of a loss that a call `loss(input, target)` gives all it reads."""

    call = "loss(input, target)"

    def __init__(self, sheet: Sheet) -> None:
        self.module = module_for(sheet.program, sheet.task)
        self.parts = parts_of(sheet.program, sheet.task)
        self.kind = _KINDS[sheet.task]
        self.labelled = issubclass(self.kind, Labelled)
        code = printed(self.parts, sheet.program.signature, sheet.task == "multiclass")
        super().__init__(sheet, self.parts.program, code)

    def functions(self) -> list[Callable[..., Any]]:
        found = super().functions()
        if self.parts.provided:
            found.insert(len(self.code.helpers), conventions.given)
        return found

    def needs_any(self) -> bool:
        return bool(self.parts.provided or self.constants)

    def arguments(self) -> Iterable[tuple[str, str]]:
        for name in _ARGUMENTS if self.labelled else ("reduction",):
            text = _ARGUMENTS[name]
            if name == "weight":
                each = "class, (C,)" if self.sheet.task == "multiclass" else "answer, (2,): no, yes"
                text = text.replace("class, (C,), or of no and of yes, (2,)", each)
            yield name, text
        for p in self.parts.provided:
            shape = f"({', '.join('C' for _ in p.axes)}{',' if len(p.axes) == 1 else ''})"
            yield self.names[p.name], f"Shape {shape}; at first {p.default.value}."

    def shapes(self) -> Iterable[tuple[str, str]]:
        for text in _SHAPES[self.sheet.task]:
            name, _, sentence = text.partition(": ")
            yield name, sentence

    def remarks(self) -> Sequence[str]:
        return (
            "Half precision is computed and returned in float32. The mean of no samples is 0.",
            "Nothing is broadcast: other shapes raise ValueError.",
        )

    def fields(self) -> tuple[list[str], list[str]]:
        values = assigned("coupled", self.parts.coupled) if self.parts.coupled else []
        if excused := self.parts.not_applicable:
            values.append("not_applicable = {  # noqa: RUF012")
            values += [f"    {string(name)}: {string(why)}," for name, why in excused.items()]
            values.append("}")
        annotations = ["weight: Tensor | None"] * self.labelled
        for p in self.parts.provided:
            annotations.append(f"{self.names[p.name]}: Tensor{'' if p.is_progress else ' | None'}")
        return values, annotations

    def settings(self) -> tuple[list[str], list[str]]:
        takes, lines = ['reduction: str = "mean"'], ["self._configure(reduction)"]
        if self.labelled:
            takes += [
                "weight: Tensor | None = None",
                "ignore_index: int | None = None",
                "label_smoothing: float = 0.0",
            ]
            lines.append("self._configure_labels(weight, ignore_index, label_smoothing)")
        for p in self.parts.provided:
            name = self.names[p.name]
            if p.is_progress:
                takes.append(f"{name}: float = {float_text(max(p.low, 0.0))}")
                lines.append(f'self.register_buffer("{name}", torch.tensor(float({name})))')
            elif p.axes:
                takes.append(f"{name}: Tensor | None = None")
                lines.append(f'self.register_buffer("{name}", {name})')
            else:
                takes.append(f"{name}: Tensor | float | None = None")
                lines.append(f"{name} = None if {name} is None else torch.as_tensor({name}).float()")
                lines.append(f'self.register_buffer("{name}", {name})')
        return takes, lines

    def methods(self) -> Iterable[str]:
        """Those of the convention, as they stand there."""
        names = ["forward", "sum_and_count", "_prepared", "_shaped", "_configure"]
        names += ["_configure_labels"] * self.labelled + ["_apply"] * bool(self.parts.provided)
        for name in names:
            text = source_of(getattr(self.kind, name))
            if not self.parts.coupled:
                text = re.sub(r"\n( +)if self\.coupled.*:(\n\1 +.*)+", "", text)
            if not self.code.by_index:
                text = text.replace("            if self.dense or self.label_smoothing:\n    ", "")
            yield text.replace("self.dense or ", "")
        if moved := [self.names[p.name] for p in self.parts.provided if p.is_progress]:
            yield set_progress(moved)

    def body(self) -> str:
        x, target = self.names[self.parts.prediction], self.names[self.parts.target]
        given = f"self, {x}: Tensor, {target}: Tensor"
        what = "The batch's loss." if self.parts.coupled else "Value and weight of each sample."
        lines = [f"def _terms({given}) -> tuple[Tensor, Tensor | None]:", f'    """{what}"""']
        body = self.constants_read()
        for p in self.parts.provided:
            name = self.names[p.name]
            sizes = ", ".join(f"{x}.shape[1]" for _ in p.axes)
            sizes += "," if len(p.axes) == 1 else ""
            number: Any = default_number(p, ())
            default = f"1 / {x}.shape[1]" if p.default.name == "UNIFORM" else repr(number)
            arguments = [f'"{name}"', f"self.{name}", x, f"({sizes})", default]
            body += fitted(f"{name} = given({', '.join(arguments)})", arguments, f"{name} = given")
        lines += [f"    {line}" for line in body + self.paths()]
        return textwrap.indent("\n".join(lines), "    ")

    def paths(self) -> list[str]:
        """Statements for labels as rows and for class indices; one after the other from where they part."""
        rows = statements(self.code.lines, self.code.outputs)
        if self.code.by_index is None:
            return rows
        indices = statements(*self.code.by_index)
        if rows == indices:  # the loss does not read its target
            return rows
        same = next(k for k, pair in enumerate(zip(rows, indices, strict=False)) if pair[0] != pair[1])
        target = self.names[self.parts.target]
        fork = [
            f"if {target}.is_floating_point():  # one-hot rows or soft labels, else class indices",
            *(f"    {line}" for line in rows[same:]),
        ]
        return [*rows[:same], *fork, *indices[same:]]

    def shown(self) -> Sequence[str]:
        labels = ("weight", "ignore_index", "label_smoothing") if self.labelled else ()
        return (*(self.names[p.name] for p in self.parts.provided), "reduction", *labels)

    # The self-test.

    def test(self) -> list[str]:
        x, target = _example(self.sheet.task)
        value, slope = _value_and_slope(self.module, x, target)
        if not bool(torch.isfinite(value)) or not bool(torch.isfinite(slope).all()):
            raise ExportError("The loss is not finite on the example of its self-test.")
        indices = not target.is_floating_point()
        # Where rounding alone sets the two paths apart, as in cos(1e9 * x), only one can be held to numbers.
        rows = _value_and_slope(self.module, x, torch.eye(3)[target]) if indices else None
        leaf = tensor_text(x, "requires_grad=True")
        return [
            f"input = {leaf}",
            f"target = {f'torch.tensor({target.tolist()})' if indices else tensor_text(target)}",
            f"wanted = torch.tensor({value.item()!r}, dtype=torch.float64)",
            f"wanted_slope = {tensor_text(slope)}",
            *self.comparison(self.sheet.class_name, rows is not None and _are_close(rows, (value, slope))),
        ]

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
