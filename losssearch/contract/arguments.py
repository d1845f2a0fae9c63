"""Do reduction, weight, ignore_index and label_smoothing mean what torch's users expect?

An ignored sample takes no part: not in the value, not in the gradient, not in the denominator.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from losssearch.contract.case import Broken, Case, NotApplicable, finite, same, value_and_gradient


def reduction(case: Case) -> str:
    """none, mean and sum agree; mean is the default; another word raises."""
    case.needs("reduction")
    x, target = case.batch(6)
    mean, total, each = (case.build(reduction=r)(x, target) for r in ("mean", "sum", "none"))
    same(case.build()(x, target), mean, "Default against reduction='mean'")
    if each.shape != (6,):
        raise Broken(f"reduction='none' has shape {tuple(each.shape)}, expected (6,).")
    same(each.sum(), total, "Sum of reduction='none' against reduction='sum'")
    same(each.mean(), mean, "Mean of reduction='none' against reduction='mean'")
    try:
        case.build(reduction="average")(x, target)
    except Exception:
        return "none, mean (default) and sum agree."
    raise Broken("reduction='average' raises no error.")


def weight(case: Case) -> str:
    """weight is a buffer, scales the samples of a class and changes what it should."""
    if not case.accepts("weight") and case.task != "multiclass":
        raise NotApplicable("The target is no class index.")
    case.needs("weight")
    weights = case.weights()
    if "weight" not in dict(case.build(weight=weights).named_buffers()):
        raise Broken("`weight` is not a buffer, so .to() and state_dict() miss it.")
    x, target = case.batch(6)
    plain = case.build(reduction="none")(x, target)
    got = case.build(reduction="none", weight=weights)(x, target)
    scale = weights[target.long()] if len(weights) > 1 else weights
    same(got, plain * scale, "reduction='none' with weight")
    ones = case.build(weight=torch.ones_like(weights))(x, target)
    same(ones, case.build()(x, target), "weight of ones against no weight")
    return "A buffer that scales the samples of its class."


def ignore_index(case: Case) -> str:
    """Ignored samples leave value and gradient alone, whatever the ignored number is."""
    _has_ignore_index(case)
    x, target = case.batch(8)
    integer = torch.long if case.task == "multiclass" else target.dtype
    for ignored in (-100, 255) if case.task != "multiclass" else (-100, 255, 1):
        loss = case.build(ignore_index=ignored)
        marked = target.to(integer).clone()
        marked[::3] = ignored
        keep = marked != ignored
        value, slope = value_and_gradient(loss, x, marked)
        same(value, loss(x[keep], marked[keep]), f"ignore_index={ignored} against without them")
        if slope[~keep].abs().max() != 0:
            raise Broken(f"ignore_index={ignored}: ignored samples have a gradient.")
        if ignored == 255:
            same(loss(x, marked.byte()), value, "ignore_index=255 in a uint8 target")
        moved = x + 100 * (~keep).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))
        same(loss(moved, marked), value, f"ignore_index={ignored}, other ignored inputs")
    return "Ignored samples take no part."


def all_ignored(case: Case) -> str:
    """A batch of ignored samples gives 0 with a gradient of 0, not nan."""
    _has_ignore_index(case)
    x, target = case.batch(4)
    for how in ("mean", "sum"):
        loss = case.build(ignore_index=-100, reduction=how)
        value, slope = value_and_gradient(loss, x, torch.full_like(target, -100))
        finite(value, f"reduction={how!r}: the value of an ignored batch")
        same(value, torch.zeros(()), f"reduction={how!r}: the value of an ignored batch")
        same(slope, torch.zeros_like(x), f"reduction={how!r}: the gradient of an ignored batch")
    return "Gives 0."


def label_smoothing(case: Case) -> str:
    """Smoothing by s is the soft label (1 - s) target + s / classes."""
    if not case.accepts("label_smoothing"):
        raise NotApplicable("The loss has no label_smoothing.")
    x, target = case.batch(6)
    same(case.build(label_smoothing=0.0)(x, target), case.build()(x, target), "label_smoothing=0")
    s = 0.2
    got = case.build(label_smoothing=s)(x, target)
    finite(got, f"The value with label_smoothing={s}")
    if not case.takes_soft:
        raise NotApplicable("The loss takes no soft labels, which smoothing is held against.")
    if case.task == "multiclass":
        hard = nn.functional.one_hot(target, case.classes).to(x.dtype)
        soft = (1 - s) * hard + s / case.classes
    else:
        soft = (1 - s) * target + s / 2
    same(got, case.build()(x, soft), f"label_smoothing={s} against the soft label")
    return "Equals the soft label."


def empty_batch(case: Case) -> str:
    """No samples give 0 and a gradient without samples."""
    x, target = case.batch(4)
    chosen = ("mean", "sum", "none") if case.accepts("reduction") else (None,)
    for how in chosen:
        loss = case.build() if how is None else case.build(reduction=how)
        value, slope = value_and_gradient(loss, x[:0], target[:0])
        if how == "none":
            if value.shape[:1] != (0,):
                raise Broken(f"reduction='none' has shape {tuple(value.shape)} on an empty batch.")
        else:
            said = f"reduction={how!r}: the" if how else "The"
            same(value, torch.zeros(()), f"{said} value of an empty batch")
        if slope.shape != x[:0].shape:
            raise Broken("The gradient of an empty batch has another shape than the input.")
    return "Gives 0."


def batch_of_one(case: Case) -> str:
    """One sample has a finite value and gradient."""
    x, target = case.batch(1)
    value, slope = value_and_gradient(case.loss, x, target)
    finite(value, "The value of a batch of one")
    finite(slope, "The gradient of a batch of one")
    return f"Gives {value.item():.4g}."


def sum_and_count(case: Case) -> str:
    """sum / count is the mean, of the whole batch and of its accumulated parts."""
    method = getattr(case.loss, "sum_and_count", None)
    if not callable(method):
        raise Broken("There is no method `sum_and_count(input, target)`.")
    variants: list[dict[str, object]] = [{}]
    if case.accepts("weight"):
        variants.append({"weight": case.weights()})
    if case.accepts("ignore_index"):
        variants.append({"ignore_index": 1})
    x, target = case.batch(8)
    for keywords in variants:
        loss = case.build(**keywords)
        said = f" with {next(iter(keywords))}" if keywords else ""
        total, count = _sum_and_count(loss, x, target)
        same(total / count, loss(x, target), f"sum / count{said} against the mean")
        parts = [_sum_and_count(loss, x[s], target[s]) for s in (slice(0, 3), slice(3, 8))]
        same(sum(p[0] for p in parts) + torch.zeros(()), total, f"Sum over parts{said}")
        same(sum(p[1] for p in parts) + torch.zeros(()), count, f"Count over parts{said}")
    if not _sum_and_count(case.loss, x.requires_grad_(), target)[0].requires_grad:
        raise Broken("The sum of sum_and_count has no gradient.")
    return "sum / count is the mean, also over parts."


def _sum_and_count(loss: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    total, count = loss.sum_and_count(x, target)  # type: ignore[operator]
    return torch.as_tensor(total), torch.as_tensor(count)


def _has_ignore_index(case: Case) -> None:
    if not case.accepts("ignore_index") and case.task != "multiclass":
        raise NotApplicable("The target is no class index.")
    case.needs("ignore_index")
