"""What is a learned loss, once it is learned?

Its numbers, what they mean, and how they were come by: plain data that the store keeps, under a key made
from the content. From it come a torch module, a gradient for the population trainer, a file that needs
torch alone, and, by distillation, a formula.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from losssearch.errors import ExportError, UsageError
from losssearch.execution.reference import loss_gradient
from losssearch.exporters.registry import snake_name, write
from losssearch.learned.distillation import Distilled, distil
from losssearch.learned.export import class_name_of, render
from losssearch.learned.module import Holder, NetworkMulticlass, NetworkRegression, WeightedMulticlass
from losssearch.learned.network import multiclass_value, regression_value, sample_weight
from losssearch.screening.probes import initial
from losssearch.spaces import Space, load_space
from losssearch.store.learned import LearnedRow, add_learned, find_learned
from losssearch.store.store import Store

#: Names of arrays that the loss itself reads begin so; others ("start.", "rates") serve those who use it.
NETWORK = "network."


class LearnedLoss(LearnedRow):
    """A loss that is a network.

    Args:
        name: As people call it.
        kind: "network" (see `meta` and `online`), "weighting" (see `weighting`) or "controller" (see
            `lstm`).
        space: "regression" or "multiclass".
        settings: What besides the arrays decides its values.
        arrays: Those named "network...." are the loss's own; a meta-learned loss also has the start and the
            learning rates that were learned with it.
        evidence: How it was learned, and what was measured.
    """

    @classmethod
    def of(cls, row: LearnedRow) -> Self:
        """The learned loss that a row of the store holds."""
        return cls(**{field.name: getattr(row, field.name) for field in fields(row)})

    @classmethod
    def load(cls, reference: str, storage: str = "sqlite:///losses.db") -> Self:
        """The stored one of a name or key.

        Raises:
            UsageError: None is called so.
            StoreError: The database is none, or what it holds was changed.
        """
        with Store.open(storage, read_only=True) as store:
            return cls.of(find_learned(store, reference))

    def save(self, storage: str = "sqlite:///losses.db") -> str:
        """Store it beside the programs; gives its key."""
        with Store.open(storage) as store:
            return add_learned(store, self)

    @cached_property
    def network(self) -> dict[str, Tensor]:
        """The loss's own arrays as tensors."""
        mine = {n.removeprefix(NETWORK): a for n, a in self.arrays.items() if n.startswith(NETWORK)}
        return {name: torch.as_tensor(array.copy()) for name, array in mine.items()}

    @property
    def reads_count(self) -> bool:
        """Whether a weight network looks at the training samples of each class."""
        return bool(self.settings.get("by_class"))

    def values(
        self, prediction: Tensor, target: Tensor, progress: Tensor, rarity: Tensor | None = None
    ) -> Tensor:
        """The loss of each sample.

        Args:
            prediction: (..., n) or (..., n, c).
            target: The same shape.
            progress: Shape ().
            rarity: See `sample_weight`; None is 0.
        """
        if self.kind == "network":
            value = multiclass_value if self.space == "multiclass" else regression_value
            return value(self.network, prediction, target, progress)
        if self.kind != "weighting":
            what = f"A {self.kind} steers a formula while it trains"
            raise UsageError(f"{what}; it has no values of its own.")
        cross = -(target * torch.log_softmax(prediction, -1)).sum(-1)
        share = sample_weight(self.network, cross, torch.zeros_like(cross) if rarity is None else rarity)
        return cross * share

    def module(self, **arguments: Any) -> Holder:
        """As a torch module, called as `loss(input, target)`.

        Args:
            arguments: `reduction`, and for labels `weight`, `ignore_index`, `label_smoothing`; a weighting
                takes `count`, (C,).

        Raises:
            UsageError: It has no values of its own.
        """
        kinds: Mapping[tuple[str, str], type[Holder]] = {
            ("network", "multiclass"): NetworkMulticlass,
            ("network", "regression"): NetworkRegression,
            ("weighting", "multiclass"): WeightedMulticlass,
        }
        kind = kinds.get((self.kind, self.space))
        if kind is None:
            raise UsageError(f"A {self.kind} for {self.space} cannot be a module of (input, target).")
        module = cast(Any, kind)(network=self.network, **arguments)
        module.key = self.key
        return cast(Holder, module)

    def gradient(self, scale: float | None = None) -> LearnedGradient:
        """What the population trainer takes: inputs of the space to scaled gradients in the prediction.

        Args:
            scale: Factor; None makes its size on the probes that of the space's reference loss.
        """
        plain = LearnedGradient(self, 1.0)
        return plain if scale == 1 else LearnedGradient(self, scale or _fair_scale(plain))

    def export(self, path: str | Path, *, force: bool = False) -> Path:
        """Write it as one Python file that needs torch alone; a folder gets a file named after the loss.

        Raises:
            ExportError: The file exists (without `force`) or cannot be written.
            UsageError: It has no values of its own.
        """
        place = Path(path)
        if place.is_dir():
            place = place / f"{snake_name(class_name_of(self.name))}.py"
        if os.path.lexists(place) and not force:
            raise ExportError(f"{place}: the file exists. Choose another name, or replace it (force=True).")
        own = {n.removeprefix(NETWORK): a for n, a in self.arrays.items() if n.startswith(NETWORK)}
        write(place, render(self.module(), self.name, self.key, own, self.evidence))
        return place

    def distil(self, space: str | Space | None = None, **settings: Any) -> Distilled:
        """The formula of the language that comes nearest, and how near; see `distillation.distil`."""
        chosen = space if isinstance(space, Space) else load_space(space or self.space)
        return distil(self, chosen, **settings)


class LearnedGradient:
    """`scale` times the gradient of a learned loss in the prediction, as a function of a space's inputs."""

    def __init__(self, loss: LearnedLoss, scale: float) -> None:
        self.loss, self.scale = loss, scale
        self.prediction = load_space(loss.space).signature.predictions[0]

    def __call__(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Shape: that of the prediction."""
        target, progress = inputs["target"], inputs.get("progress")
        stage = torch.zeros((), dtype=target.dtype) if progress is None else progress
        rarity = None
        if self.loss.reads_count and "count" in inputs:
            count = inputs["count"]
            relative = (count / count.mean(-1, keepdim=True)).log()
            rarity = (target * relative.unsqueeze(-2)).sum(-1)
        with torch.enable_grad():
            leaf = inputs[self.prediction].detach().requires_grad_()
            total = self.loss.values(leaf, target, _aligned(stage, target), rarity).mean(-1).sum()
            (slope,) = torch.autograd.grad(total, leaf)
        return slope * self.scale


def _aligned(progress: Tensor, target: Tensor) -> Tensor:
    """Progress of shape (), or one a run, (runs,), spread over the samples."""
    return progress if progress.ndim == 0 else progress.reshape(-1, *[1] * (target.ndim - 1))


def _fair_scale(plain: LearnedGradient) -> float:
    """RMS of the reference loss's gradient on the probes, over that of this one; as for programs."""
    space = load_space(plain.loss.space)
    inputs = {n: v.float() for n, v in initial(space.signature).inputs.items()}
    reference = loss_gradient(space.losses[space.reference].program, plain.prediction)
    with torch.no_grad():
        own, other = plain(inputs), reference(inputs)
    size = float(own.square().mean().sqrt())
    return float(other.square().mean().sqrt()) / size if size > 0 else 0.0
