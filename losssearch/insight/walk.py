"""Along which line of predictions is a loss looked at?

One sample walks from a wrong answer to the right one, through the raw prediction:

    multiclass   z, the true logit less the other nine, which stay equal and share what is left;
                 p_t = 1 / (1 + 9 exp(-z))
    binary       m, the margin: the logit of a positive, minus the logit of a negative;
                 p_t = 1 / (1 + exp(-m))
    regression   r, the residual: prediction less target, with the target at 0

Other tasks judge many numbers of a sample at once, or samples against each other: no single line tells
what such a loss does, and none is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from losssearch.errors import UsageError
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature
from losssearch.spaces import Space

CLASSES = 10
AXES = {"multiclass": ("n", "c"), "binary": ("n",), "regression": ("n",)}
FAR = {"multiclass": 30.0, "binary": 30.0, "regression": 100.0}  # the end of the operating range
SHOWN = {"multiclass": (-6.0, 10.0), "binary": (-6.0, 6.0), "regression": (-5.0, 5.0)}


@dataclass(frozen=True)
class Walk:
    """The line of one task.

    Args:
        task: "multiclass", "binary" or "regression".
        positive: Of a binary task: whether the sample's label is yes.
        progress: How much of the training is done, for losses that ask; in [0, 1].
        target: Of a regression: the value to predict.
    """

    task: str
    positive: bool = True
    progress: float = 0.0
    target: float = 0.0

    def place(self, x: float) -> str:
        """A position in words: the probability of the true answer, or the residual."""
        if self.task == "regression":
            return f"r = {x:.3g}"
        p = self.probability(x)
        if p < 0.5:
            return f"p = {p:.2g}"
        return f"p = {1 - float(f'{1 - p:.1g}'):.10g}" if p > 0.9 else f"p = {p:.2f}"

    def at_probability(self, p: float) -> float:
        """Where on the line the true answer has the probability p, 0 < p < 1."""
        return math.log(p) - math.log1p(-p) + math.log(self._others)

    def probability(self, x: float) -> float:
        """That of the true answer at x."""
        return 1 / (1 + self._others * math.exp(-x)) if x > -700 else 0.0

    @property
    def _others(self) -> int:
        return CLASSES - 1 if self.task == "multiclass" else 1

    def inputs(self, signature: Signature, x: Tensor) -> dict[str, Tensor]:
        """Batches of one sample, one a position.

        Args:
            signature: Of the loss.
            x: Positions, (positions,), float64.

        Returns:
            Name -> tensor of shape (positions, *axes), or (*axes) where all share it.
        """
        found = {name: self._neutral(spec, signature) for name, spec in signature.inputs.items()}
        prediction, target = names(signature)
        if self.task == "multiclass":
            others = x.new_zeros(len(x), 1, CLASSES - 1)
            found[prediction] = torch.cat([x[:, None, None], others], 2)
            found[target] = torch.eye(CLASSES, dtype=x.dtype)[:1]
        else:
            label = float(self.positive) if self.task == "binary" else self.target
            found[prediction] = self.target + (x if self.positive else -x)[:, None]
            found[target] = x.new_full((1,), label)
        return found

    def along(self, slope: Tensor) -> Tensor:
        """The slope along the walk from that in the prediction, (positions, 1) or (positions, 1, classes)."""
        first = slope.reshape(len(slope), -1)[:, 0]
        return first if self.positive else -first

    def _neutral(self, spec: Input, signature: Signature) -> Tensor:
        sizes = [CLASSES if signature.copies.get(a, a) == "c" else 1 for a in spec.axes]
        return neutral(spec, sizes, self.progress)


def neutral(spec: Input, sizes: Sequence[int], progress: float = 0.0) -> Tensor:
    """Equal classes, the identity, parameters at 0, a mask that lets all through."""
    shares = any(p.startswith("simplex over") for p in spec.properties)
    if shares and len(sizes) == 2:
        return torch.eye(sizes[0], dtype=torch.float64)
    if shares:
        value = 1.0 / sizes[-1]
    elif spec.role is Role.SCHEDULE:
        value = progress
    elif spec.role in (Role.PARAMETER, Role.NOISE):
        value = 0.0
    elif not spec.axes and spec.low >= 0 and spec.high <= 1:
        value = 0.5
    else:
        value = 1.0
    return torch.full(list(sizes), value, dtype=torch.float64)


def names(signature: Signature) -> tuple[str, str]:
    """Those of prediction and target."""
    target = next(n for n, i in signature.inputs.items() if i.role is Role.TARGET)
    return signature.predictions[0], target


def no_walk(program: Program, space: Space) -> str:
    """Why a loss has no one-dimensional profile, in one line; empty where it has one."""
    inputs = space.signature.inputs.values()
    found = [[i.axes for i in inputs if i.role is role] for role in (Role.PREDICTION, Role.TARGET)]
    if space.task not in AXES or found != [[AXES[space.task]]] * 2:
        return (
            f"No one-dimensional profile exists for the task {space.task!r}: "
            "its loss looks at more than one number of a sample."
        )
    prediction = space.signature.predictions[0]
    if prediction not in program.inputs:
        return f"No profile exists: the loss does not read the prediction {prediction!r}."
    return ""


def walk_of(program: Program, space: Space) -> Walk:
    """The line of a loss.

    Raises:
        UsageError: It has none.
    """
    if why := no_walk(program, space):
        raise UsageError(why)
    return Walk(space.task)


def assumed(program: Program, space: Space) -> Mapping[str, str]:
    """What the other inputs that a loss reads are along the walk, in words."""
    prediction, target = names(space.signature)
    words = {}
    for name, spec in space.signature.inputs.items():
        if name in program.inputs and name not in (prediction, target):
            value = Walk(space.task)._neutral(spec, space.signature)
            square = value.ndim == 2
            words[name] = "the identity" if square else f"{value.flatten()[0].item():g}"
    return words
