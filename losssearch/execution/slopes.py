"""What do the losses of a block say about their predictions? Whoever answers fastest is asked.

A loss is only its gradient. One that is a program goes into the kernel's table, here or on a GPU; what the
kernel refuses (pairs of samples, sorting) runs through torch, merged with its like; any other function is
called as it is, and whatever it does, its neighbours go on.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from losssearch.execution.bank import GradientBank, Plan
from losssearch.execution.kernel.assembly import Layout
from losssearch.execution.kernel.bound import Bound
from losssearch.execution.kernel.tape import Tape
from losssearch.execution.plan import GradientFn
from losssearch.execution.reference import LossGradient
from losssearch.language.canonical import structure_key_of_canonical
from losssearch.language.program import Program, program_of
from losssearch.language.signature import Input, Role, Signature
from losssearch.language.term import NAME, Term

if TYPE_CHECKING:
    from losssearch.execution.kernel.gpu import GpuBound

_NUMBER = Signature(axes=("n",), inputs={"x": Input("x", ("n",), Role.PREDICTION)})
_LOG = logging.getLogger(__name__)


@dataclass
class Slots:
    """Where the runs of one loss stand: slots [start, stop) of every split."""

    loss: int
    start: int
    stop: int
    failure: str = ""
    alive: bool = True


@dataclass(frozen=True)
class Batch:
    """What the losses are asked.

    Args:
        prediction: (K, S, n, c), in memory (S, K, c, n); c is 1 for one number a sample.
        target: (S, c, n), contiguous.
        progress: Share of the training that is done; no axes.
        provided: `prior`, `count`, ... with a leading split dimension.
        gradient: Where answers go; laid out as the prediction.
    """

    prediction: Tensor
    target: Tensor
    progress: Tensor
    provided: Mapping[str, Tensor]
    gradient: Tensor


class Slopes(ABC):
    """Answers for some losses of a block.

    Args:
        losses: By the caller's index.
        prediction: Name of the predicted input.
        scalar: Whether it is one number a sample.

    Attributes:
        order: The losses, in the order in which their slots must stand.
        repeats: Whether every call launches the same, so that a GPU can record it.
    """

    repeats: ClassVar[bool] = True

    def __init__(self, losses: Mapping[int, GradientFn], prediction: str, scalar: bool) -> None:
        self.losses, self.prediction, self.scalar = losses, prediction, scalar
        self.order = list(losses)
        self.slots: list[Slots] = []

    def place(self, slots: Sequence[Slots]) -> None:
        """Take slots, in `order`."""
        self.slots = list(slots)

    @abstractmethod
    def __call__(self, batch: Batch) -> None:
        """Fill dL/dprediction of the slots into `batch.gradient`."""

    def mine(self, grid: Tensor) -> Tensor:
        """The part of a (K, ...) tensor that these losses own."""
        return grid[self.slots[0].start : self.slots[-1].stop]


def who_answers(
    losses: Mapping[int, GradientFn], prediction: str, layout: Layout, device: torch.device
) -> list[Slopes]:
    """The kernel for what it can run, the merged torch programs for the other programs, then functions."""
    scalar = not layout.inner
    programs = {i: loss for i, loss in losses.items() if isinstance(loss, LossGradient)}
    found: list[Slopes] = []
    if programs and (kind := _kernel_on(device)):
        kernel = kind(programs, prediction, layout)
        if kernel.order:
            found.append(kernel)
        programs = {i: programs[i] for i in programs if i not in set(kernel.order)}
    if programs:
        found.append(BankSlopes(programs, prediction, scalar))
    others = {i: loss for i, loss in losses.items() if not isinstance(loss, LossGradient)}
    if others:
        found.append(FunctionSlopes(others, prediction, scalar))
    return found


def _kernel_on(device: torch.device) -> type[KernelSlopes] | None:
    """Who runs the kernel there; None where it does not run."""
    if device.type == "cpu":
        return HereSlopes
    return None if why_no_kernel(device) else GpuSlopes


@cache
def why_no_kernel(device: torch.device) -> str:
    """Why the kernel does not run there, or an empty text; asked once a device, and told in the log."""
    why = _no_kernel(device)
    if why:
        _LOG.warning("on %s the losses run through torch, not the kernel: %s", device, why)
    return why


def _no_kernel(device: torch.device) -> str:
    if device.type != "cuda":
        return f"the kernel has no code for {device.type!r}"
    try:  # whatever is missing, a driver, a compiler, a package: the smallest of losses shows it
        from losssearch.execution.kernel.gpu import GpuBound

        number = program_of(_NUMBER, Term("square", (Term(NAME, (), "x"),)), scalar=False)
        tape = Tape([number], [("n",)], Layout("n", "", {"n": 1}))
        [found] = GpuBound(tape, np.zeros(1, np.int64), device=device).run({"x": torch.tensor([[3.0]])})
        return "" if found.item() == 9 else f"the square of 3 came out as {found.item()}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


class KernelSlopes(Slopes):
    """All losses in one call of the kernel; those of one structure share its instructions."""

    def __init__(self, losses: Mapping[int, LossGradient], prediction: str, layout: Layout) -> None:
        structures: dict[str, int] = {}
        programs: list[Program] = []
        self._program: dict[int, int] = {}
        for i, loss in losses.items():
            key = structure_key_of_canonical(loss.program)
            if key not in structures:
                structures[key] = len(programs)
                programs.append(loss.slope)
            self._program[i] = structures[key]
        axes = programs[0].signature.inputs[prediction].axes
        self._tape = Tape(programs, [axes], layout, scaled=True)
        refused = self._tape.refused
        kept = {i: loss for i, loss in losses.items() if self._program[i] not in refused}
        if refused:
            _LOG.info(
                "%d of %d losses run on the reference: %s", len(losses) - len(kept), len(losses), refused
            )
        super().__init__(kept, prediction, not layout.inner)

    def _rows(self, splits: int, first: int, width: int) -> tuple[NDArray[np.int64], dict[str, Any]]:
        """The program of each row, and what else a binding asks.

        Args:
            first, width: The slot of a grid at which it begins, and how many it holds.
        """
        rows = [
            (self.losses[slots.loss], self._program[slots.loss], s, s * width + k - first)
            for slots in self.slots
            for s in range(splits)
            for k in range(slots.start, slots.stop)
        ]
        losses = [loss for loss, _, _, _ in rows if isinstance(loss, LossGradient)]
        split, place = (np.array([row[i] for row in rows]) for i in (2, 3))
        shared = [name for name in self._tape.inputs if name != self.prediction]
        return np.array([row[1] for row in rows]), {
            "which": {self.prediction: place, **dict.fromkeys(shared, split)},
            "into": place,
            "constants": [loss.program.constant_values for loss in losses],
            "scales": np.array([loss.scale for loss in losses]),
        }

    def _inputs(self, batch: Batch, prediction: Tensor) -> dict[str, Tensor]:
        """As they lie in memory, samples last."""
        given = {
            **batch.provided,
            "target": batch.target.squeeze(1) if self.scalar else batch.target,
            "progress": batch.progress.reshape(1),
            self.prediction: self._flat(prediction),
        }
        return {name: given[name] for name in self._tape.inputs}

    def _flat(self, grid: Tensor) -> Tensor:
        """(K, S, n, c) seen as (S * K, c, n)."""
        rows = grid.permute(1, 0, 3, 2).flatten(0, 1)
        return rows.squeeze(1) if self.scalar else rows


class HereSlopes(KernelSlopes):
    """On the CPU, in place: neither predictions nor gradients are copied."""

    _bound: Bound | None = None

    def __call__(self, batch: Batch) -> None:
        if self._bound is None:
            width, splits = batch.prediction.shape[:2]
            programs, rows = self._rows(splits, 0, width)
            self._bound = Bound(self._tape, programs, **rows)
        inputs = self._inputs(batch, batch.prediction)
        arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
        self._bound.run(arrays, [self._flat(batch.gradient).numpy()])


class GpuSlopes(KernelSlopes):
    """On a GPU, in memory of the kernel's own."""

    _bound: GpuBound | None = None

    def __call__(self, batch: Batch) -> None:
        prediction, gradient = self.mine(batch.prediction), self.mine(batch.gradient)
        width, splits = prediction.shape[:2]
        if self._bound is None:
            from losssearch.execution.kernel.gpu import GpuBound

            programs, rows = self._rows(splits, self.slots[0].start, width)
            self._bound = GpuBound(self._tape, programs, device=prediction.device, **rows)
        [found] = self._bound.run(self._inputs(batch, prediction))
        found = found.unsqueeze(1) if self.scalar else found
        gradient.copy_(found.unflatten(0, (splits, width)).permute(1, 0, 3, 2))


