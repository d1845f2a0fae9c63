"""What must a module know of a program? Its value a sample, its weights, and what it reads.

The canonical program is split into one value and one weight a sample, in one instruction list
that keeps the names that people gave to constants. Ranges of predictions and provided inputs are
opened, so that a guard is left out only where it is idle for *every* input. Module and exporter
both start from here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from losssearch.errors import UsageError
from losssearch.execution.labels import ByIndex, by_index
from losssearch.language.canonical import canonical
from losssearch.language.heads import Coupled, split
from losssearch.language.program import Program
from losssearch.language.signature import Input, Role, Signature
from losssearch.language.simplify import Simplifier
from losssearch.language.term import CONSTANT

TASKS = ("multiclass", "binary", "regression")
DETACHED = "A factor is detached, so the gradient is not that of the value."


class Default(Enum):
    """What a provided input is until someone gives it."""

    UNIFORM = "equal shares that sum to 1"
    IDENTITY = "the identity"
    ONE = "1"
    HALF = "0.5"
    START = "the start of training; move it with set_progress"


@dataclass(frozen=True)
class Provided:
    """An input beside prediction and target; `axes` are those of one value of it."""

    name: str
    axes: tuple[str, ...]
    default: Default
    low: float
    high: float
    simplex: str = ""

    @property
    def is_progress(self) -> bool:
        return self.default is Default.START


@dataclass(frozen=True)
class Parts:
    """A loss as a module runs it.

    Args:
        program: Outputs are the value and, where the loss weighs its samples, the weight: over
            "n" both; of a coupled loss the whole loss, a single number.
        prediction, target: Names of these inputs.
        provided: Every other input that it reads.
        coupled: Why it has no value a sample; empty where it has one.
        detached: Whether some factor is detached from the gradient.
        by_index: The same for class indices; None where these must come as one-hot rows.
    """

    program: Program
    prediction: str
    target: str
    provided: tuple[Provided, ...]
    coupled: str
    detached: bool
    by_index: ByIndex | None = None

    @property
    def not_applicable(self) -> dict[str, str]:
        """Lines of the module contract that cannot hold, and why."""
        excused: dict[str, str] = {}
        if self.detached:
            excused |= dict.fromkeys(("gradcheck", "gradgradcheck"), DETACHED)
        if self.coupled:
            lines = ("reduction", "weight", "unbatched", "sum_and_count", "dense_targets")
            excused |= dict.fromkeys(lines, self.coupled)
        return excused


def parts_of(program: Program, task: str) -> Parts:
    """Value, weight and inputs of a loss.

    Raises:
        UsageError: The task is unknown, or the loss reads what a call `loss(input, target)`
        cannot give.
    """
    if task not in TASKS:
        raise UsageError(
            f"A loss of the task {task!r} is no module loss(input, target): only those of "
            f"{', '.join(TASKS)} are."
        )
    signature = program.signature
    axes = ("n", "c") if task == "multiclass" else ("n",)
    found = {role: [i for i in signature.inputs.values() if i.role is role] for role in Role}
    for role in (Role.PREDICTION, Role.TARGET):
        if [i.axes for i in found[role]] != [axes]:
            seen = ", ".join(f"{i.name} over '{' '.join(i.axes)}'" for i in found[role]) or "none"
            raise UsageError(
                f"A {task} loss has one {role.value} over the axes '{' '.join(axes)}', but this "
                f"space has {seen}."
            )
    prediction, target = found[Role.PREDICTION][0].name, found[Role.TARGET][0].name
    divided = split(program)
    names = given_names(program)
    if isinstance(divided, Coupled):
        whole = [canonical(program)]
    else:
        whole = [divided.total, *([divided.weight] if divided.weight else [])]
    joined = _joined(whole, names)
    if prediction not in joined.inputs:
        raise UsageError(f"The loss does not read the prediction {prediction!r}: {program.text}")
    provided = tuple(
        _provided(signature, i)
        for i in signature.inputs.values()
        if i.name in joined.inputs and i.name not in (prediction, target)
    )
    opened = replace(joined, signature=_opened(signature, task))
    indexed = by_index(opened, target) if task == "multiclass" else None
    if indexed and prediction not in indexed.program.inputs:
        indexed = None  # log(p_t) - log_pt is 0 for one class, but must still have a gradient: 0
    return Parts(
        program=opened,
        prediction=prediction,
        target=target,
        provided=provided,
        coupled=divided.why if isinstance(divided, Coupled) else "",
        detached=any(step.op == "detach" for step in joined.instructions),
        by_index=indexed,
    )


def is_called(program: Program, task: str) -> bool:
    """Whether a call `loss(input, target)` gives all that the loss reads."""
    inputs = program.signature.inputs
    return task in TASKS and not any(_is_beyond(inputs[name]) for name in canonical(program).inputs)


def called_with(program: Program) -> tuple[dict[str, str], tuple[str, ...]]:
    """What a loss of named tensors takes, with the axes of each, and what is moved between calls.

    Predictions come first, masks last: the first lends its dtype.
    """
    inputs = [i for i in program.signature.inputs.values() if i.name in program.inputs]
    schedules = tuple(i.name for i in inputs if i.role is Role.SCHEDULE and not i.axes)
    inputs.sort(key=lambda i: (i.role is not Role.PREDICTION, i.role is Role.MASK))
    return {i.name: " ".join(i.axes) for i in inputs if i.name not in schedules}, schedules


def hidden(signature: Signature, taken: Collection[str]) -> dict[str, str]:
    """Of the inputs that a call takes: which are only there where a mask is, and that mask."""
    masks = {name: signature.inputs[name].there for name in taken}
    return {name: mask for name, mask in masks.items() if mask in taken}


def given_names(program: Program) -> dict[str, str]:
    """The canonical name of each constant -> the name that it was given."""
    simplifier = Simplifier(program.signature, program.constants)
    memo: list[int] = []
    for step in program.instructions:
        memo.append(simplifier.visit(step.op, [memo[i] for i in step.args], step.data))
    given = simplifier.program([memo[i] for i in program.outputs]).constants
    return {c.name: g.name for c, g in zip(canonical(program).constants, given, strict=True)}


def as_given(program: Program) -> Program:
    """The canonical form, with the constants' given names."""
    return _joined([canonical(program)], given_names(program))


