"""As what is a loss checked? As what the caller says, else as what the loss says, else as multiclass."""

from __future__ import annotations

from losssearch.contract.call import first_line
from losssearch.contract.case import Case
from losssearch.errors import UsageError
from losssearch.space_file import did_you_mean
from losssearch.spaces import space_names


def agreed(what: str, task: str | None, own: str | None) -> str | None:
    """The task that the caller names and the loss `what` does not deny; None if neither says one.

    Raises:
        UsageError: The task is unknown, or the loss is of another.
    """
    if task is None or task == own:
        return own
    known = space_names()
    if task not in known:
        hint = did_you_mean(task, known) or f" Take one of {', '.join(known)}."
        raise UsageError(f"No task is called {task!r}.{hint}")
    if own is not None:
        raise UsageError(f"{what} is a loss of {own}, so it cannot be checked as {task}.")
    return task


def assume_multiclass(case: Case) -> None:
    """Raises: UsageError: The loss, whose task nobody says, does not take logits and class indices."""
    error = case.refusal(*case.batch(case.classes + 1))  # no two sizes alike, which would hide a mix-up
    if error is not None:
        raise UsageError(
            f"{type(case.loss).__name__} does not take logits and class indices "
            f"({type(error).__name__}: {first_line(error)}). Give --task binary or regression."
        )
