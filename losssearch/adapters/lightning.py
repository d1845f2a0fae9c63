"""How does Lightning move the schedule of a loss, and keep its constants in the checkpoint?

    Trainer(callbacks=[LossProgress()])

A found loss is a submodule of a LightningModule like any other: weights, learned constants and
`progress` are in its state dict without an adapter. What is missing there are constants that are
plain numbers, and someone who moves `progress`; both is this callback's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from losssearch.errors import UsageError


class LossProgress(Callback):  # type: ignore[misc]
    """Tells each loss of the module, before each batch, how much of the training is done.

        progress = steps of the optimiser so far / steps in all, in [0, 1]

    The checkpoint gets formula, constants and id of each loss, under `checkpoint["callbacks"]`;
    going on from it with another loss, or other constants, raises.

    Raises:
        UsageError: A loss reads `progress`, but the training has no end; or the checkpoint is of
        other losses.
    """

    def __init__(self) -> None:
        self._written: dict[str, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._written = {name: _described(loss) for name, loss in _losses(pl_module)}

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        moved = [loss for _, loss in _losses(pl_module) if _reads_progress(loss)]
        if not moved:
            return
        steps = trainer.estimated_stepping_batches
        if not 0 < steps < math.inf:
            raise UsageError("The loss reads `progress`, so the Trainer needs max_epochs or max_steps.")
        for loss in moved:
            loss.set_progress(min(1.0, trainer.global_step / steps))

    def state_dict(self) -> dict[str, Any]:
        return self._written

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, was in state_dict.items():
            now = self._written.get(name, {"formula": "no loss", "constants": {}})
            if any(now[key] != was[key] for key in now if key != "id"):
                raise UsageError(
                    f"In the checkpoint {name!r} is {was['formula']} with {was['constants']}, "
                    f"but here it is {now['formula']} with {now['constants']}."
                )


def _losses(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Found and exported losses within a module, by their name there."""
    return ((n, m) for n, m in module.named_modules() if hasattr(m, "formula") and hasattr(m, "key"))


def _reads_progress(loss: Any) -> bool:
    return any("progress" in name for name, _ in loss.named_buffers(recurse=False))


def _described(loss: Any) -> dict[str, Any]:
    """Constants that are learned are parameters, and so in the state dict already."""
    if hasattr(loss, "program"):
        constants = loss.program.constant_values
    else:  # an exported file keeps each as an attribute
        constants = {name: getattr(loss, name) for name in getattr(loss, "ranges", {})}
    fixed = {name: value for name, value in constants.items() if not hasattr(loss, f"raw_{name}")}
    return {"formula": loss.formula, "constants": fixed, "id": loss.key}
