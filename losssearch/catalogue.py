"""Which known loss is called that, and with which constants?

Looks a classical loss up over all shipped spaces and sets its constants within their ranges. A
name that several spaces have means the first in the order multiclass, binary, regression, then the
others by name; say `space=` for another: `find("focal")` is the multiclass one, `find("focal",
space="binary")` is the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from losssearch.errors import FormulaError, UsageError
from losssearch.language.program import Program
from losssearch.space_file import did_you_mean, shortened
from losssearch.spaces import ClassicalLoss, Space, load_space, space_names


def everything() -> Iterator[tuple[Space, ClassicalLoss]]:
    """All losses of all shipped spaces, in the order in which a bare name is looked up."""
    for name in space_names():
        space = load_space(name)
        for loss in space.losses.values():
            yield space, loss


def find(name: str, space: str | Path | Space | None = None) -> tuple[Space, ClassicalLoss]:
    """The classical loss of a name, and the space that it lives in.

    Args:
        name: In snake_case, such as "cross_entropy".
        space: Where to look: a space, its name or its path; without it, all shipped ones in order.

    Raises:
        UsageError: No space has a loss of that name.
        SpaceError: There is no such space, or that space has no such loss.
    """
    if space is not None:
        place = space if isinstance(space, Space) else load_space(space)
        return place, place.loss(name)
    for place, loss in everything():
        if loss.name == name:
            return place, loss
    known = list(dict.fromkeys(loss.name for _, loss in everything()))
    hint = did_you_mean(str(name), known) or f" `losssearch losses` lists all {len(known)}."
    raise UsageError(f"No loss is called {shortened(name)}.{hint}")


def with_constants(loss: ClassicalLoss, constants: Mapping[str, float]) -> Program:
    """The loss's program with some constants set, the others left at their usual values.

    Raises:
        UsageError: A name is no constant of the loss, or a value is no number within its range.
    """
    program = loss.program
    known = program.constant_values
    for name, value in constants.items():
        if name not in known:
            has = f" It has {', '.join(known)}." if known else " It has none."
            hint = did_you_mean(name, known) or has
            raise UsageError(f"The loss {loss.name!r} has no constant {shortened(name)}.{hint}")
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UsageError(
                f"Constant {name!r} of {loss.name!r} must be a number, but is {shortened(value)}."
            )
    try:
        return program.with_constants(constants)
    except (FormulaError, OverflowError) as error:
        raise UsageError(f"The loss {loss.name!r}: {error}") from None
