"""How does a loss of torch take its tensors, and what does it give back?

Mixins whose methods need torch alone, so that an exported loss carries them as they stand. Three
tasks are called as `loss(input, target)`:

    Multiclass    logits (N, C), (N, C, d1, ...) or (C,); class indices of any integer dtype,
    one-hot or soft labels Binary        logits of any shape; targets of the same shape in [0, 1]
    Regression    predictions of any shape; targets of the same shape

A loss hands in `_terms(x, target)`: for flat samples the value of each, and its own weight or
None. Samples that are ignored get the prediction 0 and the weight 0, so whatever stood there
reaches neither value nor gradient. Half
precision is computed, and returned, in float32: that is the island under autocast, since nothing
here multiplies matrices. No branch depends on data. What reads anything else takes tensors by
their names (`Named`) and gives one number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Convention(nn.Module):
    """What the three tasks share: the reductions."""

    reduction: str
    coupled: str = ""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        x, target, factor = self._prepared(input, target)
        if self.coupled:
            return self._terms(x, target)[0] if x.shape[0] else x.sum()
        value, share = self._terms(x, target)
        if factor is not None:
            value = value * factor
            share = factor if share is None else share * factor
        if self.reduction == "none":
            return self._shaped(value, input)
        if self.reduction == "sum":
            return value.sum()
        if share is None:
            return value.mean() if value.shape[0] else value.sum()
        total = share.sum()
        return value.sum() / (total + (total == 0))

    def sum_and_count(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """The summed loss and what the mean divides it by; both add up over parts of a batch."""
        if self.coupled:
            raise ValueError(f"There is no sum over samples. {self.coupled}")
        x, target, factor = self._prepared(input, target)
        value, share = self._terms(x, target)
        if factor is not None:
            value = value * factor
            share = factor if share is None else share * factor
        return value.sum(), (torch.ones_like(value) if share is None else share).sum()

    def _configure(self, reduction: str) -> None:
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(f"`reduction` must be none, mean or sum, but is {reduction!r}.")
        if self.coupled and reduction != "mean":
            raise ValueError(f"Only reduction='mean' has a meaning here. {self.coupled}")
        self.reduction = reduction

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """`half()` moves the buffers but leaves their precision: counts pass the largest half."""

        def careful(tensor: Tensor) -> Tensor:
            moved: Tensor = fn(tensor)
            narrow = moved.is_floating_point() and moved.dtype.itemsize < 4
            return tensor.to(moved.device) if narrow else moved

        return super()._apply(careful, recurse)  # type: ignore[no-untyped-call]

    def _prepared(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        raise NotImplementedError

    def _shaped(self, value: Tensor, input: Tensor) -> Tensor:
        raise NotImplementedError

    def _terms(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class Labelled(Convention):
    """What the two tasks with labels share."""

    weight: Tensor | None
    ignore_index: int | None
    label_smoothing: float

    def _configure_labels(
        self, weight: Tensor | None, ignore_index: int | None, label_smoothing: float
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"`0 <= label_smoothing <= 1` must hold, but it is {label_smoothing}.")
        if self.coupled and (ignore_index is not None or weight is not None):
            raise ValueError(f"Neither weight nor ignore_index has a meaning here. {self.coupled}")
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing


class Multiclass(Labelled):
    """One label out of C classes."""

    dense: bool = True  # whether `_terms` wants class indices as one-hot rows

    def _prepared(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (samples, C); target likewise, or (samples, 1) for indices; a factor a sample."""
        axis = min(input.ndim, 2) - 1
        indices = input.shape[:axis] + input.shape[axis + 1 :]
        soft = target.ndim == input.ndim
        if axis < 0 or target.shape != (input.shape if soft else indices):
            raise ValueError(
                f"Got input {tuple(input.shape)} with target {tuple(target.shape)}. Expected "
                f"logits (N, C), (N, C, d1, ...) or (C,), here with class indices {tuple(indices)} "
                f"or one-hot or soft labels {tuple(input.shape)}; nothing is broadcast."
            )
        if not input.is_floating_point() or (target.is_floating_point() and not soft):
            raise ValueError(
                f"Got input {input.dtype} with target {target.dtype}. Expected real logits, and "
                "class indices of an integer dtype (soft labels have the shape of the input)."
            )
        classes = input.shape[axis]
        weight = self.weight
        if weight is not None and weight.shape != (classes,):
            raise ValueError(f"`weight` must have shape ({classes},), but has {tuple(weight.shape)}.")
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        if input.ndim != 2:
            x = x.movedim(axis, -1).reshape(-1, classes)
        factor = None
        if soft:
            target = target.to(x.dtype)
            if input.ndim != 2:
                target = target.movedim(axis, -1).reshape(-1, classes)
            if weight is not None:
                factor = (target * weight.to(x.dtype)).sum(1)
        else:
            target = target.reshape(-1, 1).long()
            if self.ignore_index is not None:
                kept = target != self.ignore_index
                target = target.where(kept, 0)
                x = x.where(kept, 0.0)
                factor = kept.squeeze(1).to(x.dtype)
            if weight is not None:
                chosen = weight.to(x.dtype)[target.squeeze(1)]
                factor = chosen if factor is None else factor * chosen
            if self.dense or self.label_smoothing:
                target = torch.zeros_like(x, requires_grad=False).scatter(1, target, 1.0)
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / classes
        return x, target, factor

    def _shaped(self, value: Tensor, input: Tensor) -> Tensor:
        return value.reshape(input.shape[:1] + input.shape[2:] if input.ndim > 1 else ())


