"""What is one training, as plain data?

A `Run` says which loss is trained on which split, at which rate and for how long. A `Setting` says
with which model, optimiser and batch. A `Split` holds the arrays. A `RunResult` is the answer.
Needs no torch; costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from losssearch.outcomes import Outcome

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = NDArray[np.float32]
Stage = Literal["search", "audit"]
Precision = Literal["fp32", "tf32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

#: Maps the inputs of a space (leading run dimension R) to dL/dprediction, already multiplied by the
#: loss's scale.
GradientFn = Callable[[Mapping[str, "Tensor"]], "Tensor"]
#: Maps predictions (R, m, c) or (R, m) and targets of the same shape to R errors; lower is better.
MetricFn = Callable[["Tensor", "Tensor"], "Tensor"]


@dataclass(frozen=True)
class Run:
    """One training of one loss.

    Args:
        loss: Index into the list of gradients.
        split: Number of the data split; also seeds initial weights and batch order, whatever the
            loss.
        rate: Learning rate.
        decay: Weight decay (L2, on every parameter).
        epochs: Passes over the training data; None means the setting's own number.
        condition: Name of a condition of the proxy, several joined by "+".
        stage: "search" measures on validation data, "audit" on test data that no search touches.
    """

    loss: int
    split: int
    rate: float
    decay: float = 0.0
    epochs: int | None = None
    condition: str = "default"
    stage: Stage = "search"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Run:
        """The run written in a training job; keys that a run does not know are an error."""
        return cls(**data)


@dataclass(frozen=True)
class RunResult:
    """The answer to one run.

    Args:
        outcome: SCORED, DIVERGED, FAILED or INVALID.
        metric: The proxy's error (lower is better), or None when not scored.
        metrics: `metric` by its name and every guard; in an audit also "early_stopped" (test error
            at the epoch with the least validation error) and "valid" (the last validation error).
        curve: Pairs of epoch and error, on the data that `metric` comes from.
        seconds: Its share of the time that the call took.
        detail: What went wrong, for a person.
    """

    outcome: Outcome
    metric: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    curve: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for a process border."""
        return {
            "outcome": self.outcome.name,
            "metric": self.metric,
            "metrics": dict(self.metrics),
            "curve": [list(point) for point in self.curve],
            "seconds": self.seconds,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Split:
    """Arrays of one split.

    Args:
        seed: Seeds initial weights and batch order.
        train, valid, test: Pairs of features (samples, ...) and targets: one-hot (samples,
            classes), 0/1 (samples,) or real (samples,). `test` is None outside an audit.
        provided: Further inputs of the space that the training data fix: `prior`, `count`, ...
    """

    seed: int
    train: tuple[Floats, Floats]
    valid: tuple[Floats, Floats]
    test: tuple[Floats, Floats] | None = None
    provided: Mapping[str, Floats] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron with ReLU, trained on the fast path.

    Args:
        hidden: Width of each hidden layer; () is a linear model.
        init: "default" is that of `torch.nn.Linear`; "he" is normal with variance 2 / fan-in and
            zero bias.
    """

    hidden: tuple[int, ...] = (64,)
    init: Literal["default", "he"] = "default"


BETAS = (0.9, 0.999)  # Adam's usual ones


@dataclass(frozen=True)
class Setting:
    """Model, optimiser and budget of a proxy under one condition.

    Args:
        model: An `MLP`, or a function without arguments that makes a `torch.nn.Module`.
        optimiser: "sgd" (with momentum) or "adam".
        momentum: Of SGD.
        betas: Of Adam in the structured trainer; in the population trainer it has the usual ones.
        batch: Samples a step; the incomplete last batch of an epoch is left out.
        epochs: Passes over the training data.
        evaluate_every: Epochs between two points of the curve.
        rates: Learning rates worth trying, best first; they serve every loss, since gradients are
            scaled.
        decays: Weight decays worth trying; a search's rungs use the first.
        precision: Of the factors of products, see `products.py`.
    """

    model: MLP | Callable[[], nn.Module] = MLP()
    optimiser: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.9
    betas: tuple[float, float] = BETAS
    batch: int = 128
    epochs: int = 30
    evaluate_every: int = 5
    rates: tuple[float, ...] = (0.1,)
    decays: tuple[float, ...] = (0.0,)
    precision: Precision = "fp32"


class Trainable(Protocol):
    """What the population trainer needs of a proxy."""

    @property
    def prediction(self) -> str:
        """Name of the predicted input: "logits", "logit" or "pred"."""

    @property
    def classes(self) -> int | None:
        """Size of the class axis, or None where the prediction is one number a sample."""

    @property
    def metric(self) -> str:
        """Name of the error."""

    @property
    def metric_functions(self) -> Mapping[str, MetricFn]:
        """The error by its name, and the guards."""

    def setting(self, condition: str) -> Setting:
        """Model, optimiser and budget under `condition`."""

    def split(self, seed: int, condition: str, stage: Stage) -> Split:
        """Data of split number `seed`."""


Runs = Sequence[Run]
