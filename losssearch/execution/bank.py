"""What are the gradients of many losses at once?

Training one candidate after the other wastes the machine: a loss of twenty nodes costs forty calls on tiny tensors.
Here the gradient programs of all losses of a call are merged into one list of instructions. What several losses have
in common (the softmax, the probability of the true class, ...) is computed once for all their models; losses that
differ only in constants run as one, with a constant a row; the rest runs on each loss's own rows. Samples are laid out
last, so that reductions over a few classes are sums of long vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


from torch import Tensor

from losssearch.execution.reference import Compiled
from losssearch.language.canonical import canonical, structure_key_of_canonical
from losssearch.language.derivative import gradient
from losssearch.language.primitives import PRIMITIVES
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
        losses: The programs.
        scales: One factor a loss.
        prediction: Input by which to differentiate.
    """

    def __init__(self, losses: Sequence[Program], scales: Sequence[float], prediction: str) -> None:
        self.prediction = prediction
        self._groups: list[_Group] = []
        by_structure: dict[str, _Group] = {}
        for i, (loss, scale) in enumerate(zip(losses, scales, strict=True)):
            ran = canonical(loss)
            key = structure_key_of_canonical(ran)
            if key not in by_structure:
                by_structure[key] = _Group(gradient(ran, (prediction,)), [], {})
                self._groups.append(by_structure[key])
            group = by_structure[key]
            group.members.append(i)
            group.scales.append(scale)
            for constant in ran.constants:
                group.constants.setdefault(constant.name, []).append(constant.value)
        self.signature = losses[0].signature
        axes = self.signature.axes
        self._order = (*axes[1:], axes[0])
        self._merge()
        #: The order in which losses must stand: those of a structure side by side.
        self.order = [i for group in self._groups for i in group.members]

    def _merge(self) -> None:
        found: dict[tuple[str, tuple[int, ...], object, int], int] = {}
        wanted: list[set[int]] = []
        self._steps: list[_Step] = []
        for g, group in enumerate(self._groups):
            run = Compiled(group.program, order=self._order)
            place: list[int] = []
            for index, instruction in enumerate(group.program.instructions):
                args = tuple(place[i] for i in instruction.args)
                own = g if instruction.op == CONSTANT else EVERYONE
                key = (instruction.op, args, instruction.data, own)
                if key not in found:
                    found[key] = len(self._steps)
                    self._steps.append(_Step(instruction, args, EVERYONE, run, index))
                    wanted.append(set())
                place.append(found[key])
                wanted[found[key]].add(g)
            group.output = place[group.program.outputs[0]]
        for step, groups in zip(self._steps, wanted, strict=True):
            if len(groups) == 1 or step.instruction.op == CONSTANT:
                step.group = next(iter(groups))

    def evaluate(self, inputs: Mapping[str, Tensor], counts: Sequence[int]) -> list[Tensor]:
        """The scaled gradients.

        Args:
            inputs: Shape (rows, *axes); rows of the losses stand in `order`, an input without rows is shared.
            counts: Rows of each loss, by its index.

        Returns:
            One tensor a loss, by its index, of the shape of its part of the prediction.
        """
        some = inputs[self.prediction]
        spans = self._spans(counts)
        shared: dict[int, Tensor] = {}
        private: list[dict[int, Tensor]] = [{} for _ in self._groups]

        def value(i: int, group: int) -> Tensor:
            if i in private[group]:
                return private[group][i]
            whole = shared[i]
            start, stop = spans[group]
            mine = whole[start:stop] if whole.ndim > self._rank and whole.shape[0] > 1 else whole
            private[group][i] = mine
            return mine

        for i, step in enumerate(self._steps):
            if step.group == EVERYONE:
                given = [shared[j] for j in step.args]
                shared[i] = self._run(step, given, inputs, some)
            elif step.instruction.op == CONSTANT:
                private[step.group][i] = self._constant(step, counts, some)
            else:
                given = [value(j, step.group) for j in step.args]
                private[step.group][i] = self._run(step, given, inputs, some, spans[step.group])
        return self._outputs(value, some, spans, counts)

    @property
    def _rank(self) -> int:
        return len(self._order)

    def _spans(self, counts: Sequence[int]) -> list[tuple[int, int]]:
        spans, start = [], 0
        for group in self._groups:
            stop = start + sum(counts[i] for i in group.members)
            spans.append((start, stop))
            start = stop
        return spans

    def _run(
        self,
        step: _Step,
        given: list[Tensor],
        inputs: Mapping[str, Tensor],
        some: Tensor,
        span: tuple[int, int] | None = None,
    ) -> Tensor:
        if step.instruction.op in PRIMITIVES:
            return step.run.apply(step.index, given, some.dtype)
        if step.instruction.op in (LITERAL, SIZE, INPUT):
            found = step.run.terminal(step.instruction, inputs, {}, some)
            many = span is not None and found.ndim > self._rank and found.shape[0] > 1
            return found[span[0] : span[1]] if many and span is not None else found
        raise TypeError(step.instruction.op)

    def _constant(self, step: _Step, counts: Sequence[int], some: Tensor) -> Tensor:
        group = self._groups[step.group]
        values = group.constants[str(step.instruction.data)]
        if len(set(values)) == 1:
            return some.new_full((), values[0])
        rows = [v for v, i in zip(values, group.members, strict=True) for _ in range(counts[i])]
        return some.new_tensor(rows).reshape(-1, *[1] * self._rank)

    def _outputs(
        self,
        value: object,
        some: Tensor,
        spans: Sequence[tuple[int, int]],
        counts: Sequence[int],
    ) -> list[Tensor]:
        found: list[Tensor] = [some] * sum(len(g.members) for g in self._groups)
        axes = self.signature.inputs[self.prediction].axes
        for g, group in enumerate(self._groups):
            slope = value(group.output, g)  # type: ignore[operator]
            start, stop = spans[g]
            shape = [some.shape[1 + axes.index(a)] if a in axes else 1 for a in self._order]
            slope = slope.expand(stop - start, *shape)
            absent = [k - self._rank for k, a in enumerate(self._order) if a not in axes]
            slope = slope.squeeze(absent) if absent else slope
            kept = [a for a in self._order if a in axes]
            slope = slope.permute(0, *[1 + kept.index(a) for a in axes])
            row = 0
            for i, scale in zip(group.members, group.scales, strict=True):
                found[i] = slope[row : row + counts[i]] * scale
                row += counts[i]
        return found


