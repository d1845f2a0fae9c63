"""How does a found loss become a `torch.nn.Module` that people can drop in?

    loss = module_for(program, "multiclass", reduction="mean", gamma=1.5)
    loss(input, target).backward()

The program runs line by line (`quick`); how input and target are taken is in `conventions`. One module
costs some milliseconds to build, and a call the operations of its formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.execution.conventions import (
    Binary,
    Convention,
    Multiclass,
    Regression,
    bounded,
    given,
    unbounded,
)
from losssearch.execution.parts import Default, Parts, Provided, parts_of
from losssearch.execution.quick import Indexed, Quick
from losssearch.language.canonical import candidate_key
from losssearch.language.formula import format_number
from losssearch.language.program import Constant, Program


class LossModule(Convention):
    """A program as a loss, called as `loss(input, target)`.

        mean: sum_i k_i w_i v_i / sum_i k_i w_i     sum: sum_i k_i w_i v_i     none: k_i w_i v_i

    v_i is the value of sample i, w_i its weight (1 where nothing weighs it), k_i = 0 where it is
    ignored, else 1. The mean over nothing is 0. It is one mean over all samples, positions
    included, never a mean over batches.

    Args:
        program: What to compute.
        reduction: "mean", "sum" or "none"; a loss that couples samples has its own mean only.
        weight: One number a class, (C,), or (2,) for no and yes; a sample with soft labels weighs
            sum_c weight_c target_c, and the mean divides by the summed weights always.
            (`torch.nn.CrossEntropyLoss` does so for class indices; for soft labels it weighs every
            term and divides by N, as `BCEWithLogitsLoss` always does.) A real target has none.
        ignore_index: Target that takes no part; None ignores nothing. As in torch it is a class
            index, so soft labels are never ignored.
        label_smoothing: s replaces the target by (1 - s) target + s / C (binary: s / 2).
        provided: Further inputs by name, such as `prior`, (C,), `count`, (C,), `progress`. What
            is not given is neutral: equal classes, an identity, progress 0; `defaults` says it
            for each.
        learnable: Whether constants become parameters: those marked learnable, or all where none
            is marked. Each is kept as `raw_NAME`, unbounded, and stays within its range.

    Input is logits (multiclass, binary) or a prediction (regression), never probabilities. Half
    precision is computed and returned in float32. Without samples the value is 0.

    Raises:
        UsageError: An argument does not fit.
        ValueError: In a call: shapes or dtypes do not fit.
    """

    task: str = ""

    def _build(
        self,
        program: Program,
        reduction: str,
        provided: Mapping[str, Tensor | float] | None,
        learnable: bool,
        scale: float,
        identity: str,
    ) -> None:
        nn.Module.__init__(self)
        self.program = program
        self.formula = program.text
        self.key = candidate_key(program)
        self.identity = identity
        self.scale = scale
        self.learnable = learnable
        self._parts = parts = parts_of(program, self.task)
        self._run = Quick(parts.program)
        self._by_index = Indexed(parts.by_index, parts.target) if parts.by_index else None
        self.dense = self._by_index is None
        self.coupled = parts.coupled
        self._configure(reduction)
        self._learned = self._learn(parts) if learnable else ()
        values = dict(provided or {})
        if unknown := sorted(set(values) - set(program.signature.inputs)):
            known = ", ".join(p.name for p in parts.provided) or "nothing besides"
            raise UsageError(f"The loss reads no input {unknown[0]!r}; it reads {known}.")
        self._names = {p.name: _free_name(self, p.name) for p in parts.provided}
        for p in parts.provided:
            self.register_buffer(self._names[p.name], _checked(p, values.get(p.name)))

    def _learn(self, parts: Parts) -> tuple[Constant, ...]:
        constants = parts.program.constants
        marked = tuple(c for c in constants if c.learnable) or constants
        for c in marked:
            self.register_parameter(f"raw_{c.name}", nn.Parameter(unbounded(c.value, c.low, c.high)))
        return marked

    @property
    def provided(self) -> dict[str, Tensor]:
        """The provided inputs that were given."""
        found = {name: getattr(self, buffer) for name, buffer in self._names.items()}
        return {name: value for name, value in found.items() if value is not None}

    @property
    def constants(self) -> dict[str, float]:
        """Current values, those that are learned included."""
        values = dict(self.program.constant_values)
        return values | {c.name: self._learned_value(c).item() for c in self._learned}

    @property
    def defaults(self) -> dict[str, str]:
        """What each provided input is until it is given, in words."""
        return {p.name: p.default.value for p in self._parts.provided}

    @property
    def not_applicable(self) -> dict[str, str]:
        """Lines of the module contract that this loss cannot keep, and why."""
        return self._parts.not_applicable

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1]; not every loss asks."""
        if not 0 <= progress <= 1:
            raise UsageError(f"`0 <= progress <= 1` must hold, but got {progress}.")
        for p in self._parts.provided:
            if p.is_progress:
                cast(Tensor, getattr(self, self._names[p.name])).fill_(progress)

    def _learned_value(self, c: Constant) -> Tensor:
        return bounded(cast(Tensor, getattr(self, f"raw_{c.name}")), c.low, c.high)

    def _terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        parts = self._parts
        inputs = {parts.prediction: x, parts.target: target}
        for p in parts.provided:
            value = getattr(self, self._names[p.name])
            inputs[p.name] = provided_value(p, value, x)
        learned = {c.name: self._learned_value(c).to(x.dtype) for c in self._learned}
        run = self._run if target.is_floating_point() or self._by_index is None else self._by_index
        out = run(inputs, learned)
        if self.scale != 1:
            out = (out[0] * self.scale, *out[1:])
        if parts.coupled:
            return out[0].reshape(()), None
        samples = [value.reshape(-1).expand(x.shape[:1]) for value in out]
        return samples[0], samples[1] if len(samples) == 2 else None

    def extra_repr(self) -> str:
        learned = {c.name for c in self._learned}
        settings = [
            f"{name}={format_number(round(value, 12))}"
            + (" (learnable, raw_" + name + ")" if name in learned else "")
            for name, value in self.constants.items()
        ]
        for name, value in self.provided.items():
            shown = f"{value.item():g}" if value.ndim == 0 else f"tensor{tuple(value.shape)}"
            settings.append(f"{self._names[name]}={shown}")
        settings.append(f"reduction={self.reduction!r}")
        if self.scale != 1:
            settings.append(f"scale={self.scale:g}")
        for name in ("weight", "ignore_index", "label_smoothing"):
            setting = getattr(self, name, None)
            if isinstance(setting, Tensor):
                settings.append(f"{name}=tensor{tuple(setting.shape)}")
            elif setting is not None and (setting or name == "ignore_index"):
                settings.append(f"{name}={setting}")
        known = f"{self.identity}, {self.key}" if self.identity else self.key
        return f"{self.formula}\n{', '.join(settings)}\nid={known}"


