"""What a user can get wrong, as one tree.

    LossSearchError
    ├── FormulaError   a formula that cannot be read or is badly typed; knows the position and a remedy
    ├── SpaceError     a search space file that does not fit; names file and key
    ├── ProxyError     a training task that is unknown or badly described
    ├── PoolError      workers that cannot be started or reached
    ├── StoreError     a database that is wrong, locked, foreign, newer or read-only
    ├── ExportError    a loss that cannot be written where it was asked for
    └── UsageError     an argument that does not fit

Each message is one line: what, where, what to do. The command line prints it and exits with code 2.
What happens to a *candidate* is no error but an `Outcome`.
"""

from __future__ import annotations


class LossSearchError(Exception):
    """Base of every error that losssearch raises on purpose."""


class FormulaError(LossSearchError):
    """A formula that cannot be read, or that is badly typed.

    Args:
        message: What is wrong.
        text: The formula; only the surroundings of `position` are shown.
        position: Index of the offending character in `text`, or None when the fault has no place.
        remedy: What to do about it.
    """

    def __init__(
        self, message: str, *, text: str = "", position: int | None = None, remedy: str = ""
    ) -> None:
        self.message, self.text, self.position, self.remedy = message, text, position, remedy
        parts = [message.rstrip(".")]
        if position is not None:
            parts[0] += f", at character {position + 1}"
            if shown := _surroundings(text, position):
                parts[0] += f" (…{shown}…)" if len(text) > len(shown) else f" ({shown})"
        if remedy:
            parts.append(remedy.rstrip("."))
        super().__init__(". ".join(parts) + ".")

    def __reduce__(self) -> tuple[object, ...]:
        return _restore_formula_error, (self.message, self.text, self.position, self.remedy)


def _restore_formula_error(message: str, text: str, position: int | None, remedy: str) -> FormulaError:
    return FormulaError(message, text=text, position=position, remedy=remedy)


def _surroundings(text: str, position: int, reach: int = 20) -> str:
    shown = text[max(0, position - reach) : position + reach]
    return "".join(c if c.isprintable() else " " for c in shown)


class SpaceError(LossSearchError):
    """A search space file that does not fit; the message names file and key."""


class ProxyError(LossSearchError):
    """A proxy that is unknown, cannot be loaded or is badly described."""


class PoolError(LossSearchError):
    """Workers that cannot be started or reached."""


class StoreError(LossSearchError):
    """A database that is wrong, locked, read-only, foreign, newer than this program, or full."""


class ExportError(LossSearchError):
    """A loss that cannot be written where it was asked for."""


class UsageError(LossSearchError):
    """An argument that does not fit."""
