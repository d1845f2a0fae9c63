"""What are the gradients of many losses at once?

Training one candidate after the other wastes the machine: a loss of twenty nodes costs forty calls on tiny
tensors. Here the gradient programs of all losses of a call are merged into one list of instructions. What
several losses have in common (the softmax, the probability of the true class, ...) is computed once for all
their models; losses that differ only in constants run as one, with a constant a row; the rest runs on each
loss's own rows. Samples are laid out last, so that reductions over a few classes are sums of long vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from losssearch.execution.reference import Compiled, LossGradient, aligned
from losssearch.language.canonical import structure_key_of_canonical
from losssearch.language.program import Instruction, Program
from losssearch.language.term import CONSTANT, INPUT, LITERAL, SIZE

EVERYONE = -1


@dataclass
class _Step:
    """An instruction of the merged list; `group` is the only group that wants it, or EVERYONE."""

    instruction: Instruction
    args: tuple[int, ...]
    group: int
    run: Compiled
    index: int


@dataclass
class _Group:
    """Losses of one structure.

    Args:
        program: The gradient program of the first.
        members: Indices of the losses.
        constants: Constant -> its value for each member.
        output: Index of the result in the merged list.
    """

    program: Program
    members: list[int]
    constants: dict[str, list[float]]
    output: int = -1
    scales: list[float] = field(default_factory=list)


class GradientBank:
    """Gradients of several losses on rows of models.

    Args:
        losses: By an index of the caller's.
    """

    def __init__(self, losses: Mapping[int, LossGradient]) -> None:
        first = next(iter(losses.values()))
        self.prediction = first.wrt
        self.groups: list[_Group] = []
        by_structure: dict[str, _Group] = {}
        for i, loss in losses.items():
            ran, scale = loss.program, loss.scale
            key = structure_key_of_canonical(ran)
            if key not in by_structure:
                by_structure[key] = _Group(loss.slope, [], {})
                self.groups.append(by_structure[key])
            group = by_structure[key]
            group.members.append(i)
            group.scales.append(scale)
            for constant in ran.constants:
                group.constants.setdefault(constant.name, []).append(constant.value)
        self.signature = first.program.signature
        declared = self.signature.axes
        #: Layout of a row: samples last.
        self.axes = (*declared[1:], declared[0])
        self._merge()
        #: The order in which losses must stand: those of a structure side by side.
        self.order = [i for group in self.groups for i in group.members]

    def _merge(self) -> None:
        found: dict[tuple[str, tuple[int, ...], object, int], int] = {}
        wanted: list[set[int]] = []
        self.steps: list[_Step] = []
        for g, group in enumerate(self.groups):
            run = Compiled(group.program, order=self.axes)
            place: list[int] = []
            for index, instruction in enumerate(group.program.instructions):
                args = tuple(place[i] for i in instruction.args)
                own = g if instruction.op == CONSTANT else EVERYONE
                key = (instruction.op, args, instruction.data, own)
                if key not in found:
                    found[key] = len(self.steps)
                    self.steps.append(_Step(instruction, args, EVERYONE, run, index))
                    wanted.append(set())
                place.append(found[key])
                wanted[found[key]].add(g)
            group.output = place[group.program.outputs[0]]
        for step, groups in zip(self.steps, wanted, strict=True):
            # Inputs hold the rows of everyone, also where one loss alone reads them.
            if step.instruction.op == CONSTANT or (step.args and len(groups) == 1):
                step.group = next(iter(groups))

    def align(self, name: str, tensor: Tensor) -> Tensor:
        """An input at full rank, samples last."""
        return aligned(self.signature, name, tensor, self.axes)

    def plan(self, counts: Mapping[int, int], some: Tensor, shared: Mapping[str, bool]) -> Plan:
        """Everything that is the same for every batch: where rows lie, constants, literals.

        Args:
            counts: Rows of each loss, by its index; rows stand in `order`.
            some: A prediction, (rows, *axes); gives dtype, device and sizes.
            shared: Input -> whether it has no rows of its own.
        """
        return _Planner(self, counts, some, shared).plan()


Operation = Callable[[list[Tensor]], Tensor]


class Plan:
    """A bank, made ready for batches of one shape."""

    def __init__(
        self,
        inputs: Sequence[tuple[str, int]],
        registers: list[Tensor],
        steps: Sequence[tuple[Operation, int]],
        outputs: Mapping[int, Callable[[list[Tensor]], Tensor]],
        align: Callable[[str, Tensor], Tensor],
    ) -> None:
        self._inputs, self._registers, self._steps = inputs, registers, steps
        self._outputs, self._align = outputs, align

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[int, Tensor]:
        """By index one scaled gradient a loss, of the shape of its part of the prediction."""
        values = self._registers.copy()
        for name, place in self._inputs:
            values[place] = self._align(name, inputs[name])
        for operation, place in self._steps:
            values[place] = operation(values)
        return {i: output(values) for i, output in self._outputs.items()}


class _Planner:
    """Turns the merged instructions into operations on registers."""

    def __init__(
        self, bank: GradientBank, counts: Mapping[int, int], some: Tensor, shared: Mapping[str, bool]
    ) -> None:
        self.bank, self.counts, self.some = bank, counts, some
        self.rank = len(bank.axes)
        self.registers: list[Tensor] = []
        self.steps: list[tuple[Operation, int]] = []
        self.inputs: list[tuple[str, int]] = []
        self.has_rows: list[bool] = []
        self.input_rows = {name: not alone for name, alone in shared.items()}
        self.spans: list[tuple[int, int]] = []
        start = 0
        for group in bank.groups:
            stop = start + sum(counts[i] for i in group.members)
            self.spans.append((start, stop))
            start = stop

    def plan(self) -> Plan:
        place: dict[int, int] = {}
        sliced: dict[tuple[int, int], int] = {}
        for i, step in enumerate(self.bank.steps):
            args = [
                place[j] if step.group == EVERYONE else self._mine(place[j], j, step.group, sliced)
                for j in step.args
            ]
            place[i] = self._place(step, args)
        outputs: dict[int, Operation] = {}
        for g, group in enumerate(self.bank.groups):
            result = self._mine(place[group.output], group.output, g, sliced)
            row = 0
            for i, scale in zip(group.members, group.scales, strict=True):
                outputs[i] = self._output(result, g, row, self.counts[i], scale)
                row += self.counts[i]
        return Plan(self.inputs, self.registers, self.steps, outputs, self.bank.align)

    def _register(self, has_rows: bool, value: Tensor | None = None) -> int:
        self.registers.append(self.some if value is None else value)
        self.has_rows.append(has_rows)
        return len(self.registers) - 1

    def _place(self, step: _Step, args: list[int]) -> int:
        instruction, some = step.instruction, self.some
        if instruction.op == INPUT:
            name = str(instruction.data)
            place = self._register(self.input_rows.get(name, True))
            self.inputs.append((name, place))
            return place
        if instruction.op == LITERAL:
            return self._register(False, some.new_full((), cast(float, instruction.data)))
        if instruction.op == SIZE:
            axes = self.bank.signature.inputs[self.bank.prediction].axes
            axis = str(instruction.data)
            axis = self.bank.signature.copies.get(axis, axis)
            size = some.shape[1 + axes.index(axis)]
            return self._register(False, some.new_full((), float(size)))
        if instruction.op == CONSTANT:
            return self._constant(step)
        place = self._register(any(self.has_rows[i] for i in args))
        self.steps.append((_operation(step, args, some.dtype), place))
        return place

    def _mine(self, place: int, index: int, group: int, sliced: dict[tuple[int, int], int]) -> int:
        """The rows of one group of a value that everyone shares."""
        whole = self.bank.steps[index].group == EVERYONE
        if not whole or not self.has_rows[place] or len(self.bank.groups) == 1:
            return place
        if (index, group) not in sliced:
            start, stop = self.spans[group]
            own = self._register(True)
            self.steps.append((lambda values: values[place][start:stop], own))
            sliced[index, group] = own
        return sliced[index, group]

    def _constant(self, step: _Step) -> int:
        group = self.bank.groups[step.group]
        values = group.constants[str(step.instruction.data)]
        if len(set(values)) == 1:
            return self._register(False, self.some.new_full((), values[0]))
        pairs = zip(values, group.members, strict=True)
        rows = self.some.new_tensor([v for v, i in pairs for _ in range(self.counts[i])])
        return self._register(True, rows.reshape(-1, *[1] * self.rank))

    def _output(self, result: int, group: int, row: int, count: int, scale: float) -> Operation:
        axes = self.bank.signature.inputs[self.bank.prediction].axes
        order = self.bank.axes
        sizes = [self.some.shape[1 + axes.index(a)] if a in axes else 1 for a in order]
        absent = [k - self.rank for k, a in enumerate(order) if a not in axes]
        kept = [a for a in order if a in axes]
        back = [0, *(1 + kept.index(a) for a in axes)]
        start, stop = self.spans[group]

        def output(values: list[Tensor]) -> Tensor:
            slope = values[result]
            if slope.shape != (stop - start, *sizes):
                slope = slope.expand(stop - start, *sizes)
            return (slope.squeeze(absent)[row : row + count] * scale).permute(back)

        return output


def _operation(step: _Step, args: list[int], dtype: torch.dtype) -> Operation:
    function, _, as_number, dims = step.run.ready(step.index)
    if True in as_number or dims is not None:
        run, index = step.run, step.index
        return lambda values: run.apply(index, [values[i] for i in args], dtype)
    if len(args) == 1:
        (x,) = args
        return lambda values: function(values[x])
    if len(args) == 2:
        x, y = args
        return lambda values: function(values[x], values[y])
    return lambda values: function(*[values[i] for i in args])