class MulticlassLoss(LossModule, Multiclass):
    __doc__ = LossModule.__doc__
    task = "multiclass"

    def __init__(
        self,
        *,
        program: Program,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        provided: Mapping[str, Tensor | float] | None = None,
        learnable: bool = False,
        scale: float = 1.0,
        identity: str = "",
    ) -> None:
        self._build(program, reduction, provided, learnable, scale, identity)
        self._configure_labels(weight, ignore_index, label_smoothing)


class BinaryLoss(LossModule, Binary):
    __doc__ = LossModule.__doc__
    task = "binary"

    def __init__(
        self,
        *,
        program: Program,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        provided: Mapping[str, Tensor | float] | None = None,
        learnable: bool = False,
        scale: float = 1.0,
        identity: str = "",
    ) -> None:
        self._build(program, reduction, provided, learnable, scale, identity)
        self._configure_labels(weight, ignore_index, label_smoothing)


class RegressionLoss(LossModule, Regression):
    __doc__ = LossModule.__doc__
    task = "regression"

    def __init__(
        self,
        *,
        program: Program,
        reduction: str = "mean",
        provided: Mapping[str, Tensor | float] | None = None,
        learnable: bool = False,
        scale: float = 1.0,
        identity: str = "",
    ) -> None:
        self._build(program, reduction, provided, learnable, scale, identity)


MODULES: dict[str, type[LossModule]] = {
    "multiclass": MulticlassLoss,
    "binary": BinaryLoss,
    "regression": RegressionLoss,
}


def module_for(program: Program, task: str, **arguments: Any) -> LossModule:
    """The loss module of a program.

    Args:
        program: What to compute.
        task: "multiclass", "binary" or "regression".
        arguments: Those of `LossModule`; values of constants and provided inputs by their own
        names.

    Raises:
        UsageError: An argument is unknown or does not fit.
        FormulaError: A constant is outside its range.
    """
    if task not in MODULES:
        raise UsageError(
            f"A loss of the task {task!r} is no module loss(input, target); "
            f"those of {', '.join(MODULES)} are. "
            "`execution.named.loss_module` makes one of named tensors."
        )
    kind = MODULES[task]
    values = {name: arguments.pop(name) for name in program.constant_values if name in arguments}
    named = set(program.inputs) & set(arguments)
    provided = dict(arguments.pop("provided", None) or {})
    provided |= {name: arguments.pop(name) for name in named}
    known = ["reduction", "learnable", "scale", "identity"]
    if task != "regression":
        known += ["weight", "ignore_index", "label_smoothing"]
    if unknown := sorted(set(arguments) - set(known)):
        names = [*known, *program.constant_values, *sorted(program.inputs)]
        raise UsageError(f"The loss takes no {unknown[0]!r}. It takes {', '.join(names)}.")
    build = cast(Any, kind)
    return cast(LossModule, build(program=program.with_constants(values), provided=provided, **arguments))


def provided_value(p: Provided, value: Tensor | None, x: Tensor) -> Tensor:
    """A provided input in the dtype of the logits, or what it is until it is given."""
    sizes = tuple(x.shape[1] for _ in p.axes)  # classes, or a copy of them
    number = default_number(p, sizes)
    return given(p.name, value, x, sizes, number)


def default_number(p: Provided, sizes: Sequence[int]) -> float | None:
    """What a provided input is everywhere until it is given; None for an identity."""
    if p.default is Default.IDENTITY:
        return None
    return {Default.UNIFORM: 1 / max(sizes, default=1), Default.HALF: 0.5}.get(p.default, 1.0)


def _checked(p: Provided, value: Tensor | float | None) -> Tensor | None:
    """What the user gave, checked."""
    if value is None:
        return torch.tensor(p.low if math.isfinite(p.low) else 0.0) if p.is_progress else None
    tensor = value.detach().clone() if isinstance(value, Tensor) else torch.as_tensor(value)
    tensor = tensor if tensor.is_floating_point() else tensor.float()
    if tensor.ndim != len(p.axes):
        raise UsageError(f"`{p.name}` must have {len(p.axes)} axes, but has shape {tuple(tensor.shape)}.")
    return tensor


def _free_name(module: nn.Module, name: str) -> str:
    """The name of a buffer: that of the input unless it is an attribute already."""
    while hasattr(module, name):
        name += "_"
    return name


__all__ = [
    "MODULES",
    "BinaryLoss",
    "LossModule",
    "MulticlassLoss",
    "RegressionLoss",
    "module_for",
    "provided_value",
]
