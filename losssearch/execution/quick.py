"""How does a module run its program on one batch, as fast as line by line can be?

As the torch reference, with what a population or a free choice of axes would forbid: no idle axes,
guards left out or written shorter where bounds allow it, and class indices in place of one-hot rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from losssearch.execution import shortcuts
from losssearch.execution.labels import ByIndex
from losssearch.execution.reference import Compiled, Inputs
from losssearch.language.bounds import bounds
from losssearch.language.primitives import PRIMITIVES
from losssearch.language.program import Program


class Quick(Compiled):
    """A program as a torch function that is only ever called on one batch; see `Compiled`.

    It has no axes behind the last that it uses: there a softmax takes ten times as long.
    """

    def __init__(self, program: Program) -> None:
        used = 0
        for step in program.instructions:
            used |= step.axes
        super().__init__(program, order=program.signature.axes_names(used))
        ranges = bounds(program, any_input=True)
        for i, (step, ready) in enumerate(zip(program.instructions, self._steps, strict=True)):
            if ready is not None:
                function = shortcuts.quickest(PRIMITIVES[step.op], [ranges[j] for j in step.args])
                self._steps[i] = (function, *ready[1:])


class Indexed(Quick):
    """A loss on class indices, (n, 1), as a torch function."""

    def __init__(self, by_index: ByIndex, target: str) -> None:
        super().__init__(by_index.program)
        self._target, self._words, self._needed = target, by_index.words, by_index.needed

    def __call__(self, inputs: Inputs, constants: Mapping[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        values: dict[int, Tensor] = {}
        some, index = self._some(inputs), inputs[self._target]
        for i in self._needed:
            step = self.program.instructions[i]
            if i in self._words:
                word, x = self._words[i]
                values[i] = word(values[x].expand(index.shape[0], -1), index)
            elif step.args:
                values[i] = self.apply(i, [values[j] for j in step.args], some.dtype)
            else:
                values[i] = self.terminal(step, inputs, constants or {}, some)
        return tuple(values[i] for i in self.program.outputs)


__all__ = ["Indexed", "Quick"]
