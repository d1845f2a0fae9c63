"""What does a program compute? Torch's answer, to which every other back end is held.

Tensors stand at full rank in the declared order of axes, with size 1 where a value lacks an axis,
so that broadcasting is torch's own. Dimensions in front of those belong to a population: one
program, many data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TYPE_CHECKING, cast

from losssearch.errors import UsageError
from losssearch.language.bounds import bounds
from losssearch.language.canonical import canonical
from losssearch.language.derivative import gradient
from losssearch.language.primitives import PRIMITIVES, Form
from losssearch.language.program import Instruction, Program
from losssearch.language.signature import Kind, Role, Signature
from losssearch.language.term import CONSTANT, DEFINED, INPUT, LITERAL, SIZE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Inputs = Mapping[str, "Tensor"]
_Step = tuple[Callable[..., "Tensor"], tuple[int, ...], tuple[bool, ...], tuple[int, ...] | None]


class Compiled:
    """A program as a torch function.

    Call it with inputs of shape (*population, *sizes of the input's axes) and, if wanted,
    constants of shape (*population,). An input without population dimensions is shared. Gives one
    tensor an output, of shape (*population, *sizes of the output's axes).

    Args:
        program: Definitions must have been expanded (`canonical` does).
        plain: Skip guards that are idle whatever the prediction, as bounds prove; the result is
            the same. Bounds count on an element along every axis: without one, all guards stand.
        shortcuts: Functions to run in place of a primitive's own, by its name; equal to it.
        order: Layout of the axes while it runs; None for the declared one.
    """

    def __init__(
        self,
        program: Program,
        *,
        plain: bool = True,
        shortcuts: Mapping[str, Callable[..., Tensor]] | None = None,
        order: tuple[str, ...] | None = None,
    ) -> None:
        self.program = program
        self._rank = len(program.signature.axes)
        self._order = order or program.signature.axes
        guarded = partial(Compiled, program, plain=False, shortcuts=shortcuts, order=order)
        self._guarded = guarded if plain else None
        ranges = bounds(program, any_input=True) if plain else ()
        self._steps: list[_Step | None] = []
        for step in program.instructions:
            row = PRIMITIVES.get(step.op)
            if row is None:
                if step.op == DEFINED:
                    raise UsageError(f"Only canonical programs run; {step.data!r} is not expanded.")
                self._steps.append(None)
                continue
            function = (shortcuts or {}).get(step.op, row.torch)
            if plain and row.plain and row.harmless and row.harmless(*(ranges[i] for i in step.args)):
                function = row.plain
            as_number = tuple(
                program.instructions[i].kind is Kind.MASK and k not in row.masks and step.op != "any"
                for k, i in enumerate(step.args)
            )
            dims = dims_of(self._order, step) if row.form is not Form.ELEMENTWISE else None
            self._steps.append((function, step.args, as_number, dims))
        self._squeezes = [
            tuple(k - self._rank for k in range(self._rank) if not program.instructions[i].axes >> k & 1)
            for i in program.outputs
        ]

    def __call__(self, inputs: Inputs, constants: Mapping[str, Tensor] | None = None) -> tuple[Tensor, ...]:
        if self._guarded is not None and any(given.numel() == 0 for given in inputs.values()):
            return self._guarded()(inputs, constants)
        values: list[Tensor] = []
        some = self._some(inputs)
        for step, ready in zip(self.program.instructions, self._steps, strict=True):
            if ready is None:
                values.append(self.terminal(step, inputs, constants or {}, some))
                continue
            values.append(self._apply(ready, [values[i] for i in ready[1]], some.dtype))
        return tuple(
            values[i].squeeze(squeeze) if squeeze and values[i].ndim >= self._rank else values[i]
            for i, squeeze in zip(self.program.outputs, self._squeezes, strict=True)
        )

    def _some(self, inputs: Inputs) -> Tensor:
        for name in self.program.signature.predictions:
            if name in inputs:
                return inputs[name]
        if not inputs:
            raise UsageError("A loss needs at least one input tensor.")
        return next(iter(inputs.values()))

    def ready(self, index: int) -> _Step:
        """Function, arguments, which of them are masks to be made numbers, and dimensions."""
        found = self._steps[index]
        if found is None:
            raise UsageError(f"Instruction {index} is a terminal.")
        return found

    def apply(self, index: int, given: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Run one instruction on the values of its arguments; masks become numbers of `dtype`."""
        return self._apply(self.ready(index), given, dtype)

    def _apply(self, ready: _Step, given: list[Tensor], dtype: torch.dtype) -> Tensor:
        function, _, as_number, dims = ready
        if True in as_number:
            given = [v.to(dtype) if number else v for v, number in zip(given, as_number, strict=True)]
        return function(*given) if dims is None else _over(function, given, dims)

    def terminal(
        self, step: Instruction, inputs: Inputs, constants: Mapping[str, Tensor], some: Tensor
    ) -> Tensor:
        name = str(step.data)
        if step.op == INPUT:
            if name not in inputs:
                raise UsageError(f"The loss reads the input {name!r}, which was not given.")
            return aligned(self.program.signature, name, inputs[name], self._order)
        if step.op == LITERAL:
            return some.new_full((), cast(float, step.data))
        if step.op == CONSTANT:
            value = constants.get(name)
            if value is None:
                return some.new_full((), self.program.constant_values[name])
            return value.reshape(*value.shape, *[1] * self._rank) if value.ndim else value
        if step.op == SIZE:
            return some.new_ones(()) * self._size(name, inputs)
        raise UsageError(f"Cannot run {step.op!r}.")

    def _size(self, axis: str, inputs: Inputs) -> int:
        signature = self.program.signature
        for wanted in (axis, signature.copies.get(axis, axis)):
            for name, tensor in inputs.items():
                axes = signature.inputs[name].axes if name in signature.inputs else ()
                if wanted in axes:
                    return tensor.shape[axes.index(wanted) - len(axes)]
        raise UsageError(f"No given input has the axis {axis!r}, so its size is unknown.")


def _over(function: Callable[..., Tensor], given: list[Tensor], dims: tuple[int, ...]) -> Tensor:
    if function is PRIMITIVES["dot"].torch:
        return function(given[0], given[1], dims)
    return function(given[0], dims, *given[1:])


def dims_of(order: tuple[str, ...], step: Instruction) -> tuple[int, ...]:
    """The negative tensor dimensions of an instruction's axes (for `like`: to, from, ...)."""
    rank = len(order)
    if PRIMITIVES[step.op].form is Form.COPY:
        pairs = cast("tuple[tuple[str, str], ...]", step.data)
        return tuple(order.index(axis) - rank for pair in pairs for axis in pair)
    names = cast("tuple[str, ...]", step.data)
    return tuple(order.index(axis) - rank for axis in names)


def aligned(signature: Signature, name: str, tensor: Tensor, order: tuple[str, ...] | None = None) -> Tensor:
    """An input at full rank in the given order of axes: size 1 for each axis that it lacks.

    A mask may come as numbers: all but 0 is yes.
    """
    order = order or signature.axes
    axes = signature.inputs[name].axes
    if signature.inputs[name].role is Role.MASK:
        tensor = tensor.bool()
    if tensor.ndim < len(axes):
        raise UsageError(
            f"Input {name!r} has the axes ({', '.join(axes)}), but got shape {tuple(tensor.shape)}."
        )
    if not axes:
        return tensor.reshape(*tensor.shape, *[1] * len(signature.axes)) if tensor.ndim else tensor
    kept = [axis for axis in order if axis in axes]
    if kept != list(axes):
        first = tensor.ndim - len(axes)
        tensor = tensor.permute(*range(first), *(first + axes.index(axis) for axis in kept))
    index = tuple(slice(None) if axis in axes else None for axis in order)
    return tensor[(..., *index)]


@lru_cache(maxsize=4096)
def compiled(program: Program, plain: bool = True) -> Compiled:
    """The canonical form of a program as a torch function; remembered."""
    return Compiled(canonical(program), plain=plain)


def evaluate(program: Program, inputs: Inputs) -> Tensor:
    """The value of a program with one output."""
    return compiled(program)(inputs)[0]


class LossGradient:
    """`scale` times the gradient of a loss in one input, as a function of the inputs. No autograd.

    Args:
        program: The loss; kept in its canonical form.
        wrt: Name of the input.
        scale: Factor.
        plain: See `Compiled`.
    """

    def __init__(self, program: Program, wrt: str, scale: float, plain: bool = True) -> None:
        self.program, self.wrt, self.scale = canonical(program), wrt, scale
        self.slope = gradient(self.program, (wrt,))
        self._run = Compiled(self.slope, plain=plain)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Shape: that of the input."""
        slope = self._run(inputs)[0] * self.scale
        prediction = inputs[self.wrt]
        if slope.shape != prediction.shape:
            signature, has = self.program.signature, self.slope.root.axes
            axes = signature.inputs[self.wrt].axes
            index = tuple(slice(None) if signature.bits[a] & has else None for a in axes)
            slope = slope[(..., *index)] if slope.ndim else slope
            slope = slope.expand_as(prediction)
        return slope


@lru_cache(maxsize=512)
def loss_gradient(program: Program, wrt: str, scale: float = 1.0, *, plain: bool = True) -> LossGradient:
    """`scale` times the gradient of a loss in the input `wrt`, as a function of the inputs."""
    return LossGradient(program, wrt, scale, plain)
