"""A loss of named tensors, called as `loss(name=tensor, ...)`, as one Python file.

The formula as straight-line code behind the very check that `NamedLoss` makes of its tensors, copied.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from losssearch.errors import ExportError
from losssearch.execution.conventions import Named
from losssearch.execution.lively import liveliest
from losssearch.execution.named import NamedLoss
from losssearch.execution.parts import as_given, called_with, hidden
from losssearch.execution.refute import probe
from losssearch.exporters.frame import File, set_progress, unpacked
from losssearch.exporters.printing import printed_whole
from losssearch.exporters.sheet import Sheet
from losssearch.exporters.text import source_of, statements, string, tensor_text
from losssearch.language.signature import Input, Role

TRIES = 40  # batches to draw for the self-test
SIZES = 4, 3  # of its samples, and of every other axis
PROGRESS = 0.25  # at which it is made


class NamedFile(File):
    """The file of a loss that reads what `loss(input, target)` does not give."""

    def __init__(self, sheet: Sheet) -> None:
        self.module = NamedLoss(sheet.program)
        program = as_given(sheet.program)
        self.axes, self.schedules = called_with(program)
        self.signature = program.signature
        super().__init__(sheet, program, printed_whole(program, list(self.axes)))
        self.there = hidden(self.signature, self.axes)
        self.used = {axis for axes in self.axes.values() for axis in axes.split()}
        self.about = {axis: what for axis, what in self.signature.about.items() if axis in self.used}
        self.given = [self.names[name] for name in self.axes]
        few = self.given if len(self.given) < 6 else self.given[:3]
        more = ", ..." * (len(few) < len(self.given))
        self.call = f"loss({', '.join(f'{name}=...' for name in few)}{more})"

    def _input(self, name: str) -> Input:
        return self.signature.inputs[name]

    def arguments(self) -> Iterable[tuple[str, str]]:
        return ()

    def shapes(self) -> Iterator[tuple[str, str]]:
        for name, axes in self.axes.items():
            given, shape = self._input(name), ", ".join(axes.split())
            mask = "booleans, or numbers that are not 0 for yes"
            told = f"({shape}), {mask if given.role is Role.MASK else given.role.value}"
            told += f": {given.about}" * bool(given.about)
            told += f"; the {given.player} learns by it" * bool(given.player)
            if name in self.there:
                told += f"; where `{self.names[given.there]}` is not, anything may stand"
            yield self.names[name], f"{told}."

    def remarks(self) -> Sequence[str]:
        copies = [f"{a} is as long as {b}" for a, b in self.signature.copies.items() if a in self.used]
        sizes = ", ".join(["Axes of one name have one size", *copies])
        return (
            *(f"{axis}: {what}." for axis, what in self.about.items()),
            *[""] * bool(self.about),
            f"{sizes}; nothing is broadcast: other shapes raise ValueError.",
            "Half precision is computed and returned in float32. A mean over nothing is 0.",
        )

    def fields(self) -> tuple[list[str], list[str]]:
        inputs = {self.names[name]: axes for name, axes in self.axes.items()}
        masks = [self.names[name] for name in self.axes if self._input(name).role is Role.MASK]
        there = {self.names[name]: self.names[mask] for name, mask in self.there.items()}
        predictions = [self.names[name] for name in self.axes if self._input(name).role is Role.PREDICTION]
        values = [
            *_dict("inputs", inputs),
            *_dict("copies", self.signature.copies),
            *_dict("about", self.about),
            _tuple("predictions", predictions),
            _tuple("masks", masks),
            *_dict("there", there),
        ]
        if excused := self.module.not_applicable:
            values += _dict("not_applicable", excused)
        return values, [f"{self.names[name]}: Tensor" for name in self.schedules]

    def settings(self) -> tuple[list[str], list[str]]:
        names = [self.names[name] for name in self.schedules]
        takes = [f"{name}: float = 0.0" for name in names]
        return takes, [f'self.register_buffer("{name}", torch.tensor(float({name})))' for name in names]

    def methods(self) -> Iterator[str]:
        yield source_of(Named._prepared)
        if self.schedules:
            yield set_progress([self.names[name] for name in self.schedules])

    def body(self) -> str:
        lines = [
            *unpacked(self.given, "self._prepared", self.given),
            *(f"{n} = self.{n}.to({self.given[0]}.dtype)" for n in map(self.names.get, self.schedules)),
            *self.constants_read(),
            *statements(self.code.lines, self.code.outputs)[:-1],
            f"return {self.code.outputs[0]}",
        ]
        head = f"def forward(self, *, {', '.join(f'{n}: Tensor' for n in self.given)}) -> Tensor:"
        takes = ["self", "*", *(f"{n}: Tensor" for n in self.given)]
        heads = (
            [head] if len(head) <= 106 else ["def forward(", *(f"    {t}," for t in takes), ") -> Tensor:"]
        )
        return textwrap.indent("\n".join([*heads, *(f"    {line}" for line in lines)]), "    ")

    def shown(self) -> Sequence[str]:
        return [self.names[name] for name in self.schedules]

    def test(self) -> list[str]:
        inputs, value, slopes = self.example()
        name = self.sheet.class_name
        return [
            *_tensors("inputs", {self.names[n]: x for n, x in inputs.items()}),
            f"wanted = torch.tensor({value.item()!r}, dtype=torch.float64)",
            *_tensors("wanted_slopes", {self.names[n]: x for n, x in slopes.items()}),
            f"loss = {name}().double()",
            *[f"loss.set_progress({PROGRESS})"] * bool(self.schedules),
            "leaves = [inputs[name].requires_grad_() for name in wanted_slopes]",
            "value = loss(**inputs)",
            "slopes = torch.autograd.grad(value, leaves, materialize_grads=True)",
            "torch.testing.assert_close(value, wanted, rtol=1e-9, atol=1e-12)",
            "for slope, wanted_slope in zip(slopes, wanted_slopes.values(), strict=True):",
            "    torch.testing.assert_close(slope, wanted_slope, rtol=1e-9, atol=1e-12)",
        ]

    def example(self) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
        """A batch, its value, and the slopes: of some made-up batches the one where most numbers matter."""
        moved = [n for n in self.axes if self._input(n).role in (Role.PREDICTION, Role.PARAMETER)]
        if not moved:
            raise ExportError("The loss reads nothing that could be learned from it.")
        loss = self.module.double()
        loss.set_progress(PROGRESS)
        generator = torch.Generator().manual_seed(0)
        drawn = (probe(self.signature, generator, (0.5, 2.0)[k % 2], SIZES) for k in range(TRIES))
        batches = ({name: _rounded(d[name], self._input(name)) for name in self.axes} for d in drawn)
        found = liveliest(loss, batches, moved)
        if found is None:
            raise ExportError("The loss is not finite on any example for its self-test.")
        if not found.value.requires_grad:
            raise ExportError("No gradient comes back from the loss.")
        return found.inputs, found.value.detach(), found.slopes


def _rounded(x: Tensor, given: Input) -> Tensor:
    """Two digits behind the point, which read well; shares stay as they are, to sum to 1."""
    if x.dtype == torch.bool or any(p.startswith("simplex") for p in given.properties):
        return x
    return (x * 100).round() / 100


def _tuple(name: str, values: Sequence[str]) -> str:
    return f"{name} = ({', '.join(map(string, values))}{',' if len(values) == 1 else ''})"


def _dict(name: str, values: Mapping[str, str]) -> list[str]:
    pairs = [f"{string(key)}: {string(value)}" for key, value in values.items()]
    line = f"{name} = {{{', '.join(pairs)}}}  # noqa: RUF012"
    if len(line) <= 102:
        return [line]
    return [f"{name} = {{  # noqa: RUF012", *(f"    {pair}," for pair in pairs), "}"]


def _tensors(name: str, values: Mapping[str, Tensor]) -> list[str]:
    """The statement of a dictionary of tensors, for a body that is indented once."""
    lines = [f"{name} = {{"]
    lines += [f"        {string(key)}: {tensor_text(x, indent=8)}," for key, x in values.items()]
    return ["\n".join([*lines, "    }"])]
