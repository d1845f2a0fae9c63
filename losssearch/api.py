"""The two shortest ways to a loss: by its name, and by its formula."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from losssearch.catalogue import find, with_constants
from losssearch.language.formula import ConstantLike
from losssearch.language.formula import parse as parse_formula
from losssearch.language.program import Program
from losssearch.spaces import load_space

if TYPE_CHECKING:
    from losssearch.execution.module import LossModule

MODULE_ARGUMENTS = ("reduction", "weight", "ignore_index", "label_smoothing", "provided", "learnable")


def loss(name: str, *, space: str | Path | None = None, **arguments: Any) -> LossModule:
    """A classical loss as a torch module, called as `loss(input, target)`.

    Args:
        name: Such as "focal"; `losssearch losses` lists them.
        space: Where to look; None takes the first of multiclass, binary, regression, ... that has it.
        arguments: Constants of the loss by name, and arguments of `LossModule` such as `reduction`.

    Raises:
        SpaceError: No loss is called so.
        UsageError: A constant is unknown or outside its range.

    >>> loss("focal", gamma=2.0).formula
    "mean(-alpha * (1 - p_t)**gamma * log_pt, 'n')"
    """
    from losssearch.execution.module import module_for

    found, classical = find(name, space)
    options = {k: arguments.pop(k) for k in MODULE_ARGUMENTS if k in arguments}
    return module_for(with_constants(classical, arguments), found.task, **options)


def parse(
    formula: str,
    *,
    space: str | Path = "multiclass",
    constants: Mapping[str, ConstantLike] | None = None,
) -> Program:
    """The checked program of a formula.

    Args:
        formula: For example `mean(-(1 - p_t)**g * log(p_t), 'n')`.
        space: Whose inputs and definitions it speaks of: a name, or the path of a TOML file.
        constants: Name -> value, (value, low, high) or `Constant`.

    Raises:
        FormulaError: It cannot be read or is badly typed; says where and what to do.
    """
    return parse_formula(formula, load_space(space).signature, constants)