class BankSlopes(Slopes):
    """Programs through torch, merged into one list of instructions."""

    def __init__(self, losses: Mapping[int, LossGradient], prediction: str, scalar: bool) -> None:
        super().__init__(losses, prediction, scalar)
        self._bank = GradientBank(losses)
        self.order = self._bank.order
        self._plan: Plan | None = None

    def __call__(self, batch: Batch) -> None:
        slots, splits = self.slots, batch.prediction.shape[1]
        inputs = expanded(batch, self.mine(batch.prediction), self.prediction, self.scalar)
        if self._plan is None:
            counts = {s.loss: (s.stop - s.start) * splits for s in slots}
            self._plan = self._bank.plan(counts, inputs[self.prediction], {"progress": True})
        found = self._plan(inputs)
        for part in slots:
            own = found[part.loss].unsqueeze(-1) if self.scalar else found[part.loss]
            batch.gradient[part.start : part.stop].copy_(own.unflatten(0, (-1, splits)))


class FunctionSlopes(Slopes):
    """Any functions, one call each; one that raises or answers nonsense fails alone."""

    repeats = False

    def __call__(self, batch: Batch) -> None:
        for slots in self.slots:
            part = batch.gradient[slots.start : slots.stop]
            if slots.failure or not slots.alive:
                part.zero_()
                continue
            prediction = batch.prediction[slots.start : slots.stop]
            inputs = expanded(batch, prediction, self.prediction, self.scalar)
            mine = inputs[self.prediction]
            try:
                found = self.losses[slots.loss](inputs)
                if found.shape != mine.shape:
                    raise ValueError(
                        f"the gradient must have the prediction's shape {tuple(mine.shape)}, "
                        f"but has {tuple(found.shape)}"
                    )
                part.copy_((found.unsqueeze(-1) if self.scalar else found).unflatten(0, part.shape[:2]))
            except Exception as error:  # whatever a loss does, its neighbours go on
                slots.failure = f"{type(error).__name__}: {error}"
                part.zero_()


def expanded(batch: Batch, prediction: Tensor, name: str, scalar: bool) -> dict[str, Tensor]:
    """The inputs of a loss with one leading dimension for all (slot, split), in that order."""
    count = prediction.shape[0]
    given = {**batch.provided, "target": batch.target}
    inputs = {key: value.expand(count, *value.shape).flatten(0, 1) for key, value in given.items()}
    target = inputs["target"]
    # In memory (R, c, n), as the predictions are.
    inputs["target"] = target.squeeze(1) if scalar else target.transpose(1, 2)
    rows = prediction.transpose(2, 3).flatten(0, 1)
    inputs[name] = rows.squeeze(1) if scalar else rows.transpose(1, 2)
    inputs["progress"] = batch.progress
    return inputs
