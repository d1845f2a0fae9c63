"""The shortest ways to a loss: by its name, by its formula, by what it wants, by what a task needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losssearch.errors import UsageError
from losssearch.language.formula import ConstantLike
from losssearch.language.formula import parse as parse_formula
from losssearch.language.program import Program
from losssearch.spaces import load_space

if TYPE_CHECKING:
    from losssearch.execution.module import LossModule
    from losssearch.execution.named import NamedLoss
    from losssearch.insight.insight import Insight
    from losssearch.insight.suggest import Suggestion
    from losssearch.result import Discovered

MODULE_ARGUMENTS = ("reduction", "weight", "ignore_index", "label_smoothing", "provided", "learnable")


def loss(
    loss: str | Program,
    /,
    *,
    space: str | Path | None = None,
    constants: Mapping[str, ConstantLike] | None = None,
    **arguments: Any,
) -> LossModule | NamedLoss:
    """A loss as a torch module: `loss(input, target)`, or of named tensors if that is too little.

    Args:
        loss: "focal", "focal(gamma=5)" or "boxes/smooth_l1", as `losssearch losses` lists them; a formula;
            or the program of one.
        space: Where a name is looked up, and whose words a formula or program uses. None takes the first
            of multiclass, binary, regression, and then the others by name, that has a loss of that
            name, so that "smooth_l1" is the one of regression; and "multiclass" for a formula or program.
        constants: Values of constants, by name; of a formula also (value, low, high).
        arguments: Constants by name too, and arguments of `LossModule` such as `reduction`, or of
            `NamedLoss`.

    Raises:
        LossSearchError: There is no such loss, it cannot be read, or a constant does not fit.

    >>> loss("focal", gamma=2.0).formula
    "mean(-alpha * (1 - p_t)**gamma * log_pt, 'n')"
    """
    from losssearch.execution.named import loss_module

    options = {k: arguments.pop(k) for k in MODULE_ARGUMENTS if k in arguments}
    found = _look_up(loss, None, space, {**(constants or {}), **arguments})
    return loss_module(found.program, found.space.task, **options)


def parse(
    formula: str,
    *,
    space: str | Path = "multiclass",
    constants: Mapping[str, ConstantLike] | None = None,
) -> Program:
    """The checked program of a formula; `loss` makes a module of it, `explain` tells what it wants.

    Args:
        formula: For example `mean(-(1 - p_t)**g * log(p_t), 'n')`.
        space: Whose inputs and definitions it speaks of: a name, or the path of a TOML file.
        constants: Name -> value, (value, low, high) or `Constant`.

    Raises:
        FormulaError: It cannot be read or is badly typed; says where and what to do.
    """
    return parse_formula(formula, load_space(space).signature, constants)


def explain(
    loss: str | Program | Discovered,
    *,
    against: str | Sequence[str | Discovered] = (),
    reference: str | Discovered | None = None,
    space: str | Path | None = None,
    constants: Mapping[str, ConstantLike] | None = None,
    storage: str = "sqlite:///losses.db",
) -> Insight:
    """What a loss wants of a model: facts, sentences, tables, and pictures by `.plot("loss.svg")`.

    Args:
        loss: "focal", "focal(gamma=5)", "binary/focal", a found loss such as "demo/1" or
            `result.best`, a formula, or the program of one.
        against: At most four others, for the pictures and the table of weights, in a sequence or as names
            between commas; names are looked up in the space of the loss first.
        reference: What ratios are taken to; None takes the reference of the space, such as cross
            entropy.
        space: Whose words a formula or program uses, and where a name is looked up.
        constants: Values to set, by name.
        storage: Database of found losses.

    Raises:
        LossSearchError: There is no such loss, it cannot be read, or the losses do not compare.

    >>> print(explain("focal").sentences[1].text)
    Its gradient fades on samples that are right: beyond p = 0.86 it is less than a tenth of \
cross entropy's, scaled to agree at p = 0.5.
    """
    from losssearch.insight.insight import look
    from losssearch.insight.lookup import find_loss, split_list

    found = _look_up(loss, storage, space, constants) if isinstance(loss, str | Program) else loss

    def other(name: str | Discovered) -> Discovered:
        return find_loss(name, storage, found.space) if isinstance(name, str) else name

    others = split_list(against) if isinstance(against, str) else against
    return look(found, [other(name) for name in others], None if reference is None else other(reference))


def _look_up(
    loss: str | Program,
    storage: str | None,
    space: str | Path | None,
    constants: Mapping[str, ConstantLike] | None,
) -> Discovered:
    """The loss of a reference or of a program, with some constants set."""
    from losssearch.insight.lookup import FIRST_SPACE, changed, find_loss, of_program

    if not isinstance(loss, Program):
        return find_loss(loss, storage, space, constants)
    place = load_space(space or FIRST_SPACE)
    if loss.signature != place.signature:
        raise UsageError(f"The program does not speak of {place.name!r}; name its space with `space=`.")
    return changed(of_program(loss, place), constants or {})


def suggest(task: str, traits: Collection[str] = ()) -> list[Suggestion]:
    """Losses for a task and what is special about it, the best fitting first, with reasons and sources.

    Args:
        task: Name of a space, such as "multiclass".
        traits: Such as "imbalance" or "outliers"; `losssearch suggest --help` lists them.

    Raises:
        UsageError: The task or a trait is unknown.

    >>> suggest("regression", ["outliers"])[0].loss
    'huber'
    """
    from losssearch.insight.suggest import suggestions

    return suggestions(task, traits)