class Regression(Convention):
    """One number a sample."""

    def _prepared(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Prediction and target, (samples,) each; no factor."""
        if target.shape != input.shape or not input.is_floating_point():
            raise ValueError(
                f"Got input {input.dtype} {tuple(input.shape)} with target {tuple(target.shape)}. "
                "Expected a real input, and a target of the same shape; nothing is broadcast."
            )
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        return x.reshape(-1), target.reshape(-1).to(x.dtype), None

    def _shaped(self, value: Tensor, input: Tensor) -> Tensor:
        return value.reshape(input.shape)


class Binary(Labelled):
    """Yes or no, one logit a question."""

    def _prepared(self, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits and targets, (samples,) each, and a factor a sample."""
        if target.shape != input.shape or not input.is_floating_point():
            raise ValueError(
                f"Got input {input.dtype} {tuple(input.shape)} with target {tuple(target.shape)}. "
                "Expected real logits, and targets in [0, 1] of that shape; nothing is broadcast."
            )
        x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        x, target = x.reshape(-1), target.reshape(-1).to(x.dtype)
        factor = None
        if self.ignore_index is not None:
            kept = target != self.ignore_index
            target, x = target.where(kept, 0.0), x.where(kept, 0.0)
            factor = kept.to(x.dtype)
        if self.weight is not None:
            if self.weight.shape != (2,):
                raise ValueError(
                    "`weight` must be two numbers, of no and of yes, but has shape "
                    f"{tuple(self.weight.shape)}."
                )
            no, yes = self.weight.to(x.dtype).unbind()
            chosen = (1 - target) * no + target * yes
            factor = chosen if factor is None else factor * chosen
        if self.label_smoothing:
            target = (1 - self.label_smoothing) * target + self.label_smoothing / 2
        return x, target, factor

    def _shaped(self, value: Tensor, input: Tensor) -> Tensor:
        return value.reshape(input.shape)


class Named(nn.Module):
    """Tensors by their names, one number out."""

    inputs: dict[str, str]  # what a call takes, and over which axes: {"e": "n c", "same": "n m"}
    copies: dict[str, str]  # axis -> the axis that it is a copy of, and as long as
    about: dict[str, str]  # axis -> what is counted along it
    predictions: tuple[str, ...]
    masks: tuple[str, ...]
    there: dict[str, str]  # input -> the mask of what is there of it; nan and inf elsewhere count as 0

    def _prepared(self, *given: Tensor) -> list[Tensor]:
        """The inputs, in their order, all in the precision of the first; masks as booleans."""
        sizes: dict[str, tuple[int, str]] = {}
        for (name, axes), x in zip(self.inputs.items(), given, strict=True):
            if not isinstance(x, Tensor):
                raise ValueError(f"`{name}` must be a tensor, but is of type {type(x).__name__}.")
            if x.is_complex() or (name in self.predictions and not x.is_floating_point()):
                raise ValueError(f"`{name}` must hold real numbers of a float dtype, but is {x.dtype}.")
            shape, names = tuple(x.shape), axes.split()
            if len(names) != len(shape):
                told = ", ".join(f"{axis}: {self.about[axis]}" for axis in names if axis in self.about)
                raise ValueError(
                    f"`{name}` must have the axes ({', '.join(names)}), but has shape {shape}."
                    + f" They are {told}." * bool(told)
                )
            for axis, size in zip(names, shape, strict=True):
                known, where = sizes.setdefault(self.copies.get(axis, axis), (size, name))
                if size != known:
                    raise ValueError(
                        f"`{name}` has shape {shape}: its {axis} is {size}, but that of `{where}` is {known}."
                    )
        dtype = given[0].dtype
        if dtype in (torch.float16, torch.bfloat16) or not dtype.is_floating_point:
            dtype = torch.float32
        ready = {
            name: x.bool() if name in self.masks else x.to(dtype)
            for name, x in zip(self.inputs, given, strict=True)
        }
        for name, mask in self.there.items():
            over = self.inputs[mask].split()
            index = tuple(slice(None) if axis in over else None for axis in self.inputs[name].split())
            ready[name] = ready[name].where(ready[mask][index] | ready[name].isfinite(), 0.0)
        return list(ready.values())


def given(
    name: str, value: Tensor | None, x: Tensor, sizes: tuple[int, ...], default: float | None
) -> Tensor:
    """An input beside prediction and target; `default` everywhere, or the identity, if None."""
    if value is None:
        if default is None:
            return torch.eye(sizes[0], dtype=x.dtype, device=x.device)
        return x.new_full(sizes, default)
    if value.shape != sizes:
        raise ValueError(f"`{name}` must have shape {tuple(sizes)}, but has {tuple(value.shape)}.")
    return value.to(x.dtype)


def shown(value: object) -> str:
    """A setting on one line."""
    if isinstance(value, Tensor):
        return f"{value.item():g}" if value.ndim == 0 else f"tensor{tuple(value.shape)}"
    return repr(value)


def bounded(raw: Tensor, low: float, high: float) -> Tensor:
    """A number within [low, high] from any real number; what a learnable constant is kept as."""
    raw = raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw
    if high < float("inf"):
        return low + (high - low) * raw.sigmoid() if low > -float("inf") else high - raw.exp()
    return low + raw.exp() if low > -float("inf") else raw


def unbounded(value: float, low: float, high: float) -> Tensor:
    """The inverse of `bounded`; a value at an end of its range starts a thousandth inside."""
    number = torch.tensor(float(value))
    if high < float("inf"):
        if low > -float("inf"):
            return ((number - low) / (high - low)).clamp(0.001, 0.999).logit()
        return (high - number).clamp(min=0.001).log()
    return (number - low).clamp(min=0.001).log() if low > -float("inf") else number


__all__ = [
    "Binary",
    "Convention",
    "Labelled",
    "Multiclass",
    "Named",
    "Regression",
    "bounded",
    "given",
    "shown",
    "unbounded",
]
