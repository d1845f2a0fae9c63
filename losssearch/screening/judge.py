"""What a screen is: a judge that needs no training.

A screen looks at a `Case`, one candidate with what cheaper screens found out about it, and returns a
rejection or None. It may add to the case: its gradient on the probes, a flipped sign, a scale. One screen a
file; the table in `pipeline.py` names them, cheapest first.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from losssearch.execution.reference import Compiled
from losssearch.language.canonical import canonical, key_of_canonical
from losssearch.language.derivative import gradient
from losssearch.language.program import Program
from losssearch.outcomes import Outcome
from losssearch.screening.probes import stratified
from losssearch.spaces import Space


class Rejection(NamedTuple):
    """Why a candidate goes no further; `same_as` is the key of the loss whose result it is given."""

    outcome: Outcome
    detail: str = ""
    same_as: str | None = None


@dataclass
class Case:
    """One candidate on its way through the screens.

    Args:
        space: Where it comes from.
        written: The program as proposed.
        flipped: Whether its sign was turned, because rising it improved predictions.
        tags: What was noticed, such as "step-size variant of ...".
    """

    space: Space
    written: Program
    flipped: bool = False
    tags: list[str] = field(default_factory=list)

    @cached_property
    def program(self) -> Program:
        """The canonical program, which is what runs."""
        return canonical(self.written)

    @cached_property
    def key(self) -> str:
        return key_of_canonical(self.program)

    @property
    def prediction(self) -> str:
        """The prediction by which trainers differentiate: the first that the space declares."""
        return self.space.signature.predictions[0]

    @cached_property
    def slope(self) -> Compiled:
        """Value aside: the gradient in every differentiable input, as a torch function."""
        names = tuple(n for n in self.space.signature.differentiable if n in self.program.inputs)
        return Compiled(gradient(self.program, names or (self.prediction,)))

    @cached_property
    def slopes(self) -> tuple[Tensor, ...]:
        """Gradients on the stratified probes, each of its input's shape; the first is the prediction's."""
        probes = stratified(self.space.signature)
        names = [n for n in self.space.signature.differentiable if n in self.program.inputs]
        with torch.no_grad():
            found = self.slope(probes.inputs)
        return tuple(
            spread(self.space, slope, name, probes.inputs[name].shape, index, self.slope)
            for index, (slope, name) in enumerate(zip(found, names or [self.prediction], strict=True))
        )

    def flip(self) -> None:
        """Turn the sign; everything derived from the program is found anew."""
        from losssearch.language.program import program_of  # a program is made only where it is checked
        from losssearch.language.term import Term

        self.written = program_of(
            self.written.signature, Term("neg", (self.written.term(),)), self.written.constants
        )
        self.flipped = not self.flipped
        for name in ("program", "key", "slope", "slopes"):
            self.__dict__.pop(name, None)


def spread(
    space: Space, slope: Tensor, name: str, shape: torch.Size, index: int, compiled: Compiled
) -> Tensor:
    """A slope laid out over all axes of its input: where it lacks one, it is the same along it."""
    program = compiled.program
    has = program.instructions[program.outputs[index]].axes
    if slope.ndim == 0:
        return slope.expand(shape)
    axes = space.signature.inputs[name].axes
    slices = tuple(slice(None) if space.signature.bits[a] & has else None for a in axes)
    return slope[(..., *slices)].expand(shape)


class Screen(ABC):
    """A judge that needs no training."""

    name: str
    title: str

    @abstractmethod
    def judge(self, case: Case) -> Rejection | None:
        """A rejection, or None to let the candidate pass."""

    def admit(self, case: Case) -> None:  # noqa: B027 - most screens keep no memory
        """A candidate has passed every screen: remember what later ones are compared with."""
