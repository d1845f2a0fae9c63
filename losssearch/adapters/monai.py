"""How is a segmentation loss called as those of MONAI are?

    loss = SegmentationLoss(find("dice", "segmentation")[1].program)
    loss(input, target)    # logits (N, C, H, ...); target alike, one-hot, or class indices (N, 1, H, ...)

Needs torch alone. The softmax is the loss's own: `softmax=True` of MONAI is always on, and with class
indices so is `to_onehot_y=True`. Of MONAI's losses DiceLoss and TverskyLoss with batch=False and the
background included compare; tests/adapters/test_monai.py has the exact relations.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from losssearch.errors import UsageError
from losssearch.execution.reference import evaluate
from losssearch.language.canonical import candidate_key
from losssearch.language.program import Program

GIVEN = frozenset({"logits", "target", "valid"})


class SegmentationLoss(nn.Module):
    """A program of the space "segmentation", over images of any number of dimensions.

    Args:
        program: What to compute.
        ignore_index: Class index whose positions take no part; None ignores nothing. One-hot targets
            ignore nothing, save positions that are 0 in every class: these have no label.
        prior: Class shares of the training set, (C,), for a loss that reads them; None: equal.

    A call gives one number, the loss's own mean, in float32 for half precision. A batch without
    images or labels gives 0.

    Raises:
        UsageError: The program reads what a call does not give.
        ValueError: In a call: shapes do not fit.
    """

    def __init__(
        self, program: Program, *, ignore_index: int | None = None, prior: Tensor | None = None
    ) -> None:
        super().__init__()
        reads = program.inputs
        if unknown := sorted(reads - GIVEN - {"prior", "progress"}):
            raise UsageError(
                f"The loss reads {', '.join(unknown)}; a segmentation loss reads "
                f"{', '.join(sorted(GIVEN))}, prior and progress."
            )
        self.program, self.formula, self.key = program, program.text, candidate_key(program)
        self.ignore_index = ignore_index
        self.register_buffer("prior", prior)
        self.register_buffer("progress", torch.tensor(0.0) if "progress" in reads else None)

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1]; not every loss asks."""
        if not 0 <= progress <= 1:
            raise UsageError(f"`0 <= progress <= 1` must hold, but got {progress}.")
        if self.progress is not None:
            cast(Tensor, self.progress).fill_(progress)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        one_hot = target.shape == input.shape
        if input.ndim < 3 or input.shape[1] < 2 or not (one_hot or _indices(input, target)):
            raise ValueError(
                f"Got input {tuple(input.shape)} with target {tuple(target.shape)}. Expected logits of at "
                "least two classes, (N, C, H, ...), with a target of the same shape, one-hot, or class "
                "indices (N, 1, H, ...); nothing is broadcast."
            )
        x = input.as_subclass(Tensor).flatten(2)  # MONAI's own tensors carry the history of transforms
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        labels = target.as_subclass(Tensor).flatten(2)
        if one_hot:
            hot = labels.to(x.dtype)
            valid = hot.any(1)
        else:
            kept = torch.ones_like(labels, dtype=torch.bool)
            if self.ignore_index is not None:
                kept = labels != self.ignore_index
            # Elsewhere than in the classes this raises; it does not forgive a wrong label.
            hot = torch.zeros_like(x, requires_grad=False).scatter(1, labels.long().where(kept, 0), 1.0)
            hot, valid = hot * kept, kept.squeeze(1)
        inputs = {"logits": x.where(valid[:, None], 0.0), "target": hot, "valid": valid}
        shares = x.new_full((x.shape[1],), 1 / x.shape[1]) if self.prior is None else self.prior
        inputs["prior"] = cast(Tensor, shares).to(x.dtype)
        inputs["progress"] = x.new_zeros(()) if self.progress is None else cast(Tensor, self.progress)
        return evaluate(self.program, inputs).reshape(())

    def extra_repr(self) -> str:
        return f"{self.formula}\n{self.program.constant_values}, ignore_index={self.ignore_index}"


def _indices(input: Tensor, target: Tensor) -> bool:
    return target.shape == (input.shape[0], 1, *input.shape[2:])