def _joined(programs: Sequence[Program], names: dict[str, str]) -> Program:
    """Several programs as outputs of one instruction list, with the constants' given names."""
    first = programs[0]
    constants = {names[c.name]: replace(c, name=names[c.name]) for p in programs for c in p.constants}
    builder = Simplifier(first.signature, constants.values())
    outputs: list[int] = []
    for program in programs:
        memo: list[int] = []
        for step in program.instructions:
            data = names[str(step.data)] if step.op == CONSTANT else step.data
            memo.append(builder.visit(step.op, [memo[i] for i in step.args], data))
        outputs.append(memo[program.outputs[-1]])
    return builder.program(outputs)


def _opened(signature: Signature, task: str) -> Signature:
    """The signature without operating ranges that a caller need not keep; labels stay in theirs."""
    kept = (Role.TARGET, Role.MASK) if task != "regression" else (Role.MASK,)
    inputs = {
        name: i if i.role in kept else replace(i, low=-math.inf, high=math.inf)
        for name, i in signature.inputs.items()
    }
    return replace(signature, inputs=inputs)


def _is_beyond(i: Input) -> bool:
    sample = "n" in i.axes and i.role not in (Role.PREDICTION, Role.TARGET)
    return i.role is Role.PARAMETER or sample


def _provided(signature: Signature, i: Input) -> Provided:
    if _is_beyond(i):
        what = "parameters of a model" if i.role is Role.PARAMETER else "one value a sample"
        raise UsageError(
            f"The loss reads {i.name!r}, {what}, which a call loss(input, target) does not give."
        )
    simplex = next((a for a in i.axes if f"simplex over {a}" in i.properties), "")
    if i.role is Role.SCHEDULE and not i.axes:
        default = Default.START
    elif simplex and len(i.axes) == 2 and _are_copies(signature, *i.axes):
        default = Default.IDENTITY
    elif simplex and len(i.axes) == 1:
        default = Default.UNIFORM
    elif not i.axes and i.low >= 0 and i.high <= 1:
        default = Default.HALF
    else:
        default = Default.ONE
    return Provided(i.name, i.axes, default, i.low, i.high, simplex)


def _are_copies(signature: Signature, a: str, b: str) -> bool:
    copies = signature.copies
    return copies.get(a, a) == copies.get(b, b)
