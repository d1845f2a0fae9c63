"""How wrong are many models at once?

Errors over a leading run dimension R; lower is better. Classification takes logits and one-hot
targets (R, m, c), binary a logit and 0/1 (R, m), regression numbers (R, m). Each gives R errors.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from losssearch.execution.plan import MetricFn


def _class_errors(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Share of wrong samples of each class (R, c), and whether the class occurs."""
    if prediction.dim() == 2:
        target = torch.stack([1 - target, target], -1)
        wrong = (prediction > 0).float() != target[..., 1]
    else:
        wrong = prediction.argmax(-1) != target.argmax(-1)
    count = target.sum(1)
    missed = (wrong.unsqueeze(-1) * target).sum(1)
    lost = ~torch.isfinite(prediction).flatten(1).all(-1, keepdim=True)
    return torch.where(lost, torch.nan, missed / count.clamp_min(1)), count > 0


def error(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of wrongly classified samples, 1 - accuracy."""
    if prediction.dim() == 2:
        wrong = (prediction > 0).float() != target
    else:
        wrong = prediction.argmax(-1) != target.argmax(-1)
    return torch.where(torch.isfinite(prediction).flatten(1).all(-1), wrong.double().mean(1), torch.nan)


def balanced_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over the classes of their error; a class without samples does not count."""
    errors, present = _class_errors(prediction, target)
    return (errors * present).double().sum(-1) / present.sum(-1)


def worst_class_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Error of the class with the greatest error."""
    return _class_errors(prediction, target)[0].amax(-1).double()


def rmse(prediction: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared residual, in the target's unit."""
    return (prediction - target).double().square().mean(1).sqrt()


def mae(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute residual, in the target's unit."""
    return (prediction - target).double().abs().mean(1)


def median_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Median absolute residual, in the target's unit."""
    return (prediction - target).double().abs().median(1).values


ALL: Mapping[str, MetricFn] = {
    "error": error,
    "balanced_error": balanced_error,
    "worst_class_error": worst_class_error,
    "rmse": rmse,
    "mae": mae,
    "median_error": median_error,
}


def pick(*names: str) -> Mapping[str, MetricFn]:
    """The named errors, in order."""
    return {name: ALL[name] for name in names}
