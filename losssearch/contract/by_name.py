"""Which loss is to be checked? A class that Python can import, or a classical loss by its name."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

from torch import nn

from losssearch.catalogue import find
from losssearch.contract.call import first_line
from losssearch.errors import UsageError
from losssearch.execution.module import MODULES
from losssearch.execution.named import NamedLoss
from losssearch.execution.parts import is_called


def imported(reference: str) -> type[nn.Module]:
    """The class of `package.module:Class`, such as torch.nn:HuberLoss. Imports the module.

    Raises:
        UsageError: There is no such module, or no such class in it.
    """
    module_name, _, class_name = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever importing a user's module raises
        what = f"{type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{reference}: importing {module_name!r} raised {what}") from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"{reference}: {module_name!r} has no class {class_name!r} of a torch.nn.Module.")
    return found


def classical(name: str) -> tuple[Callable[..., nn.Module], str]:
    """A factory of a classical loss, and its task.

    Raises:
        UsageError: No loss is called so, or it is several formulas.
    """
    where, _, bare = name.rpartition("/")
    space, loss = find(bare, where or None)
    kind = MODULES[space.task] if is_called(loss.program, space.task) else NamedLoss
    return partial(kind, program=loss.program), space.task
