"""How does a loss become a module where `loss(input, target)` cannot say all that it reads?

    loss = loss_module(program, "boxes")
    loss(px1=..., py1=..., px2=..., py2=..., tx1=..., ty1=..., tx2=..., ty2=..., pos=...).backward()

Every input goes by the name that its space gives it. Of a loss that several players learn from, each takes
the slopes in what is its own. A call costs the operations of the formula.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.execution.conventions import Named, bounded, unbounded
from losssearch.execution.module import LossModule, module_for
from losssearch.execution.parts import DETACHED, as_given, called_with, hidden, is_called
from losssearch.execution.reference import Compiled
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import format_number
from losssearch.language.program import Program
from losssearch.language.signature import Role


class NamedLoss(Named):
    """A program of any space as a loss of named tensors, called as `loss(name=tensor, ...)`.

    Args:
        program: What to compute.
        learnable: Whether constants become parameters: those marked learnable, or all where none is marked.
            Each is kept as `raw_NAME`, unbounded, and stays within its range.
        scale: Factor of the value.
        identity: Where the loss comes from, for people.

    A call gives one number, shape (). It takes every input that the formula reads (`inputs` says them,
    predictions first, with their axes), but for `progress`, which `set_progress` moves. Axes of one name
    have one size in a call, and so have copies of an axis. Half precision is computed and returned in
    float32; masks may be booleans or numbers. Where a mask says that nothing is there, nan and inf count as 0
    (`there`). Nothing is broadcast.

    Raises:
        UsageError: An argument does not fit.
        ValueError: In a call: an input is missing or unknown, or shapes do not fit.
    """

    progress: Tensor

    def __init__(
        self, program: Program, *, learnable: bool = False, scale: float = 1.0, identity: str = ""
    ) -> None:
        super().__init__()
        self.program, self.formula, self.key = program, program.text, candidate_key(program)
        self.scale, self.learnable, self.identity = scale, learnable, identity
        plain = as_given(program)
        self._run = Compiled(plain)
        self._detached = any(step.op == "detach" for step in plain.instructions)
        signature = program.signature
        self.inputs, self._schedules = called_with(plain)
        if not self.inputs:
            raise UsageError(f"The loss reads nothing that a call could give: {program.text}")
        self.copies = dict(signature.copies)
        self.about = dict(signature.about)
        self.predictions = tuple(n for n in self.inputs if signature.inputs[n].role is Role.PREDICTION)
        self.masks = tuple(n for n in self.inputs if signature.inputs[n].role is Role.MASK)
        self.there = hidden(signature, self.inputs)
        self._learned = [c for c in program.constants if c.learnable] or list(program.constants)
        self._learned *= learnable
        for c in self._learned:
            self.register_parameter(f"raw_{c.name}", nn.Parameter(unbounded(c.value, c.low, c.high)))
        self.register_buffer("progress", torch.tensor(0.0))

    @property
    def constants(self) -> dict[str, float]:
        """Current values, those that are learned included."""
        learned = {c.name: self._value(c.name).item() for c in self._learned}
        return {**self.program.constant_values, **learned}

    @property
    def not_applicable(self) -> dict[str, str]:
        """Lines of the module contract that this loss cannot keep, and why."""
        return dict.fromkeys(("gradcheck", "gradgradcheck"), DETACHED) if self._detached else {}

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1]; not every loss asks."""
        if not 0 <= progress <= 1:
            raise UsageError(f"`0 <= progress <= 1` must hold, but got {progress}.")
        self.progress.fill_(progress)

    def forward(self, *unnamed: Tensor, **inputs: Tensor) -> Tensor:
        takes = ", ".join(f"{name} ({axes})" for name, axes in self.inputs.items())
        if unnamed:
            raise ValueError(f"The loss is called by names, loss(name=tensor, ...). It takes {takes}.")
        for name in (*self.inputs, *inputs):
            if (name in self.inputs) != (name in inputs):
                what = f"needs the input {name!r}" if name in self.inputs else f"reads no input {name!r}"
                raise ValueError(f"The loss {what}. It takes {takes}.")
        ready = self._prepared(*(inputs[name] for name in self.inputs))
        dtype, given = ready[0].dtype, dict(zip(self.inputs, ready, strict=True))
        given |= {name: self.progress.to(dtype) for name in self._schedules}
        learned = {c.name: self._value(c.name).to(dtype) for c in self._learned}
        return self._run(given, learned)[0].reshape(()) * self.scale

    def _value(self, name: str) -> Tensor:
        c = next(c for c in self._learned if c.name == name)
        return bounded(cast(Tensor, getattr(self, f"raw_{name}")), c.low, c.high)

    def extra_repr(self) -> str:
        learned = {c.name for c in self._learned}
        settings = [
            f"{name}={format_number(round(value, 12))}" + f" (raw_{name})" * (name in learned)
            for name, value in self.constants.items()
        ]
        settings.append(f"progress={self.progress.item():g}")
        settings.append(f"learnable={self.learnable}")
        reads = ", ".join(f"{name} ({axes})" for name, axes in self.inputs.items())
        known = f"{self.identity}, {self.key}" if self.identity else self.key
        return f"{self.formula}\n{', '.join(settings)}\nreads {reads}\nid={known}"


def loss_module(program: Program, task: str, **arguments: Any) -> LossModule | NamedLoss:
    """The module of a loss of any task: `loss(input, target)` where that says all, else of named tensors.

    Args:
        program: What to compute.
        task: Name of its space's task.
        arguments: Values of constants by name, and arguments of the module.

    Raises:
        UsageError: An argument is unknown or does not fit.
        FormulaError: A constant is outside its range.
    """
    if is_called(program, task):
        return module_for(program, task, **arguments)
    values = {name: arguments.pop(name) for name in program.constant_values if name in arguments}
    if unknown := sorted(set(arguments) - {"learnable", "scale", "identity"}):
        takes = ", ".join([*program.constant_values, "learnable"])
        raise UsageError(
            f"The loss takes no {unknown[0]!r}. It takes {takes}; what it averages its formula says."
        )
    return NamedLoss(program.with_constants(values), **arguments)
