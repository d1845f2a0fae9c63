"""How does a loss enter the Trainer of Hugging Face?

    Trainer(..., compute_loss_func=ComputeLoss(loss), callbacks=[progress_callback(loss)])

The Trainer says how many labels the whole accumulated batch has, so that each micro-batch gives its
share: its summed loss over that number. The shares then add up to the loss of one big batch, however
unevenly labels are spread. The callback is for losses that read `progress`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError

UNLABELLED = -100  # what the Trainer does not count


class ComputeLoss:
    """Any loss called as `loss(input, target)` as the Trainer's `compute_loss_func`.

        L = sum_i k_i w_i v_i / items        v_i, w_i, k_i: value, weight, kept or ignored; `LossModule`

    `items` are the labels other than -100 of all micro-batches between two steps of the optimiser. A
    loss without weights thus has exactly the mean of the big batch; class weights are divided by the
    number of labels, not by their own sum, which no micro-batch can know. Where the Trainer gives no
    number it is the loss's own mean. A loss that gives a mean alone (it couples samples, or is not of
    this project) enters with its micro-batch's share of the labels.

    Args:
        loss: Found, exported or classical; `ignore_index=-100` where labels hold that.
        pick: The logits within the outputs; None takes `outputs["logits"]`. Classes last, (N, C) or
            (N, T, C); one number a sample, (N, 1), fits labels (N,).
        shift: Whether position t predicts the label at t + 1, as in a causal language model.

    Raises:
        UsageError: `ignore_index` is another number than the Trainer's.
        ValueError: In a call: shapes or dtypes do not fit.
    """

    loss: Any

    def __init__(
        self,
        loss: nn.Module,
        *,
        pick: Callable[[Any], Tensor] | None = None,
        shift: bool = False,
    ) -> None:
        if (ignored := getattr(loss, "ignore_index", None)) not in (None, UNLABELLED):
            raise UsageError(
                f"The Trainer counts labels other than {UNLABELLED}, but the loss ignores {ignored}. "
                f"Mark labels with {UNLABELLED} and build the loss with ignore_index={UNLABELLED}."
            )
        self.loss, self.pick, self.shift = loss, pick, shift

    def __call__(
        self, outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        if labels is None:
            raise ValueError("The batch has no `labels`, so there is no loss.")
        logits = self.pick(outputs) if self.pick else _logits(outputs)
        if self.shift:
            logits, labels = logits[:, :-1], labels[:, 1:]
        x, target = _flat(logits, labels)
        if num_items_in_batch is None:
            value: Tensor = self.loss(x, target)
            return value
        if hasattr(self.loss, "sum_and_count") and not getattr(self.loss, "coupled", ""):
            total: Tensor = self.loss.sum_and_count(x, target)[0]
            if target.ndim == 2 and getattr(self.loss, "task", "") == "multiclass":
                total = total * target.shape[1]  # the Trainer counted each number of a soft label
        else:
            total = self.loss(x, target) * (target != UNLABELLED).sum()
        items = torch.as_tensor(num_items_in_batch, device=total.device)
        return total / (items + (items == 0))


def progress_callback(loss: Any) -> Any:
    """A `transformers.TrainerCallback` that tells the loss, before each step, how much training is done."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if hasattr(loss, "set_progress"):
                loss.set_progress(min(1.0, state.global_step / max(1, state.max_steps)))

    return Progress()


def _logits(outputs: Any) -> Tensor:
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if not isinstance(found, Tensor):
        raise ValueError("The model's outputs have no tensor 'logits'; say with `pick=` where they are.")
    return found


def _flat(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """All positions in one row: (samples, C) with (samples,), or both alike."""
    if labels.ndim == logits.ndim - 1 and logits.shape[-1] == 1:
        logits = logits.squeeze(-1)
    if labels.ndim == logits.ndim:
        return (logits, labels) if logits.ndim < 3 else (logits.flatten(0, -2), labels.flatten(0, -2))
    return logits.flatten(0, -2), labels.flatten()
