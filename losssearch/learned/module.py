"""How is a loss network called? As any loss of torch: `loss(input, target)`.

How input and target are taken is in `execution/conventions`. The weights are buffers, in the state dict but
no parameters: a learned loss is finished when it is used. Classes here need torch, the conventions
and `network` alone, so that an exported file carries them as they stand.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from losssearch.execution.conventions import Convention, Multiclass, Regression
from losssearch.learned.network import multiclass_value, regression_value, sample_weight


class Holder(Convention):
    """Keeps the arrays of a network as buffers, and how much of the training is done."""

    key: str = ""
    formula: str = ""
    progress: Tensor

    def _hold(self, network: Mapping[str, Tensor]) -> None:
        self._names = tuple(network)
        for name, value in network.items():
            self.register_buffer(name.replace(".", "_"), value.detach().clone())
        self.register_buffer("progress", torch.tensor(0.0))

    @property
    def network(self) -> dict[str, Tensor]:
        """The arrays by name."""
        return {name: getattr(self, name.replace(".", "_")) for name in self._names}

    def set_progress(self, progress: float) -> None:
        """Say how much of the training is done, in [0, 1]; a loss network may look at it."""
        if not 0 <= progress <= 1:
            raise ValueError(f"`0 <= progress <= 1` must hold, but got {progress}.")
        self.progress.fill_(progress)

    def extra_repr(self) -> str:
        count = sum(value.numel() for value in self.network.values())
        stage = f"progress={self.progress.item():g}, reduction={self.reduction!r}"
        return f"{self.formula}\n{count} learned numbers, {stage}\nid={self.key}"


class NetworkMulticlass(Holder, Multiclass):
    """A loss network on logits.

    Args:
        network: Its arrays.
        reduction: "mean", "sum" or "none".
        weight: One number a class, (C,); the mean divides by the summed weights.
        ignore_index: Target that takes no part; None ignores nothing. Soft labels always count.
        label_smoothing: s replaces the target by (1 - s) target + s / C.
    """

    task = "multiclass"
    formula = "mean(CE * softplus(net(log_p, p, target, CE, progress)), 'n')"

    def __init__(
        self,
        *,
        network: Mapping[str, Tensor],
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self._hold(network)
        self._configure(reduction)
        self._configure_labels(weight, ignore_index, label_smoothing)

    def _terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):  # its matrices are no place for half precision
            return multiclass_value(self.network, x, target, self.progress), None


class NetworkRegression(Holder, Regression):
    """A loss network on predictions.

    Args:
        network: Its arrays.
        reduction: "mean", "sum" or "none".
    """

    task = "regression"
    formula = "mean(r**2 * softplus(net(pred, target, r, progress)), 'n')"

    def __init__(self, *, network: Mapping[str, Tensor], reduction: str = "mean") -> None:
        super().__init__()
        self._hold(network)
        self._configure(reduction)

    def _terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(x.device.type, enabled=False):  # its matrices are no place for half precision
            return regression_value(self.network, x, target, self.progress), None


class WeightedMulticlass(Holder, Multiclass):
    """Cross entropy with learned sample weights, each sample by itself.

    The training that learned the weights divided by their sum over the batch; a finished loss does not,
    so that no sample's value depends on its neighbours. That is a matter of the step size.

    Args:
        network: Arrays of the weight network.
        count: Training samples of each class, (C,), for a network that reads them; None means equal.
        reduction: "mean", "sum" or "none".
        weight: One number a class, (C,), besides the learned weights.
        ignore_index: Target that takes no part; None ignores nothing. Soft labels always count.
        label_smoothing: s replaces the target by (1 - s) target + s / C.
    """

    task = "multiclass"
    formula = "mean(CE * sigmoid(net(detach(CE), log(count / mean(count)))), 'n')"
    not_applicable = {  # noqa: RUF012
        "gradcheck": "The weight of a sample has no gradient.",
        "gradgradcheck": "The weight of a sample has no gradient.",
    }
    count: Tensor | None

    def __init__(
        self,
        *,
        network: Mapping[str, Tensor],
        count: Tensor | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self._hold(network)
        self.register_buffer("count", None if count is None else count.detach().clone().float())
        self._configure(reduction)
        self._configure_labels(weight, ignore_index, label_smoothing)

    def _terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        cross = -(target * torch.log_softmax(x, -1)).sum(-1)
        rarity = torch.zeros_like(cross)
        if self.count is not None:
            if self.count.shape != (x.shape[1],):
                raise ValueError(
                    f"`count` must have shape ({x.shape[1]},), but has {tuple(self.count.shape)}."
                )
            rarity = (target * (self.count / self.count.mean()).log().to(x.dtype)).sum(-1)
        with torch.autocast(x.device.type, enabled=False):  # its matrices are no place for half precision
            share = sample_weight(self.network, cross, rarity)
        return cross * share, None
