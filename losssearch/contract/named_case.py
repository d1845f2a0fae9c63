"""What is a loss that is called with named tensors checked on?

Of its inputs the loss says the axes and which are masks. Where its space knows an input, that is drawn as the
space declares it; everything else is a standard normal prediction. Of some batches the one is taken on which
most slopes are alive.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from losssearch.contract.case import Broken, Subject
from losssearch.execution.lively import Lively, liveliest, sloped
from losssearch.execution.parts import DETACHED
from losssearch.execution.refute import probe
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature
from losssearch.spaces import load_space, space_names

TRIES = 24  # batches to draw
SAMPLES, OTHER = 4, 3  # sizes of the batch and of every other axis


@dataclass(frozen=True)
class NamedCase(Subject):
    """A loss that is called as `loss(name=tensor, ...)`.

    Args:
        reads: Its inputs: their axes and copies, and what is known of them.
        backend: Backend of torch.compile.
    """

    reads: Signature
    backend: str
    _drawn: dict[Any, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def moved(self) -> tuple[str, ...]:
        """The inputs that a model learns by."""
        return self.reads.differentiable

    @property
    def first(self) -> str:
        """The axis of the samples."""
        axes = self.reads.axes
        return axes[0] if axes and "n" not in axes else "n"

    def batch(
        self, dtype: torch.dtype = torch.float32, *, scale: float | None = None, samples: int = SAMPLES
    ) -> dict[str, Tensor]:
        """Inputs by name; predictions have that size.

        Raises:
            Broken: Value and slopes are finite on no batch.
        """
        if (scale, samples) not in self._drawn:
            found = liveliest(self.loss, self._batches(scale, samples), self.moved)
            if found is None:
                raise Broken(f"Value and gradient are finite on none of {TRIES} ordinary batches.")
            self._drawn[scale, samples] = found.inputs
        return cast(self._drawn[scale, samples], dtype)

    def _batches(self, scale: float | None, samples: int) -> Iterator[dict[str, Tensor]]:
        first = self.origin(self.first)
        like = {axis: "n" for axis in self.reads.axes if self.origin(axis) == first and axis != "n"}
        reads = replace(self.reads, copies={**self.reads.copies, **like})  # a probe knows the samples as "n"
        generator = torch.Generator().manual_seed(0)
        for k in range(TRIES):
            size = (0.5, 2.0)[k % 2] if scale is None else scale
            yield cast(probe(reads, generator, size, (samples, OTHER)), torch.float32)

    def value(self, loss: nn.Module) -> Tensor:
        found: Tensor = loss(**self.batch())
        return found

    def sloped(self, loss: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Lively:
        """Raises: Broken: No gradient comes back."""
        found = sloped(loss, inputs, self.moved)
        if not found.value.requires_grad:
            raise Broken("The value has no gradient with respect to any input.")
        return found

    def along(self, inputs: Mapping[str, Tensor], axis: str, length: int) -> dict[str, Tensor]:
        """The first so many along an axis and its copies."""
        kept = dict(inputs)
        for name, given in self.reads.inputs.items():
            for dim, own in enumerate(given.axes):
                if self.origin(own) == self.origin(axis):
                    kept[name] = kept[name].narrow(dim, 0, length)
        return kept

    def origin(self, axis: str) -> str:
        """The axis that it copies, or itself."""
        return self.reads.copies.get(axis, axis)

    def precise(self, loss: nn.Module) -> nn.Module:
        """A copy in fp64, a quarter of the training done where that matters."""
        twin = copy.deepcopy(loss).double()
        if callable(move := getattr(twin, "set_progress", None)):
            move(0.25)
        return twin


def cast(inputs: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Masks stay as they are."""
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in inputs.items()}


def is_named(loss: nn.Module) -> bool:
    """Whether the loss says by `inputs` which named tensors it takes."""
    inputs = getattr(loss, "inputs", None)
    return (
        isinstance(inputs, Mapping)
        and bool(inputs)
        and all(isinstance(text, str) for pair in inputs.items() for text in pair)
    )


def make_named(subject: Subject, task: str, backend: str) -> NamedCase:
    """What is known of the inputs: by the loss's program, if it has one, else by its task's space."""
    loss = subject.loss
    program, known = getattr(loss, "program", None), {}
    if isinstance(program, Program):
        known = dict(program.signature.inputs)
    elif task in space_names():
        known = dict(load_space(task).signature.inputs)
    masks = set(getattr(loss, "masks", ()))
    inputs: dict[str, Input] = {}
    for name, text in loss.inputs.items():  # type: ignore[operator,union-attr]
        axes = tuple(text.split())
        found = known.get(name)
        if found is None or found.axes != axes or (found.role is Role.MASK) != (name in masks):
            found = Input(name, axes, Role.MASK if name in masks else Role.PREDICTION)
        inputs[name] = found
    axes = tuple(dict.fromkeys(axis for given in inputs.values() for axis in given.axes))
    reads = Signature(axes=axes, inputs=inputs, copies=dict(getattr(loss, "copies", {})))
    excused = dict(subject.excused)
    if "detach(" in str(getattr(loss, "formula", "")):
        excused = {"gradcheck": DETACHED, "gradgradcheck": DETACHED, **excused}
    return NamedCase(subject.loss, subject.build, subject.signature, excused, reads, backend)
