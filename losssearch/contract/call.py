"""Can it be called like a loss of torch.nn, with every kind of target?"""

from __future__ import annotations

import inspect
import re

import torch
from torch import Tensor, nn

from losssearch.contract.case import Broken, Case, NotApplicable, Subject, finite, same

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def call(case: Case) -> str:
    """loss(input, target) gives one finite number that depends on both."""
    x, target = case.batch(8)
    value = case.loss(x, target)
    if not isinstance(value, Tensor) or value.ndim != 0:
        raise Broken("loss(input, target) must give a tensor of shape ().")
    finite(value, "loss(input, target)")
    other_x, other_target = case.batch(8, seed=1)
    if case.task != "regression":
        other_target = (target + 1) % (case.classes if case.task == "multiclass" else 2)
    if torch.equal(case.loss(other_x, target), value):
        raise Broken("Another input gives the same value.")
    if torch.equal(case.loss(x, other_target), value):
        raise Broken("Another target gives the same value.")
    return f"loss(input, target) = {value.item():.4g}."


def constructor(case: Case) -> str:
    """Arguments are typed and keyword-only, as builders from configuration files want them."""
    for parameter in case.signature.parameters.values():
        if parameter.kind not in (parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD):
            raise Broken(f"`{parameter.name}` is not keyword-only.")
        if parameter.annotation is inspect.Parameter.empty:
            raise Broken(f"`{parameter.name}` has no type.")
    return f"{len(case.signature.parameters)} typed keywords."


def extra_repr(case: Subject) -> str:
    """print(loss) shows the formula, the constants and the id."""
    text = case.loss.extra_repr()
    formula = getattr(case.loss, "formula", None)
    if isinstance(formula, str):
        if formula not in text:
            raise Broken("extra_repr() does not show the formula of the loss.")
    elif "formula" not in text:
        raise Broken("extra_repr() shows no formula.")
    for name, value in [*case.loss.named_parameters(), *case.loss.named_buffers()]:
        if value.ndim == 0 and name not in text:
            raise Broken(f"extra_repr() does not show the constant `{name}`.")
    for name in ("id", "key"):
        key = getattr(case.loss, name, None)
        if isinstance(key, str) and key not in text and key[:8] not in text:
            raise Broken(f"extra_repr() does not show the {name} of the loss.")
    return ", ".join(text.splitlines())


def integer_targets(case: Case) -> str:
    """Class indices of every integer dtype mean the same."""
    if case.task == "regression":
        raise NotApplicable("A regression target is a real number.")
    x, target = case.batch(8)
    wanted = case.loss(x, target)
    dtypes = (*INTEGERS, torch.bool) if case.task == "binary" else INTEGERS
    for dtype in dtypes:
        same(_or_broken(case.loss, x, target.to(dtype), str(dtype)), wanted, str(dtype))
    return f"{len(dtypes)} dtypes give the same value."


def one_hot_targets(case: Case) -> str:
    """A one-hot target equals its class index; one of integers is refused or the same."""
    if case.task != "multiclass":
        raise NotApplicable("There are no class indices.")
    x, target = case.batch(8)
    wanted = case.loss(x, target)
    one_hot = nn.functional.one_hot(target, case.classes)
    same(case.loss(x, one_hot.to(x.dtype)), wanted, "float one-hot")
    try:
        value = case.loss(x, one_hot)
    except Exception:
        return "Float one-hot equals the index; integer one-hot is refused."
    same(value, wanted, "integer one-hot")
    return "Float and integer one-hot equal the index."


def soft_targets(case: Case) -> str:
    """Soft labels give a finite value that depends on more than their largest entry."""
    if case.task == "regression":
        raise NotApplicable("A regression target is no label.")
    x, _ = case.batch(8)
    soft = case.soft(8)
    if case.task == "binary":
        hard = (soft > 0.5).to(soft.dtype)
    else:
        hard = nn.functional.one_hot(soft.argmax(1), case.classes).to(soft.dtype)
    value = case.loss(x, soft)
    finite(value, "The value on soft labels")
    if torch.equal(value, case.loss(x, (soft + hard) / 2)):
        raise Broken("Sharper labels of the same class give the same value.")
    return "Soft labels work."


def dense_targets(case: Case) -> str:
    """(N, C, d1, d2) with (N, d1, d2) equals its flattened batch; so does (N, d1, d2) alone."""
    x, target = case.batch(2, 3, 4)
    multiclass = case.task == "multiclass"
    shape = "(N, C, d1, d2)" if multiclass else "(N, d1, d2)"
    flat = x.movedim(1, -1).flatten(0, -2) if multiclass else x.flatten()
    wanted = case.loss(flat, target.flatten())
    same(case.loss(x, target), wanted, f"{shape} against its flattened batch")
    return f"{shape} equals its flattened batch."


def unbatched(case: Case) -> str:
    """One sample without a batch axis equals a batch of one."""
    x, target = case.batch(1)
    same(case.loss(x[0], target[0]), case.loss(x, target), "One sample alone against a batch of one")
    return "One sample alone equals a batch of one."


def no_broadcasting(case: Case) -> str:
    """A target of a wrong shape raises; it is never stretched."""
    x, target = case.batch(6)
    if case.task == "multiclass":
        soft = case.soft(6)
        attempts = [
            (f"(6, {case.classes}) with (6, 1)", x, target[:, None]),
            (f"(6, {case.classes}) with (1,)", x, target[:1]),
            (f"(6, {case.classes}) with (5,)", x, target[:5]),
            (f"(6, {case.classes}) with soft (1, {case.classes})", x, soft[:1]),
            (f"(6, {case.classes}) with soft (6, 1)", x, soft[:, :1]),
        ]
    else:
        attempts = [
            ("(6, 1) with (6,)", x[:, None], target),
            ("(6,) with (6, 1)", x, target[:, None]),
            ("(6,) with (1,)", x, target[:1]),
            ("(6,) with ()", x, target[0]),
        ]
    for shapes, prediction, goal in attempts:
        try:
            case.loss(prediction, goal)
        except Exception:
            continue
        raise Broken(f"Input {shapes} gave a value instead of an error.")
    return f"{len(attempts)} wrong shapes raise."


def _or_broken(loss: nn.Module, x: Tensor, target: Tensor, what: str) -> Tensor:
    try:
        value: Tensor = loss(x, target)
    except Exception as error:
        raise Broken(f"{what}: {type(error).__name__}: {first_line(error)}") from error
    return value


def first_line(error: BaseException, limit: int = 160) -> str:
    """What went wrong, in one line: of a chain of errors, what the first one said."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:limit]
