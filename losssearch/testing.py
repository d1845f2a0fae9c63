"""Does a loss keep the contract that people who use torch losses rely on?

    from losssearch.testing import check_loss
    print(check_loss(MyLoss))                       # a class, a factory or a module
    print(check_named("torch.nn:HuberLoss", task="regression", only=["gradcheck"]).as_text())

Works on any `torch.nn.Module` called as `loss(input, target)`, found by this project or not, and on
any that is called with named tensors and says which, by the attributes of an exported file:

    inputs = {"score": "n s", "valid": "n s"}       # their axes
    copies, masks = {"k": "s"}, ("valid",)          # axes as long as others; yes or no

Each row of the report is one line of the contract: passed, failed, or not applicable, with one sentence.
A check costs milliseconds, save `compiled` and `onnx`, five and two seconds in a fresh process, and the
`gradcheck` of many inputs, up to two seconds.

A loss may excuse itself from the lines in `EXCUSABLE`, by an attribute that says why:

    not_applicable = {"gradgradcheck": "The hinge has a kink at 1."}
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from losssearch.contract import arguments, call, compilers, named_calls, numbers
from losssearch.contract.by_name import classical, imported
from losssearch.contract.call import first_line
from losssearch.contract.case import Broken, NotApplicable, Subject, make_case, make_subject
from losssearch.contract.named_case import is_named, make_named
from losssearch.contract.report import LossReport, Row, Verdict
from losssearch.contract.tasks import agreed, assume_multiclass
from losssearch.errors import UsageError

Check = Callable[[Any], str]

CHECKS: dict[str, Check] = {
    function.__name__: function
    for function in (
        call.call,
        call.constructor,
        call.extra_repr,
        call.integer_targets,
        call.one_hot_targets,
        call.soft_targets,
        call.dense_targets,
        call.unbatched,
        call.no_broadcasting,
        arguments.reduction,
        arguments.weight,
        arguments.ignore_index,
        arguments.all_ignored,
        arguments.label_smoothing,
        arguments.empty_batch,
        arguments.batch_of_one,
        arguments.sum_and_count,
        numbers.saturation,
        numbers.dtypes,
        numbers.autocast,
        numbers.gradcheck,
        numbers.gradgradcheck,
        compilers.compiled,
        compilers.exported,
        compilers.per_sample_gradients,
        compilers.deepcopied,
        compilers.pickled,
        compilers.state_dict,
        compilers.onnx,
    )
}
"""Every line of the contract, in the order of the report; the docstring of each is the line."""

NAMED_CHECKS: dict[str, Check] = {
    function.__name__: function
    for function in (
        named_calls.call,
        call.extra_repr,
        named_calls.no_broadcasting,
        named_calls.empty_batch,
        named_calls.batch_of_one,
        named_calls.saturation,
        named_calls.dtypes,
        named_calls.autocast,
        named_calls.gradcheck,
        named_calls.gradgradcheck,
        named_calls.compiled,
        named_calls.exported,
        compilers.deepcopied,
        compilers.pickled,
        named_calls.state_dict,
    )
}
"""Those of a loss that is called with named tensors."""

EXCUSABLE = frozenset(
    # Kinks and detached factors;
    {"gradcheck", "gradgradcheck"}
    # losses that couple samples have no value for each of them.
    | {"reduction", "weight", "unbatched", "sum_and_count", "dense_targets"}
)


GROUPS: dict[str, tuple[str, ...]] = {
    "calls and targets": (
        "call", "constructor", "extra_repr", "integer_targets", "one_hot_targets", "soft_targets",
        "dense_targets", "unbatched", "no_broadcasting",
    ),
    "arguments": (
        "reduction", "weight", "ignore_index", "all_ignored", "label_smoothing", "empty_batch",
        "batch_of_one", "sum_and_count",
    ),
    "numbers": ("saturation", "dtypes", "autocast"),
    "gradients": ("gradcheck", "gradgradcheck"),
    "compilers": (
        "compiled", "exported", "per_sample_gradients", "deepcopied", "pickled", "state_dict", "onnx",
    ),
}  # fmt: skip
"""The lines of the contract by what they are about."""


def check_loss(
    loss: nn.Module | Callable[..., nn.Module],
    task: str | None = None,
    *,
    classes: int = 5,
    only: Collection[str] | None = None,
    backend: str = "aot_eager",
) -> LossReport:
    """Checks a loss against every line of the contract.

    Args:
        loss: A class or factory, which is called with keywords such as `reduction`; or a module,
            which is built again from its class and its attributes that are named like arguments.
        task: "multiclass" (logits and classes), "binary" (logits and 0 or 1) or "regression"; of a loss
            that is called with named tensors the shipped space that knows them. None takes the `task`
            attribute of the loss; without one "multiclass", if it takes logits and class indices.
        classes: Number of classes of a multiclass task, at least 2.
        only: Names of the checks to run, out of `CHECKS`; None runs all that concern such a loss.
        backend: Backend of torch.compile; the default needs no C compiler, "inductor" does.

    Returns:
        One row a check, in the order of `CHECKS`.

    Raises:
        UsageError: `task` or `only` is unknown, the loss is of another task, or cannot be built.
    """
    subject = make_subject(loss)
    own = getattr(subject.loss, "task", None)
    own = own if isinstance(own, str) else None
    denies = own if is_named(subject.loss) else None  # what takes input and target may serve several
    said = agreed(type(subject.loss).__name__, task, denies) or own
    return _held(subject, said, only, classes, backend)


def _held(
    subject: Subject,
    task: str | None,
    only: Collection[str] | None,
    classes: int = 5,
    backend: str = "aot_eager",
) -> LossReport:
    if classes < 2:
        raise UsageError(f"`classes >= 2` must hold, but got {classes=}.")
    if unknown := [name for name in only or () if name not in CHECKS]:
        raise UsageError(f"No check is called {unknown[0]!r}. There are: {', '.join(CHECKS)}.")
    case: Subject
    if is_named(subject.loss):
        said = task or "named tensors"
        case, checks = make_named(subject, said, backend), NAMED_CHECKS
    else:
        said = task or "multiclass"
        case, checks = make_case(subject, said, classes, backend), CHECKS
        if task is None:
            assume_multiclass(case)
    if wrong := sorted(set(case.excused) - EXCUSABLE):
        raise UsageError(
            f"`not_applicable` of the loss names {wrong[0]!r}, from which no loss is excused. "
            f"It may name: {', '.join(sorted(EXCUSABLE))}."
        )
    names = checks if only is None else [name for name in CHECKS if name in only]
    rows = tuple(_run(name, checks.get(name, _no_line), case) for name in names)
    return LossReport(type(case.loss).__name__, said, rows, GROUPS)


def _run(name: str, check: Check, case: Subject) -> Row:
    if name in case.excused:
        return Row(name, Verdict.NOT_APPLICABLE, case.excused[name])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the loss is judged by what it computes
        try:
            return Row(name, Verdict.PASSED, check(case))
        except NotApplicable as reason:
            return Row(name, Verdict.NOT_APPLICABLE, str(reason))
        except Broken as reason:
            return Row(name, Verdict.FAILED, str(reason))
        except Exception as error:  # whatever the loss raises is the finding
            return Row(name, Verdict.FAILED, f"{type(error).__name__}: {first_line(error)}")


def _no_line(case: Subject) -> str:
    raise NotApplicable("The loss is called with named tensors.")


def lines_of(text: str) -> list[str]:
    """Names of checks, from names of checks and of `GROUPS` between commas.

    Raises:
        UsageError: A name is neither.
    """
    found: list[str] = []
    for word in text.split(","):
        name = word.strip()
        if name not in GROUPS and name not in CHECKS:
            raise UsageError(
                f"No check is called {name!r}. There are the groups {', '.join(GROUPS)}, and the lines "
                f"{', '.join(CHECKS)}."
            )
        found += GROUPS.get(name, (name,))
    return found


def check_named(
    reference: str,
    class_name: str | None = None,
    *,
    task: str | None = None,
    only: Collection[str] | None = None,
) -> LossReport:
    """Checks the loss that a reference names.

    Args:
        reference: The path of a Python file, which is run; `package.module:Class`, which is imported;
            or a classical loss, such as `focal` or `binary/focal`.
        class_name: Of a file: as in `check_file`.
        task: As in `check_loss`; None takes that of a classical loss.
        only: As in `check_loss`.

    Raises:
        UsageError: There is no such loss, or it is of another task.
    """
    if reference.endswith(".py") or Path(reference).is_file():
        return check_file(reference, class_name, task=task, only=only)
    if class_name is not None:
        raise UsageError(f"{reference}: only in a Python file a class can be chosen.")
    if ":" in reference:
        loss = imported(reference)
        try:
            loss()
        except TypeError as error:
            raise UsageError(f"{reference} needs arguments: {first_line(error)}") from error
        return check_loss(loss, task, only=only)
    build, kind = classical(reference)
    task = agreed(reference, task, kind)  # of a user's space it may be any word
    return replace(_held(make_subject(build), task, only), loss=reference)


def check_file(
    path: str | Path,
    class_name: str | None = None,
    *,
    task: str | None = None,
    only: Collection[str] | None = None,
    backend: str = "aot_eager",
) -> LossReport:
    """Checks the loss of a Python file, such as an exported one. Runs the file.

    Args:
        path: The file.
        class_name: The class to check; None takes the only loss in the file.
        task: As in `check_loss`.
        only: As in `check_loss`.
        backend: As in `check_loss`.

    Raises:
        UsageError: The file cannot be read or run, or has no such class, or several.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"{path}: no such file.")
    name = f"_losssearch_checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path}: not a Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pickle looks the class up there
    try:
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise UsageError(
                f"{path}: running it raised {type(error).__name__}: {first_line(error)}"
            ) from error
        chosen = _choose(path, vars(module), name, class_name)
        try:
            chosen()
        except TypeError as error:
            raise UsageError(f"{path}: {chosen.__name__}() needs arguments: {first_line(error)}") from error
        return check_loss(chosen, task, only=only, backend=backend)
    finally:
        sys.modules.pop(name, None)


def _choose(path: Path, names: dict[str, Any], module: str, class_name: str | None) -> type[nn.Module]:
    losses = {
        name: value
        for name, value in names.items()
        if inspect.isclass(value)
        and issubclass(value, nn.Module)
        and value.__module__ == module
        and not name.startswith("_")
    }
    if class_name is not None:
        if class_name in losses:
            return losses[class_name]
        raise UsageError(
            f"{path}: no loss class is called {class_name!r}. There are: {', '.join(losses) or 'none'}."
        )
    if len(losses) == 1:
        return next(iter(losses.values()))
    if losses:
        raise UsageError(f"{path}: several classes: {', '.join(losses)}. Name one.")
    raise UsageError(f"{path}: no class that derives from torch.nn.Module.")


__all__ = [
    "CHECKS",
    "EXCUSABLE",
    "GROUPS",
    "NAMED_CHECKS",
    "LossReport",
    "Row",
    "Verdict",
    "check_file",
    "check_loss",
    "check_named",
    "lines_of",
]
